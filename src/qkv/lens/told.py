"""What the mask of a call says: the keys that each query sees, by spans where that can be, and how far they reach."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool
from torch import Tensor

from qkv.core.map import TILE_NUMBERS
from qkv.core.types import Grid
from qkv.lens.calls import Call
from qkv.masks.algebra import Mask
from qkv.masks.dense import dense_mask
from qkv.masks.spans import Spans, spans_of


def grid_of(call: Call) -> Grid:
    """Say of what size a call is."""
    query = call.query
    return Grid(tuple(query.shape[:-3]), query.shape[-3], query.shape[-2], call.key.shape[-2], query.device)


@dataclass(frozen=True, eq=False)
class Told:
    """What a call's mask says."""

    mask: Mask | Tensor
    grid: Grid

    @cached_property
    def spans(self) -> Spans | None:
        """The spans of the queries; None if some query sees more than one."""
        if isinstance(self.mask, Spans):
            return self.mask
        if isinstance(self.mask, Mask):
            some, every = self.mask.runs(1, self.grid)
            one = some.start.shape[-1] == 1
            if one and torch.equal(some.start, every.start) and torch.equal(some.stop, every.stop):
                return Spans(some.start.squeeze(-1), some.stop.squeeze(-1))
        # Runs may claim too much, as those of flags do: the pairs themselves say more.
        found = []
        for pairs in self._tiles():
            part = spans_of(pairs)
            if part is None:
                return None
            found.append(part)
        return Spans(torch.cat([part.start for part in found], -1), torch.cat([part.stop for part in found], -1))

    @cached_property
    def stop(self) -> int:
        """The first key after all that some query sees."""
        if self.spans is not None:
            seen = self.spans.start < self.spans.stop
            return int(torch.where(seen, self.spans.stop, 0).max())
        last = 0
        for pairs in self._tiles():
            columns = pairs.flatten(0, -2).any(0).nonzero()
            last = max(last, int(columns.max()) + 1 if len(columns) else 0)
        return last

    def _tiles(self) -> Iterator[Bool[Tensor, "*lead rows keys"]]:
        """Spell the mask out, a few rows at a time."""
        mask, grid = dense_mask(self.mask) if isinstance(self.mask, Tensor) else self.mask, self.grid
        step = max(1, TILE_NUMBERS // max(1, torch.Size((*grid.batch, grid.heads, grid.keys)).numel()))
        for rows in grid.rows().split(step):
            pairs = mask.tile(rows, grid.columns(), grid)
            yield pairs.expand(*pairs.shape[:-2], len(rows), grid.keys)
