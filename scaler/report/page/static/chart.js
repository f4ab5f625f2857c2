"use strict";
// A chart of curves over samples, or over time: what it draws, and how its values are read.

const TIMES = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400, 172800, 432000, 864000];
const TIME_STEPS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, ...TIMES]; // where a time axis may have its ticks
const LAYERS = ["compute", "data", "sync", "update"];

// What a chart stands over: samples seen, or where the page has them the times at which they were seen.
const AXES = {
  clocks: { label: "samples seen", at: (x) => `at ${plural(x, "sample")}`, place: "samples_seen", say: format, tick, steps: undefined },
  times: { label: "time since submission", at: (x) => `after ${seconds(x)}`, place: "elapsed_s", say: seconds, tick: seconds, steps: TIME_STEPS },
};

/** Everywhere that any line of the page has a place: every chart over an axis spans that. */
function domainOf(axis) {
  const places = Object.values(data[axis] ?? {}).flat().filter((place) => place != null);
  const least = places.reduce((a, b) => Math.min(a, b), Infinity), greatest = places.reduce((a, b) => Math.max(a, b), 0);
  return [Math.min(least, greatest), greatest];
}

const DOMAINS = { clocks: domainOf("clocks"), times: domainOf("times") };

/** The lines of a chart over one common clock. A place that is not known on this axis is left out. */
function joined(lines, axis) {
  const tables = [[[...new Set(DOMAINS[axis])]]];
  const order = [];
  for (const clock of Object.keys(data.clocks)) {
    const mine = lines.filter((line) => line.clock === clock);
    if (!mine.length) continue;
    const places = data[axis][clock];
    const known = places.map((_, i) => i).filter((i) => places[i] != null);
    const sorted = known.sort((a, b) => places[a] - places[b]); // clocks of machines may step back
    tables.push([sorted.map((i) => places[i]), ...mine.map((line) => sorted.map((i) => line.values[i]))]);
    order.push(...mine);
  }
  return { order, columns: uPlot.join(tables) };
}

/** Each layer on the ones before it. */
function stacked(columns) {
  const heights = columns[0].map(() => 0);
  return [columns[0], ...columns.slice(1).map((layer) => layer.map((value, i) => (value == null ? value : (heights[i] += value))))];
}

/** One significant digit, down or up: where a log axis may end. */
function rounded(value, round) {
  const size = 10 ** Math.floor(Math.log10(value));
  return round(value / size) * size;
}

/** How uPlot draws a line. */
function strokes(line) {
  const hidden = { stroke: "transparent", width: 0, points: { show: false } };
  const alone = { show: line.values.filter((value) => value != null).length === 1, size: 6 }; // one value makes no line
  if (line.style.startsWith("plan-")) { // one of several that are alike
    const dash = colour(`${line.style}-dash`).split(" ").map(Number);
    return { stroke: colour(line.style), width: 2, dash: dash[1] ? dash : [], points: alone };
  }
  if (LAYERS.includes(line.style)) return { stroke: colour(line.style), width: 1, points: alone };
  return {
    low: () => hidden,
    high: () => hidden,
    solid: () => ({ stroke: colour("line-1"), width: 2, points: alone }),
    wide: () => ({ stroke: colour("wide"), width: 6, cap: "round", points: alone }),
    dashed: () => ({ stroke: colour("dashed"), width: 1.5, dash: [5, 4], points: alone }),
    dotted: () => ({
      stroke: colour("line-2"),
      width: 1.75,
      points: { show: line.values.length <= 120, size: 6, width: 1.5, stroke: colour("line-2"), fill: colour("paper") },
    }),
  }[line.style]();
}

