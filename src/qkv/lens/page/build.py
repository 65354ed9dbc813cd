"""Build the offline attention page: weights packed small, every string kept inert, one file written whole.

The weights of a head are rounded to whole multiples of a step, laid out key by key (a key that many queries look at is
a run), deflated and written as base64. `script/weights.js` undoes it: weight = step * number.
"""

import base64
import hashlib
import html
import json
import math
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np

from qkv.errors import ArgumentError, FileError, KindError, ShapeError, must
from qkv.files import check_writable, contains, write_whole

# Steps are powers of 2^(1/OCTAVE): from 1/8, past which a picture says nothing, to 1/32,768.
FINEST, COARSEST, OCTAVE = 240, 48, 16
# A head whose rows peak below this is diffuse and gets a finer step than the others.
DIFFUSE = 0.05
# The size of a step is estimated from one key in so many.
SAMPLED = 8
# The parts of the script, in the order that they are joined: each may use what those before it define, and inside its
# functions everything.
PARTS = (
    "page words state tokens weights colour canvas grid map labels zoom row image legend choose keys pointer begin"
).split()
GENERATOR = '<meta name="generator" content="qkv">'
LONGEST_TOKEN = 200
LONGEST_TITLE = 20_000
LARGEST_IMAGE = 1 << 20


class PageExistsError(FileError, FileExistsError):
    """The path holds a file that qkv did not write."""


@dataclass(frozen=True, eq=False)
class Image:
    """A grey picture whose parts are what a model looks at: a grid of rows × columns, row by row.

    `pixels` is an array [height, width] with values from 0, black, to 1, white.
    """

    pixels: np.ndarray
    rows: int
    columns: int


@dataclass(frozen=True)
class View:
    """One sentence and the weights of all heads over it.

    `weights` is an array [layers, heads, queries, keys] with values from 0 to 1, or a sequence of one array
    [heads, queries, keys] per layer, which may compute a layer each time it is asked for it (twice, seldom more).
    `start` is the (layer, head) that is open first and `query` the token whose row is, all counted from 0 (None: the
    first word). `unknown` numbers the tokens that the model's vocabulary does not hold.

    `keys` names what the tokens look at, where that is not the tokens themselves: a source, or the parts of an `image`.
    """

    title: str
    tokens: Sequence[str]
    weights: np.ndarray | Sequence[np.ndarray]
    start: tuple[int, int] = (0, 0)
    query: int | None = None
    unknown: Sequence[int] = ()
    keys: Sequence[str] | None = None
    image: Image | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """How many queries there are, and how many keys."""
        return len(self.tokens), len(self.tokens if self.keys is None else self.keys)


def render_page(views: Iterable[View], *, title: str, subtitle: str = "", budget: int = 2_850_000) -> str:
    """Return the page as HTML that needs nothing but itself.

    A view's weights take at most `budget` bytes: the step is the finest that fits, and the page states the error.

    Cost: O(layers·heads·queries·keys) time; memory of one layer, an eighth of the weights and the page.
    Raises: ArgumentError, ShapeError.
    """
    views = tuple(views)
    if not views:
        raise ArgumentError(must("render_page", "views", "hold at least one view", "none", "pass [View(...)]"))
    data = {"title": title, "subtitle": subtitle, "views": [_pack_view(view, budget) for view in views]}
    style, script, page = _part("page.css"), bundle(), _part("page.html")
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src {_hash(script)}",
            f"style-src {_hash(style)}",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
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
    return re.sub(r"\{\{(\w+)\}\}", lambda mark: filling[mark[1]], page)


def write_page(
    path: str | os.PathLike[str],
    views: Iterable[View],
    *,
    title: str,
    subtitle: str = "",
    budget: int = 2_850_000,
    overwrite: bool = False,
) -> int:
    """Write the page to `path`, whole or not at all, and return its size in bytes.

    A page of qkv's own is replaced; any other file only with `overwrite=True`.

    Cost: as render_page.
    Raises: PageExistsError, FileError, ArgumentError, ShapeError.
    """
    check_page(path, overwrite=overwrite)
    content = render_page(views, title=title, subtitle=subtitle, budget=budget).encode("utf-8")
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
    return '"use strict";\n(() => {\n' + "\n".join(_part(f"script/{part}.js") for part in parts) + "})();\n"


