// One place of the output, step by step: the list as in steps.py, and its drawing.
function stepsOf(scene) {
  const { M, N, Dk, Dg, m } = scene.numbers, taps = Dk * Dk, found = [];
  const big = BigInt, one = big(M) * big(taps), filtered = one * big(m), mix = big(M) * big(m);
  const add = (phrase, standard, filtering, combining, state, more = {}) => {
    const says = fill(scene.words[`step_${phrase}`], scene.words, { ...scene.values, ...more });
    const separable = big(filtering) + big(combining);
    found.push({ says, standard: big(standard), depthwise: big(filtering), separable, ...state });
  };
  const all = { taps, channels: M };

  add("start", 0, 0, 0, { taps: 0, channels: 0, made: 0, mixed: 0 });
  const each = taps <= 9 ? 1 : Dk <= 11 ? Dk : taps;
  for (let done = each; done <= taps; done += each)
    add("taps", done, m * done, 0, { taps: done, channels: done === taps ? 1 : 0, made: 0, mixed: 0 }, { done });
  if (M > 1) add("second", 2 * taps, 2 * m * taps, 0, { taps, channels: 2, made: 0, mixed: 0 });
  if (M > 2) add("rest", one, filtered, 0, { ...all, made: 0, mixed: 0 });
  add("first_standard", one, filtered, 0, { ...all, made: 1, mixed: 0 });
  add("first", one, filtered, mix, { ...all, made: 1, mixed: 1 });
  if (N > 1) add("again", 2n * one, filtered, 2n * mix, { ...all, made: 2, mixed: 2 });
  if (N > 2) add("all", big(N) * one, filtered, big(N) * mix, { ...all, made: N, mixed: N });
  if (Dg > 1) {
    const pixels = big(Dg * Dg);
    add("places", pixels * big(N) * one, pixels * filtered, pixels * big(N) * mix, { ...all, made: N, mixed: N });
  }
  return found;
}

// Windows above, outputs below, between them what has been filtered; a line for each kernel that has been used.
function drawStep(scene, step, kind) {
  const { M, N, Dk } = scene.numbers, separable = kind === "separable";
  const spread = (shown, y) => shown.map((index, place) => ({
    index, y, x: 96 + (310 * (place + 0.5)) / shown.length,
  }));
  const listed = (count) => (count <= 4 ? [1, 2, 3, 4].slice(0, count) : [1, 2, 0, count]);
  const windows = spread(listed(M), 30), outputs = spread(listed(N), 232), cell = Math.min(17, 64 / Dk);
  const half = (cell * Dk) / 2, bottom = 30 + cell * Dk, filtered = windows.map((at) => ({ ...at, y: 146 }));
  const colour = separable ? "depthwise" : "standard";
  const row = (name, y) => label(scene.fill(`@${name}`), 6, y, "soft", "start");
  let parts = row("window", 62) + row("outputs", 244) + (separable ? row("filtered", 159) : "");

  for (const from of windows) {
    if (!from.index) continue;
    const lit = from.index <= step.channels;
    if (separable) parts += line(from.x, bottom + 4, from.x, 144, lit ? "depthwise" : "");
    for (const to of outputs) {
      if (!to.index) continue;
      const made = separable ? to.index <= step.mixed : to.index <= step.made || (to.index === 1 && lit);
      const used = separable ? "pointwise" : "standard";
      parts += line(from.x, separable ? 166 : bottom + 4, to.x, 230, made ? used : "");
    }
  }
  for (const { index, x, y } of windows) {
    if (!index) {
      parts += dots(x, y + 32, 7, 0);
      continue;
    }
    parts += label(fill(scene.words.channel, {}, { c: index }), x, y - 10, "soft", "middle");
    const lit = index === 1 ? step.taps : index <= step.channels ? Dk * Dk : 0;
    parts += block(x - half, y, cell * Dk, "idle");
    const full = Math.floor(lit / Dk), rest = lit % Dk;
    if (full) parts += `<rect class="${colour}" x="${px(x - half)}" y="${y}" width="${px(cell * Dk)}" height="${px(cell * full)}"/>`;
    if (rest) parts += `<rect class="${colour}" x="${px(x - half)}" y="${px(y + cell * full)}" width="${px(cell * rest)}" height="${px(cell)}"/>`;
    parts += grid(x - half, y, cell * Dk, Dk);
  }
  if (separable)
    for (const { index, x, y } of filtered)
      parts += index ? block(x - 9, y, 18, index <= step.channels ? "depthwise" : "idle") : dots(x, y + 9, 7, 0);
  for (const { index, x, y } of outputs) {
    const lit = index <= (separable ? step.mixed : step.made);
    parts += index ? block(x - 9, y, 18, lit ? (separable ? "pointwise" : "standard") : "idle") : dots(x, y + 9, 7, 0);
    if (index) parts += label(String(index), x, y + 34, "soft", "middle");
  }
  return `<svg class="picture" viewBox="0 0 ${WIDTH} 276" aria-hidden="true">${parts}</svg>`;
}

function line(x1, y1, x2, y2, kind) {
  return `<path class="thread ${kind}" d="M${px(x1)} ${px(y1)}L${px(x2)} ${px(y2)}"/>`;
}

function block(x, y, side, kind) {
  return `<rect class="${kind}" x="${px(x)}" y="${px(y)}" width="${px(side)}" height="${px(side)}" rx="2"/>`;
}
