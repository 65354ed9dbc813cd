"""A grid cut into bands of queries, and for each band the cuts of keys that some of its queries may see."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Int
from torch import Tensor

from qkv.backends.pieces import cut_runs
from qkv.core.runs import Runs
from qkv.core.types import Bias, Grid, Mask

ROWS, MASKED_ROWS = 256, 128
"""Queries in a band: a longer one reads the keys less often, a shorter one computes less of what a mask hides."""

TILE = 1 << 17
"""Scores in a tile: half a MiB of float32, of which the backward pass holds two."""

SHARED = 1 << 20
"""Numbers of a bias or a mask for several heads, held at once."""

Run = tuple[int, int]


@dataclass(frozen=True)
class Cut:
    """Keys `start` to `stop`; `solid` if every query of the band may see all of them, in every batch row and head."""

    start: int
    stop: int
    solid: bool


@dataclass(frozen=True)
class Band:
    """Queries `start` to `stop`, the cuts they may see, and what a batch row or a head sees by itself."""

    start: int
    stop: int
    cuts: tuple[Cut, ...]
    own: tuple[tuple[tuple[Run, ...], ...], ...]
    """Runs of keys, for [batch row][head]; one entry stands for all."""

    def places(self, cut: Cut) -> tuple[Int[Tensor, " rows"], Int[Tensor, " columns"]]:
        """Number the queries of the band and the keys of a cut, on the CPU whatever the default device."""
        return torch.arange(self.start, self.stop, device="cpu"), torch.arange(cut.start, cut.stop, device="cpu")

    def within(self, cut: Cut, batch: int, head: int) -> Run:
        """Narrow a cut to what a batch row and head may see of it; the same number twice for nothing."""
        heads = self.own[batch if len(self.own) > 1 else 0]
        runs = heads[head if len(heads) > 1 else 0]
        met = [(max(cut.start, start), min(cut.stop, stop)) for start, stop in runs]
        met = [run for run in met if run[0] < run[1]]
        return (met[0][0], met[-1][1]) if met else (cut.start, cut.start)


@dataclass(frozen=True)
class Bands:
    """All bands; heads that see the same runs are `alike`. `pairs` counts those computed, of all heads."""

    bands: tuple[Band, ...]
    alike: bool
    pairs: int


def plan_bands(mask: Mask | None, bias: Bias | None, grid: Grid) -> Bands:
    """Cut a grid; masks of numbers alone keep their plans."""
    # A bias answers for all the heads and batch rows that it tells apart.
    told_apart = 1
    if bias is not None:
        none = torch.zeros(0, dtype=torch.long)
        told_apart = torch.Size(bias.tile(none, none, grid).shape[:-2]).numel()
    rows = ROWS if mask is None else MASKED_ROWS
    widest = max(1, min(TILE, SHARED // told_apart) // rows)
    return _kept(mask, grid, widest, rows) if mask is None or mask.is_value else _plan(mask, grid, widest, rows)


@lru_cache(maxsize=256)
def _kept(mask: Mask | None, grid: Grid, widest: int, rows: int) -> Bands:
    return _plan(mask, grid, widest, rows)


def _plan(mask: Mask | None, grid: Grid, widest: int, rows: int) -> Bands:
    bands = []
    every_batch = torch.Size(grid.batch).numel()
    starts = range(0, grid.queries, rows)
    if mask is None:
        cuts = tuple(_slice(0, grid.keys, True, widest))
        whole = ((((0, grid.keys),),),)
        bands = [Band(start, min(start + rows, grid.queries), cuts, whole) for start in starts]
        return Bands(tuple(bands), True, every_batch * grid.heads * grid.queries * grid.keys)
    some, every = mask.runs(rows, grid)
    own = _lists(some, grid)
    union, common = _joined(some), ~_joined(~every)
    alike, pairs = len(own[0]) == 1, 0
    for at, start in enumerate(starts):
        stop = min(start + rows, grid.queries)
        parts = [side[at].tolist() for side in (union.start, union.stop, common.start, common.stop)]
        cuts = tuple(cut for part in cut_runs(*parts) for cut in _slice(*part, widest))
        band = Band(start, stop, cuts, tuple(tuple(head[at] for head in heads) for heads in own))
        bands.append(band)
        for batch in range(len(own)):
            for head in range(len(own[0])):
                runs = (band.within(cut, batch, head) for cut in cuts)
                pairs += (stop - start) * sum(after - before for before, after in runs)
    pairs *= (every_batch if len(own) == 1 else 1) * (grid.heads if alike else 1)
    return Bands(tuple(bands), alike, pairs)


def _slice(start: int, stop: int, solid: bool, widest: int) -> list[Cut]:
    """Cut a run into equal cuts, none wider than a tile."""
    count = -(-(stop - start) // widest)
    # Whole vectors, wherever the run begins.
    width = -(-(stop - start) // max(1, count * 16)) * 16
    return [Cut(at, min(at + width, stop), solid) for at in range(start, stop, max(1, width))]


def _joined(runs: Runs) -> Runs:
    """Join what all batch rows and heads see."""
    if runs.start.ndim == 2:
        return runs
    start, stop = (side.flatten(0, -3).movedim(0, -2).flatten(-2) for side in (runs.start, runs.stop))
    return Runs.make(start, stop, runs.keys)


def _lists(runs: Runs, grid: Grid) -> list[list[list[tuple[Run, ...]]]]:
    """Spell runs out for [batch row][head][band], one entry standing for all where all are alike."""
    lead = runs.start.shape[:-2]
    lead = torch.Size((1,) * (len(grid.batch) + 1 - len(lead)) + tuple(lead))
    batch: tuple[int, ...] = grid.batch if torch.Size(lead[:-1]).numel() > 1 else (1,) * len(grid.batch)
    sides = [
        side.expand(*batch, lead[-1], *side.shape[-2:]).reshape(-1, lead[-1], *side.shape[-2:]).tolist()
        for side in (runs.start, runs.stop)
    ]
    return [
        [
            [tuple(run for run in zip(*band, strict=True) if run[0] < run[1]) for band in zip(*head, strict=True)]
            for head in zip(*heads, strict=True)
        ]
        for heads in zip(*sides, strict=True)
    ]
