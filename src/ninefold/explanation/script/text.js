// Words and symbols, as text.py has them.
const SYMBOL = /(~|D_[kgf]|\bmM\b|\b[MNm]\b)/;
const SUNK = 3;

function escaped(text) {
  const names = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#x27;" };
  return text.replace(/[&<>"']/g, (character) => names[character]);
}

function fill(template, words, values) {
  const phrased = template.replace(/@([a-zA-Z0-9_]+)/g, (_, name) => words[name]);
  return phrased.replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

function asHtml(text) {
  return text.split(SYMBOL).map((part) => {
    if (part.startsWith("D_")) return `<i>D</i><sub>${part[2]}</sub>`;
    return ["M", "N", "m", "mM"].includes(part) ? `<i>${part}</i>` : escaped(part);
  }).join("");
}

function asSvg(text) {
  let cut = false, sunk = false, result = "";
  text.split(SYMBOL).forEach((part, index) => {
    if (part === "~") cut = !cut;
    if (part === "~" || part === "") return;
    const kind = [index % 2 ? "var" : "", cut ? "cut" : ""].filter(Boolean).join(" ");
    const attributes = (kind ? ` class="${kind}"` : "") + (sunk ? ` dy="-${SUNK}"` : "");
    const shown = escaped(part.startsWith("D_") ? "D" : part);
    result += attributes ? `<tspan${attributes}>${shown}</tspan>` : shown;
    sunk = part.startsWith("D_");
    if (sunk) result += `<tspan class="sub${cut ? " cut" : ""}" dy="${SUNK}">${part[2]}</tspan>`;
  });
  return result;
}

function asWords(text) {
  return text.replaceAll("D_", "D").replaceAll("~", "");
}
