"""Causal masking: a query sees the keys up to its own position."""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from qkv.core.card import Card
from qkv.core.checks import check_offset, check_offset_kind, shown
from qkv.core.types import Grid
from qkv.masks.algebra import IntervalMask


@dataclass(frozen=True, eq=False, repr=False)
class Causal(IntervalMask):
    """Keys at or before the query's position."""

    offset: int | Tensor | None = None

    @property
    def is_value(self) -> bool:  # type: ignore[override]
        return not isinstance(self.offset, Tensor)

    def check(self, grid: Grid) -> None:
        check_offset("causal", self.offset, grid)

    def bounds(
        self, rows: Int[Tensor, " rows"], grid: Grid
    ) -> tuple[Int[Tensor, "*lead rows"], Int[Tensor, "*lead2 rows"]]:
        return torch.zeros_like(rows), grid.positions(rows, self.offset) + 1

    def __repr__(self) -> str:
        return "causal()" if self.offset is None else f"causal(offset={shown(self.offset)})"


def causal(*, offset: int | Int[Tensor, "*batch"] | None = None) -> Causal:
    """Let a query see the keys up to its own position.

    Query i stands at `keys - queries + i` (bottom-right: the last query sees every key), or at `offset + i`; an offset
    may be a tensor, one for each batch row.

    Paper: Vaswani et al. 2017, arXiv:1706.03762, section 3.2.3.
    Cost: half of the pairs.
    Raises: KindError if the offset is neither an integer nor a tensor of integers; ShapeError if it does not fit the
    batch.
    """
    check_offset_kind("causal", offset)
    return Causal(offset)


CARDS = (
    Card(
        name="causal",
        kind="mask",
        equation="j ≤ i + keys − queries",
        paper="Vaswani et al. 2017, arXiv:1706.03762",
        cost="half of the pairs",
        build=causal,
    ),
)
