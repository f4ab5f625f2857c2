"use strict";
// Draws a page's curves, and lets them be put over another axis, zoomed and read. The page says the same without it.
(() => {
  const charts = data.charts.map((spec) => new Chart(spec));
  keepDrawn(charts);
  for (const chart of charts) {
    chart.plot.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        chart.leave();
        charts.forEach((other) => other.zoomOut());
      }
      chart.press(event);
    });
    chart.plot.addEventListener("blur", () => chart.leave());
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
      root.classList.toggle("over-time", choice.value === "times");
      for (const chart of charts) {
        chart.place(choice.value);
        chart.draw(chart.width);
        chart.table(chart.figure.querySelector("details"));
      }
    });
  }
})();
