// Marks on paper, as marks.py makes them.
const ACROSS = 0.42, UP = 0.3;

function px(length) {
  return String(Math.floor(length * 10 + 0.5) / 10 + 0);
}

function label(content, x, y, kind, anchor) {
  const place = anchor === "start" ? "" : ` text-anchor="${anchor}"`;
  return `<text class="${kind}" x="${px(x)}" y="${px(y)}"${place}>${asSvg(content)}</text>`;
}

function solid(x, y, front, deep, kind) {
  const across = ACROSS * deep, up = UP * deep;
  const top = `M${px(x)} ${px(y)}l${px(across)} ${px(-up)}h${px(front)}l${px(-across)} ${px(up)}z`;
  const right = `M${px(x + front)} ${px(y)}l${px(across)} ${px(-up)}v${px(front)}l${px(-across)} ${px(up)}z`;
  return (
    `<g class="${kind}"><path d="${square(x, y, front)}"/><path d="${top}"/><path d="${right}"/>` +
    `<path class="lit" d="${top}"/><path class="dim" d="${right}"/></g>`
  );
}

function square(x, y, side) {
  return `M${px(x)} ${px(y)}h${px(side)}v${px(side)}h${px(-side)}z`;
}

function grid(x, y, side, cells) {
  const step = side / cells;
  if (cells === 1 || step < 3) return "";
  let lines = "";
  for (let cell = 1; cell < cells; cell++)
    lines += `M${px(x + step * cell)} ${px(y)}v${px(side)}M${px(x)} ${px(y + step * cell)}h${px(side)}`;
  return `<path class="grid" d="${lines}"/>`;
}

function sheets(x, y, front, deep, channels) {
  const cuts = Math.min(channels, Math.floor(deep / 8 + 0.5));
  let lines = "";
  for (let cut = 1; cut < cuts; cut++) {
    const across = (ACROSS * deep * cut) / cuts, up = (UP * deep * cut) / cuts;
    lines += `M${px(x + across)} ${px(y - up)}h${px(front)}v${px(front)}`;
  }
  return lines && `<path class="grid" d="${lines}"/>`;
}

function dots(x, y, across = 0, down = 6) {
  return [-1, 0, 1].map((step) =>
    `<circle class="dot" cx="${px(x + step * across)}" cy="${px(y + step * down)}" r="1.6"/>`).join("");
}
