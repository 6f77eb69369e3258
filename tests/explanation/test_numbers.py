"""The page in a browser: every number it shows against `ninefold.cost`, and every control."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from html import unescape

import pytest

from ninefold import cost
from ninefold.explanation import Explanation, Layer
from ninefold.explanation.curve import curve
from ninefold.explanation.drawing import Scene, pictures
from ninefold.explanation.steps import steps
from ninefold.explanation.values import grouped

SYMBOLS = {
    "M": "in_channels",
    "N": "out_channels",
    "Dk": "kernel_size",
    "Dg": "output_size",
    "s": "stride",
    "m": "multiplier",
}
EXAMPLE = Layer(512, 1024, 3, 14)

# All that depends on the layer, as the page has it now.
STATE = """() => ({
  numbers: Object.fromEntries(
    [...document.querySelectorAll("input[id^=number-]")].map((e) => [e.id.slice(7), +e.value])),
  filled: [...document.querySelectorAll("[data-fill]")].map((e) => [e.dataset.fill, e.innerHTML]),
  svg: [...document.querySelectorAll("[id^=picture-], #curve")].map((e) => e.innerHTML),
  bars: [...document.querySelectorAll("[data-share]")].map(
    (e) => [e.dataset.share, parseFloat(e.style.width)]),
  ids: Object.fromEntries([...document.querySelectorAll("#table [id]")].map((e) => [e.id, e.textContent])),
})"""

# The same markup, as a browser writes it down.
NORMAL = """(texts) => texts.map((text) => {
  const place = document.createElement("div");
  place.innerHTML = text;
  return place.innerHTML;
})"""

MOVE = """([id, value]) => { const e = document.getElementById(id); e.value = value;
  e.dispatchEvent(new Event("input", { bubbles: true })); }"""


# Press "next" to the end, and note what each step says.
WALK = """() => {
  const at = (id) => document.getElementById(id), found = [];
  for (;;) {
    found.push([
      ...["steps-says", "count-standard", "count-separable"].map((id) => at(id).textContent),
      ...["standard", "depthwise", "pointwise"].map(
        (part) => parseFloat(at(`count-bar-${part}`).style.width)),
    ]);
    if (at("steps-next").disabled) return found;
    at("steps-next").click();
  }
}"""


def check(tab, state, language, base):
    """Compare all that a page shows with what Python computes for the same numbers."""
    layer = replace(base, **{SYMBOLS[name]: number for name, number in state["numbers"].items()})
    scene = Scene(layer, language)
    M, N, Dk, Dg, m = (state["numbers"][name] for name in ("M", "N", "Dk", "Dg", "m"))
    both = cost.compare(M, N, Dk, Dg, multiplier=m)
    costs = {
        "one_position": cost.one_position(M, Dk),
        "one_kernel": cost.one_kernel(M, Dk, Dg),
        "standard": both.standard,
        "depthwise": cost.depthwise(M, Dk, Dg, multiplier=m),
        "pointwise": cost.pointwise(M * m, N, Dg),
        "separable": both.separable,
    }
    for name, each in costs.items():
        assert state["ids"][f"count-of-{name}"] == f"{each.multiplications:,}"
        assert state["ids"][f"parameters-of-{name}"] == f"{each.parameters:,}"
    assert state["ids"]["ratio-of-multiplications"].split()[0] == str(both.ratio)
    assert state["ids"]["ratio-of-parameters"].split()[0] == str(both.parameter_ratio)
    for template, html in state["filled"]:
        shown = unescape(re.sub(r"<[^>]+>", "", html))
        assert shown == scene.fill(template).replace("D_", "D"), template
    for share, width in state["bars"]:
        assert width == pytest.approx(100 * scene.shares[share], rel=1e-3, abs=1e-3)
    drawn = [scene.draw(picture, number) for number, picture in enumerate(pictures(), start=1)]
    assert state["svg"] == tab.evaluate(NORMAL, [*drawn, curve(scene)])


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_slider_through_its_range_shows_what_cost_counts(open_page, language):
    tab = open_page(Explanation(EXAMPLE, language).page)
    check(tab, tab.evaluate(STATE), language, EXAMPLE)
    for name in SYMBOLS:
        slider = tab.locator(f"#slide-{name}")
        here, last = int(slider.input_value()), int(slider.get_attribute("max"))
        seen = []
        for position in range(last + 1):
            tab.evaluate(MOVE, [f"slide-{name}", position])
            state = tab.evaluate(STATE)
            seen.append(state["numbers"][name])
            check(tab, state, language, EXAMPLE)
        assert seen == sorted(set(seen)) and len(seen) >= 4
        tab.evaluate(MOVE, [f"slide-{name}", here])


def test_any_numbers_typed_show_what_cost_counts(open_page, layers):
    tab = open_page(Explanation(EXAMPLE).page)
    draw = random.Random(9)
    some = [
        Layer(*(draw.choice([1, 2, 3, draw.randint(1, top)]) for top in (16384, 16384, 31, 1024, 16)))
        for _ in range(25)
    ]
    for layer in [*layers.values(), *some]:
        for name, argument in SYMBOLS.items():
            tab.evaluate(MOVE, [f"number-{name}", getattr(layer, argument)])
        state = tab.evaluate(STATE)
        assert state["numbers"]["M"] == layer.in_channels
        check(tab, state, "en", EXAMPLE)


def test_padding_changes_the_input_and_never_leaves_none(open_page):
    tab = open_page(Explanation(Layer(8, 8, 5, 4, padding=2)).page)
    says = tab.locator("[data-fill='@layer_is']")
    assert says.inner_text() == "Input 4 × 4 × 8, stride 1, padding 2, output 4 × 4 × 8."
    tab.select_option("#padding", "valid")
    assert says.inner_text() == "Input 8 × 8 × 8, stride 1, padding valid, output 4 × 4 × 8."
    tab.select_option("#padding", "2")
    tab.fill("#number-Dk", "1")
    tab.fill("#number-Dg", "2")
    assert says.inner_text() == "Input 2 × 2 × 8, stride 1, padding same, output 2 × 2 × 8."
    assert tab.locator("#padding").input_value() == "same"


@pytest.mark.parametrize("typed", ["0", "-3", "1.5", "", "16385"])
def test_a_bad_number_is_said_and_changes_nothing(open_page, typed):
    tab = open_page(Explanation(EXAMPLE).page)
    before = tab.inner_text("#count-of-standard")
    tab.fill("#number-M", typed)
    assert tab.inner_text("#bad-number") == "M, input channels: a whole number from 1 to 16384, please."
    assert tab.get_attribute("#number-M", "aria-invalid") == "true"
    assert tab.inner_text("#count-of-standard") == before
    tab.fill("#number-M", "256")
    assert tab.inner_text("#bad-number") == "" and tab.get_attribute("#number-M", "aria-invalid") is None
    assert tab.inner_text("#count-of-standard") == f"{cost.standard(256, 1024, 3, 14).multiplications:,}"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_steps_go_to_the_end_and_count_as_cost_does(open_page, layers, language):
    tab = open_page(Explanation(EXAMPLE, language).page)
    for layer in layers.values():
        for name, argument in SYMBOLS.items():
            tab.evaluate(MOVE, [f"number-{name}", getattr(layer, argument)])
        expected = steps(Scene(layer, language))
        shown = tab.evaluate(WALK)
        assert len(shown) == len(expected)
        for step, (says, standard, separable, *widths) in zip(expected, shown, strict=True):
            assert says == step.says.replace("D_", "D")
            assert (standard, separable) == (grouped(step.standard), grouped(step.separable))
            longest = max(step.standard, step.separable, 1)
            assert widths[0] == pytest.approx(100 * step.standard / longest, abs=0.02)
            assert sum(widths[1:]) == pytest.approx(100 * step.separable / longest, abs=0.04)
        both = cost.compare(
            *(getattr(layer, SYMBOLS[name]) for name in ("M", "N", "Dk", "Dg")), multiplier=layer.multiplier
        )
        assert shown[-1][1] == f"{both.standard.multiplications:,}"
        assert shown[-1][2] == f"{both.separable.multiplications:,}"
        tab.click("#steps-again")
        assert tab.inner_text("#count-standard") == "0" and tab.is_disabled("#steps-back")


def test_it_plays_by_itself_and_stops_at_the_end(open_page):
    tab = open_page(Explanation(Layer(1, 1, 1, 1)).page)
    tab.click("#steps-play")
    assert tab.inner_text("#steps-play") == "Pause"
    tab.wait_for_function("document.getElementById('steps-next').disabled", timeout=10_000)
    assert tab.inner_text("#steps-play") == "Play"
    assert tab.inner_text("#count-separable") == "2"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_table_of_steps_is_the_steps(open_page, language):
    tab = open_page(Explanation(EXAMPLE, language).page)
    tab.click("#steps summary")
    found = tab.evaluate(
        "[...document.querySelectorAll('#steps-rows tr')].map((r) => [...r.cells].map((c) => c.textContent))"
    )
    assert found == [
        [str(number), step.says.replace("D_", "D"), grouped(step.standard), grouped(step.separable)]
        for number, step in enumerate(steps(Scene(EXAMPLE, language)))
    ]