/** Upright lines: dashed where attempts took over, dotted where something was decided. */
function drawMarkers(u, axis) {
  const { ctx, bbox } = u, ratio = devicePixelRatio, { place } = AXES[axis];
  ctx.save();
  ctx.strokeStyle = ctx.fillStyle = colour("muted");
  ctx.lineWidth = ratio;
  ctx.font = `${12 * ratio}px ${getComputedStyle(document.body).fontFamily}`;
  ctx.textAlign = "left";
  ctx.textBaseline = "bottom";
  const inside = data.markers
    .filter((marker) => marker[place] != null)
    .map((marker) => ({ ...marker, x: Math.round(u.valToPos(marker[place], "x", true)) }))
    .filter(({ x }) => x >= bbox.left && x <= bbox.left + bbox.width);
  for (const { x, kind } of inside) {
    ctx.setLineDash(kind === "attempt" ? [3 * ratio, 3 * ratio] : [ratio, 2 * ratio]);
    ctx.beginPath();
    ctx.moveTo(x, bbox.top - 16 * ratio);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
  }
  let free = -Infinity; // labels do not run into each other, nor are they crossed by lines
  for (const { x, label } of inside) {
    const width = ctx.measureText(label).width, gap = 5 * ratio;
    const start = x + gap + width > bbox.left + bbox.width ? x - gap - width : x + gap;
    if (start < free) continue;
    ctx.fillStyle = colour("paper");
    ctx.fillRect(start, bbox.top - 17 * ratio, width, 15 * ratio);
    ctx.fillStyle = colour("muted");
    ctx.fillText(label, start, bbox.top - 3 * ratio);
    free = start + width + gap;
  }
  ctx.restore();
}

class Chart {
  constructor(spec) {
    this.figure = document.getElementById(`chart-${spec.id}`);
    this.plot = this.figure.querySelector(".plot");
    this.at = this.figure.querySelector(".at");
    this.outputs = [...this.figure.querySelectorAll(".legend b")];
    this.lines = spec.lines;
    this.format = spec.quantity === "seconds" ? seconds : format;
    this.tick = spec.quantity === "seconds" ? seconds : tick;
    this.isStacked = spec.stacked;
    this.logarithmic = false;
    this.width = 0;
    // The legend has one place for each line; a band's two edges share one.
    this.shown = spec.lines.filter((line) => line.style !== "high").map((line) => (line.style === "low" ? [line, spec.lines.find(({ style }) => style === "high")] : [line]));
    this.place("clocks");
  }

  /** Put the lines over an axis; over samples where no place of theirs is known on it. */
  place(axis) {
    this.axis = this.lines.some((line) => data[axis][line.clock].some((place) => place != null)) ? axis : "clocks";
    Object.assign(this, joined(this.lines, this.axis));
    this.drawn = this.isStacked ? stacked(this.columns) : this.columns;
    this.stops = this.columns[0].map((_, i) => i).filter((i) => this.columns.slice(1).some((ys) => ys[i] != null));
  }

  draw(width) {
    const style = axisStyle(), across = AXES[this.axis];
    const layers = this.isStacked ? this.order.map((line, i) => ({ series: [i + 1, i], fill: colour(line.style) })) : [];
    const band = ["high", "low"].map((edge) => this.order.findIndex((line) => line.style === edge) + 1);
    const zoom = this.u && this.drawnOver === this.axis && { min: this.u.scales.x.min, max: this.u.scales.x.max };
    this.drawnOver = this.axis;
    this.u?.destroy();
    this.width = width;
    this.u = new uPlot(
      {
        width,
        height: parseFloat(getComputedStyle(this.plot).minHeight),
        padding: [data.markers.length ? 22 : 8, 14, 0, 0],
        legend: { show: false },
        scales: {
          x: { time: false },
          y: { distr: this.logarithmic ? 3 : 1, range: this.range() },
        },
        axes: [
          { ...style, label: across.label, values: (_, splits) => splits.map(across.tick), incrs: across.steps, size: 32, space: 70 },
          { ...style, values: (_, splits) => splits.map(this.tick), space: 36, gap: 6, size: heightSize },
        ],
        series: [{}, ...this.order.map((line, i) => (this.isStacked && i === 0 ? { ...strokes(line), fill: colour(line.style) } : strokes(line)))],
        bands: band[0] && band[1] ? [{ series: band, fill: colour("band") }] : layers.slice(1),
        cursor: {
          y: false,
          sync: { key: this.axis, scales: ["x", null] },
          drag: { x: true, y: false, dist: 6 },
          dataIdx: nearest,
          points: { size: (_, i) => (["low", "high"].includes(this.order[i - 1].style) ? 0 : 8), fill: (u, i) => u.series[i].stroke(u, i) },
        },
        hooks: { draw: [(u) => drawMarkers(u, this.axis)], setCursor: [() => this.read()] },
      },
      this.drawn,
      this.plot,
    );
    if (zoom) this.u.setScale("x", zoom);
    this.read();
  }

