// A few pixels to try: numbers one can change, and what the two stages make of them.
function tryPixels(words, first) {
  const room = document.getElementById("try"), sum = document.getElementById("try-sum");
  const cells = [...room.querySelectorAll("[data-cell]")];
  const at = new Map(cells.map((cell) => [cell.dataset.cell, cell]));
  const read = (...place) => {
    const typed = at.get(place.join("-")).value.trim();
    return typed === "" ? NaN : Number(typed);
  };
  const shown = (number) => (Number.isFinite(number) ? String(Number(number.toFixed(6))) : "?");

  // What a result is made of: pairs of cells whose numbers are multiplied.
  function pairs(name) {
    const [stage, c, row, column] = name.split("-"), found = [];
    if (stage === "filtered")
      for (let i = 0; i < 3; i++)
        for (let j = 0; j < 3; j++) found.push([`kernels-${c}-${i}-${j}`, `input-${c}-${+row + i}-${+column + j}`]);
    if (stage === "combined")
      for (let k = 0; k < 2; k++) found.push([`weights-${c}-${k}`, `filtered-${k}-${row}-${column}`]);
    return found;
  }
  const results = new Map();
  const value = (name) => (results.has(name) ? results.get(name) : read(name));

  function compute() {
    for (const cell of cells.filter((each) => each.tagName === "INPUT")) {
      if (Number.isNaN(read(cell.dataset.cell))) cell.setAttribute("aria-invalid", "true");
      else cell.removeAttribute("aria-invalid");
    }
    for (const stage of ["filtered", "combined"])
      for (const cell of cells.filter((each) => each.dataset.cell.startsWith(stage))) {
        const name = cell.dataset.cell;
        results.set(name, pairs(name).reduce((total, [a, b]) => total + value(a) * value(b), 0));
        cell.textContent = shown(results.get(name));
        cell.setAttribute("aria-label", `${cell.dataset.name}: ${cell.textContent}`);
      }
    sum.textContent = room.querySelector("[aria-invalid]") ? words.try_bad : "";
  }

  function explain(event) {
    const cell = event.target.closest("[data-cell]");
    for (const each of cells) each.classList.remove("part", "chosen");
    if (!cell || cell.tagName === "INPUT") return;
    cell.classList.add("chosen");
    const made = pairs(cell.dataset.cell);
    for (const name of made.flat()) at.get(name).classList.add("part");
    const inside = (number) => (number < 0 ? `(${shown(number)})` : shown(number));
    sum.textContent =
      made.map(([a, b]) => `${inside(value(a))}·${inside(value(b))}`).join(" + ") + ` = ${cell.textContent}`;
  }

  for (const cell of cells) cell.readOnly = false;
  room.addEventListener("input", compute);
  room.addEventListener("mouseover", explain);
  room.addEventListener("focusin", explain);
  document.getElementById("try-reset").addEventListener("click", () => {
    for (const stage of ["input", "kernels", "weights"])
      for (const cell of cells.filter((each) => each.dataset.cell.startsWith(stage)))
        cell.value = cell.dataset.cell.split("-").slice(1).reduce((part, index) => part[index], first[stage]);
    compute();
  });
  compute();
}