def _part(name: str) -> str:
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


@dataclass
class _Heads:
    """What one pass over a view's heads tells: enough to choose their steps."""

    layers: int
    heads: int
    peaks: list[float]
    highest: list[float]
    samples: list[np.ndarray]
    stride: int

    def steps(self, fineness: int) -> list[float]:
        return [_step(fineness, peak, high) for peak, high in zip(self.peaks, self.highest, strict=True)]

    def estimated_size(self, fineness: int) -> float:
        """Bytes of base64, from every `stride`-th key."""
        sizes = (len(_pack(sample, step)) for sample, step in zip(self.samples, self.steps(fineness), strict=True))
        return self.stride * sum(sizes) * 4 / 3


def _pack_view(view: View, budget: int) -> dict[str, Any]:
    measured = _measure(view)
    packed, steps = _fit(view, measured, budget)
    return {
        "title": _cut(view.title, LONGEST_TITLE),
        "tokens": [_cut(token, LONGEST_TOKEN) for token in view.tokens],
        "keys": None if view.keys is None else [_cut(key, LONGEST_TOKEN) for key in view.keys],
        "image": None if view.image is None else _pack_image(view.image),
        "layers": measured.layers,
        "heads": measured.heads,
        "start": list(view.start),
        "query": view.query,
        "unknown": list(view.unknown),
        "error": 0.51 * max(steps),
        "steps": steps,
        "peaks": [float(f"{peak:.4g}") for peak in measured.peaks],
        "packed": packed,
    }


def _check_image(image: Image, keys: int) -> None:
    pixels = np.asarray(image.pixels)
    if pixels.ndim != 2 or not 0 < pixels.size <= LARGEST_IMAGE or not np.issubdtype(pixels.dtype, np.floating):
        rule = f"be floating point [height, width], at most {LARGEST_IMAGE:,} pixels"
        raise ShapeError(must("Image", "pixels", rule, f"{pixels.dtype} {list(pixels.shape)}"))
    if not (pixels.min() >= 0 and pixels.max() <= 1):
        raise ArgumentError(must("Image", "pixels", "lie between 0 and 1", f"{pixels.min()} to {pixels.max()}"))
    if image.rows * image.columns != keys or min(image.rows, image.columns) < 1:
        rule = f"have a part for each of the {keys} keys"
        raise ShapeError(must("Image", "rows × columns", rule, f"{image.rows} × {image.columns}"))


def _pack_image(image: Image) -> dict[str, Any]:
    pixels = np.rint(255 * np.asarray(image.pixels)).astype(np.uint8)
    height, width = pixels.shape
    grid = {"width": width, "height": height, "rows": image.rows, "columns": image.columns}
    return grid | {"pixels": base64.b64encode(pixels.tobytes()).decode()}