  /** A log axis ends at round values, and a stack stands on 0. */
  range() {
    if (this.logarithmic) return (_, low, high) => [rounded(low, Math.floor), rounded(high, Math.ceil)];
    return this.isStacked ? (_, low, high) => [0, high > 0 ? high * 1.05 : 1] : undefined;
  }

  /** Write the values under the cursor into the legend, or the last ones when there is none. */
  read() {
    const under = this.u.cursor.idx != null && this.u.cursor.left >= 0;
    const xs = this.columns[0];
    const here = under ? this.u.cursor.idx : xs.length - 1;
    this.outputs.forEach((output, i) => {
      const columns = this.shown[i].map((line) => this.order.indexOf(line) + 1);
      const index = nearest(this.u, columns[0], here, xs[here]);
      const away = under && index != null && index !== here ? ` (${AXES[this.axis].at(xs[index])})` : "";
      output.textContent = columns.map((column) => (index == null ? "–" : this.format(this.columns[column][index]))).join(" to ") + away;
    });
    this.at.textContent = under ? AXES[this.axis].at(xs[here]) : "last values";
  }

  leave() {
    this.u.setCursor(OUTSIDE, true, true);
  }

  /** Move the cursor with a key; the other charts follow. */
  press(event) {
    const outside = this.u.cursor.idx == null || this.u.cursor.left < 0;
    const last = this.stops.length - 1;
    const here = this.stops.findIndex((stop) => stop >= this.u.cursor.idx);
    const to = stepped(event, outside ? null : here < 0 ? last : here, last);
    if (to === undefined) return;
    event.preventDefault();
    const left = this.u.valToPos(this.columns[0][this.stops[to]], "x");
    this.u.setCursor({ left, top: this.u.over.clientHeight / 2 }, true, true);
    const values = this.outputs.map((output) => output.parentElement.textContent.replace(/\s+/g, " ").trim());
    document.getElementById("reading").textContent = `${this.at.textContent}: ${values.join("; ")}`;
  }

  zoomOut() {
    const [min, max] = DOMAINS[this.axis];
    this.u.setScale("x", { min, max });
  }

  /** The values as a table, made when it is first asked for. */
  table(details) {
    if (!details.open) return;
    details.querySelector(".scroll")?.remove();
    const title = this.figure.querySelector("h3").textContent, across = AXES[this.axis];
    const names = [across.label, ...this.order.map((line) => line.label)];
    const head = element("tr", {}, ...names.map((name) => element("th", { scope: "col", className: "num" }, name)));
    const rows = this.stops.map((i) =>
      element(
        "tr",
        {},
        element("th", { scope: "row", className: "num" }, across.say(this.columns[0][i])),
        ...this.columns.slice(1).map((ys) => element("td", { className: "num" }, ys[i] === undefined ? "" : this.format(ys[i]))),
      ),
    );
    const caption = element("caption", { className: "spoken" }, `${title} over ${across.label}`);
    const table = element("table", {}, caption, element("thead", {}, head), element("tbody", {}, ...rows));
    details.append(element("div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: `${title}, values` }, table));
  }
}
