"""The queries of one call as a track keeps them, and the masks and biases of several calls, one under another."""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional as F

from qkv.core.types import Bias, Grid
from qkv.masks.algebra import Mask
from qkv.masks.spans import Spans


@dataclass(eq=False)
class Rows:
    """Queries that came in one call: which are kept, and what their weights follow from beside query and key."""

    kept: Int[Tensor, " kept"]
    grid: Grid
    first: int
    """Where the call's first key stands among all keys."""
    mask: Mask | None
    spans: Spans | None
    bias: Bias | None
    moved: Int[Tensor, " rows"] | None = None
    """Which of the call's batch rows each row has become."""

    def pick(self, x: Tensor, heads: Int[Tensor, " heads"] | None, beside: int) -> Tensor:
        """Pick batch rows and heads of what has `beside` more dimensions behind them; a dimension of 1 is all."""
        if heads is not None and x.ndim > beside and x.shape[-1 - beside] > 1:
            x = x.index_select(-1 - beside, heads)
        if self.moved is not None and x.ndim == beside + 2 and x.shape[0] > 1:
            x = x.index_select(0, self.moved)
        return x

    def dense(self, keys: int, heads: Int[Tensor, " heads"] | None) -> Tensor:
        """Spell out which of all keys the kept queries see."""
        mask = self.mask if self.spans is None else self.spans
        assert mask is not None
        shown = self.pick(mask.tile(self.kept, self.grid.columns(), self.grid), heads, 2)
        return F.pad(shown, (self.first, keys - self.first - self.grid.keys))


@dataclass(frozen=True, eq=False)
class Biases:
    """The biases of several calls, one under another; 0 at keys that a call did not have."""

    rows: list[Rows]
    heads: Int[Tensor, " heads"] | None

    def check(self, grid: Grid) -> None:
        pass

    def tile(self, rows: Int[Tensor, " rows"], columns: Int[Tensor, " columns"], grid: Grid) -> Tensor:
        parts, start = [], 0
        for call in self.rows:
            stop = start + len(call.kept)
            inside = rows[(rows >= start) & (rows < stop)] - start
            if len(inside):
                here = columns - call.first
                has = (here >= 0) & (here < call.grid.keys)
                part = columns.new_zeros((len(inside), len(columns)), dtype=torch.float32)
                if call.bias is not None:
                    found = call.bias.tile(call.kept[inside], here.clamp(0, call.grid.keys - 1), call.grid)
                    part = torch.where(has, call.pick(found, self.heads, 2), 0)
                parts.append(part)
            start = stop
        lead = torch.broadcast_shapes(*(part.shape[:-2] for part in parts))
        return torch.cat([part.expand(*lead, -1, -1) for part in parts], dim=-2)
