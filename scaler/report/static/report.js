"use strict";
// Draws the curves, lets tables be sorted, and reads values out. The page says the same without it.
(() => {
  const root = document.documentElement;
  const data = JSON.parse(document.getElementById("report-data").textContent);
  const PRINT_WIDTH = 660; // CSS pixels that fit on A4 and on Letter
  const charts = [];
  root.classList.add("scripted");

  // Numbers, as the page's own text has them: 4 significant digits.

  function format(value) {
    if (value == null) return "–";
    const size = Math.abs(value);
    if (Number.isInteger(value) || size >= 1e4) return value.toLocaleString("en-US", { maximumFractionDigits: 0 });
    const text = Number(value.toPrecision(4));
    return size < 1e-4 ? text.toExponential().replace(/-(\d)$/, "-0$1") : String(text);
  }

  function tick(value) {
    if (value == null) return "";
    const size = Math.abs(value);
    if (size >= 1e6) return value.toLocaleString("en-US", { notation: "compact", maximumSignificantDigits: 4 });
    if (size !== 0 && size < 1e-3) return Number(value.toPrecision(6)).toExponential();
    return value.toLocaleString("en-US", { maximumFractionDigits: 6 });
  }

  /** A time in the unit that suits it. */
  function seconds(value) {
    if (value == null) return "–";
    if (value < 0.9995) return `${Number((value * 1000).toPrecision(3))} ms`;
    if (value < 60) return `${Number(value.toPrecision(3))} s`;
    const whole = Math.floor(value), rest = whole % 60;
    if (whole < 3600) return `${Math.floor(whole / 60)} min${rest ? ` ${rest} s` : ""}`;
    return `${Math.floor(whole / 3600)} h${whole % 3600 >= 60 ? ` ${Math.floor((whole % 3600) / 60)} min` : ""}`;
  }

  const TIMES = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400, 172800, 432000, 864000];
  const TIME_STEPS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, ...TIMES]; // where a time axis may have its ticks

  const plural = (number, noun) => `${format(number)} ${noun}${number === 1 ? "" : "s"}`;

  // Charts

  const LAYERS = ["compute", "data", "sync", "update"];
  const colour = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();

  // What the charts stand over: samples seen, or where the page has them the times at which they were seen.
  const AXES = {
    clocks: { label: "samples seen", at: (x) => `at ${plural(x, "sample")}`, place: "samples_seen", tick, steps: undefined },
    times: { label: "time since submission", at: (x) => `after ${seconds(x)}`, place: "elapsed_s", tick: seconds, steps: TIME_STEPS },
  };
  let axisName = "clocks";
  let domain = [];

  function setAxis(name) {
    axisName = name;
    const places = Object.values(data[name]).flat();
    const least = places.reduce((a, b) => Math.min(a, b), Infinity), greatest = places.reduce((a, b) => Math.max(a, b), 0);
    domain = [Math.min(least, greatest), greatest];
  }

  /** The lines of a chart over one common clock, which spans the whole run in every chart. */
  function joined(lines) {
    const tables = [[[...new Set(domain)]]];
    const order = [];
    for (const clock of Object.keys(data.clocks)) {
      const mine = lines.filter((line) => line.clock === clock);
      const places = data[axisName][clock];
      const sorted = places.map((_, i) => i).sort((a, b) => places[a] - places[b]); // clocks of machines may step back
      if (mine.length) tables.push([sorted.map((i) => places[i]), ...mine.map((line) => sorted.map((i) => line.values[i]))]);
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

  function series(line) {
    const hidden = { stroke: "transparent", width: 0, points: { show: false } };
    const alone = { show: line.values.length === 1 }; // one value makes no line
    if (line.style.startsWith("plan-")) { // several plans of one chart
      const dash = colour(`${line.style}-dash`).split(" ").map(Number);
      return { stroke: colour(line.style), width: 2, dash: dash[1] ? dash : [], points: alone };
    }
    if (LAYERS.includes(line.style)) return { stroke: colour(line.style), width: 1, points: alone };
    return {
      low: () => hidden,
      high: () => hidden,
      solid: () => ({ stroke: colour("line-1"), width: 2 }),
      wide: () => ({ stroke: colour("wide"), width: 6, cap: "round", points: alone }),
      dashed: () => ({ stroke: colour("dashed"), width: 1.5, dash: [5, 4], points: alone }),
      dotted: () => ({
        stroke: colour("line-2"),
        width: 1.75,
        points: { show: line.values.length <= 120, size: 6, width: 1.5, stroke: colour("line-2"), fill: colour("paper") },
      }),
    }[line.style]();
  }

  /** The nearest place that has a value: lines of different clocks stand at different places. */
  function nearest(u, column, index, at) {
    const xs = u.data[0], ys = u.data[column];
    if (column === 0) return index;
    let left = index, right = index;
    while (left >= 0 && ys[left] == null) left--;
    while (right < ys.length && ys[right] == null) right++;
    if (left < 0) return right < ys.length ? right : null;
    if (right >= ys.length) return left;
    return at - xs[left] <= xs[right] - at ? left : right;
  }

  /** Upright lines: dashed where attempts took over, dotted where something was decided. */
  function drawMarkers(u) {
    const { ctx, bbox } = u, ratio = devicePixelRatio, style = getComputedStyle(document.body);
    ctx.save();
    ctx.strokeStyle = ctx.fillStyle = colour("muted");
    ctx.lineWidth = ratio;
    ctx.font = `${12 * ratio}px ${style.fontFamily}`;
    ctx.textAlign = "left";
    ctx.textBaseline = "bottom";
    const inside = data.markers
      .filter((marker) => marker[AXES[axisName].place] != null)
      .map((marker) => ({ ...marker, x: Math.round(u.valToPos(marker[AXES[axisName].place], "x", true)) }))
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
      this.shown = spec.lines.filter((line) => line.style !== "high").map((line) => (line.style === "low" ? ["low", "high"] : [line.style]));
      this.place();
    }

    /** Put the lines over the axis that is chosen. */
    place() {
      Object.assign(this, joined(this.lines));
      this.drawn = this.isStacked ? stacked(this.columns) : this.columns;
      this.stops = this.columns[0].map((_, i) => i).filter((i) => this.columns.slice(1).some((ys) => ys[i] != null));
    }

    draw(width) {
      const axis = {
        stroke: colour("muted"),
        font: `12px ${getComputedStyle(document.body).fontFamily}`,
        grid: { stroke: colour("grid"), width: 1 },
        ticks: { stroke: colour("grid"), width: 1, size: 4 },
        values: (_, splits) => splits.map(tick),
      };
      const layers = this.isStacked ? this.order.map((line, i) => ({ series: [i + 1, i], fill: colour(line.style) })) : [];
      const across = AXES[axisName];
      const band = [this.order.findIndex((line) => line.style === "high") + 1, this.order.findIndex((line) => line.style === "low") + 1];
      const zoom = this.u && this.axisName === axisName && { min: this.u.scales.x.min, max: this.u.scales.x.max };
      this.axisName = axisName;
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
            { ...axis, label: across.label, values: (_, splits) => splits.map(across.tick), incrs: across.steps, labelSize: 20, labelFont: axis.font, labelGap: 2, size: 32, space: 70 },
            { ...axis, values: (_, splits) => splits.map(this.tick), space: 36, gap: 6, size: (_, values) => 16 + 7 * Math.max(2, ...(values ?? []).map((text) => text?.length ?? 0)) },
          ],
          series: [{}, ...this.order.map((line, i) => (this.isStacked && i === 0 ? { ...series(line), fill: colour(line.style) } : series(line)))],
          bands: band[0] && band[1] ? [{ series: band, fill: colour("band") }] : layers.slice(1),
          cursor: {
            y: false,
            sync: { key: "run", scales: ["x", null] },
            drag: { x: true, y: false, dist: 6 },
            dataIdx: nearest,
            points: { size: (_, i) => (["low", "high"].includes(this.order[i - 1].style) ? 0 : 8), fill: (u, i) => u.series[i].stroke(u, i) },
          },
          hooks: { draw: [drawMarkers], setCursor: [() => this.read()] },
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
        const columns = this.shown[i].map((style) => this.order.findIndex((line) => line.style === style) + 1);
        const index = nearest(this.u, columns[0], here, xs[here]);
        const away = under && index != null && index !== here ? ` (${AXES[axisName].at(xs[index])})` : "";
        output.textContent = columns.map((column) => (index == null ? "–" : this.format(this.columns[column][index]))).join(" to ") + away;
      });
      this.at.textContent = under ? AXES[axisName].at(xs[here]) : "last values";
    }

    /** Move the cursor with a key; the other charts follow. */
    press(event) {
      const here = this.stops.findIndex((stop) => stop >= (this.u.cursor.idx ?? -1));
      const first = here < 0 ? this.stops.length - 1 : here;
      const outside = this.u.cursor.idx == null || this.u.cursor.left < 0;
      const to = {
        ArrowLeft: outside ? this.stops.length - 1 : Math.max(0, first - 1),
        ArrowRight: outside ? 0 : Math.min(this.stops.length - 1, first + 1),
        Home: 0,
        End: this.stops.length - 1,
      }[event.key];
      if (event.key === "Escape") {
        this.u.setCursor({ left: -10, top: -10 }, true, true);
        for (const chart of charts) chart.u.setScale("x", { min: domain[0], max: domain[1] });
      }
      if (to === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      const left = this.u.valToPos(this.columns[0][this.stops[to]], "x");
      this.u.setCursor({ left, top: this.u.over.clientHeight / 2 }, true, true);
      const values = this.outputs.map((output) => output.parentElement.textContent.replace(/\s+/g, " ").trim());
      document.getElementById("reading").textContent = `${this.at.textContent}: ${values.join("; ")}`;
    }

    /** The values as a table, made when it is first asked for. */
    table(details) {
      if (!details.open) return;
      details.querySelector(".scroll")?.remove();
      const title = this.figure.querySelector("h3").textContent;
      const scroll = element("div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: `${title}, values` });
      const table = element("table", {}, element("caption", { className: "spoken" }, `${title} over ${AXES[axisName].label}`));
      const head = element("tr", {}, ...[AXES[axisName].label, ...this.order.map((line) => line.label)].map((name) => element("th", { scope: "col", className: "num" }, name)));
      const rows = this.stops.map((i) =>
        element(
          "tr",
          {},
          element("th", { scope: "row", className: "num" }, axisName === "times" ? seconds(this.columns[0][i]) : format(this.columns[0][i])),
          ...this.columns.slice(1).map((ys) => element("td", { className: "num" }, ys[i] === undefined ? "" : this.format(ys[i]))),
        ),
      );
      table.append(element("thead", {}, head), element("tbody", {}, ...rows));
      scroll.append(table);
      details.append(scroll);
    }
  }

  function element(name, properties, ...children) {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  }

  const drawAll = (width) => charts.forEach((chart) => chart.draw(width ?? chart.plot.clientWidth));

  setAxis("clocks");
  for (const spec of data.charts) {
    const chart = new Chart(spec);
    charts.push(chart);
    chart.draw(chart.plot.clientWidth);
    chart.plot.addEventListener("keydown", (event) => chart.press(event));
    chart.plot.addEventListener("blur", () => chart.u.setCursor({ left: -10, top: -10 }, true, true));
    const details = chart.figure.querySelector("details");
    details.addEventListener("toggle", () => chart.table(details));
    const log = chart.figure.querySelector(".log");
    log?.addEventListener("click", () => {
      chart.logarithmic = !chart.logarithmic;
      log.setAttribute("aria-pressed", String(chart.logarithmic));
      chart.draw(chart.width);
    });
  }

  for (const choice of document.querySelectorAll("input[name=axis]")) {
    choice.addEventListener("change", () => {
      setAxis(choice.value);
      for (const chart of charts) {
        chart.place();
        chart.draw(chart.width);
        chart.table(chart.figure.querySelector("details"));
      }
    });
  }

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

  // Sorting: what is not known stays last.

  function sort(table, header, column) {
    const direction = header.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
    const sign = direction === "ascending" ? 1 : -1;
    const key = (row) => row.cells[column].dataset.value;
    const numeric = header.dataset.sort === "number";
    const compare = (a, b) => (numeric ? Number(a) - Number(b) : a.localeCompare(b, "en", { numeric: true }));
    const rows = [...table.tBodies[0].rows].sort((a, b) => (key(a) === "") - (key(b) === "") || sign * compare(key(a), key(b)));
    for (const other of table.querySelectorAll("th[data-sort]")) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", direction);
    table.tBodies[0].append(...rows);
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    for (const header of table.querySelectorAll("th[data-sort]")) {
      const button = element("button", { type: "button" }, ...header.childNodes);
      header.append(button);
      button.addEventListener("click", () => sort(table, header, header.cellIndex));
    }
  }
})();