def _measure(view: View) -> _Heads:
    tokens, layers = len(view.tokens), len(view.weights)
    if not tokens:
        raise ShapeError(must("View", "tokens", "hold at least one token", "none", "a sentence has one or more"))
    if not layers:
        shape = "[layers, heads, queries, keys]"
        raise ShapeError(must("View", "weights", "hold at least one layer", "none", shape))
    if view.image is not None:
        _check_image(view.image, view.shape[1])
    if not view.shape[1]:
        raise ShapeError(must("View", "keys", "hold at least one key", "none"))
    stride = SAMPLED if min(view.shape) >= 8 * SAMPLED else 1
    found = _Heads(layers, 0, [], [], [], stride)
    counts = [0] * layers
    for layer, head in _heads(view):
        counts[layer] += 1
        rows = head.max(axis=1)
        found.peaks.append(float(rows[rows > 0].mean()) if (rows > 0).any() else 0.0)
        found.highest.append(float(rows.max()))
        found.samples.append(np.ascontiguousarray(head[:, stride // 2 :: stride].T))
    if len(set(counts)) > 1:
        raise ShapeError(must("View", "weights", "have as many heads in each layer", counts, "one layer per item"))
    found.heads = counts[0]
    if view.query is not None and not 0 <= view.query < tokens:
        raise ArgumentError(must("View", "query", f"lie in 0..{tokens - 1}", view.query, "a token, counted from 0"))
    if not all(0 <= token < tokens for token in view.unknown):
        raise ArgumentError(must("View", "unknown", f"number tokens, 0..{tokens - 1}", list(view.unknown)))
    if not (0 <= view.start[0] < layers and 0 <= view.start[1] < found.heads):
        there = f"{layers} layers of {found.heads} heads, counted from 0"
        raise ArgumentError(must("View", "start", "be a layer and a head", view.start, there))
    return found


def _fit(view: View, measured: _Heads, budget: int) -> tuple[list[str], list[float]]:
    """Pack every head with the finest steps whose sizes together stay within the budget."""
    low, high = COARSEST, FINEST
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if measured.estimated_size(middle) <= budget else (low, middle - 1)
    measured.samples.clear()
    for fineness in range(low, COARSEST - 1, -1):
        steps = measured.steps(fineness)
        packed: list[str] = []
        size = 0
        for (_, head), step in zip(_heads(view), steps, strict=True):
            packed.append(base64.b64encode(_pack(head.T, step)).decode())
            size += len(packed[-1])
            if size > budget:
                break
        else:
            return packed, steps
    need = f"hold {measured.layers} layers of {measured.heads} heads over {max(view.shape)} tokens"
    fix = "allow more, or pass fewer tokens or heads"
    raise ArgumentError(must("render_page", "budget", need, f"{budget} bytes", fix))


def _heads(view: View) -> Iterator[tuple[int, np.ndarray]]:
    """Each head's layer and its matrix as float32, checked."""
    queries, keys = view.shape
    for index in range(len(view.weights)):
        layer = np.asarray(view.weights[index])
        if layer.ndim != 3 or layer.shape[0] == 0 or layer.shape[1:] != (queries, keys):
            raise ShapeError(
                must(
                    "View",
                    "weights",
                    f"be [layers, heads, {queries}, {keys}]",
                    f"{list(layer.shape)} in layer {index}",
                    "a row for each token, a column for each key",
                )
            )
        if not np.issubdtype(layer.dtype, np.floating):
            raise KindError(must("View", "weights", "be floating point", layer.dtype, "use astype('float32')"))
        for number, head in enumerate(layer):
            head = head.astype(np.float32, copy=False)
            lowest, highest = float(head.min()), float(head.max())
            if not (lowest >= -1e-6 and highest <= 1 + 1e-5):
                seen = "NaN" if math.isnan(lowest) else f"{lowest:.4g} to {highest:.4g}"
                where = f"layer {index}, head {number}; pass weights, not scores"
                raise ArgumentError(must("View", "weights", "lie between 0 and 1", seen, where))
            yield index, np.clip(head, 0, 1)


def _step(fineness: int, peak: float, highest: float) -> float:
    """The step of a head: a power of 2^(1/16), finer for a head whose rows are diffuse, within 16 bits."""
    diffuse = min(1.0, peak / DIFFUSE) if peak > 0 else 1.0
    return max(2 ** (-fineness / OCTAVE) * diffuse, highest / 65_000)


def _pack(columns: np.ndarray, step: float) -> bytes:
    """Deflate the numbers, low bytes first; high bytes follow only where one is needed.

    Runs and Huffman codes alone beat matching here: smaller by a tenth and five times faster.
    """
    numbers = np.rint(np.ascontiguousarray(columns) * np.float32(1 / step)).astype(np.uint16)
    planes = (numbers & 255).astype(np.uint8).tobytes()
    if numbers.size and numbers.max() > 255:
        planes += (numbers >> 8).astype(np.uint8).tobytes()
    deflate = zlib.compressobj(6, zlib.DEFLATED, -15, 9, zlib.Z_RLE)
    return deflate.compress(planes) + deflate.flush()
