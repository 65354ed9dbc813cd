"""What is shown of a reading first: which head, and which of its queries."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from qkv.lens.heads import Head, habits, telling
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
    allowed = _allowed(reading, word)
    if not allowed.any():
        best = min(among, key=lambda one: one.entropy)
        return Look(measured, telling(measured), best.layer, best.head, word[0] if word else None, None)
    layers = sorted({one.layer for one in among})
    peaks = {number: torch.where(allowed, reading.weights(number), -1).flatten(1).max(-1) for number in layers}
    best = max(among, key=lambda one: peaks[one.layer].values[one.head].item())
    query, key = divmod(int(peaks[best.layer].indices[best.head]), len(reading.labels))
    link = query, key, float(peaks[best.layer].values[best.head])
    return Look(measured, telling(measured), best.layer, best.head, query, link)


def _allowed(reading: Reading, word: Sequence[int]) -> Bool[Tensor, "positions positions"]:
    """Say which links may choose a head."""
    rows, special = torch.arange(len(reading.labels)), torch.tensor(reading.special)
    if reading.image is not None and reading.image.before:
        return (rows[:, None] == 0) & ~special
    words = torch.tensor([any(one.isalnum() for one in label) for label in reading.labels]) & ~special
    allowed = words[:, None] & words & ((rows[:, None] - rows).abs() > 1)
    if word:
        # The word's own tokens are as near to it as its neighbours are.
        own = torch.isin(rows, torch.tensor(word))
        allowed &= own[:, None] & ~own
    return allowed
