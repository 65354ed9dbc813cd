"""A mask as tables: which tiles of pairs are empty, full, or hide some of their pairs, and which."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn import functional as F

from qkv.core.runs import Runs
from qkv.core.types import Grid, Mask

BLOCK = 64
"""Queries in a block."""
TILE = 128
"""Keys in a tile."""

EMPTY, FULL = 0, 1


@dataclass(frozen=True, eq=False)
class Tiles:
    """The pattern of each tile: `patterns[table[batch, head, block, tile]]`. Batch and heads are 1 where all are alike.

    Pattern 0 hides everything, pattern 1 nothing. Past the last query and the last key patterns say nothing.
    """

    table: Int[Tensor, "batch heads blocks tiles"]
    patterns: Bool[Tensor, "patterns block tile"]

    def sees(self, queries: int) -> Bool[Tensor, "batch heads queries"]:
        """Say which queries see a key."""
        return self.patterns.any(-1)[self.table].any(-2).flatten(-2)[..., :queries]

    def shown(self, keys: int) -> Bool[Tensor, "batch heads keys"]:
        """Say which keys are seen by a query."""
        return self.patterns.any(-2)[self.table].any(-3).flatten(-2)[..., :keys]

    def pairs(self, grid: Grid) -> int:
        """Count the pairs computed, of all batch rows and heads."""
        lanes = torch.Size(grid.batch).numel() * grid.heads
        rows = _sizes(grid.queries, BLOCK).to(self.table.device)
        tiles = (self.table != EMPTY).sum(-1) * rows * TILE
        return int(tiles.sum()) * lanes // max(1, self.table.shape[0] * self.table.shape[1])


def plan_tiles(mask: Mask | None, grid: Grid) -> Tiles:
    """Read a mask tile by tile; the tables of masks of numbers alone are kept."""
    if mask is None:
        table = torch.full((1, 1, *_counts(grid)), FULL, device=grid.device)
        return Tiles(table, torch.cat(_plain_patterns(grid.device)))
    return _kept(mask, grid) if mask.is_value else _plan(mask, grid)


def _counts(grid: Grid) -> tuple[int, int]:
    return -(-grid.queries // BLOCK), -(-grid.keys // TILE)


def _plain_patterns(device: torch.device) -> list[Bool[Tensor, "1 block tile"]]:
    return [torch.full((1, BLOCK, TILE), seen, dtype=torch.bool, device=device) for seen in (False, True)]


@lru_cache(maxsize=64)
def _kept(mask: Mask, grid: Grid) -> Tiles:
    return _plan(mask, grid)


def _plan(mask: Mask, grid: Grid) -> Tiles:
    patterns = _plain_patterns(grid.device)
    blocks, tiles = _counts(grid)
    some, every = mask.runs(BLOCK, grid)
    first = mask.tile(grid.rows()[:1], grid.columns()[:1], grid)
    lead = torch.broadcast_shapes(some.start.shape[:-2], every.start.shape[:-2], first.shape[:-2])
    lead = (1,) * (len(grid.batch) + 1 - len(lead)) + tuple(lead)
    batch = grid.batch if torch.Size(lead[:-1]).numel() > 1 else (1,) * len(grid.batch)
    lead = (*batch, lead[-1])
    low = torch.arange(tiles, device=grid.device) * TILE
    high = (low + TILE).clamp(max=grid.keys)
    touched = _any_run(some, lambda start, stop: (start < high) & (stop > low))
    whole = _any_run(every, lambda start, stop: (start <= low) & (stop >= high))
    table = torch.where(whole, FULL, torch.where(touched, -1, EMPTY)).expand(*lead, blocks, tiles)
    table = table.reshape(-1, lead[-1], blocks, tiles).clone()
    partial = table == -1
    found = 2
    for block in partial.flatten(0, 1).any(0).any(-1).nonzero().flatten().tolist():
        here = partial[:, :, block]
        picked = here.flatten(0, 1).any(0).nonzero().flatten()
        rows = torch.arange(block * BLOCK, min((block + 1) * BLOCK, grid.queries), device=grid.device)
        columns = (picked[:, None] * TILE + torch.arange(TILE, device=grid.device)).flatten()
        seen = mask.tile(rows, columns.clamp(max=grid.keys - 1), grid) & (columns < grid.keys)
        seen = seen.expand(*lead, *seen.shape[-2:]).reshape(-1, lead[-1], len(rows), len(picked), TILE)
        seen = F.pad(seen.transpose(2, 3), (0, 0, 0, BLOCK - len(rows)))[here[:, :, picked]]
        # What every query of the block sees of the real keys is full after all, and what none does empty.
        counts = seen.sum((-2, -1))
        there = here.nonzero()[:, 2] * TILE
        real = len(rows) * (there + TILE).clamp(max=grid.keys).sub(there)
        number = torch.where(counts == 0, EMPTY, torch.where(counts == real, FULL, -1))
        kept = number == -1
        number[kept] = torch.arange(found, found + int(kept.sum()), device=grid.device)
        table[:, :, block][here] = number
        patterns.append(seen[kept])
        found += int(kept.sum())
    return Tiles(table, torch.cat(patterns))


def _any_run(runs: Runs, holds: Callable[[Tensor, Tensor], Tensor]) -> Bool[Tensor, "*lead blocks tiles"]:
    """Say of each block and tile whether something holds of one of the block's runs."""
    answers = torch.zeros((), dtype=torch.bool, device=runs.start.device)
    for slot in range(runs.start.shape[-1]):
        answers = answers | holds(runs.start[..., slot, None], runs.stop[..., slot, None])
    return answers


def _sizes(positions: int, block: int) -> Int[Tensor, " blocks"]:
    """Give the size of each block of positions; the last may be short."""
    starts = torch.arange(0, positions, block)
    return (starts + block).clamp(max=positions) - starts
