"""ALiBi: a penalty that grows with distance, at a fixed slope a head."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from qkv.core.card import Card
from qkv.core.checks import check_offset, check_offset_kind, check_whole, shown
from qkv.core.types import Grid
from qkv.errors import ShapeError, must


def slopes(heads: int) -> list[float]:
    """List the slopes of the paper: powers of 2^(−8/heads), and between powers of two every other one of the next."""
    power = 2 ** math.floor(math.log2(heads))
    first = [2 ** (-8 * (head + 1) / power) for head in range(power)]
    between = [2 ** (-8 * (head + 0.5) / power) for head in range(heads - power)]
    return first + between


@dataclass(frozen=True)
class Alibi:
    """−slope · |distance|, one slope a head."""

    heads: int
    offset: int | Tensor | None = None

    def check(self, grid: Grid) -> None:
        """Raise ShapeError unless there is a slope for each head."""
        if grid.heads != self.heads:
            raise ShapeError(must("alibi", "heads", f"equal the query's {grid.heads}", self.heads))
        check_offset("alibi", self.offset, grid)

    def tile(
        self, rows: Int[Tensor, " rows"], columns: Int[Tensor, " columns"], grid: Grid
    ) -> Float[Tensor, "*lead rows columns"]:
        """Answer for these queries and keys. Cost: O(heads·rows·columns)."""
        distance = (grid.positions(rows, self.offset)[..., None] - columns).abs()
        slope = torch.tensor(slopes(self.heads), dtype=torch.float32, device=grid.device)[:, None, None]
        return -slope * distance

    def __repr__(self) -> str:
        offset = "" if self.offset is None else f", offset={shown(self.offset)}"
        return f"alibi(heads={self.heads}{offset})"


def alibi(heads: int, *, offset: int | Int[Tensor, "*batch"] | None = None) -> Alibi:
    """Add −slope · |i − j|, i and j being positions ("bottom-right" unless an offset is given, as in `causal`).

    The slopes are 2^(−8k/heads) for k = 1…heads, for numbers of heads between powers of two the paper's mixture; they
    are float32 numbers in a call of any type.

    Paper: Press et al. 2022, arXiv:2108.12409.
    Cost: O(heads·queries·keys) time; no parameters.
    Raises: KindError, ArgumentError if heads is not an integer of at least 1; KindError if the offset is neither an
    integer nor a tensor of integers; ShapeError if it does not fit the call's batch.
    """
    check_whole("alibi", "heads", heads, 1)
    check_offset_kind("alibi", offset)
    return Alibi(heads, offset)


CARDS = (
    Card(
        name="ALiBi",
        kind="bias",
        equation="s − mₕ · |i − j|",
        paper="Press et al. 2022, arXiv:2108.12409",
        cost="n·m a head; no parameters",
        build=lambda: alibi(heads=2),
    ),
)
