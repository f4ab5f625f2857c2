"use strict";
// Sorts tables by their columns. Unknown values stay last.
(() => {
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
