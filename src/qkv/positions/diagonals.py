"""Diagonals: a bias of the distance alone, a number for each. Relative positions spelled out are that."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from qkv.core.checks import check_floats
from qkv.core.types import Grid
from qkv.errors import ShapeError, must


@dataclass(frozen=True, eq=False)
class Diagonals:
    """What a pair of query i and key j gets: the table's number j − i + `above`."""

    table: Tensor
    above: int
    """How many diagonals lie below the one of the first query and the first key."""

    def check(self, grid: Grid) -> None:
        """Raise ShapeError unless every pair has its diagonal."""
        check_floats("diagonals", "table", self.table)
        lead = [*grid.batch, grid.heads]
        spreads = zip(reversed(self.table.shape[:-1]), reversed(lead), strict=False)
        fits = self.table.ndim <= len(lead) + 1 and all(size in (1, most) for size, most in spreads)
        if not fits or self.above < grid.queries - 1 or self.table.shape[-1] - self.above < grid.keys:
            rule = f"have a number for each distance of {grid.queries} × {grid.keys} pairs, and each head"
            raise ShapeError(must("diagonals", "table", rule, list(self.table.shape)))

    def tile(
        self, rows: Int[Tensor, " rows"], columns: Int[Tensor, " columns"], grid: Grid
    ) -> Float[Tensor, "*lead rows columns"]:
        """Answer for these queries and keys. Cost: O(rows·columns) for each leading index."""
        return self.table[..., columns - rows[:, None] + self.above]

    def __repr__(self) -> str:
        return f"diagonals({list(self.table.shape)})"


def diagonals_of(dense: Float[Tensor, "*lead queries keys"]) -> Diagonals | None:
    """Tell a dense bias by its diagonals, or give None where one is not of one number.

    Cost: a pass over the bias; what remains is O(queries + keys) for each leading index. The gradient goes back to the
    first row and column.
    """
    queries, keys = dense.shape[-2:]
    if not queries or not keys:
        return None
    table = torch.cat((dense[..., :, 0].flip(-1), dense[..., 0, 1:]), dim=-1)
    with torch.no_grad():
        spelled = table.unfold(-1, keys, 1).flip(-2)
        return Diagonals(table, queries - 1) if torch.equal(spelled, dense) else None
