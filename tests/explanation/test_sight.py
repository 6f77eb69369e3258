"""What a person sees: nothing clipped, no label on another, every width and theme, and no barrier."""

from __future__ import annotations

import json

import pytest

from ninefold.explanation import Explanation, Layer

EXAMPLE = Layer(512, 1024, 3, 14)

# Labels outside their picture, and labels on each other, in a picture's own units.
FAULTS = """() => {
  const faults = [];
  for (const svg of document.querySelectorAll("svg.picture")) {
    if (!svg.getClientRects().length) continue;
    const view = svg.viewBox.baseVal;
    const boxes = [...svg.querySelectorAll("text")].map((text) => {
      const box = text.getBBox();
      const [right, bottom] = [box.x + box.width, box.y + box.height];
      return { words: text.textContent, left: box.x, right, top: box.y, bottom };
    });
    for (const box of boxes) {
      if (box.left < 0 || box.top < 0 || box.right > view.width || box.bottom > view.height)
        faults.push(`outside: ${box.words} ${box.left} ${box.right} ${box.top} ${box.bottom}`);
    }
    // A line's box is taller than its letters: a fifth of it may be shared.
    boxes.forEach((a, index) => boxes.slice(index + 1).forEach((b) => {
      const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (across > 0.5 && down > 0.2 * Math.min(a.bottom - a.top, b.bottom - b.top))
        faults.push(`overlap: ${a.words} | ${b.words} ${across} ${down}`);
    }));
    for (const path of svg.querySelectorAll("path, rect, circle")) {
      const box = path.getBBox();
      if (path.classList.contains("ground")) continue;
      if (box.x < 0 || box.y < 0 || box.x + box.width > view.width || box.y + box.height > view.height)
        faults.push(`drawn outside: ${path.outerHTML}`);
    }
  }
  return faults;
}"""

SEEN = "() => [document.documentElement.scrollWidth, innerWidth]"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_in_no_picture_a_label_is_clipped_or_lies_on_another(open_page, layers, language):
    for name, layer in layers.items():
        tab = open_page(Explanation(layer, language).page)
        assert tab.evaluate(FAULTS) == [], name
        tab.locator("#steps-slider").evaluate(
            "(e) => { e.value = e.max; e.dispatchEvent(new Event('input', { bubbles: true })); }"
        )
        assert tab.evaluate(FAULTS) == [], name


@pytest.mark.parametrize("language", ["en", "zh"])
def test_in_no_picture_file_a_label_is_clipped_or_lies_on_another(open_page, layers, language, tmp_path):
    tab = open_page("<!doctype html><title>pictures</title>")
    for layer in layers.values():
        for name, svg in Explanation(layer, language).pictures.items():
            (tmp_path / name).write_text(svg, encoding="utf-8")
            tab.goto((tmp_path / name).as_uri())
            assert tab.evaluate(FAULTS) == [], (layer, name)


def test_the_curve_has_room_for_its_words_wherever_the_layer_stands(open_page):
    tab = open_page(Explanation(EXAMPLE).page)
    move = """([id, value]) => { const e = document.getElementById(id); e.value = value;
      e.dispatchEvent(new Event("input", { bubbles: true })); }"""
    for kernel in (1, 2, 3, 4, 6, 8, 11, 31):
        for channels in (1, 2, 16, 256, 1000, 2048, 16384):
            for wide in (1, 4, 16):
                for name, value in (("Dk", kernel), ("N", channels), ("m", wide)):
                    tab.evaluate(move, [f"number-{name}", value])
                faults = tab.evaluate(FAULTS)
                assert faults == [], (kernel, channels, wide)


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("width", [390, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_width_and_theme_is_seen_whole_and_without_a_barrier(
    open_page, tmp_path, language, width, scheme
):
    axe = pytest.importorskip("axe_playwright_python.base", reason="axe-core is not installed")
    tab = open_page(Explanation(EXAMPLE, language).page, width=width, color_scheme=scheme)
    for _ in range(12):
        tab.click("#steps-next")
    scrolled, inner = tab.evaluate(SEEN)
    assert scrolled <= inner
    shot = tmp_path / "page.png"
    tab.screenshot(path=shot, full_page=True)
    assert shot.stat().st_size > 100_000
    paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(250, 249, 246)", "dark": "rgb(20, 24, 27)"}[scheme]
    tab.click("#steps summary")
    tab.evaluate(axe.AXE_SCRIPT)
    found = tab.evaluate("axe.run().then((found) => found.violations)")
    grave = [
        (fault["id"], [node["html"][:120] for node in fault["nodes"]])
        for fault in found
        if fault["impact"] in ("serious", "critical")
    ]
    assert grave == [], json.dumps(grave, indent=1, ensure_ascii=False)
