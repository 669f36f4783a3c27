"use strict";
// Sorts a table by the column whose heading is pressed; rows that say nothing there stay last.
for (const table of document.querySelectorAll("table[data-sortable]")) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const rising = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", rising ? "ascending" : "descending");
      const key = (row) => {
        const told = row.cells[column].dataset.key;
        return told === undefined ? null : told !== "" && !Number.isNaN(Number(told)) ? Number(told) : told;
      };
      const order = (a, b) => {
        if (a === null || b === null) return (a === null) - (b === null);
        const both = typeof a === "number" && typeof b === "number";
        const apart = both ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
        return rising ? apart : -apart;
      };
      const rows = [...body.rows].map((row) => [key(row), row]);
      rows.sort((one, other) => order(one[0], other[0]));
      body.append(...rows.map((pair) => pair[1]));
    });
  });
}
