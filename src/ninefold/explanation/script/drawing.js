// The pictures, as drawing.py draws them.
const WIDTH = 420, WIDEST = 104, GAP = 22, LONG = 16, LONG_LABEL = 20;

class Scene {
  constructor(layer, words) {
    this.words = chosen(words, layer);
    this.values = valuesOf(layer);
    this.numbers = numbersOf(layer);
    this.shares = sharesOf(layer);
    this.unit = 1;
    const boxes = [["Df", "M"], ["Dg", "N"], ["Dg", "MM"], ["Dk", "M"]];
    const fits = Math.min(...boxes.map(([side, depth]) => WIDEST / this.extent(side, depth, 1)[0]));
    this.unit = Math.min(15, fits, Math.max(9.5, 51 / this.extent("Dk", "M", 1)[1]));
  }

  side(name, scale) {
    return this.unit * scale * Math.log2(1 + this.numbers[name]);
  }

  extent(side, depth, scale) {
    const front = this.side(side, scale), deep = this.side(depth, scale);
    return [front + ACROSS * deep, front + UP * deep];
  }

  fill(template) {
    return fill(template, this.words, this.values);
  }

  draw(picture, number) {
    const name = picture.name;
    const title = this.fill(`${number} · @title_${number}`), description = this.fill(`@alt_${number}`);
    let body = "";
    for (const item of picture.items)
      for (const kind of Object.keys(item)) if (kind in DRAWERS) body += DRAWERS[kind](this, item);
    return (
      `<svg xmlns="http://www.w3.org/2000/svg" class="picture" viewBox="0 0 ${WIDTH} ${picture.height}" ` +
      `role="img" aria-labelledby="${name}-title ${name}-description">` +
      `<title id="${name}-title">${escaped(asWords(title))}</title>` +
      `<desc id="${name}-description">${escaped(asWords(description))}</desc>` +
      `${label(title, 14, 25, "title", "start")}${body}</svg>`
    );
  }
}

function chosen(words, layer) {
  const result = { ...words, verdict: words[`verdict_${verdictOf(layer)}`] };
  if (layer.m > 1)
    for (const name of Object.keys(words))
      if (name.endsWith("_wide")) result[name.slice(0, -"_wide".length)] = words[name];
  return result;
}

