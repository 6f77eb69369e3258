"""Why a depthwise separable convolution is cheap: eight pictures and a page, for any layer, without torch.

What a picture shows is data (pictures.json), drawn by `drawing.py` into files and pages, and drawn again by
`script/drawing.js` when a slider moves. Words stand in words/*.json; every number comes from `ninefold.cost`.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from .layer import Layer, of_module

__all__ = ["Explanation", "Layer", "explain"]


@dataclass(frozen=True, slots=True)
class Explanation:
    """A layer explained: shown by a notebook, or saved as a page or as eight SVG files."""

    layer: Layer
    language: str = "en"

    def __post_init__(self) -> None:
        from .text import catalogue

        catalogue(self.language)

    @property
    def page(self) -> str:
        """The page: one HTML document that needs nothing else."""
        from .page import render

        return render(self.layer, self.language)

    @property
    def pictures(self) -> dict[str, str]:
        """File name -> SVG, the eight pictures in their order."""
        from .page import svg_files

        return svg_files(self.layer, self.language)

    def save(self, output: str | Path) -> list[Path]:
        """Write the page to a path that ends in .html, or the eight pictures into a folder; return the files.

        A folder that is not there is made. Raises ValueError for another ending, for a page whose folder is
        not there, and for a folder that is a file.
        """
        path = Path(output)
        if path.suffix.lower() in (".html", ".htm") and not path.is_dir():
            if not path.parent.is_dir():
                raise ValueError(f"`output` must be in a folder that is there, got {str(output)!r}")
            path.write_text(self.page, encoding="utf-8")
            return [path]
        if any(each.exists() and not each.is_dir() for each in (path, *path.parents)):
            raise ValueError(
                f"`output` must be a page (.html) or a folder, but a file is there: {str(path)!r}"
            )
        if path.suffix and not path.is_dir() and not str(output).endswith(("/", "\\")):
            raise ValueError(f"`output` must be a page (.html) or a folder, got {str(output)!r}")
        pictures = self.pictures
        path.mkdir(parents=True, exist_ok=True)
        for name, svg in pictures.items():
            (path / name).write_text(svg, encoding="utf-8")
        return [path / name for name in pictures]

    def _repr_html_(self) -> str:
        # In a frame, so that the notebook's styles and scripts and the page's leave each other alone.
        return (
            f'<iframe srcdoc="{escape(self.page)}" sandbox="allow-scripts" allow="clipboard-write *" '
            'title="ninefold.explain" '
            'style="width: 100%; height: 820px; border: 0;"></iframe>'
        )


def explain(
    layer: Any,
    out_channels: int | None = None,
    kernel_size: Any = None,
    output_size: Any = 14,
    *,
    stride: Any = 1,
    padding: Any = "same",
    multiplier: int = 1,
    language: str = "en",
) -> Explanation:
    """Explain what a layer costs as a standard and as a separable convolution; a notebook shows it.

    `layer` is M, the input channels, followed by N, Dk and Dg as in `cost.compare`; or a convolution module
    such as `nn.Conv2d`, which knows all but `output_size`. `language` is "en" or "zh".

        ninefold.explain(512, 1024, 3, 14)
        ninefold.explain(nn.Conv2d(512, 1024, 3, padding=1), output_size=14).save("page.html")

    Raises TypeError for what is not an integer or not a convolution, and ValueError for numbers that no layer
    has, that are not square, or that are too large to be drawn.
    """
    if hasattr(layer, "__index__"):
        if out_channels is None or kernel_size is None:
            raise TypeError("`out_channels` and `kernel_size` must follow `layer` where it is a number")
        return Explanation(
            Layer(layer, out_channels, kernel_size, output_size, stride, padding, multiplier), language
        )
    made = Explanation(of_module(layer, output_size), language)
    for name, value in (("out_channels", out_channels), ("kernel_size", kernel_size)):
        if value is not None:
            raise TypeError(f"`{name}` is the module's own where `layer` is one, got {value!r}")
    if stride != 1 or padding != "same" or multiplier != 1:
        raise TypeError("`stride`, `padding` and `multiplier` are the module's own where `layer` is one")
    return made
