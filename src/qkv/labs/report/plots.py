"""A lab's plot as SVG in a page: text stays text, and the page's theme gives the colours."""

import logging
import re
import warnings
from collections.abc import Sequence
from io import StringIO
from typing import Any

from qkv.errors import UnsupportedError, must
from qkv.labs.lab import Figures, Lab

COLOURS = {
    "#0072b2": "var(--series-0)",
    "#d55e00": "var(--series-1)",
    "#009e73": "var(--series-2)",
    "#cc79a7": "var(--series-3)",
    "#e69f00": "var(--series-4)",
    "#56b4e9": "var(--series-5)",
    "#000000": "var(--ink)",
    "#808080": "var(--quiet)",
    "#cccccc": "var(--line)",
    "#ffffff": "var(--surface)",
}
"""What matplotlib draws with, told apart by those who see no red or no green; and the page's name for each."""

SERIES = list(COLOURS)[:6]


def svg(lab: Lab, results: Sequence[Figures], language: str) -> str:
    """Draw a lab's plot in a language. Raises: UnsupportedError if matplotlib is not installed."""
    try:
        import matplotlib
        from cycler import cycler
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        fix = "pip install matplotlib"
        raise UnsupportedError(must("lab report", "matplotlib", "be installed", "no such package", fix)) from error
    style: Any = {
        "svg.fonttype": "none",
        # Names inside a picture must differ from those of the next one on the page.
        "svg.hashsalt": f"{lab.name} {language}",
        "axes.prop_cycle": cycler(color=SERIES),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "#cccccc",
        "grid.linewidth": 0.5,
        "axes.axisbelow": True,
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "legend.frameon": False,
        "image.cmap": "cividis",
        "font.size": 9,
        "lines.markersize": 5,
    }
    # Text is measured by a font without Chinese letters, and drawn by the reader's, which has them.
    logger = logging.getLogger("matplotlib.font_manager")
    level = logger.level
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
        logger.setLevel(logging.ERROR)
        try:
            figure = Figure(figsize=(8, 3.4), layout="constrained")
            lab.plot(figure, results, lambda both: getattr(both, language))
            for axes in figure.axes:
                if axes.images:
                    axes.grid(visible=False)
            out = StringIO()
            figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
        finally:
            logger.setLevel(level)
    return themed(out.getvalue())


def themed(drawn: str) -> str:
    """Make a whole SVG file one that stands in a page: its size, its fonts and its colours are the page's."""
    inside = drawn[drawn.index("<svg") :]
    inside = re.sub(r"<metadata>.*?</metadata>", "", inside, flags=re.S)
    inside = re.sub(r'<svg ([^>]*?)height="[^"]*"([^>]*?)width="[^"]*"', r"<svg \1\2", inside, count=1)
    inside = re.sub(r'<svg ([^>]*?)width="[^"]*"([^>]*?)height="[^"]*"', r"<svg \1\2", inside, count=1)
    inside = re.sub(r'<g id="[^"]*"', "<g", inside)
    inside = re.sub(r"font: ([\d.]+)px [^;\"]+", r"font: \1px var(--sans)", inside)
    for drawn_with, named in COLOURS.items():
        inside = re.sub(re.escape(drawn_with) + r"(?![0-9a-f])", named, inside, flags=re.I)
    return inside
