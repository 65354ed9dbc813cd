"""What each head does, by numbers from its weights."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from qkv.core.map import TILE_NUMBERS, AttentionMap
from qkv.core.reference import visible
from qkv.errors import ArgumentError, ShapeError, must
from qkv.lens.joined import word_ranges
from qkv.lens.reading import Reading


@dataclass(frozen=True)
class Head:
    """A head's habits: means over the queries, in 0..1, but for the entropy.

    Of diagonal, previous, following and same word, over the queries that may see such a key, and 0 if none may.
    """

    layer: int
    head: int
    entropy: float
    """Mean entropy of a row, in nats; at most log(positions)."""
    diagonal: float
    """Weight on the token itself."""
    previous: float
    """Weight on the token before."""
    following: float
    """Weight on the token after."""
    first: float
    """Weight on the first token."""
    separator: float
    """Weight on [SEP], or whatever special tokens are not first."""
    same_word: float
    """Weight on other occurrences of the same word."""
    broad: float
    """Entropy over the most it can be, log(keys that the query may see); of rows that may see two keys or more."""


ORDERS = tuple(field.name for field in fields(Head) if field.name not in ("layer", "head"))
"""What heads can be sorted by."""

TELLING = {
    "sharpest": "entropy",
    "most diagonal": "diagonal",
    "most on the previous token": "previous",
    "most on the next token": "following",
    "most on the same word": "same_word",
    "most on the first token": "first",
    "most on [SEP]": "separator",
    "broadest": "broad",
}
"""The telling heads, each by the number that tells it."""


@dataclass(frozen=True, eq=False)
class Text:
    """What habits ask of a text: which word each token is of, the how-manieth it is, and which separate.

    Words are numbers, the same for each occurrence; −1 is none.
    """

    word: Int[Tensor, " positions"]
    occurrence: Int[Tensor, " positions"]
    separator: Bool[Tensor, " positions"]


def text_of(reading: Reading) -> Text:
    """Say what habits ask of a text that was read. Words are compared in any case, signs are none."""
    numbers: dict[str, int] = {}
    count = len(reading.labels)
    word, occurrence = torch.full((count,), -1), torch.full((count,), -1)
    for place, (start, stop) in enumerate(word_ranges(reading.text, reading.spans, reading.special)):
        written = reading.text[reading.spans[start][0] : reading.spans[stop - 1][1]].strip().casefold()
        if any(one.isalnum() for one in written):
            word[start:stop] = numbers.setdefault(written, len(numbers))
            occurrence[start:stop] = place
    separator = torch.tensor(reading.special)
    separator[0] = False
    return Text(word, occurrence, separator)


def habits(reading: Reading) -> list[Head]:
    """Measure every head. Cost: that of `measure` for each layer."""
    text = text_of(reading)
    return [head for layer, seen in enumerate(reading.maps) for head in measure(seen, text, layer=layer)]


@torch.no_grad()
def measure(
    seen: AttentionMap,
    text: Text | None = None,
    *,
    layer: int = 0,
    rows: Bool[Tensor, "*batch queries"] | None = None,
) -> list[Head]:
    """Measure the heads of a map. The last query stands at the last key, as for every mask.

    `rows` are those to ask, where some are padding; a row that may see no key is not asked. Without a text no key is a
    separator, or of the same word. Of a batch, the means are over all its rows.

    Cost: O(heads·queries·keys·dim) time, in tiles: nothing of the size queries × keys is held.
    Raises: ShapeError if the text or the rows are not the map's.
    """
    grid, device = seen.grid, seen.grid.device
    if text is not None and len(text.word) != grid.keys:
        raise ShapeError(must("measure", "text", f"have {grid.keys} tokens, as the map has keys", len(text.word)))
    if rows is not None and rows.shape != (*grid.batch, grid.queries):
        raise ShapeError(must("measure", "rows", f"have the shape {[*grid.batch, grid.queries]}", list(rows.shape)))
    sums = torch.zeros(len(ORDERS), grid.heads, dtype=torch.float64, device=device)
    counts = torch.zeros_like(sums)
    for some, weights in tiles(seen):
        bias = None if seen.bias is None else seen.bias.tile(some, grid.columns(), grid)
        shown = visible(seen.mask, bias, some, grid.columns(), grid)
        shown = torch.ones((), dtype=torch.bool, device=device) if shown is None else shown
        shown = shown.expand(weights.shape)
        asked = shown.any(-1) if rows is None else shown.any(-1) & rows.to(device)[..., None, some]
        found = {"entropy": (_entropy(weights), asked)}
        many = shown.sum(-1)
        found["broad"] = (found["entropy"][0] / many.clamp(min=2).log(), asked & (many > 1))
        for name, pairs in _pairs(some + grid.keys - grid.queries, grid.keys, text).items():
            able = asked if name in ("first", "separator") else asked & (shown & pairs).any(-1)
            found[name] = ((weights * pairs).sum(-1), able)
        for number, name in enumerate(ORDERS):
            value, counted = (part.transpose(-1, -2).flatten(0, -2) for part in found[name])
            sums[number] += torch.where(counted, value, 0).sum(0, dtype=torch.float64)
            counts[number] += counted.sum(0)
    means = (sums / counts.clamp(min=1)).T.tolist()
    return [Head(layer, head, *row) for head, row in enumerate(means)]


def tiles(seen: AttentionMap) -> Iterator[tuple[Int[Tensor, " rows"], Float[Tensor, "*batch heads rows keys"]]]:
    """Go through a map a few rows at a time: their indices and all their weights."""
    lanes = torch.Size((*seen.grid.batch, seen.grid.heads, seen.grid.keys)).numel()
    step = max(1, TILE_NUMBERS // max(1, lanes))
    for rows in seen.grid.rows().split(step):
        yield rows, seen[..., int(rows[0]) : int(rows[-1]) + 1, :]


def telling(heads: Sequence[Head]) -> dict[str, Head]:
    """Pick the most telling heads, by the names of `TELLING`; a habit that no head has is left out."""
    chosen = {name: ranked(heads, by)[0] for name, by in TELLING.items()}
    return {name: head for name, head in chosen.items() if name == "sharpest" or getattr(head, TELLING[name]) > 0}


def ranked(heads: Sequence[Head], by: str) -> list[Head]:
    """Sort heads by a habit: those that have most of it first, but the least entropy first.

    Raises: ArgumentError if there is no such habit.
    """
    if by not in ORDERS:
        raise ArgumentError(must("ranked", "by", f"be one of {', '.join(ORDERS)}", repr(by)))
    return sorted(heads, key=lambda head: getattr(head, by) * (1 if by == "entropy" else -1))


@torch.no_grad()
def links(reading: Reading, head: Head, habit: str = "sharpest", count: int = 3) -> list[tuple[int, int, float]]:
    """Find a head's strongest links of a habit that `TELLING` names: query, key, weight; the heaviest first."""
    seen, text, special = reading.maps[head.layer].head(head.head), text_of(reading), torch.tensor(reading.special)
    best: list[tuple[int, int, float]] = []
    for rows, weights in tiles(seen):
        pairs = _pairs(rows, seen.grid.keys, text).get(TELLING[habit], ~special[rows, None] & ~special)
        found = torch.where(pairs, weights[0, 0], -1).flatten().topk(min(count, weights[0, 0].numel()))
        places = zip(found.indices.tolist(), found.values.tolist(), strict=True)
        best += [(int(rows[at // seen.grid.keys]), at % seen.grid.keys, value) for at, value in places if value > 0]
    return sorted(best, key=lambda link: -link[2])[:count]


def _pairs(
    places: Int[Tensor, " rows"], keys: int, text: Text | None
) -> dict[str, Bool[Tensor, "rows keys"] | Bool[Tensor, "1 keys"]]:
    """Say for each habit which pairs it is of; queries are given by their places among the keys."""
    columns, rows = torch.arange(keys, device=places.device), places[:, None]
    none = torch.zeros(1, keys, dtype=torch.bool, device=places.device)
    pairs = {
        "diagonal": columns == rows,
        "previous": columns == rows - 1,
        "following": columns == rows + 1,
        "first": (columns == 0)[None],
        "separator": none,
        "same_word": none,
    }
    if text is not None:
        word, occurrence = text.word.to(places.device), text.occurrence.to(places.device)
        same, other = word[rows] == word, occurrence[rows] != occurrence
        pairs |= {"separator": text.separator.to(places.device)[None], "same_word": same & other & (word >= 0)}
    return pairs


def _entropy(weights: Float[Tensor, "*lead keys"]) -> Float[Tensor, "*lead"]:
    """−Σ w log w, of weights scaled to sum 1; 0 for a row without any."""
    total = weights.sum(-1, keepdim=True)
    return torch.special.entr(weights / torch.where(total == 0, 1, total)).sum(-1)
