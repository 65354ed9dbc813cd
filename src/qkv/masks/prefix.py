"""Prefix: the first keys are visible to every query."""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from qkv.core.card import Card
from qkv.core.checks import check_batch, check_dense, check_whole, is_integer, readable, shown
from qkv.core.types import Grid
from qkv.errors import ArgumentError, KindError, must
from qkv.masks.algebra import IntervalMask


@dataclass(frozen=True, eq=False, repr=False)
class Prefix(IntervalMask):
    """The first keys."""

    length: int | Tensor

    @property
    def is_value(self) -> bool:  # type: ignore[override]
        return not isinstance(self.length, Tensor)

    def check(self, grid: Grid) -> None:
        if isinstance(self.length, Tensor):
            check_batch("prefix", "length", self.length, grid)
            if readable(self.length) and self.length.numel() and (least := int(self.length.min())) < 0:
                raise ArgumentError(must("prefix", "length", "be >= 0", least))

    def bounds(
        self, rows: Int[Tensor, " rows"], grid: Grid
    ) -> tuple[Int[Tensor, "*lead rows"], Int[Tensor, "*lead2 rows"]]:
        start = torch.zeros_like(rows)
        if isinstance(self.length, Tensor):
            return start, self.length.to(grid.device)[..., None, None] + start
        return start, torch.full_like(rows, self.length)

    def __repr__(self) -> str:
        return f"prefix({shown(self.length)})"


def prefix(length: int | Int[Tensor, "*batch"]) -> Prefix:
    """Let every query see the first `length` keys: `causal() | prefix(n)` is the mask of a prefix language model.

    The length may be a tensor, one for each batch row. One beyond the keys shows them all.

    Paper: Raffel et al. 2020, arXiv:1910.10683, section 3.2.1.
    Cost: O(queries·length) pairs.
    Raises: KindError if the length is neither an integer nor a tensor of integers; ArgumentError if it is negative;
    ShapeError if it does not fit the batch.
    """
    if not isinstance(length, Tensor):
        check_whole("prefix", "length", length, 0, "keys that every query sees")
    elif not is_integer(length):
        raise KindError(must("prefix", "length", "hold integers", length.dtype, "one length for each batch row"))
    else:
        check_dense("prefix", "length", length)
    return Prefix(length)


CARDS = (
    Card(
        name="prefix",
        kind="mask",
        equation="j < length",
        paper="Raffel et al. 2020, arXiv:1910.10683",
        cost="queries × length",
        build=lambda: prefix(2),
    ),
    Card(
        name="prefix of its own length for each row",
        kind="mask",
        equation="j < length of the batch row",
        paper="Raffel et al. 2020, arXiv:1910.10683",
        cost="queries × length",
        build=lambda: prefix(torch.tensor([3, 1])),
    ),
)
