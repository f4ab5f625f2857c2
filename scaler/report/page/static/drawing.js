"use strict";
// The page's data and colours, and how lines, marks and axes of charts are drawn.

const root = document.documentElement;
const data = JSON.parse(document.getElementById("page-data").textContent);
const ROW = 16; // CSS pixels of a row of labels above a chart
const LAYERS = ["compute", "data", "sync", "update"];
root.classList.add("scripted");

const colour = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();
const font = (ratio = 1) => `${12 * ratio}px ${getComputedStyle(document.body).fontFamily}`;

function element(name, properties, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

/** The dashes of a series, by its number: none for a whole line. */
function dashes(style) {
  const dash = colour(`${style}-dash`).split(" ").map(Number);
  return dash[1] ? dash : [];
}

/** How uPlot draws a line of a style. */
function strokes(line) {
  const alone = { show: line.values.filter((value) => value != null).length === 1, size: 6 }; // one value makes no line
  if (line.repeats.length) return { stroke: "transparent", width: 0, points: { show: false } }; // drawSpreads draws it
  if (line.style.startsWith("series-")) return { stroke: colour(line.style), width: 2, dash: dashes(line.style), points: alone };
  if (LAYERS.includes(line.style)) return { stroke: colour(line.style), width: 1, points: alone };
  const hidden = { stroke: "transparent", width: 0, points: { show: false } };
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
    dots: () => ({
      stroke: colour("wide"),
      paths: () => null,
      points: { show: true, size: 4, width: 0, stroke: colour("wide"), fill: colour("wide"), filter: null },
    }),
  }[line.style]();
}

/** The properties that both axes of a chart share. */
function axisStyle() {
  return {
    stroke: colour("muted"),
    font: font(),
    labelFont: font(),
    labelSize: 20,
    labelGap: 2,
    grid: { stroke: colour("grid"), width: 1 },
    ticks: { stroke: colour("grid"), width: 1, size: 4 },
  };
}

/** The width of the numbers beside the y axis. */
const numbersWidth = (_, values) => 16 + 7 * Math.max(2, ...(values ?? []).map((text) => text?.length ?? 0));

