"""What is shown of a reading first: which head, and which of its queries."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from qkv.lens.heads import Head, habits, telling, tiles
from qkv.lens.reading import Reading


@dataclass(frozen=True)
class Look:
    """What is shown of a reading: its heads' habits, and one head, opened at a query."""

    habits: list[Head]
    telling: dict[str, Head]
    layer: int
    head: int
    query: int | None
    link: tuple[int, int, float] | None
    """Why this head: the query, key and weight that are heaviest in it; None if it is the sharpest."""


def look_at(reading: Reading, layer: int | None = None, head: int | None = None, word: Sequence[int] = ()) -> Look:
    """Choose the head to draw, of those asked for: where a word, or the word, looks hardest at another further off.

    Of a picture, where its class token looks hardest at a patch.
    """
    measured = habits(reading)
    among = [one for one in measured if layer in (None, one.layer) and head in (None, one.head)]
    peaks = {number: _peaks(reading, number, word) for number in sorted({one.layer for one in among})}
    best = max(among, key=lambda one: peaks[one.layer][one.head][2])
    link = peaks[best.layer][best.head]
    if link[2] < 0:
        best = min(among, key=lambda one: one.entropy)
        return Look(measured, telling(measured), best.layer, best.head, word[0] if word else None, None)
    return Look(measured, telling(measured), best.layer, best.head, link[0], link)


@torch.no_grad()
def _peaks(reading: Reading, layer: int, word: Sequence[int]) -> list[tuple[int, int, float]]:
    """Find the heaviest link of each head that may choose it: query, key and weight; −1 if there is none.

    Cost: O(heads·positions²·dim) time, in tiles: a long text's weights are never held whole.
    """
    seen = reading.maps[layer]
    best = [(0, 0, -1.0)] * seen.grid.heads
    for rows, weights in tiles(seen):
        allowed = _allowed(reading, word, rows)
        values, places = torch.where(allowed, weights.flatten(0, -4)[0], -1).flatten(1).max(-1)
        for head, (value, place) in enumerate(zip(values.tolist(), places.tolist(), strict=True)):
            if value > best[head][2]:
                best[head] = int(rows[place // seen.grid.keys]), place % seen.grid.keys, value
    return best


def _allowed(reading: Reading, word: Sequence[int], rows: Int[Tensor, " rows"]) -> Bool[Tensor, "rows positions"]:
    """Say which links of some queries may choose a head."""
    columns, special = torch.arange(len(reading.labels)), torch.tensor(reading.special)
    if reading.image is not None and reading.image.before:
        return (rows[:, None] == 0) & ~special
    words = torch.tensor([any(one.isalnum() for one in label) for label in reading.labels]) & ~special
    allowed = words[rows, None] & words & ((rows[:, None] - columns).abs() > 1)
    if word:
        # The word's own tokens are as near to it as its neighbours are.
        own = torch.isin(columns, torch.tensor(word))
        allowed &= own[rows, None] & ~own
    return allowed
