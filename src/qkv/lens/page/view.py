"""What a page shows: sentences with the weights of all heads, and what else is known of them."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from qkv.errors import ArgumentError, KindError, ShapeError, must

LARGEST_IMAGE = 1 << 20
MOST_PLACES = 1000
PARTS = ("encoder", "decoder", "cross")


@dataclass(frozen=True, eq=False)
class Image:
    """A picture whose parts are what a model looks at: a grid of rows × columns, row by row.

    `pixels` is an array [height, width] in grey or [height, width, 3] in colours, with values from 0, black, to 1. The
    first `before` keys are no part of it, as a class token is none.
    """

    pixels: np.ndarray
    rows: int
    columns: int
    before: int = 0

    def check(self, keys: int) -> None:
        """Raise ShapeError or ArgumentError unless it is a picture of so many parts."""
        pixels = np.asarray(self.pixels)
        is_picture = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)
        if not is_picture or not 0 < pixels.size <= LARGEST_IMAGE or not np.issubdtype(pixels.dtype, np.floating):
            rule = f"be floating point [height, width] or [height, width, 3], at most {LARGEST_IMAGE:,} numbers"
            raise ShapeError(must("Image", "pixels", rule, f"{pixels.dtype} {list(pixels.shape)}"))
        if not (pixels.min() >= 0 and pixels.max() <= 1):
            raise ArgumentError(must("Image", "pixels", "lie between 0 and 1", f"{pixels.min()} to {pixels.max()}"))
        if self.rows * self.columns != keys - self.before or min(self.rows, self.columns) < 1 or self.before < 0:
            rule = f"have a part for each of the {keys - self.before} keys" + (
                " after the first" if self.before else ""
            )
            raise ShapeError(must("Image", "rows × columns", rule, f"{self.rows} × {self.columns}"))


@dataclass(frozen=True, eq=False)
class Projection:
    """A word's vectors at all its places, drawn in two dimensions, layer by layer, and each place's nearest.

    `labels` are the sentences, and `marks` where the word stands in each, counted in characters. `points` is an array
    [layers, places, 2] of the first two principal components and `shares` the part of the variance that they keep;
    `nearest` [layers, places, k] numbers the places whose vectors are nearest and `cosines` says how near. Layer 0 is
    before any attention.
    """

    word: str
    labels: Sequence[str]
    marks: Sequence[tuple[int, int]]
    points: np.ndarray
    shares: Sequence[float]
    nearest: np.ndarray
    cosines: np.ndarray

    def check(self) -> None:
        """Raise ShapeError or ArgumentError unless the parts fit together."""
        places, layers = len(self.labels), len(self.shares)
        if not 2 <= places <= MOST_PLACES:
            raise ArgumentError(must("Projection", "labels", f"be of 2 to {MOST_PLACES:,} places", places))
        if len(self.marks) != places:
            raise ShapeError(must("Projection", "marks", f"be one for each of the {places} labels", len(self.marks)))
        shapes = [list(np.shape(part)) for part in (self.points, self.nearest, self.cosines)]
        if shapes != [[layers, places, 2], [layers, places, shapes[1][-1]], shapes[1]]:
            rule = f"be [{layers}, {places}, 2], [{layers}, {places}, k] and [{layers}, {places}, k]"
            raise ShapeError(must("Projection", "points, nearest and cosines", rule, shapes))
        if not (np.isfinite(self.points).all() and np.isfinite(self.cosines).all()):
            raise ArgumentError(must("Projection", "points and cosines", "be finite", "NaN or inf"))


@dataclass(frozen=True)
class View:
    """One sentence and the weights of all heads over it.

    `weights` is an array [layers, heads, queries, keys] with values from 0 to 1, or a sequence of one array
    [heads, queries, keys] per layer, which may compute a layer each time it is asked for it (twice, seldom more).
    `start` is the (layer, head) that is open first and `query` the token whose row is, all counted from 0 (None: the
    first word). `unknown` numbers the tokens that the model's vocabulary does not hold.

    `keys` names what the tokens look at, where that is not the tokens themselves: a source, or the parts of an `image`.

    What else is known opens a tab each:

    - `words`, ranges (first, after last) of tokens that make a word, and `key_words` where `keys` are tokens too;
    - `features`, a layer's queries [heads, queries, dim] and keys [heads, keys, dim] whose products sum to the scores,
      or None for a layer of which they are not known;
    - `habits` and `effects`, a dataclass a head with `layer`, `head` and numbers: what it does, and what changes
      without it (`head` None: without the layer's attention), `measured` by what these words say;
    - `projection`, a word in context;
    - views of one `group`, a text's `part` each ("encoder", "decoder", "cross"), stand beside one another.
    """

    title: str
    tokens: Sequence[str]
    weights: np.ndarray | Sequence[np.ndarray]
    start: tuple[int, int] = (0, 0)
    query: int | None = None
    unknown: Sequence[int] = ()
    keys: Sequence[str] | None = None
    image: Image | None = None
    words: Sequence[tuple[int, int]] = ()
    key_words: Sequence[tuple[int, int]] = ()
    features: Sequence[tuple[np.ndarray, np.ndarray] | None] = ()
    habits: Sequence[Any] = ()
    effects: Sequence[Any] = ()
    measured: str = ""
    projection: Projection | None = None
    group: str | None = None
    part: str | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """How many queries there are, and how many keys."""
        return len(self.tokens), len(self.tokens if self.keys is None else self.keys)

    def check(self) -> None:
        """Raise what is wrong with all but the weights, which are checked as they are read."""
        queries, keys = self.shape
        if not queries:
            raise ShapeError(must("View", "tokens", "hold at least one token", "none", "a sentence has one or more"))
        if not len(self.weights):
            shape = "[layers, heads, queries, keys]"
            raise ShapeError(must("View", "weights", "hold at least one layer", "none", shape))
        if self.image is not None:
            self.image.check(keys)
        if not keys:
            raise ShapeError(must("View", "keys", "hold at least one key", "none"))
        if self.query is not None and not 0 <= self.query < queries:
            raise ArgumentError(must("View", "query", f"lie in 0..{queries - 1}", self.query, "counted from 0"))
        if not all(0 <= token < queries for token in self.unknown):
            raise ArgumentError(must("View", "unknown", f"number tokens, 0..{queries - 1}", list(self.unknown)))
        for name, words, tokens in (("words", self.words, queries), ("key_words", self.key_words, keys)):
            ends = [0, *itertools.chain.from_iterable(words), tokens]
            if ends != sorted(ends) or any(start == stop for start, stop in words):
                raise ArgumentError(must("View", name, f"be ranges in order within 0..{tokens}", list(words)))
        if self.part not in (None, *PARTS):
            raise ArgumentError(must("View", "part", f"be one of {', '.join(PARTS)}", repr(self.part)))
        if self.projection is not None:
            self.projection.check()

    def heads(self) -> Iterator[tuple[int, np.ndarray]]:
        """Each head's layer and its matrix as float32, checked."""
        queries, keys = self.shape
        for index in range(len(self.weights)):
            layer = np.asarray(self.weights[index])
            if layer.ndim != 3 or layer.shape[0] == 0 or layer.shape[1:] != (queries, keys):
                rule, got = f"be [layers, heads, {queries}, {keys}]", f"{list(layer.shape)} in layer {index}"
                raise ShapeError(must("View", "weights", rule, got, "a row for each token, a column for each key"))
            if not np.issubdtype(layer.dtype, np.floating):
                raise KindError(must("View", "weights", "be floating point", layer.dtype, "use astype('float32')"))
            for number, head in enumerate(layer):
                head = head.astype(np.float32, copy=False)
                lowest, highest = float(head.min()), float(head.max())
                if not (lowest >= -1e-6 and highest <= 1 + 1e-5):
                    seen = "NaN" if lowest != lowest else f"{lowest:.4g} to {highest:.4g}"
                    where = f"layer {index}, head {number}; pass weights, not scores"
                    raise ArgumentError(must("View", "weights", "lie between 0 and 1", seen, where))
                yield index, np.clip(head, 0, 1)


def numbers(rows: Sequence[Any]) -> list[dict[str, Any]]:
    """What tables show of dataclasses: every field that is a number, a word or None; numbers to six digits."""
    return [
        {
            field.name: _short(value)
            for field in fields(row)
            if isinstance(value := getattr(row, field.name), str | float | int | None)
        }
        for row in rows
    ]


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value[:200] if isinstance(value, str) else value
