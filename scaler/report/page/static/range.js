"use strict";
// Draws the range test's curve and reads its values out. The page says the same without it.
(() => {
  const DASHES = { steepest: [6, 3], valley: [], tenth_of_divergence: [2, 3], diverged: [1, 2] };
  const ROW = 16; // height of a line of labels

  const figure = document.getElementById("chart-range");
  const plot = figure.querySelector(".plot");
  const at = figure.querySelector(".at");
  const outputs = [...figure.querySelectorAll(".legend b")]; // smoothed, each step
  const button = figure.querySelector(".log");
  const columns = [data.lrs, data.losses, data.lrs.map((_, i) => data.smoothed[i] ?? null)];
  const lrs = data.lrs;
  const domain = [lrs[0], lrs[lrs.length - 1]];
  const everything = data.losses.filter((value) => value != null);
  const least = Math.min(...everything);
  const positive = least > 0;
  let showsAll = false;
  const chart = { plot, width: 0, draw };
  let u;

  /** Round rates: powers of ten, with 2 and 5 between them where there is room. */
  function rates(_, __, low, high) {
    const heads = Math.log10(high / low) < 2.5 ? [1, 2, 5] : [1];
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high) + 1e-9; power++) {
      for (const head of heads) {
        const value = Number(`${head}e${power}`);
        if (value >= low * (1 - 1e-9) && value <= high * (1 + 1e-9)) found.push(value);
      }
    }
    return found.length > 1 ? found : [low, high];
  }

  /** What the loss axis spans: up to where the curve says only that it diverged, or everything. */
  function heights() {
    if (!showsAll) {
      const room = 0.06 * (data.ceiling - least) || 1;
      return [least - room, data.ceiling];
    }
    const most = Math.max(...everything);
    return positive ? [least / 1.2, most * 1.2] : [least, most];
  }

  /** Upright lines with labels, in as many rows as keep them apart. */
  function drawMarks() {
    const { ctx, bbox } = u, ratio = devicePixelRatio;
    ctx.save();
    ctx.font = `${12 * ratio}px ${getComputedStyle(document.body).fontFamily}`;
    ctx.textAlign = "center";
    ctx.textBaseline = "alphabetic";
    const free = data.marks.map(() => -Infinity);
    const shown = data.marks
      .map((mark) => ({ ...mark, x: Math.round(u.valToPos(mark.lr, "x", true)) }))
      .filter(({ x }) => x >= bbox.left && x <= bbox.left + bbox.width)
      .sort((a, b) => a.x - b.x);
    const labels = shown.map(({ x, key, label }) => {
      const size = ctx.measureText(label).width, gap = 8 * ratio;
      const start = Math.max(bbox.left, Math.min(x - size / 2, bbox.left + bbox.width - size));
      const row = free.findIndex((end) => start >= end);
      free[row] = start + size + gap;
      return { x, key, label, size, start, bottom: bbox.top - (6 + ROW * row) * ratio };
    });
    for (const { x, key, bottom } of labels) {
      ctx.strokeStyle = colour(key);
      ctx.lineWidth = (key === "diverged" ? 1 : 1.75) * ratio;
      ctx.setLineDash(DASHES[key].map((length) => length * ratio));
      ctx.beginPath();
      ctx.moveTo(x, bottom + 3 * ratio);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
    }
    for (const { key, label, size, start, bottom } of labels) { // no line crosses a label
      ctx.fillStyle = colour("paper");
      ctx.fillRect(start - 2 * ratio, bottom - 12 * ratio, size + 4 * ratio, 15 * ratio);
      ctx.fillStyle = colour(key);
      ctx.fillText(label, start + size / 2, bottom);
    }
    ctx.restore();
  }

  /** What lies beyond the divergence says nothing of rates that work. */
  function shade() {
    const mark = data.marks.find(({ key }) => key === "diverged");
    if (!mark) return;
    const { ctx, bbox } = u, end = bbox.left + bbox.width;
    const x = Math.max(bbox.left, Math.min(u.valToPos(mark.lr, "x", true), end));
    ctx.fillStyle = colour("raised");
    ctx.fillRect(x, bbox.top, end - x, bbox.height);
  }

  /** How many rows the labels take, at a width; as drawMarks places them. */
  function rows(plotWidth) {
    const pen = document.createElement("canvas").getContext("2d");
    pen.font = font();
    const span = Math.log(domain[1] / domain[0]), inner = plotWidth - 70;
    const free = data.marks.map(() => -Infinity);
    let most = 1;
    for (const mark of [...data.marks].sort((a, b) => a.lr - b.lr)) {
      const size = pen.measureText(mark.label).width;
      const x = (Math.log(mark.lr / domain[0]) / span) * inner;
      const start = Math.max(0, Math.min(x - size / 2, inner - size));
      const row = free.findIndex((end) => start >= end);
      free[row] = start + size + 12;
      most = Math.max(most, row + 1);
    }
    return most;
  }

  function draw(width) {
    chart.width = width;
    const axis = { ...axisStyle(), values: (_, splits) => splits.map(tick), filter: (_, splits) => splits };
    const zoom = u && { min: u.scales.x.min, max: u.scales.x.max };
    u?.destroy();
    u = new uPlot(
      {
        width,
        height: parseFloat(getComputedStyle(plot).minHeight),
        padding: [8 + ROW * rows(width), 14, 0, 0],
        legend: { show: false },
        scales: {
          x: { time: false, distr: 3, range: (_, low, high) => [low, high] },
          y: { distr: showsAll && positive ? 3 : 1, range: heights },
        },
        axes: [
          { ...axis, splits: rates, label: "learning rate", size: 32, space: 50 },
          { ...axis, ...(showsAll && positive ? { splits: rates } : {}), space: 36, gap: 6, size: heightSize },
        ],
        series: [
          {},
          { paths: () => null, points: { show: true, size: 4, width: 0, stroke: colour("wide"), fill: colour("wide"), filter: null } },
          { stroke: colour("line-1"), width: 2.25, spanGaps: true, points: { show: false } },
        ],
        cursor: {
          y: false,
          drag: { x: true, y: false, dist: 6 },
          points: { size: 8, fill: (_, i) => colour(i === 1 ? "wide" : "line-1"), stroke: () => colour("paper") },
        },
        hooks: { drawClear: [shade], draw: [drawMarks], setCursor: [read] },
      },
      columns,
      plot,
    );
    if (zoom) u.setScale("x", zoom);
    read();
  }

  /** Write the values under the cursor into the legend. */
  function read() {
    const under = u.cursor.idx != null && u.cursor.left >= 0;
    [2, 1].forEach((column, i) => {
      outputs[i].textContent = under ? format(columns[column][u.cursor.idx]) : "";
    });
    at.textContent = under ? `at rate ${format(lrs[u.cursor.idx])}` : "";
  }

  function press(event) {
    if (event.key === "Escape") {
      u.setCursor(OUTSIDE);
      u.setScale("x", { min: domain[0], max: domain[1] });
    }
    const outside = u.cursor.idx == null || u.cursor.left < 0;
    const to = stepped(event, outside ? null : u.cursor.idx, lrs.length - 1);
    if (to === undefined) return;
    event.preventDefault();
    u.setCursor({ left: u.valToPos(lrs[to], "x"), top: u.over.clientHeight / 2 });
    const [mean, step] = outputs.map((output) => output.textContent);
    document.getElementById("reading").textContent = `${at.textContent}: smoothed ${mean}; each step ${step}`;
  }

  /** The values as a table, made when it is first asked for. */
  function table(details) {
    if (details.querySelector("table")) return;
    const head = ["learning rate", "loss of the step", "smoothed"];
    const body = lrs.map((_, i) => columns.map((values) => format(values[i])));
    const row = (values, name, scope) => element("tr", {}, ...values.map((value, i) => (i && name === "td" ? element("td", { className: "num" }, value) : element("th", { className: "num", scope }, value))));
    const made = element(
      "table",
      {},
      element("caption", { className: "spoken" }, "Loss over the learning rate"),
      element("thead", {}, row(head, "th", "col")),
      element("tbody", {}, ...body.map((values) => row(values, "td", "row"))),
    );
    details.append(element("div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: "Loss over the learning rate, values" }, made));
  }

  button.hidden = Math.max(...everything) <= data.ceiling;
  keepDrawn([chart]);
  plot.addEventListener("keydown", press);
  plot.addEventListener("blur", () => u.setCursor(OUTSIDE));
  const details = figure.querySelector("details");
  details.addEventListener("toggle", () => table(details));
  button.addEventListener("click", () => {
    showsAll = !showsAll;
    button.setAttribute("aria-pressed", String(showsAll));
    draw(chart.width);
  });
})();
