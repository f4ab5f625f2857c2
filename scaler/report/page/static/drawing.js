"use strict";
// What every page with a chart needs: its data, its colours, and charts that follow the window, the theme and paper.

const root = document.documentElement;
const data = JSON.parse(document.getElementById("report-data").textContent);
const PRINT_WIDTH = 680; // CSS pixels, about the width of A4: on paper the style sheet stretches it to what there is
const OUTSIDE = { left: -10, top: -10 }; // where a cursor is when it points at nothing
root.classList.add("scripted");

const colour = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();
const font = () => `12px ${getComputedStyle(document.body).fontFamily}`;

function element(name, properties, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

/** What both axes of a chart have. */
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

/** The room that a height's numbers take. */
const heightSize = (_, values) => 16 + 7 * Math.max(2, ...(values ?? []).map((text) => text?.length ?? 0));

/** The place that has a value and is nearest to the cursor: lines may stand at different places. */
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

/** Which of the places a key goes to; undefined for other keys. */
function stepped(event, here, last) {
  if (event.altKey || event.ctrlKey || event.metaKey) return undefined;
  const outside = here == null;
  return {
    ArrowLeft: outside ? last : Math.max(0, here - 1),
    ArrowRight: outside ? 0 : Math.min(last, here + 1),
    Home: 0,
    End: last,
  }[event.key];
}

/** Draw charts, each with a plot, a width and a draw(width), and draw them again when what they stand in changes. */
function keepDrawn(charts) {
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
}