/** Round numbers on a log axis: powers of ten, with 2 and 5 between them on a short axis. */
function decades(_, __, low, high) {
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

/** One significant digit, down or up: where a log axis ends. */
function rounded(value, round) {
  const size = 10 ** Math.floor(Math.log10(value));
  return round(value / size) * size;
}

/** The index that has a value and is nearest to the cursor: lines may have values at different places. */
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

/** Labels in rows in which none overlaps another. A label that has no place in `most` rows has row -1. */
function inRows(labels, { left, right, most, gap }) {
  const free = new Array(most).fill(-Infinity);
  return labels.map((label) => {
    const start = Math.max(left, Math.min(label.x - label.size / 2, right - label.size));
    const row = free.findIndex((end) => start >= end);
    if (row >= 0) free[row] = start + label.size + gap;
    return { ...label, start, row };
  });
}

/** How many rows the labels of a chart need, from their places on an axis of `width` CSS pixels. */
function rowsOfLabels(places, domain, { width, most, isLogarithmic }) {
  const pen = document.createElement("canvas").getContext("2d");
  pen.font = font();
  const across = isLogarithmic ? Math.log : (value) => value;
  const span = across(domain[1]) - across(domain[0]) || 1;
  const labels = places.map(({ x, label }) => ({ x: ((across(x) - across(domain[0])) / span) * width, size: pen.measureText(label).width }));
  return Math.max(0, ...inRows(labels, { left: 0, right: width, most, gap: 12 }).map(({ row }) => row + 1));
}

/** How an upright line is drawn: in the colour of a series, or muted. */
function upright(style) {
  if (style.startsWith("series-")) return { stroke: colour(style), dash: dashes(style), width: 1.75 };
  return { stroke: colour("muted"), dash: style === "dashed" ? [3, 3] : [1, 2], width: 1 };
}

/** Draw an upright line with a label above it for each mark. `rows`: how many rows of labels the chart has. */
function drawMarks(u, marks, rows) {
  const { ctx, bbox } = u, ratio = devicePixelRatio, end = bbox.left + bbox.width;
  ctx.save();
  ctx.font = font(ratio);
  ctx.textAlign = "left";
  ctx.textBaseline = "alphabetic";
  const inside = marks
    .map((mark) => ({ ...mark, ...upright(mark.style), x: Math.round(u.valToPos(mark.x, "x", true)), size: ctx.measureText(mark.label).width }))
    .filter(({ x }) => x >= bbox.left && x <= end);
  const placed = inRows(inside, { left: bbox.left, right: end, most: rows, gap: 8 * ratio });
  const bottom = (row) => bbox.top - (6 + ROW * Math.max(row, 0)) * ratio;
  for (const { x, row, stroke, dash, width } of placed) {
    ctx.strokeStyle = stroke;
    ctx.lineWidth = width * ratio;
    ctx.setLineDash(dash.map((length) => length * ratio));
    ctx.beginPath();
    ctx.moveTo(x, bottom(row) + 3 * ratio);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
  }
  for (const { label, row, size, start, stroke } of placed.filter((mark) => mark.row >= 0)) { // no line crosses a label
    ctx.fillStyle = colour("paper");
    ctx.fillRect(start - 2 * ratio, bottom(row) - 12 * ratio, size + 4 * ratio, 15 * ratio);
    ctx.fillStyle = stroke;
    ctx.fillText(label, start, bottom(row));
  }
  ctx.restore();
}

/** Draw lines whose values have repeats: each repeat as a point, the interval as a bar, and a line between the values. */
function drawSpreads(u, lines, axis) {
  const { ctx, bbox } = u, ratio = devicePixelRatio, isLog = u.scales.y.distr === 3;
  ctx.save();
  ctx.beginPath();
  ctx.rect(bbox.left - 4 * ratio, bbox.top, bbox.width + 8 * ratio, bbox.height);
  ctx.clip();
  lines.forEach((line, i) => {
    const aside = (i - (lines.length - 1) / 2) * 6 * ratio; // so that the bars of lines do not hide each other
    const points = axis.places[line.clock].map((place, at) => ({ at, x: Math.round(u.valToPos(place, "x", true) + aside) }));
    const y = (value) => u.valToPos(value, "y", true);
    const dot = (x, value, size) => {
      ctx.beginPath();
      ctx.arc(x, y(value), size * ratio, 0, 2 * Math.PI);
    };
    ctx.strokeStyle = ctx.fillStyle = colour(line.style);
    ctx.globalAlpha = 0.45;
    for (const { at, x } of points) {
      for (const value of line.repeats[at] ?? []) {
        if (!isLog || value > 0) dot(x, value, 2);
        ctx.fill();
      }
    }
    ctx.globalAlpha = 1;
    ctx.lineWidth = 1.75 * ratio;
    ctx.setLineDash(dashes(line.style).map((length) => length * ratio));
    ctx.beginPath();
    let isDown = false;
    for (const { at, x } of points) {
      if (line.values[at] != null) ctx[isDown ? "lineTo" : "moveTo"](x, y(line.values[at]));
      isDown = line.values[at] != null;
    }
    ctx.stroke();
    ctx.setLineDash([]);
    for (const { at, x } of points) {
      if (line.low[at] != null && line.high[at] != null) {
        ctx.beginPath();
        ctx.moveTo(x, y(line.low[at]));
        ctx.lineTo(x, y(line.high[at]));
        ctx.stroke();
      }
      if (line.values[at] == null) continue;
      const outside = y(line.values[at]) > bbox.top + bbox.height ? 1 : y(line.values[at]) < bbox.top ? -1 : 0;
      if (outside) { // a triangle at the end of the chart
        const tip = outside > 0 ? bbox.top + bbox.height - ratio : bbox.top + ratio;
        ctx.beginPath();
        ctx.moveTo(x, tip);
        ctx.lineTo(x - 4 * ratio, tip - outside * 7 * ratio);
        ctx.lineTo(x + 4 * ratio, tip - outside * 7 * ratio);
        ctx.closePath();
        ctx.fillStyle = colour(line.style);
        ctx.fill();
        continue;
      }
      dot(x, line.values[at], 3.5);
      ctx.fillStyle = colour("paper");
      ctx.fill();
      ctx.stroke();
    }
  });
  ctx.restore();
}

/** Shade the part of a chart to the right of a mark. */
function shadeAfter(u, x) {
  const { ctx, bbox } = u, end = bbox.left + bbox.width;
  const start = Math.max(bbox.left, Math.min(u.valToPos(x, "x", true), end));
  ctx.fillStyle = colour("raised");
  ctx.fillRect(start, bbox.top, end - start, bbox.height);
}
