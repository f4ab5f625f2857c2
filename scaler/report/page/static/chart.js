"use strict";
// Draws the charts of a page over one of its axes, shows the values under the cursor, zooms, and lists the values in a table.
// The page shows the same as text without this script.

const PRINT_WIDTH = 680; // CSS pixels, about the width of A4: the style sheet stretches it to the paper
const OUTSIDE = { left: -10, top: -10 }; // a cursor that points at nothing
const TIMES = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400, 172800, 432000, 864000];
const TIME_STEPS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, ...TIMES];
const QUANTITIES = { // how values are written, how ticks are written, and the steps between ticks
  number: { say: format, unit: format, tick },
  samples: { say: format, unit: (value) => plural(value, "sample"), tick },
  tokens: { say: format, unit: (value) => plural(value, "token"), tick },
  seconds: { say: seconds, unit: seconds, tick: secondsTick, steps: TIME_STEPS },
};

/** The first and the last place of any line on an axis: every chart over the axis spans that. */
function domainOf(axis) {
  const { least, greatest } = endsOf(axis);
  if (!axis.is_padded) return [Math.min(least, greatest), greatest];
  const [to, from] = axis.logarithmic ? [Math.log, Math.exp] : [(x) => x, (x) => x];
  const space = 0.07 * (to(greatest) - to(least) || 1);
  return [from(to(least) - space), from(to(greatest) + space)];
}

function endsOf(axis) {
  const places = Object.values(axis.places).flat().filter((place) => place != null);
  const least = places.reduce((a, b) => Math.min(a, b), Infinity), greatest = places.reduce((a, b) => Math.max(a, b), 0);
  return { least, greatest };
}

const AXES = Object.fromEntries(
  data.axes.map((axis) => [
    axis.name,
    { ...axis, ...QUANTITIES[axis.quantity], domain: domainOf(axis), at: (x) => `${axis.before} ${QUANTITIES[axis.quantity].unit(x)}` },
  ]),
);

/** The lines of a chart over one common clock. A place that is not known on this axis is left out. */
function joined(lines, { places, domain }) {
  const tables = [[[...new Set(domain)]]];
  const order = [];
  for (const clock of Object.keys(places)) {
    const mine = lines.filter((line) => line.clock === clock);
    if (!mine.length) continue;
    const xs = places[clock];
    const known = xs.map((_, i) => i).filter((i) => xs[i] != null);
    const sorted = known.sort((a, b) => xs[a] - xs[b]); // clocks of machines may step back
    tables.push([sorted.map((i) => xs[i]), ...mine.map((line) => sorted.map((i) => line.values[i]))]);
    order.push(...mine);
  }
  return { order, columns: uPlot.join(tables) };
}

/** Each layer on top of the layers before it. */
function stacked(columns) {
  const heights = columns[0].map(() => 0);
  return [columns[0], ...columns.slice(1).map((layer) => layer.map((value, i) => (value == null ? value : (heights[i] += value))))];
}

class Chart {
  constructor(spec) {
    this.spec = spec;
    this.figure = document.getElementById(`chart-${spec.id}`);
    this.plot = this.figure.querySelector(".plot");
    this.at = this.figure.querySelector(".at");
    this.details = this.figure.querySelector("details");
    this.outputs = [...this.figure.querySelectorAll(".legend b")];
    this.quantity = QUANTITIES[spec.quantity];
    this.isSwitched = false; // whether the chart's button is pressed
    this.width = 0;
    // The legend has one place for each line; a band's two edges share one.
    this.shown = spec.lines.filter((line) => line.style !== "high").map((line) => (line.style === "low" ? [line, spec.lines.find(({ style }) => style === "high")] : [line]));
    this.values = spec.lines.flatMap((line) => [...line.values, ...line.low, ...line.high, ...line.repeats.flat()]).filter((value) => value != null);
    this.spread = spec.lines.filter((line) => line.repeats.length);
    this.place(spec.axis || data.axes[0].name);
    this.listen();
  }

  /** Put the lines over an axis, or over the page's first axis if none of their places is known on it. */
  place(name) {
    const isKnown = this.spec.lines.some((line) => AXES[name].places[line.clock].some((place) => place != null));
    this.axis = AXES[isKnown ? name : data.axes[0].name];
    Object.assign(this, joined(this.spec.lines, this.axis));
    this.drawn = this.spec.stacked ? stacked(this.columns) : this.columns;
    this.stops = this.columns[0].map((_, i) => i).filter((i) => this.columns.slice(1).some((ys) => ys[i] != null));
    this.marks = data.marks
      .filter(({ at }) => at[this.axis.name] != null)
      .map((mark) => ({ ...mark, x: mark.at[this.axis.name] }))
      .sort((a, b) => a.x - b.x);
  }

