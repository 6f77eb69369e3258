"""The page in a reader's hands: pixels to try, keyboard, clipboard, notebook, no JavaScript."""

from __future__ import annotations

import random

import pytest

from ninefold import cost
from ninefold.explanation import Explanation, Layer, pixels

EXAMPLE = Layer(512, 1024, 3, 14)
CONTROLS = ("M", "N", "Dk", "Dg", "s", "m")


def test_the_pixels_answer_as_the_reference_does(open_page):
    numpy = pytest.importorskip("numpy")
    from ninefold import reference

    tab = open_page(Explanation(EXAMPLE).page)
    draw = random.Random(1)
    x, kernels, weights = (
        numpy.array([draw.randint(-9, 9) for _ in range(count)]) for count in (2 * 4 * 4, 2 * 3 * 3, 3 * 2)
    )
    x, kernels, weights = x.reshape(2, 4, 4), kernels.reshape(2, 3, 3), weights.reshape(3, 2)
    for stage, numbers in (("input", x), ("kernels", kernels), ("weights", weights)):
        for place, number in numpy.ndenumerate(numbers):
            tab.fill(f"[data-cell='{'-'.join([stage, *map(str, place)])}']", str(number))
    filtered = reference.depthwise_conv2d(x[None], kernels[:, None])
    combined = reference.pointwise_conv2d(filtered, weights[:, :, None, None])
    for stage, numbers in (("filtered", filtered[0]), ("combined", combined[0])):
        for place, number in numpy.ndenumerate(numbers):
            cell = tab.locator(f"[data-cell='{'-'.join([stage, *map(str, place)])}']")
            assert cell.inner_text() == str(int(number))
    tab.click("#try-reset")
    assert tab.inner_text("[data-cell='combined-1-1-1']") == str(pixels.combined()[1][1][1])


def test_a_pixel_says_what_it_is_made_of_and_a_hole_makes_a_question(open_page):
    tab = open_page(Explanation(EXAMPLE).page)
    tab.focus("[data-cell='combined-2-0-1']")
    (a, b), (left, right) = pixels.WEIGHTS[2], [channel[0][1] for channel in pixels.filtered()]
    assert tab.inner_text("#try-sum") == f"{a}·{left} + ({b})·{right} = {a * left + b * right}"
    assert tab.locator(".part").count() == 4
    tab.hover("[data-cell='filtered-0-0-0']")
    assert tab.locator(".part").count() == 18
    tab.fill("[data-cell='input-0-3-3']", "")
    assert tab.inner_text("[data-cell='filtered-0-1-1']") == "?"
    assert tab.inner_text("[data-cell='combined-0-1-1']") == "?"
    assert tab.inner_text("[data-cell='filtered-0-0-0']") == str(pixels.filtered()[0][0][0])
    assert "Not a number yet" in tab.inner_text("#try-sum")


def test_the_table_is_copied_as_markdown(open_page):
    tab = open_page(Explanation(EXAMPLE).page, permissions=["clipboard-read", "clipboard-write"])
    tab.click("#table-copy")
    tab.wait_for_function("document.getElementById('table-said').textContent === 'Copied.'")
    lines = tab.evaluate("navigator.clipboard.readText()").splitlines()
    assert lines[0] == "| one image | output | multiplications | parameters |"
    assert lines[1] == "| --- | --- | ---: | ---: |"
    assert "| separable, depthwise + pointwise | 14 × 14 × 1024 | 103,663,616 | 528,896 |" in lines
    assert len(lines) == 9


def test_the_keyboard_reaches_and_moves_everything(open_page):
    tab = open_page(Explanation(EXAMPLE).page)
    reached = []
    for _ in range(130):
        tab.keyboard.press("Tab")
        reached.append(tab.evaluate("document.activeElement.id || document.activeElement.dataset.cell || ''"))
    wanted = {f"{kind}-{name}" for kind in ("slide", "number") for name in CONTROLS}
    wanted |= {
        "padding",
        "steps-play",
        "steps-next",
        "steps-slider",
        "input-0-0-0",
        "combined-2-1-1",
        "table-copy",
    }
    assert wanted <= set(reached)
    tab.focus("#slide-Dk")
    tab.keyboard.press("ArrowRight")
    assert tab.input_value("#number-Dk") == "4" and tab.get_attribute("#slide-Dk", "aria-valuetext") == "4"
    tab.focus("#steps-next")
    tab.keyboard.press("Enter")
    tab.focus("#steps-slider")
    tab.keyboard.press("ArrowRight")
    assert tab.inner_text("#steps-of").startswith("Step 2 of")
    outline = tab.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_without_javascript_it_reads_the_same(open_page, language):
    tab = open_page(Explanation(EXAMPLE, language).page, java_script_enabled=False)
    assert tab.locator(".pictures svg").count() == 8 and tab.locator("#curve svg").count() == 1
    for svg in tab.locator("svg.picture").all():
        assert svg.is_visible()
    assert tab.inner_text("#count-of-standard") == "924,844,032"
    assert tab.locator("#steps-rows tr").last.is_visible()
    assert "103,663,616" in tab.inner_text("#steps-rows")
    assert not tab.locator(".controls").is_visible() and not tab.locator("#steps-play").is_visible()
    assert tab.locator(".without-script").is_visible()
    assert tab.locator("[data-cell='input-0-0-0']").get_attribute("readonly") is not None
    assert tab.inner_text("[data-cell='combined-1-0-0']") == str(pixels.combined()[1][0][0])


def test_with_reduced_motion_nothing_moves_by_itself(open_page):
    text = Explanation(EXAMPLE).page
    durations = [
        open_page(text, reduced_motion=motion).evaluate(
            "getComputedStyle(document.querySelector('.bar i')).transitionDuration"
        )
        for motion in ("no-preference", "reduce")
    ]
    assert durations == ["0.25s", "0s"]


def test_a_notebook_shows_it_in_a_frame_of_its_own(open_page):
    tab = open_page(f"<!doctype html><title>notebook</title>{Explanation(EXAMPLE)._repr_html_()}")
    frame = tab.frame_locator("iframe")
    frame.locator("#number-N").fill("64")
    assert (
        frame.locator("#count-of-standard").inner_text()
        == f"{cost.standard(512, 64, 3, 14).multiplications:,}"
    )
    frame.locator("#table-copy").click()
    frame.locator("#table-said", has_text="Copied.").wait_for(timeout=5000)
