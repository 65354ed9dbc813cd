"""What each head does, by numbers from its weights."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from qkv.lens.reading import Reading


@dataclass(frozen=True)
class Head:
    """A head's habits over one text: means over the queries, in 0..1, but for the entropy."""

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


def habits(reading: Reading) -> list[Head]:
    """Measure every head. Cost: O(layers·heads·positions²)."""
    separators = torch.tensor(reading.special)
    separators[0] = False
    found = []
    for layer, seen in enumerate(reading.maps):
        weights = reading.weights(layer)
        numbers = zip(
            seen.entropy()[0].mean(-1).tolist(),
            _mean_diagonal(weights, 0),
            _mean_diagonal(weights, -1),
            _mean_diagonal(weights, 1),
            weights[..., 0].mean(-1).tolist(),
            weights[..., separators].sum(-1).mean(-1).tolist(),
            strict=True,
        )
        found += [Head(layer, head, *row) for head, row in enumerate(numbers)]
    return found


def _mean_diagonal(weights: Float[Tensor, "heads positions positions"], offset: int) -> list[float]:
    diagonal = weights.diagonal(offset, -2, -1)
    return (diagonal.mean(-1) if diagonal.shape[-1] else diagonal.sum(-1)).tolist()


def telling(heads: list[Head]) -> dict[str, Head]:
    """Pick the most telling heads: the sharpest, and those most on the diagonal, the previous token and [SEP]."""
    return {
        "sharpest": min(heads, key=lambda head: head.entropy),
        "most diagonal": max(heads, key=lambda head: head.diagonal),
        "most on the previous token": max(heads, key=lambda head: head.previous),
        "most on [SEP]": max(heads, key=lambda head: head.separator),
    }


def links(reading: Reading, head: Head, habit: str = "sharpest", count: int = 3) -> list[tuple[int, int, float]]:
    """Find a head's strongest links of a habit that `telling` names: query, key, weight; the heaviest first."""
    weights = reading.weights(head.layer)[head.head]
    rows = torch.arange(weights.shape[0])
    special = torch.tensor(reading.special)
    separator = special & (rows > 0)
    of_habit = {
        "sharpest": ~special[:, None] & ~special,
        "most diagonal": rows[:, None] == rows,
        "most on the previous token": rows[:, None] == rows + 1,
        "most on [SEP]": separator.expand_as(weights),
    }[habit]
    best = torch.where(of_habit, weights, -1).flatten().topk(min(count, weights.numel()))
    keys = weights.shape[1]
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [(at // keys, at % keys, value) for at, value in pairs if value > 0]