  draw(width) {
    const { axis, spec } = this, style = axisStyle(), height = parseFloat(getComputedStyle(this.plot).minHeight);
    const layers = spec.stacked ? this.order.map((line, i) => ({ series: [i + 1, i], fill: colour(line.style) })) : [];
    const band = ["high", "low"].map((edge) => this.order.findIndex((line) => line.style === edge) + 1);
    const zoom = this.u && this.drawnOver === axis && { min: this.u.scales.x.min, max: this.u.scales.x.max };
    const rows = rowsOfLabels(this.marks, axis.domain, { width: width - 70, most: Math.floor(height / 80), isLogarithmic: axis.logarithmic });
    const limit = this.marks.find((mark) => mark.limit);
    this.drawnOver = axis;
    this.u?.destroy();
    this.width = width;
    this.u = new uPlot(
      {
        width,
        height,
        padding: [8 + ROW * rows, 14, 0, 0],
        legend: { show: false },
        scales: {
          x: { time: false, ...(axis.logarithmic && { distr: 3, range: (_, low, high) => [low, high] }) },
          y: { distr: this.isLogarithmic ? 3 : 1, range: this.range() },
        },
        axes: [
          {
            ...style,
            ...((axis.logarithmic || axis.ticks.length) && { splits: axis.ticks.length ? () => axis.ticks : decades, filter: (_, splits) => splits }),
            label: axis.label,
            values: (_, splits) => splits.map(axis.tick),
            incrs: axis.steps,
            size: 32,
            space: 70,
          },
          { ...style, ...(spec.alwaysLogarithmic && { splits: decades, filter: (_, splits) => splits }), values: (_, splits) => splits.map(this.quantity.tick), space: 36, gap: 6, size: numbersWidth },
        ],
        series: [{}, ...this.order.map((line, i) => (spec.stacked && i === 0 ? { ...strokes(line), fill: colour(line.style) } : strokes(line)))],
        bands: band[0] && band[1] ? [{ series: band, fill: colour("band") }] : layers.slice(1),
        cursor: {
          y: false,
          sync: { key: axis.name, scales: ["x", null] },
          drag: { x: true, y: false, dist: 6 },
          dataIdx: nearest,
          points: { size: (_, i) => (["low", "high"].includes(this.order[i - 1].style) || this.order[i - 1].repeats.length ? 0 : 8), fill: (u, i) => u.series[i].stroke(u, i) },
        },
        hooks: {
          drawClear: [(u) => limit && shadeAfter(u, limit.x)],
          draw: [(u) => drawSpreads(u, this.spread, axis), (u) => drawMarks(u, this.marks, rows)],
          setCursor: [() => this.read()],
        },
      },
      this.drawn,
      this.plot,
    );
    if (zoom) this.u.setScale("x", zoom);
    this.read();
  }

  get isLogarithmic() {
    return this.spec.alwaysLogarithmic || (this.isSwitched && this.spec.logarithmic);
  }

  /** The ends of the y axis: round values on a log axis, 0 below a stack, and floor and ceiling until the button is pressed. */
  range() {
    const { ceiling, floor } = this.spec, isLog = this.isLogarithmic;
    if (this.spread.length || ((ceiling ?? floor) != null && !this.isSwitched)) {
      const values = isLog ? this.values.filter((value) => value > 0) : this.values;
      const limits = this.isSwitched ? [null, null] : [floor, ceiling];
      const [low, high] = [limits[0] ?? Math.min(...values), limits[1] ?? Math.max(...values)];
      const space = 0.06 * (high - low) || 1;
      const ends = [limits[0] ?? (isLog ? rounded(low, Math.floor) : low - space), limits[1] ?? (isLog ? rounded(high, Math.ceil) : high + space)];
      return () => ends;
    }
    if (isLog) return (_, low, high) => [rounded(low, Math.floor), rounded(high, Math.ceil)];
    return this.spec.stacked ? (_, low, high) => [0, high > 0 ? high * 1.05 : 1] : undefined;
  }

  /** A value as text, with its interval if its line has one. */
  say(line, index, value) {
    const place = line.low.length ? this.axis.places[line.clock].indexOf(this.columns[0][index]) : -1;
    const [low, high] = [line.low[place], line.high[place]];
    const bounds = low == null || high == null ? "" : ` (${this.quantity.say(low)} to ${this.quantity.say(high)})`;
    return this.quantity.say(value) + bounds;
  }

