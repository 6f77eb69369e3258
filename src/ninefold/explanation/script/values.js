// Every number that is shown, as values.py has it: exact, in big integers.
function grouped(number) {
  return String(number).replace(/\B(?=(\d{3})+$)/g, ",");
}

function decimal(top, bottom, digits) {
  const ten = (power) => 10n ** BigInt(power);
  let places = digits - 1;
  while (top * ten(places) < bottom * ten(digits - 1)) places += 1;
  while (places > 0 && top * ten(places) >= bottom * ten(digits)) places -= 1;
  const scaled = (2n * top * ten(places) + bottom) / (2n * bottom);
  const exact = scaled * bottom === top * ten(places);
  const whole = scaled / ten(places);
  const tail = places ? String(scaled % ten(places)).padStart(places, "0").replace(/0+$/, "") : "";
  return { text: grouped(whole) + (tail && "." + tail), exact };
}

function fraction(top, bottom) {
  let a = top, b = bottom;
  while (b) [a, b] = [b, a % b];
  return bottom / a === 1n ? String(top / a) : `${top / a}/${bottom / a}`;
}

function inputSize({ Dk, Dg, s, p }) {
  if (p === "same") return s * Dg;
  return s * Dg + Dk - 1 - (p === "valid" ? 0 : 2 * p);
}

function numbersOf(layer) {
  const { M, N, Dk, Dg, s, m } = layer;
  return { M, N, Dk, Dg, Df: inputSize(layer), s, m, MM: M * m, 1: 1 };
}

function costsOf(layer) {
  const [M, N, Dk, Dg, m] = [layer.M, layer.N, layer.Dk, layer.Dg, layer.m].map(BigInt);
  const taps = Dk * Dk, pixels = Dg * Dg;
  const costs = {
    one_position: { multiplications: taps * M, parameters: taps * M },
    one_kernel: { multiplications: pixels * taps * M, parameters: taps * M },
    standard: { multiplications: N * pixels * taps * M, parameters: N * taps * M },
    depthwise: { multiplications: m * M * pixels * taps, parameters: m * M * taps },
    pointwise: { multiplications: N * pixels * m * M, parameters: N * m * M },
  };
  const { depthwise, pointwise } = costs;
  costs.separable = {
    multiplications: depthwise.multiplications + pointwise.multiplications,
    parameters: depthwise.parameters + pointwise.parameters,
  };
  return costs;
}

function valuesOf(layer) {
  const { M, N, Dk, Dg, m } = layer;
  const numbers = numbersOf(layer), costs = costsOf(layer);
  const big = BigInt, pixels = big(Dg * Dg), input = big(numbers.Df) ** 2n * big(M);
  const moved = {
    standard: input + costs.standard.parameters + pixels * big(N),
    depthwise: input + costs.depthwise.parameters + pixels * big(M * m),
    pointwise: pixels * big(M * m) + costs.pointwise.parameters + pixels * big(N),
  };
  const shown = {};
  for (const [name, number] of Object.entries(numbers)) shown[name] = String(number);
  Object.assign(shown, { p: String(layer.p), taps: String(Dk * Dk), pixels: grouped(pixels) });
  Object.assign(shown, m > 1 ? { ms: "m · ", mn: `${m} · `, mM: "mM" } : { ms: "", mn: "", mM: "M" });
  for (const [name, cost] of Object.entries(costs)) {
    shown[name] = grouped(cost.multiplications);
    shown[`${name}_parameters`] = grouped(cost.parameters);
  }
  for (const [name, count] of Object.entries(moved)) {
    shown[`${name}_moved`] = grouped(count);
    shown[`${name}_intensity`] = decimal(costs[name].multiplications, count, 3).text;
  }
  const standard = costs.standard.multiplications, separable = costs.separable.multiplications;
  const ratio = decimal(separable, standard, 4);
  const terms = `1/${N} + 1/${Dk * Dk}`;
  const [less, more] = separable < standard ? [separable, standard] : [standard, separable];
  return Object.assign(shown, {
    ratio_symbols: m > 1 ? "m · (1/N + 1/D_k²)" : "1/N + 1/D_k²",
    ratio_terms: m > 1 ? `${m} · (${terms})` : terms,
    ratio_fraction: fraction(separable, standard),
    ratio: ratio.text,
    about: ratio.exact ? "=" : "≈",
    percent: decimal(100n * separable, standard, 3).text,
    times: decimal(more, less, 3).text,
    depthwise_percent: decimal(100n * costs.depthwise.multiplications, separable, 3).text,
    pointwise_percent: decimal(100n * costs.pointwise.multiplications, separable, 3).text,
    floor: fraction(big(m), big(Dk * Dk)),
  });
}

function sharesOf(layer) {
  const costs = costsOf(layer), count = (name) => Number(costs[name].multiplications);
  const separable = count("separable"), longest = Math.max(count("standard"), separable);
  return {
    standard: count("standard") / longest,
    depthwise: count("depthwise") / longest,
    pointwise: count("pointwise") / longest,
    depthwise_of_separable: count("depthwise") / separable,
    pointwise_of_separable: count("pointwise") / separable,
  };
}

function verdictOf(layer) {
  const { standard, separable } = costsOf(layer);
  if (separable.multiplications === standard.multiplications) return "equal";
  return separable.multiplications < standard.multiplications ? "cheaper" : "dearer";
}
