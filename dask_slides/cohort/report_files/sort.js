"use strict";
// The headers of the table become buttons that sort it, and the slides below it.
const body = document.querySelector(".scroll tbody");
const slides = document.getElementById("slides");
const compare = new Intl.Collator(undefined, { numeric: true }).compare;

function valueOf(row, column) {
  const cell = row.cells[column];
  return cell.dataset.value ?? cell.textContent.trim();
}

function sort(header, column) {
  const down = header.getAttribute("aria-sort") === "ascending";
  for (const one of header.parentNode.cells) one.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", down ? "descending" : "ascending");
  const rows = [...body.rows].map((row) => [valueOf(row, column), row]);
  const given = rows.filter(([value]) => value !== "");
  const numeric = given.every(([value]) => !Number.isNaN(Number(value)));
  const order = numeric ? (a, b) => a - b : compare;
  given.sort(([a], [b]) => (down ? -order(a, b) : order(a, b)));
  const sorted = [...given, ...rows.filter(([value]) => value === "")].map(([, row]) => row);
  body.append(...sorted);
  slides.append(...sorted.map((row) => document.getElementById(row.dataset.slide)));
}

for (const [column, header] of [...(body?.closest("table").tHead.rows[0].cells ?? [])].entries()) {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...header.childNodes);
  button.addEventListener("click", () => sort(header, column));
  header.append(button);
}