  /** Write the values under the cursor into the legend, or the last values if the cursor is elsewhere. */
  read() {
    const under = this.u.cursor.idx != null && this.u.cursor.left >= 0;
    const xs = this.columns[0];
    const here = under ? this.u.cursor.idx : xs.length - 1;
    this.outputs.forEach((output, i) => {
      const columns = this.shown[i].map((line) => this.order.indexOf(line) + 1);
      const index = nearest(this.u, columns[0], here, xs[here]);
      const away = under && index != null && index !== here ? ` (${this.axis.at(xs[index])})` : "";
      output.textContent = columns.map((column) => (index == null ? "–" : this.say(this.order[column - 1], index, this.columns[column][index]))).join(" to ") + away;
    });
    const valued = this.axis.is_padded ? this.stops.reduce((a, b) => (Math.abs(xs[b] - xs[here]) < Math.abs(xs[a] - xs[here]) ? b : a)) : here;
    this.at.textContent = under ? this.axis.at(xs[valued]) : this.spread.length ? "" : "last values";
    if (!under && this.spread.length) this.outputs.forEach((output) => (output.textContent = "")); // lines end at different places
  }

  leave() {
    this.u.setCursor(OUTSIDE, true, true);
  }

  zoomOut() {
    const [min, max] = this.axis.domain;
    this.u.setScale("x", { min, max });
  }

  /** Move the cursor with a key; the other charts follow. */
  press(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const isOutside = this.u.cursor.idx == null || this.u.cursor.left < 0;
    const last = this.stops.length - 1;
    const found = this.stops.findIndex((stop) => stop >= this.u.cursor.idx);
    const here = found < 0 ? last : found;
    const to = {
      ArrowLeft: isOutside ? last : Math.max(0, here - 1),
      ArrowRight: isOutside ? 0 : Math.min(last, here + 1),
      Home: 0,
      End: last,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const left = this.u.valToPos(this.columns[0][this.stops[to]], "x");
    this.u.setCursor({ left, top: this.u.over.clientHeight / 2 }, true, true);
    const values = this.outputs.map((output) => output.parentElement.textContent.replace(/\s+/g, " ").trim());
    document.getElementById("reading").textContent = `${this.at.textContent}: ${values.join("; ")}`;
  }

  /** Fill the table of values when it is opened. */
  table() {
    if (!this.details.open) return;
    this.details.querySelector(".scroll")?.remove();
    const title = this.figure.querySelector("h3").textContent, { axis } = this;
    const names = [axis.label, ...this.order.map((line) => line.label)];
    const head = element("tr", {}, ...names.map((name) => element("th", { scope: "col", className: "num" }, name)));
    const rows = this.stops.map((i) =>
      element(
        "tr",
        {},
        element("th", { scope: "row", className: "num" }, axis.say(this.columns[0][i])),
        ...this.columns.slice(1).map((ys, at) => element("td", { className: "num" }, ys[i] == null ? "" : this.say(this.order[at], i, ys[i]))),
      ),
    );
    const caption = element("caption", { className: "spoken" }, `${title} over ${axis.label}`);
    const table = element("table", {}, caption, element("thead", {}, head), element("tbody", {}, ...rows));
    this.details.append(element("div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: `${title}, values` }, table));
  }

  listen() {
    this.plot.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        this.leave();
        charts.forEach((chart) => chart.zoomOut());
      }
      this.press(event);
    });
    this.plot.addEventListener("blur", () => this.leave());
    this.details.addEventListener("toggle", () => this.table());
    const button = this.figure.querySelector(".toggle");
    button?.addEventListener("click", () => {
      this.isSwitched = !this.isSwitched;
      button.setAttribute("aria-pressed", String(this.isSwitched));
      this.draw(this.width);
    });
  }
}

/** Draw all charts, and draw them again when their width, the colour scheme or the medium changes. */
function keepDrawn() {
  const drawAll = (width) => charts.forEach((chart) => chart.draw(width ?? chart.plot.clientWidth));
  drawAll();
  const resized = new ResizeObserver(() => {
    if (root.classList.contains("print")) return;
    for (const chart of charts) if (chart.plot.clientWidth !== chart.width) chart.draw(chart.plot.clientWidth);
  });
  charts.forEach((chart) => resized.observe(chart.plot));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawAll());
  addEventListener("beforeprint", () => {
    root.classList.add("print");
    drawAll(PRINT_WIDTH);
  });
  addEventListener("afterprint", () => {
    root.classList.remove("print");
    drawAll();
  });
  for (const choice of document.querySelectorAll("input[name=axis]")) {
    choice.addEventListener("change", () => {
      root.classList.toggle("second-axis", choice.value !== data.axes[0].name);
      for (const chart of charts) {
        chart.place(choice.value);
        chart.draw(chart.width);
        chart.table();
      }
    });
  }
}

const charts = data.charts.map((spec) => new Chart(spec));
keepDrawn();
