"""`ninefold.explain`: what it takes, what it refuses, what it writes."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

import ninefold
from ninefold.explanation import Explanation, Layer, explain, style

EXAMPLE = Layer(512, 1024, 3, 14)


def test_the_name_is_a_function_even_when_its_room_is_imported():
    assert ninefold.explain is explain


def test_numbers_come_in_the_order_of_compare():
    assert ninefold.explain(512, 1024, 3, 14) == Explanation(EXAMPLE)
    made = ninefold.explain(8, 16, (5, 5), 7, stride=2, padding="valid", multiplier=3, language="zh")
    assert made == Explanation(Layer(8, 16, 5, 7, 2, "valid", 3), "zh")


def test_modules_of_pytorch_and_of_ninefold_are_taken():
    torch = pytest.importorskip("torch")
    module = torch.nn.Conv2d(512, 1024, 3, stride=2, padding=1)
    assert ninefold.explain(module, output_size=7).layer == Layer(512, 1024, 3, 7, 2, 1)
    assert ninefold.explain(module).layer.output_size == 14
    module = torch.nn.Conv2d(4, 8, (3, 3), padding="same")
    assert ninefold.explain(module, output_size=(7, 7)).layer == Layer(4, 8, 3, 7)
    module = ninefold.nn.SeparableConv2d(4, 8, 5, padding=2, multiplier=2)
    assert ninefold.explain(module, output_size=9).layer == Layer(4, 8, 5, 9, 1, 2, 2)


@pytest.mark.parametrize(
    ("arguments", "keywords", "error", "words"),
    [
        ((0, 8, 3), {}, ValueError, "`in_channels` must be positive, got 0"),
        ((4,), {}, TypeError, "`out_channels` and `kernel_size` must follow `layer` where it is a number"),
        (("512", 8, 3), {}, TypeError, "`layer` must be a number of input channels or a convolution"),
        ((4, 8, 3), {"language": "fr"}, ValueError, "`language` must be one of 'en', 'zh', got 'fr'"),
    ],
)
def test_what_cannot_be_explained_is_refused(arguments, keywords, error, words):
    with pytest.raises(error) as raised:
        ninefold.explain(*arguments, **keywords)
    assert words in str(raised.value)


def test_a_module_keeps_its_own_numbers():
    torch = pytest.importorskip("torch")
    module = torch.nn.Conv2d(4, 8, 3)
    with pytest.raises(TypeError, match="`out_channels` is the module's own where `layer` is one, got 16"):
        ninefold.explain(module, 16)
    with pytest.raises(TypeError, match="`stride`, `padding` and `multiplier` are the module's own"):
        ninefold.explain(module, stride=2)


class Reader(HTMLParser):
    """Tags, ids and what a page would fetch."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.fetched, self.links, self.language = [], [], [], [], None

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.ids += [values["id"]] if "id" in values else []
        loads = ("src", "srcset", "action", *(() if tag == "a" else ("href",)))
        self.fetched += [values[name] for name in loads if name in values]
        self.links += [values["href"]] if tag == "a" else []
        self.language = values.get("lang", self.language)
        if tag not in ("meta", "input", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_holds_all_it_needs(language):
    text = Explanation(EXAMPLE, language).page
    assert len(text.encode()) < 500_000
    reader = Reader()
    reader.feed(text)
    assert reader.open == [] and len(reader.ids) == len(set(reader.ids))
    assert reader.fetched == []
    assert reader.links[0] == "#practice" and "practice" in reader.ids
    assert all(re.fullmatch(r"https://github.com/\w+/\w+/issues/\d+", link) for link in reader.links[1:])
    assert reader.language == {"en": "en", "zh": "zh-Hans"}[language]
    assert "@import" not in text and "url(" not in text and "fetch(" not in text
    assert "924,844,032" in text and "103,663,616" in text and "1033/9216" in text


def test_every_element_the_script_asks_for_is_in_the_page():
    text = Explanation(EXAMPLE).page
    asked = set(re.findall(r'(?:element|getElementById)\("([\w-]+)"\)', text))
    assert len(asked) > 12
    assert asked <= set(re.findall(r' id="([\w-]+)"', text))


def test_it_has_the_colours_of_the_report():
    css = Path(ninefold.__file__).parent.joinpath("reporting/templates/style.css").read_text(encoding="utf-8")
    schemes = [dict(re.findall(r"--(\w+): (#\w+)", block)) for block in re.findall(r":root \{([^}]*)\}", css)]
    assert len(schemes) == 2
    for theirs, ours in zip(schemes, (style.LIGHT, style.DARK), strict=True):
        shared = theirs.keys() & ours.keys()
        assert shared >= {"paper", "card", "ink", "soft", "line", "fast", "plain", "track"}
        assert {name: theirs[name] for name in shared} == {name: ours[name] for name in shared}


def test_a_notebook_gets_a_frame_that_holds_the_page():
    found = []

    class Frame(HTMLParser):
        def handle_starttag(self, tag, attributes):
            found.append((tag, dict(attributes)))

    made = Explanation(EXAMPLE)
    Frame().feed(made._repr_html_())
    assert [tag for tag, _ in found] == ["iframe"]
    assert found[0][1]["srcdoc"] == made.page and found[0][1]["sandbox"] == "allow-scripts"


def test_a_page_or_a_folder_is_written(tmp_path):
    made = Explanation(EXAMPLE)
    assert made.save(tmp_path / "page.html") == [tmp_path / "page.html"]
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == made.page
    written = made.save(tmp_path / "deep" / "pictures")
    assert [path.name for path in written] == list(made.pictures)
    assert all(path.read_text(encoding="utf-8") == made.pictures[path.name] for path in written)
    assert made.save(f"{tmp_path}/v1.0/")[0].parent == tmp_path / "v1.0"


def test_where_it_cannot_write_it_says_so_and_leaves_nothing(tmp_path):
    made = Explanation(EXAMPLE)
    (tmp_path / "taken").write_text("mine")
    for output, words in (
        (tmp_path / "taken", "must be a page (.html) or a folder, but a file is there"),
        (tmp_path / "taken" / "below", "must be a page (.html) or a folder, but a file is there"),
        (tmp_path / "page.pdf", "must be a page (.html) or a folder, got"),
        (tmp_path / "none" / "page.html", "must be in a folder that is there, got"),
    ):
        with pytest.raises(ValueError) as raised:
            made.save(output)
        assert f"`output` {words}" in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
    assert (tmp_path / "taken").read_text() == "mine"
