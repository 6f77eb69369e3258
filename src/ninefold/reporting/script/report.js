// Sorting, filtering and saving the table; showing a row's marks in the plot. Nothing leaves the page.
"use strict";
(() => {
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  document.documentElement.classList.add("js");

  const table = document.getElementById("table");
  const body = table.tBodies[0];
  const rows = all("tr", body);

  // A number where the cell holds one, else its words.
  const value = (row, column) => {
    const cell = row.cells[column];
    const told = cell.dataset.value ?? cell.textContent.trim();
    return told !== "" && !Number.isNaN(Number(told)) ? Number(told) : told;
  };
  const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b
    : String(a).localeCompare(String(b), undefined, { numeric: true }));

  for (const button of all("thead button", table)) {
    button.addEventListener("click", () => {
      const column = Number(button.dataset.column);
      const head = button.closest("th");
      // Figures begin with the largest, names with the first.
      const first = head.classList.contains("number") ? "descending" : "ascending";
      const other = first === "ascending" ? "descending" : "ascending";
      const order = head.getAttribute("aria-sort") === first ? other : first;
      all("thead th", table).forEach((each) => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const sorted = [...rows].sort((a, b) => sign * compare(value(a, column), value(b, column)));
      body.append(...sorted);
    });
  }

  const words = document.getElementById("words");
  const kind = document.getElementById("kind");
  const sum = document.getElementById("sum");
  const filter = () => {
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    const weights = new Map();
    let [count, multiplications] = [0, 0n];
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      const shown = (!kind.value || row.dataset.kind === kind.value) && wanted.every((word) => text.includes(word));
      row.hidden = !shown;
      if (!shown) continue;
      count += 1;
      multiplications += BigInt(row.dataset.multiplications);
      // A weight that is used twice is one.
      weights.set(row.dataset.name, BigInt(row.dataset.weights));
    }
    const total = [...weights.values()].reduce((a, b) => a + b, 0n);
    const [some, every] = [count.toLocaleString("en"), rows.length.toLocaleString("en")];
    const layers = count === rows.length ? `${every} layers` : `${some} of ${every} layers`;
    sum.textContent = `${layers}, ${multiplications.toLocaleString("en")} multiplications, ` +
      `${total.toLocaleString("en")} weights`;
  };
  words.addEventListener("input", filter);
  kind.addEventListener("change", filter);

  const files = JSON.parse(document.getElementById("files").textContent);
  for (const button of all("[data-saves]")) {
    button.addEventListener("click", () => {
      const type = { csv: "text/csv", json: "application/json" }[button.dataset.saves];
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([files[button.dataset.saves]], { type }));
      link.download = button.dataset.name;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    });
  }

  for (const box of all("[data-shows]")) {
    box.addEventListener("change", () => {
      box.closest("section").classList.toggle(`hides-${box.dataset.shows}`, !box.checked);
    });
  }

  const marks = (row) => all(`.points [data-row="${row.dataset.row}"]`);
  for (const row of rows) {
    row.addEventListener("pointerenter", () => marks(row).forEach((mark) => mark.classList.add("lit")));
    row.addEventListener("pointerleave", () => marks(row).forEach((mark) => mark.classList.remove("lit")));
  }
  for (const mark of all(".points [data-row]")) {
    mark.addEventListener("click", () => {
      const row = rows.find((each) => each.dataset.row === mark.dataset.row);
      words.value = kind.value = "";
      filter();
      rows.forEach((each) => each.classList.toggle("lit", each === row));
      row.scrollIntoView({ block: "center" });
    });
  }

  for (const button of all("[data-unfolds]")) {
    const section = document.getElementById(button.dataset.unfolds);
    section.classList.add("folded");
    button.addEventListener("click", () => {
      section.classList.remove("folded");
      button.remove();
    });
  }
})();
