"""The page in a browser: sorted, filtered, saved, looked at, by eye's measure and without a barrier."""

from __future__ import annotations

import dataclasses
import json

import pytest

from ninefold import cost

SEEN = "() => [document.documentElement.scrollWidth, innerWidth]"
STEM, FIRST, LAST = cost.standard(3, 8, 3, 14), cost.depthwise(8, 3, 14), cost.pointwise(8, 16, 14)


def names(tab):
    return tab.eval_on_selector_all(
        "#table tbody tr", "(rows) => rows.filter((row) => !row.hidden).map((row) => row.dataset.name)"
    )


def test_the_table_sorts_by_numbers_and_by_names(open_page, report):
    tab = open_page(report.page)
    assert names(tab) == ["stem", "a.dw", "a.pw", "=up</script><b>"]
    head = tab.locator("#table thead th", has_text="multiplications")
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert names(tab) == ["stem", "a.pw", "a.dw", "=up</script><b>"]
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert names(tab) == ["=up</script><b>", "a.dw", "a.pw", "stem"]
    tab.locator("#table thead th", has_text="kind").locator("button").click()
    assert names(tab) == ["a.dw", "a.pw", "stem", "=up</script><b>"]
    assert head.get_attribute("aria-sort") is None


def test_the_filter_counts_what_it_shows_as_cost_does(open_page, report):
    tab = open_page(report.page)
    total = STEM.multiplications + FIRST.multiplications + LAST.multiplications + 10_000
    weights = STEM.parameters + FIRST.parameters + LAST.parameters + 64
    assert tab.inner_text("#sum") == f"4 layers, {total:,} multiplications, {weights:,} weights"
    tab.fill("#words", "a. ")
    pair = cost.separable(8, 16, 3, 14)
    told = f"2 of 4 layers, {pair.multiplications:,} multiplications, {pair.parameters:,} weights"
    assert names(tab) == ["a.dw", "a.pw"] and tab.inner_text("#sum") == told
    tab.select_option("#kind", "pointwise")
    assert names(tab) == ["a.pw"]
    tab.fill("#words", "nothing like it")
    assert tab.inner_text("#sum") == "0 of 4 layers, 0 multiplications, 0 weights"
    tab.fill("#words", "")
    tab.select_option("#kind", "")
    assert len(names(tab)) == 4


def test_a_weight_used_twice_is_one_in_the_page_too(open_page, report):
    twice = dataclasses.replace(report, rows=(*report.rows, dataclasses.replace(report.rows[0], position=4)))
    tab = open_page(twice.page)
    before = tab.inner_text("#sum")
    tab.fill("#words", " ")
    assert tab.inner_text("#sum") == before


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_the_tables_can_be_saved(open_page, report, tmp_path, kind):
    tab = open_page(report.page)
    with tab.expect_download() as waiting:
        tab.click(f"[data-saves='{kind}']")
    assert waiting.value.suggested_filename == f"a---b--net.{kind}"
    waiting.value.save_as(tmp_path / "saved")
    saved = (tmp_path / "saved").read_text(encoding="utf-8")
    assert saved == report.save(tmp_path / f"own.{kind}").read_text(encoding="utf-8")


def test_the_plot_hides_and_shows_and_finds_the_row(open_page, report):
    tab = open_page(report.page)
    marks = tab.locator(".roofline.wide .points.pytorch > g")
    assert marks.count() == 4 and marks.first.is_visible()
    tab.uncheck("[data-shows='pytorch']")
    assert not marks.first.is_visible()
    tab.check("[data-shows='pytorch']")
    tab.hover("#table tbody tr:nth-child(2)")
    assert tab.locator(".roofline.wide .lit").count() == 2  # in PyTorch and in Ninefold
    tab.locator(".roofline.wide .points.ninefold > g[data-row='1']").click(force=True)
    assert tab.locator("#table tr.lit").get_attribute("data-name") == "a.dw"


def test_many_swaps_are_folded(open_page, report):
    many = dataclasses.replace(report, saved=report.saved * 14)
    tab = open_page(many.page)
    assert tab.locator("#saved tbody tr:visible").count() == 10
    tab.click("[data-unfolds='saved']")
    assert tab.locator("#saved tbody tr:visible").count() == 14


def test_names_are_words_and_not_markup(open_page, report):
    tab = open_page(report.page)
    assert tab.inner_text("h1") == "a & b <net>"
    assert "=up</script><b>" in tab.inner_text("#unfused")
    assert tab.locator("main b", has_text="=up</script><b>").count() == 1


def test_without_scripts_everything_is_there(open_page, report):
    tab = open_page(report.page, java_script_enabled=False)
    assert tab.locator("#table tbody tr").count() == 4 and not tab.locator(".tools").is_visible()
    assert tab.locator(".roofline.wide").is_visible()
    many = open_page(dataclasses.replace(report, saved=report.saved * 14).page, java_script_enabled=False)
    assert many.locator("#saved tbody tr:visible").count() == 14


@pytest.mark.parametrize("width", [390, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_width_and_theme_is_seen_whole_and_without_a_barrier(
    open_page, report, tmp_path, width, scheme
):
    axe = pytest.importorskip("axe_playwright_python.base", reason="axe-core is not installed")
    tab = open_page(report.page, width=width, color_scheme=scheme)
    scrolled, inner = tab.evaluate(SEEN)
    assert scrolled <= inner
    shot = tmp_path / "page.png"
    tab.screenshot(path=shot, full_page=True)
    assert shot.stat().st_size > 50_000
    tab.evaluate(axe.AXE_SCRIPT)
    found = tab.evaluate("axe.run().then((found) => found.violations)")
    grave = [
        (fault["id"], [node["html"][:120] for node in fault["nodes"]])
        for fault in found
        if fault["impact"] in ("serious", "critical")
    ]
    assert grave == [], json.dumps(grave, indent=1, ensure_ascii=False)


def test_no_label_of_the_plot_is_clipped(open_page, report):
    for width in (390, 1400):
        tab = open_page(report.page, width=width)
        outside = tab.evaluate("""() => {
          const all = [...document.querySelectorAll("svg.roofline")];
          const svg = all.find((each) => each.getClientRects().length);
          const view = svg.viewBox.baseVal;
          return [...svg.querySelectorAll("text:not([transform])")].filter((text) => {
            const box = text.getBBox();
            const [right, bottom] = [box.x + box.width, box.y + box.height];
            return box.x < 0 || box.y < 0 || right > view.width || bottom > view.height;
          }).map((text) => text.textContent);
        }""")
        assert outside == [], width


def test_a_notebook_shows_it_in_a_frame_of_its_own(open_page, report):
    tab = open_page(f"<!doctype html><title>notebook</title>{report._repr_html_()}")
    assert tab.frame_locator("iframe").locator("#table tbody tr").count() == 4
