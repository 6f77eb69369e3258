from __future__ import annotations

import re

import pytest

from ninefold.explanation import Layer, text
from ninefold.explanation.drawing import pictures
from ninefold.explanation.values import values

# Filled where they are shown, not from the layer's values.
LOCAL = {"name", "largest", "c", "row", "column", "step", "last", "first", "second", "total", "done", "side"}


def placeholders(phrase):
    return set(re.findall(r"\{(\w+)\}", phrase))


def test_both_languages_have_every_phrase_and_every_number_in_it():
    english, chinese = text.catalogue("en"), text.catalogue("zh")
    assert english.keys() == chinese.keys()
    for name, phrase in english.items():
        assert phrase.strip() and chinese[name].strip(), name
        more = {"about"} if name.startswith("alt_") else set()
        assert placeholders(phrase) | more == placeholders(chinese[name]) | more, name


def test_every_placeholder_is_a_value_that_there_is():
    known = set(values(Layer(512, 1024, 3, 14))) | LOCAL
    for language in text.LANGUAGES:
        for name, phrase in text.catalogue(language).items():
            assert placeholders(phrase) <= known, name


def test_chinese_is_written_in_chinese():
    for name, phrase in text.catalogue("zh").items():
        plain = re.sub(r"[A-Za-z]_?[kgf]?|\{\w+\}", "", phrase)
        if name not in ("curve_kernel", "padding_same", "padding_valid"):
            assert re.search(r"[\u4e00-\u9fff]", plain), name
        # Between Chinese characters stand Chinese marks.
        assert not re.search(r"[\u4e00-\u9fff][,;:?!(]|[,;:?!)][\u4e00-\u9fff]", phrase), name


def test_the_fifth_picture_is_the_combination_stage():
    named = {
        language: [
            text.fill(item["text"], text.catalogue(language), values(Layer(512, 1024, 3, 14)))
            for item in pictures()[4]["items"]
            if "text" in item
        ]
        for language in text.LANGUAGES
    }
    assert named["en"][0] == "Combination Stage"
    assert named["zh"][0] == "组合阶段\uff08Combination Stage\uff09"
    assert not any(
        "Filtering" in phrase or "滤波阶段" in phrase for each in named.values() for phrase in each
    )


def test_symbols_are_set_apart_in_html_and_in_svg():
    assert text.as_html("N · D_k² < M") == "<i>N</i> · <i>D</i><sub>k</sub>² &lt; <i>M</i>"
    assert text.as_html("每个 D_k × M 通道") == "每个 <i>D</i><sub>k</sub> × <i>M</i> 通道"
    assert text.as_html("全部M个") == "全部<i>M</i>个"
    assert text.as_html("MobileNet mM") == "MobileNet <i>mM</i>"
    assert text.as_svg("~M · D_g²~ · 3") == (
        '<tspan class="var cut">M</tspan><tspan class="cut"> · </tspan><tspan class="var cut">D</tspan>'
        '<tspan class="sub cut" dy="3">g</tspan><tspan class="cut" dy="-3">²</tspan> · 3'
    )
    assert text.as_words("~M · D_g²~") == "M · Dg²"


def test_an_unknown_language_is_refused():
    with pytest.raises(ValueError, match=r"`language` must be one of 'en', 'zh', got 'fr'"):
        text.catalogue("fr")
