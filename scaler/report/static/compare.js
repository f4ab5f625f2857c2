"use strict";
// Draws the curves of several runs over each other, over samples or over time. The page says the same without it.
(() => {
  const root = document.documentElement;
  const data = JSON.parse(document.getElementById("report-data").textContent);
  const PRINT_WIDTH = 660; // CSS pixels that fit on A4 and on Letter
  const charts = [];
  let clock = "samples";
  root.classList.add("scripted");

  // Numbers, as the page's own text has them: 4 significant digits.

  function format(value) {
    if (value == null) return "–";
    const size = Math.abs(value);
    if (Number.isInteger(value) || size >= 1e4) return value.toLocaleString("en-US", { maximumFractionDigits: 0 });
    const text = Number(value.toPrecision(4));
    return size < 1e-4 ? text.toExponential().replace(/-(\d)$/, "-0$1") : String(text);
  }

  function duration(value) {
    if (value < 60) return `${Number(value.toPrecision(3))} s`;
    if (value < 3600) return `${Math.floor(value / 60)} min ${Math.floor(value % 60)} s`;
    return `${Math.floor(value / 3600)} h ${Math.floor((value % 3600) / 60)} min`;
  }

  function tick(value) {
    if (value == null) return "";
    const size = Math.abs(value);
    if (size >= 1e6) return value.toLocaleString("en-US", { notation: "compact", maximumSignificantDigits: 4 });
    if (size !== 0 && size < 1e-3) return Number(value.toPrecision(6)).toExponential();
    return value.toLocaleString("en-US", { maximumFractionDigits: 6 });
  }

  const colour = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();
  const place = (value) => (clock === "seconds" ? duration(value) : `${format(value)} sample${value === 1 ? "" : "s"}`);

  /** A run's places and values on the clock that is chosen, without places that are not known or stand still. */
  function points(line) {
    const xs = [], ys = [];
    line[clock].forEach((x, i) => {
      if (x == null || x <= xs[xs.length - 1]) return;
      xs.push(x);
      ys.push(line.values[i]);
    });
    return [xs, ys];
  }

  /** The place of a run that is nearest to the cursor: runs have their values at different places. */
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

  class Chart {
    constructor(spec) {
      this.figure = document.getElementById(`chart-${spec.id}`);
      this.plot = this.figure.querySelector(".plot");
      this.at = this.figure.querySelector(".at");
      this.outputs = [...this.figure.querySelectorAll(".legend b")];
      this.lines = spec.lines;
      this.width = 0;
      this.align();
    }

    /** Put all runs on one axis. */
    align() {
      this.columns = uPlot.join(this.lines.map(points));
      this.stops = this.columns[0].map((_, i) => i);
    }

    series(line) {
      const dash = colour(`${line.style}-dash`).split(" ").map(Number);
      const alone = line.values.filter((value) => value != null).length === 1; // one value makes no line
      return { stroke: colour(line.style), width: 1.75, dash: dash[1] ? dash : [], spanGaps: true, points: { show: alone, size: 6 } };
    }

    draw(width) {
      const axis = {
        stroke: colour("muted"),
        font: `12px ${getComputedStyle(document.body).fontFamily}`,
        grid: { stroke: colour("grid"), width: 1 },
        ticks: { stroke: colour("grid"), width: 1, size: 4 },
        values: (_, splits) => splits.map(tick),
      };
      this.u?.destroy();
      this.width = width;
      this.u = new uPlot(
        {
          width,
          height: parseFloat(getComputedStyle(this.plot).minHeight),
          padding: [8, 14, 0, 0],
          legend: { show: false },
          scales: { x: { time: false } },
          axes: [
            { ...axis, label: clock === "seconds" ? "seconds since submission" : "samples seen", labelSize: 20, labelFont: axis.font, labelGap: 2, size: 32, space: 70 },
            { ...axis, space: 36, gap: 6, size: (_, values) => 16 + 7 * Math.max(2, ...(values ?? []).map((text) => text?.length ?? 0)) },
          ],
          series: [{}, ...this.lines.map((line) => this.series(line))],
          cursor: {
            y: false,
            sync: { key: "compared", scales: ["x", null] },
            drag: { x: true, y: false, dist: 6 },
            dataIdx: nearest,
            points: { size: 7, fill: (u, i) => u.series[i].stroke(u, i) },
          },
          hooks: { setCursor: [() => this.read()] },
        },
        this.columns,
        this.plot,
      );
      this.read();
    }

    /** Write the values under the cursor into the legend, or the last ones when there is none. */
    read() {
      const under = this.u.cursor.idx != null && this.u.cursor.left >= 0;
      const xs = this.columns[0];
      const here = under ? this.u.cursor.idx : xs.length - 1;
      this.outputs.forEach((output, i) => {
        const index = nearest(this.u, i + 1, here, xs[here]);
        const away = under && index != null && index !== here ? ` (at ${place(xs[index])})` : "";
        output.textContent = format(index == null ? null : this.columns[i + 1][index]) + away;
      });
      this.at.textContent = under ? `at ${place(xs[here])}` : "last values";
    }

    /** Move the cursor with a key; the other charts follow. */
    press(event) {
      const outside = this.u.cursor.idx == null || this.u.cursor.left < 0;
      const here = outside ? -1 : this.u.cursor.idx, last = this.stops.length - 1;
      const to = {
        ArrowLeft: outside ? last : Math.max(0, here - 1),
        ArrowRight: Math.min(last, here + 1),
        Home: 0,
        End: last,
      }[event.key];
      if (event.key === "Escape") {
        this.u.setCursor({ left: -10, top: -10 }, true, true);
        drawAll();
      }
      if (to === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      const left = this.u.valToPos(this.columns[0][to], "x");
      this.u.setCursor({ left, top: this.u.over.clientHeight / 2 }, true, true);
      const values = this.outputs.map((output) => output.parentElement.textContent.replace(/\s+/g, " ").trim());
      document.getElementById("reading").textContent = `${this.at.textContent}: ${values.join("; ")}`;
    }
  }

  const drawAll = (width) => charts.forEach((chart) => chart.draw(width ?? chart.plot.clientWidth));

  for (const spec of data.charts) {
    const chart = new Chart(spec);
    charts.push(chart);
    chart.draw(chart.plot.clientWidth);
    chart.plot.addEventListener("keydown", (event) => chart.press(event));
    chart.plot.addEventListener("blur", () => chart.u.setCursor({ left: -10, top: -10 }, true, true));
  }

  for (const choice of document.querySelectorAll(".switch input")) {
    choice.addEventListener("change", () => {
      clock = choice.value;
      charts.forEach((chart) => chart.align());
      drawAll();
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
})();
