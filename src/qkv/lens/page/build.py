"""Build the offline attention page: weights packed small, every string kept inert, one file written whole."""

import base64
import hashlib
import html
import json
import os
import re
import zlib
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import Any

import numpy as np

from qkv.errors import ArgumentError, FileError, must
from qkv.files import check_writable, contains, write_whole
from qkv.lens.page.features import pack_features
from qkv.lens.page.view import Image, Projection, View, numbers
from qkv.lens.page.weights import fit, measure

# The parts of the script, in the order that they are joined: each may use what those before it define, and inside its
# functions everything.
PARTS = (
    *("page", "words", "state", "tokens", "weights", "merge", "features", "colour", "canvas", "svg", "tabs", "stage"),
    *("grid", "over", "map", "labels", "zoom", "row", "image", "legend", "lines", "pair", "alignment", "projection"),
    *("table", "habits", "effects", "export", "choose", "keys", "pointer", "begin", "start"),
)
# Of pages that stand inside another, or show a long map.
OTHER_PARTS = ("embedded", "glance", "long")
GENERATOR = '<meta name="generator" content="qkv">'
LONGEST_TOKEN = 200
LONGEST_TITLE = 20_000
# Queries and keys take at most this part of a view's budget, one in so many.
FEATURES = 5


class PageExistsError(FileError, FileExistsError):
    """The path holds a file that qkv did not write."""


def render_page(
    views: Iterable[View],
    *,
    title: str | None = None,
    subtitle: str = "",
    budget: int = 2_800_000,
    language: str | None = None,
) -> str:
    """Return the page as HTML that needs nothing but itself; it opens in a language ("en", "zh") or the browser's.

    Without a title it is called attention, in its reader's language.

    A view's weights, features and picture take at most `budget` bytes: the step is the finest that fits, and the page
    states the error.

    Cost: O(layers·heads·queries·keys) time; memory of one layer, an eighth of the weights and the page.
    Raises: ArgumentError, ShapeError.
    """
    views = tuple(views)
    if not views:
        raise ArgumentError(must("render_page", "views", "hold at least one view", "none", "pass [View(...)]"))
    packed = [pack_view(view, budget) for view in views]
    data = {"title": title, "subtitle": subtitle, "language": language, "views": packed}
    return fill(part("page.html"), part("page.css"), bundle(), data, title or "Attention")[0]


def fill(template: str, style: str, script: str, data: Any, title: str, *allowed: str) -> tuple[str, str]:
    """Fill a template; return the page and its Content-Security-Policy: its own script and style, by hash.

    `allowed` are further directives, such as "connect-src 'self'".
    """
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src {_hash(script)}",
            f"style-src {_hash(style)}",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            *allowed,
        )
    )
    filling = {
        "generator": GENERATOR,
        "policy": policy,
        "title": html.escape(_encodable(title)),
        "style": style,
        "data": _inert_json(data),
        "script": script,
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda mark: filling[mark[1]], template), policy


def write_page(
    path: str | os.PathLike[str],
    views: Iterable[View],
    *,
    title: str | None = None,
    subtitle: str = "",
    budget: int = 2_800_000,
    language: str | None = None,
    overwrite: bool = False,
) -> int:
    """Write the page to `path`, whole or not at all, and return its size in bytes.

    A page of qkv's own is replaced; any other file only with `overwrite=True`.

    Cost: as render_page.
    Raises: PageExistsError, FileError, ArgumentError, ShapeError.
    """
    check_page(path, overwrite=overwrite)
    content = render_page(views, title=title, subtitle=subtitle, budget=budget, language=language).encode("utf-8")
    write_whole("write_page", path, content, overwrite=True)
    return len(content)


