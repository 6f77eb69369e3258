// Sliders that redraw everything, the steps, and the table to copy.
const STOPS = {
  M: [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048],
  N: [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048],
  Dk: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11],
  Dg: [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224],
  s: [1, 2, 3, 4],
  m: [1, 2, 3, 4],
};

function start(data) {
  const { pictures, words, largest, pixels } = data, layer = { ...data.layer };
  const element = (id) => document.getElementById(id);
  let scene, steps, step = 0, timer = null;

  function show() {
    scene = new Scene(layer, words);
    for (const place of document.querySelectorAll("[data-fill]"))
      place.innerHTML = asHtml(scene.fill(place.dataset.fill));
    for (const place of document.querySelectorAll("[data-share]"))
      place.style.width = `${100 * scene.shares[place.dataset.share]}%`;
    pictures.forEach((picture, index) => {
      element(`picture-${picture.name}`).innerHTML = scene.draw(picture, index + 1);
    });
    element("curve").innerHTML = curve(scene);
    steps = stepsOf(scene);
    element("steps-rows").innerHTML = steps.map((each, index) =>
      `<tr><td class="number">${index}</td><td>${asHtml(each.says)}</td>` +
      `<td class="number">${grouped(each.standard)}</td><td class="number">${grouped(each.separable)}</td></tr>`,
    ).join("");
    const bars = ["standard", "depthwise", "pointwise"].map((name) => scene.values[`${name}_intensity`].replaceAll(",", ""));
    const most = Math.max(...bars.map(Number));
    ["standard", "depthwise", "pointwise"].forEach((name, index) => {
      element(`intensity-${name}`).style.width = `${(100 * bars[index]) / most}%`;
    });
    pause();
    goTo(0);
  }

  function stops(name) {
    return [...new Set([...STOPS[name], layer[name]])].sort((a, b) => a - b);
  }

  function place(name) {
    const slider = element(`slide-${name}`), listed = stops(name);
    slider.max = listed.length - 1;
    slider.value = listed.indexOf(layer[name]);
    slider.setAttribute("aria-valuetext", layer[name]);
  }

  function set(name, value) {
    layer[name] = value;
    // A fixed padding may be too wide for the new numbers.
    if (inputSize(layer) < 1) {
      layer.p = "same";
      element("padding").value = "same";
    }
    place(name);
    show();
  }

  for (const name of Object.keys(STOPS)) {
    const slider = element(`slide-${name}`), field = element(`number-${name}`), bad = element("bad-number");
    slider.addEventListener("input", () => {
      const value = stops(name)[Number(slider.value)];
      field.value = value;
      field.removeAttribute("aria-invalid");
      bad.textContent = "";
      set(name, value);
    });
    field.addEventListener("input", () => {
      const value = Number(field.value), good = Number.isInteger(value) && value >= 1 && value <= largest[name];
      field.toggleAttribute("aria-invalid", false);
      bad.textContent = "";
      if (good) set(name, value);
      else {
        field.setAttribute("aria-invalid", "true");
        const spoken = asWords(words[field.dataset.word]);
        bad.textContent = fill(words.bad_number, {}, { name: spoken, largest: largest[name] });
      }
    });
    place(name);
  }
  element("padding").addEventListener("change", (event) => {
    const typed = event.target.value;
    layer.p = /^\d+$/.test(typed) ? Number(typed) : typed;
    set("Dk", layer.Dk);
  });

  function goTo(next) {
    step = Math.min(Math.max(next, 0), steps.length - 1);
    const { says, standard, depthwise, separable } = steps[step];
    const longest = standard > separable ? standard : separable;
    const width = (count) => (longest ? `${Number((10000n * count) / longest) / 100}%` : "0");
    element("steps-says").innerHTML = asHtml(says);
    element("steps-of").textContent = fill(words.steps_of, {}, { step, last: steps.length - 1 });
    const slider = element("steps-slider");
    slider.max = steps.length - 1;
    slider.value = step;
    slider.setAttribute("aria-valuetext", element("steps-of").textContent);
    for (const [name, count] of [["standard", standard], ["separable", separable]]) {
      element(`steps-${name}`).innerHTML = drawStep(scene, steps[step], name);
      element(`count-${name}`).textContent = grouped(count);
    }
    element("count-bar-standard").style.width = width(standard);
    element("count-bar-depthwise").style.width = width(depthwise);
    element("count-bar-pointwise").style.width = width(separable - depthwise);
    element("steps-back").disabled = step === 0;
    element("steps-next").disabled = step === steps.length - 1;
    if (step === steps.length - 1) pause();
  }

  function pause() {
    clearInterval(timer);
    timer = null;
    element("steps-play").textContent = words.steps_play;
  }

  element("steps-back").addEventListener("click", () => { pause(); goTo(step - 1); });
  element("steps-next").addEventListener("click", () => { pause(); goTo(step + 1); });
  element("steps-again").addEventListener("click", () => { pause(); goTo(0); });
  element("steps-slider").addEventListener("input", (event) => { pause(); goTo(Number(event.target.value)); });
  element("steps-play").addEventListener("click", () => {
    if (timer) return pause();
    if (step === steps.length - 1) goTo(0);
    element("steps-play").textContent = words.steps_pause;
    timer = setInterval(() => goTo(step + 1), 900);
  });

  function markdown() {
    const rows = [...document.querySelectorAll("#table tr")].map((row) =>
      [...row.cells].map((cell) => cell.textContent.trim().replaceAll("|", "\\|")));
    const ruled = [rows[0], rows[0].map((_, column) => (column > 1 ? "---:" : "---")), ...rows.slice(1)];
    return ruled.map((row) => `| ${row.join(" | ")} |`).join("\n");
  }

  element("table-copy").addEventListener("click", async () => {
    const said = element("table-said");
    try {
      await navigator.clipboard.writeText(markdown());
      said.textContent = words.table_copied;
    } catch {
      // A page in a frame may not write there: leave it to the reader's keys.
      getSelection().selectAllChildren(element("table"));
      said.textContent = words.table_selected;
    }
  });

  document.querySelector("#steps details").open = false;
  show();
  tryPixels(words, pixels);
}

start(JSON.parse(document.getElementById("ninefold-data").textContent));
