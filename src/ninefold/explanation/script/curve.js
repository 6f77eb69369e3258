// The ratio over the number of output channels, as curve.py draws it.
const PLOT = { height: 320, left: 54, right: 352, top: 34, bottom: 272 };
const KERNELS = [3, 5, 7], EXAMPLE = [1024, 3], NEAR = 16;
const Y_TICKS = [
  ["16", 16], ["8", 8], ["4", 4], ["2", 2], ["1", 1],
  ...[2, 5, 10, 20, 50, 100, 200, 500, 1000].map((part) => [`1/${part}`, 1 / part]),
];

function curve(scene) {
  const { N: channels, Dk: kernel, m: wide } = scene.numbers, { height, left, right, top, bottom } = PLOT;
  const last = Math.max(2048, channels);
  const high = 2 * wide, low = Math.min(1 / 60, (0.7 * wide) / kernel ** 2);
  const x = (count) => left + ((right - left) * Math.log2(count)) / Math.log2(last);
  const y = (ratio) => top + ((bottom - top) * Math.log2(high / ratio)) / Math.log2(high / low);
  const ratio = (count, side) => wide * (1 / count + 1 / side ** 2);

  const even = y(1), tenth = y(0.1);
  let parts =
    `<rect class="track" x="${left}" y="${top}" width="${right - left}" height="${px(even - top)}"/>` +
    label(scene.fill("@curve_y"), 12, 18, "soft", "start") +
    label(scene.fill("@curve_x"), (left + right) / 2, height - 10, "soft", "middle") +
    `<path class="tenth" d="M${left} ${px(tenth)}H${right}"/>` +
    label(scene.fill("@curve_tenth"), left + 6, tenth + 14, "soft halo", "start");
  for (const [name, value] of Y_TICKS) {
    if (value < low || value > high) continue;
    parts += `<path class="tick" d="M${left - 4} ${px(y(value))}H${right}"/>`;
    parts += label(name, left - 8, y(value) + 4, "soft", "end");
  }
  for (let tick = 1; tick <= last; tick *= 4) {
    parts += `<path class="tick" d="M${px(x(tick))} ${bottom}v4"/>`;
    parts += label(String(tick), x(tick), bottom + 17, "soft", "middle");
  }
  const own = y(ratio(last, kernel));
  for (const side of KERNELS.includes(kernel) ? KERNELS : [...KERNELS, kernel]) {
    const steps = 48, points = [];
    for (let step = 0; step <= steps; step++) points.push(last ** (step / steps));
    const line = points.map((count) => `${px(x(count))} ${px(y(ratio(count, side)))}`).join("L");
    parts += `<path class="curve${side === kernel ? " own" : ""}" d="M${line}"/>`;
    const end = y(ratio(last, side));
    if (side === kernel || Math.abs(end - own) >= NEAR) {
      const named = fill(scene.words.curve_kernel, {}, { side });
      parts += label(named, right + 7, end + 4, side === kernel ? "name own" : "soft", "start");
    }
  }
  parts += `<circle class="example" cx="${px(x(EXAMPLE[0]))}" cy="${px(y(ratio(...EXAMPLE)))}" r="7"/>`;
  const across = x(channels), down = y(ratio(channels, kernel));
  parts += `<circle class="here" cx="${px(across)}" cy="${px(down)}" r="4.5"/>`;
  const beside = across < (left + right) / 2
    ? [across + 32, Math.max(down - 8, top + 14)]
    : [Math.min(across, right - 26), down + (down < top + 16 ? 24 : -14)];
  parts += label(scene.fill("{ratio}"), ...beside, "name halo", "middle");
  const [title, description] = ["@curve_title", "@curve_alt"].map((name) => escaped(asWords(scene.fill(name))));
  return (
    `<svg xmlns="http://www.w3.org/2000/svg" class="picture" viewBox="0 0 ${WIDTH} ${height}" role="img" ` +
    `aria-labelledby="curve-title curve-description"><title id="curve-title">${title}</title>` +
    `<desc id="curve-description">${description}</desc>${parts}</svg>`
  );
}
