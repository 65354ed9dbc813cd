"""A bias for all queries and keys."""

from torch import Tensor

from qkv.core.types import Grid


def tile(bias: object, queries: int, keys: int, heads: int, batch: tuple[int, ...] = ()) -> Tensor:
    grid = Grid(batch, heads, queries, keys)
    return bias.tile(grid.rows(), grid.columns(), grid)  # type: ignore[attr-defined]