def check_page(path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Raise FileError if `write_page` may not write to this path, before any work."""
    check_writable("write_page", path, overwrite=True)
    if os.path.exists(path) and not overwrite and not contains(path, GENERATOR.encode(), within=1000):
        raise PageExistsError(
            must(
                "write_page",
                "path",
                "be new or a page of qkv's own",
                repr(os.fspath(path)),
                "another program wrote it: choose another name, or pass overwrite=True",
            )
        )


def bundle(parts: Sequence[str] = PARTS) -> str:
    """Join parts of the script into one, which keeps all its names to itself."""
    return '"use strict";\n(() => {\n' + "\n".join(part(f"script/{name}.js") for name in parts) + "})();\n"


def part(name: str) -> str:
    """Read a file that pages are made of."""
    return resources.files("qkv.lens.page").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """The Content-Security-Policy source that allows exactly this inline text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode()}'"


def _inert_json(data: Any) -> str:
    """JSON in ASCII that an HTML parser cannot mistake for markup."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _encodable(text: str) -> str:
    """The text without what HTML or UTF-8 cannot carry (control characters, lone surrogates)."""
    return "".join(c if c.isprintable() or c == " " else "\ufffd" for c in _cut(text, 200))


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


def pack_view(view: View, budget: int) -> dict[str, Any]:
    """Pack a view as the script reads it, its weights, features and picture in at most `budget` bytes."""
    measured = measure(view)
    image = None if view.image is None else _pack_image(view.image)
    budget -= 0 if image is None else len(image["pixels"])
    features, size = pack_features(view, measured, budget // FEATURES)
    packed, steps = fit(view, measured, budget - size)
    return {
        "title": _cut(view.title, LONGEST_TITLE),
        "tokens": [_cut(token, LONGEST_TOKEN) for token in view.tokens],
        "keys": None if view.keys is None else [_cut(key, LONGEST_TOKEN) for key in view.keys],
        "image": image,
        "layers": measured.layers,
        "heads": measured.heads,
        "start": list(view.start),
        "query": view.query,
        "unknown": list(view.unknown),
        "words": _of_parts(view.words),
        "keyWords": _of_parts(view.key_words),
        "features": features,
        "habits": numbers(view.habits),
        "effects": numbers(view.effects),
        "measured": _cut(view.measured, LONGEST_TOKEN),
        "projection": None if view.projection is None else _pack_projection(view.projection),
        "group": view.group,
        "part": view.part,
        "error": 0.51 * max(steps),
        "steps": steps,
        "peaks": [float(f"{peak:.4g}") for peak in measured.peaks],
        "packed": packed,
    }


def _of_parts(words: Sequence[tuple[int, int]]) -> list[list[int]]:
    """The words that are more than one token: all that there is to merge."""
    return [[start, stop] for start, stop in words if stop - start > 1]


def _pack_image(image: Image) -> dict[str, Any]:
    pixels = np.rint(255 * np.asarray(image.pixels)).astype(np.uint8)
    height, width = pixels.shape[:2]
    grid = {"width": width, "height": height, "rows": image.rows, "columns": image.columns, "before": image.before}
    # What changes from pixel to pixel is smaller than the pixels are.
    steps = np.diff(pixels, axis=1, prepend=np.zeros_like(pixels[:, :1]))
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = base64.b64encode(deflate.compress(steps.tobytes()) + deflate.flush()).decode()
    return grid | {"colours": pixels.ndim == 3, "pixels": packed}


def _pack_projection(seen: Projection) -> dict[str, Any]:
    around = [_around(label, *mark) for label, mark in zip(seen.labels, seen.marks, strict=True)]
    return {
        "word": _cut(seen.word, LONGEST_TOKEN),
        "places": around,
        "points": np.asarray(seen.points, np.float64).round(4).tolist(),
        "shares": [round(float(share), 4) for share in seen.shares],
        "nearest": np.asarray(seen.nearest).tolist(),
        "cosines": np.asarray(seen.cosines, np.float64).round(4).tolist(),
    }


def _around(label: str, start: int, stop: int) -> list[str]:
    """What stands before the word, the word and what stands after it."""
    before, after = label[max(0, start - LONGEST_TOKEN) : start], label[stop : stop + LONGEST_TOKEN]
    return [before, _cut(label[start:stop], LONGEST_TOKEN), after]
