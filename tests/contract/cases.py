"""One table of cases, made from the cards: a new mechanism gets every contract test by having one.

5 queries, 7 keys, 2 heads, batch (2,), width 8, as the cards promise to fit.
"""

import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

import qkv
from qkv.core.card import Card, cards

BATCH, HEADS, QUERIES, KEYS, WIDTH = 2, 2, 5, 7, 8
CHOICES = {"score": "score", "bias": "bias", "mask": "mask", "selection": "select"}
CARDS = tuple(cards())

# The gradient of these is not that of what they compute: it passes straight through.
STRAIGHT_THROUGH = ("hard",)


@dataclass(frozen=True)
class Case:
    """Parts for one call, by the argument that takes each."""

    name: str
    parts: dict[str, Any]

    def with_(self, **parts: Any) -> "Case":
        return replace(self, parts={**self.parts, **parts})

    def to(self, dtype: torch.dtype) -> "Case":
        """Bring learned parts, and what holds floating tensors, to a dtype."""
        return replace(self, parts={name: _to(part, dtype) for name, part in self.parts.items()})

    def parameters(self) -> list[Tensor]:
        """List what is learned, and the tensors that a bias or a selection holds."""
        found: list[Tensor] = []
        for part in self.parts.values():
            if isinstance(part, nn.Module):
                found += list(part.parameters())
            held = getattr(part, "logits", getattr(part, "tensor", None))
            if isinstance(held, Tensor) and held.is_floating_point():
                found.append(held)
        return found


def _to(part: Any, dtype: torch.dtype) -> Any:
    if isinstance(part, qkv.dense_bias(torch.zeros(1, 1)).__class__):
        return qkv.dense_bias(part.tensor.detach().to(dtype))
    if hasattr(part, "logits"):
        return qkv.sink(part.logits.detach().to(dtype))
    return copy.deepcopy(part).to(dtype) if isinstance(part, nn.Module) else part


def build(card: Card) -> Any:
    """Build a card's part, the same each time."""
    torch.manual_seed(0)
    return card.build()


def case_of(card: Card) -> Case:
    return Case(card.name, {CHOICES[card.kind]: build(card)})


PARTS = tuple(card for card in CARDS if card.kind in CHOICES)
SELECTIONS = tuple(card for card in CARDS if card.kind == "selection")
MECHANISMS = tuple(card for card in CARDS if card.kind == "mechanism")


def inputs(
    dtype: torch.dtype = torch.float32,
    *,
    keys: int = KEYS,
    queries: int = QUERIES,
    key_heads: int = HEADS,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw query, key and value."""
    draw = torch.Generator().manual_seed(seed)
    shapes = ((HEADS, queries), (key_heads, keys), (key_heads, keys))
    return tuple(torch.randn(BATCH, *shape, WIDTH, generator=draw, dtype=torch.float64).to(dtype) for shape in shapes)  # type: ignore[return-value]


def same(first: Tensor, second: Tensor) -> bool:
    """Say whether two tensors hold the same bits (0 and −0 apart, NaN equal to itself)."""
    bits = {8: torch.int64, 4: torch.int32, 2: torch.int16}[first.element_size()]
    return first.shape == second.shape and torch.equal(first.contiguous().view(bits), second.contiguous().view(bits))