const DRAWERS = {
  box(scene, item) {
    const [side, depth] = item.box, scale = item.scale ?? 1, kind = item.kind;
    const front = scene.side(side, scale), deep = scene.side(depth, scale);
    const [x, y] = corner(scene, item.at, side, depth, scale);
    let parts = solid(x, y, front, deep, item.whole ?? kind);
    if (item.grid) parts += grid(x, y, front, scene.numbers[side]);
    if (item.sheets) parts += sheets(x, y, front, deep, scene.numbers[depth]);
    if (item.slice) {
      parts += solid(x, y, front, Math.min(deep, scene.side("1", scale)), `${item.slice} pale`);
      const dot = Math.min(front, scene.side("1", scale));
      parts += `<path class="${item.slice} strong" d="${square(x, y, dot)}"/>`;
    }
    if (item.window) {
      const [name, colour] = item.window, window = scene.side(name, scale);
      if (window <= front) parts += solid(x, y, window, deep, colour);
      else {
        const over = (window - front) / 2;
        parts += `<path class="${colour} outline" d="${square(x - over, y - over, window)}"/>`;
      }
    }
    return parts + edges(scene, item, x, y, front, deep);
  },

  stack(scene, item) {
    const [side, depth] = item.stack, scale = item.scale ?? 1;
    const front = scene.side(side, scale), deep = scene.side(depth, scale);
    const height = scene.extent(side, depth, scale)[1] + 8;
    const shown = shownOf(scene.numbers[item.count], item.room, height);
    let y = item.at[1] - total(shown, height) / 2, parts = "";
    for (const index of shown) {
      if (index === 0) {
        parts += dots(item.at[0], y + GAP / 2);
        y += GAP;
        continue;
      }
      const [left, top] = corner(scene, [item.at[0], y + height / 2], side, depth, scale);
      parts += solid(left, top, front, deep, item.kind) + grid(left, top, front, scene.numbers[side]);
      if (index === shown.at(-1)) parts += edges(scene, item, left, top, front, deep);
      y += height;
    }
    return parts;
  },

  rows(scene, item) {
    const height = item.row;
    const tallest = Math.max(...["Df", "Dk", "Dg"].map((side) => scene.extent(side, "1", 1)[1]));
    const scale = Math.min(1, (height - 6) / tallest);
    const shown = shownOf(scene.numbers[item.rows], item.room, height), cards = Math.min(3, scene.numbers.m);
    let y = item.at[1] - total(shown, height) / 2, parts = "";
    for (const index of shown) {
      if (index === 0) {
        for (const x of [item.at[0], ...item.columns]) parts += dots(x, y + GAP / 2);
        y += GAP;
        continue;
      }
      const centre = y + height / 2;
      parts += label(String(index), item.at[0], centre + 5, "number", "middle");
      for (const [column, side, count, kind] of [
        [0, "Df", 1, "data"], [1, "Dk", cards, "depthwise"], [2, "Dg", cards, "data"],
      ]) {
        const apart = Math.min(22, scene.side(side, scale) + 9);
        for (let card = 0; card < count; card++) {
          const shift = apart * (card - (count - 1) / 2);
          const [left, top] = corner(scene, [item.columns[column] + shift, centre], side, "1", scale);
          const front = scene.side(side, scale), thin = scene.side("1", scale);
          parts += solid(left, top, front, thin, kind);
          if (column === 1) parts += grid(left, top, front, scene.numbers[side]);
          else if (column === 2) parts += `<path class="depthwise pale" d="${square(left, top, front)}"/>`;
        }
      }
      for (const [sign, left, right] of [["∗", 0, 1], ["→", 1, 2]])
        parts += label(sign, (item.columns[left] + item.columns[right]) / 2, centre + 7, "sign", "middle");
      y += height;
    }
    return parts;
  },

  bar(scene, item) {
    const [x, y] = item.at, thick = item.thick;
    let parts = `<rect class="track" x="${x}" y="${y}" width="${item.width}" height="${thick}" rx="3"/>`;
    let left = x;
    for (const [kind, share] of item.bar) {
      const wide = Math.min(Math.max(1, item.width * scene.shares[share]), x + item.width - left);
      parts += `<rect class="${kind}" x="${px(left)}" y="${y}" width="${px(wide)}" height="${thick}"/>`;
      left += wide;
    }
    return parts;
  },

  labels(scene, item) {
    const kinds = ["name", "symbol", "number"].slice(-item.labels.length);
    return item.labels.map((line, row) => {
      const content = scene.fill(line), size = content.length > LONG_LABEL ? " long" : "";
      return label(content, item.at[0], item.at[1] + 19 * row, `label ${kinds[row]}${size}`, "middle");
    }).join("");
  },

  text(scene, item) {
    const content = scene.fill(item.text), kind = item.class + (content.length > LONG ? " long" : "");
    return label(content, ...item.at, kind, item.anchor ?? "start");
  },

  sign: (scene, item) => label(item.sign, item.at[0], item.at[1] + 7, "sign", "middle"),
  rule: (scene, item) => `<path class="rule" d="M${item.at[0]} ${item.at[1]}h${item.rule}"/>`,
  swatch: (scene, item) =>
    `<rect class="${item.swatch}" x="${item.at[0]}" y="${item.at[1]}" width="11" height="11" rx="2"/>`,
};

function corner(scene, at, side, depth, scale) {
  const [wide, high] = scene.extent(side, depth, scale);
  return [at[0] - wide / 2, at[1] + high / 2 - scene.side(side, scale)];
}

function edges(scene, item, x, y, front, deep) {
  if (!item.edges) return "";
  const [below, along] = item.edges.map((edge) => scene.fill(edge));
  return (
    label(below, x + front / 2, y + front + 14, "edge", "middle") +
    label(along, x + front + (ACROSS * deep) / 2 + 5, y + front - (UP * deep) / 2 + 12, "edge", "start")
  );
}

function shownOf(count, room, height) {
  const all = count <= 3 ? [1, 2, 3].slice(0, count) : [1, 2, 0, count];
  return total(all, height) <= room || count <= 2 ? all : [1, 0, count];
}

function total(shown, height) {
  return shown.reduce((sum, index) => sum + (index ? height : GAP), 0);
}
