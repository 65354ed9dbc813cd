"""A mask cut into pieces: neighbouring blocks of queries whose runs of keys are equally long and advance in step."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from qkv.core.types import Grid, Mask
from qkv.masks.algebra import IntervalMask

WORTH_SPLITTING = 512
"""Keys that every row of a block sees, from which a call without a tile and one more merge beat one call with."""

Lane = tuple[int | None, int | None]


@dataclass(frozen=True, eq=False)
class Piece:
    """Blocks of `rows` queries from `row` on; block i meets the `keys` keys from `key + i·step` on.

    `lane` picks a batch row and a head (None: all).
    """

    lane: Lane
    row: int
    rows: int
    blocks: int
    key: int
    keys: int
    step: int
    tile: Float[Tensor, "rows keys"] | None
    """0 where a pair may meet, −inf where not; None where all may."""
    blind: Bool[Tensor, " rows"] | None
    """Rows of the tile that see none of these keys, if there are any."""
    first: bool
    """Whether no piece before this one has these rows."""


@dataclass(frozen=True, eq=False)
class Pieces:
    """The pieces of a mask on a grid."""

    pieces: tuple[Piece, ...]
    sees: Bool[Tensor, "batch heads queries"]
    """Whether a query sees any key. Batch and heads are 1 where all are alike."""
    shown: Bool[Tensor, "batch heads keys"]
    """Whether any query sees a key."""
    fill: bool
    """Whether a piece holds a query that sees nothing, or a key that nobody sees."""
    whole: bool
    """Whether every query is in a piece."""
    pairs: int
    """Pairs computed, of all batch rows and heads."""


@dataclass(frozen=True, eq=False)
class _Cell:
    """Some rows and one run of keys. `pattern` says which pairs may meet, relative to both; None: all."""

    row: int
    rows: int
    key: int
    keys: int
    pattern: np.ndarray | None


def plan_pieces(mask: Mask, grid: Grid, block: int) -> Pieces:
    """Cut a mask into pieces of `block` queries, or more that see the same; masks of numbers alone keep their plans."""
    return _kept(mask, grid, block) if mask.is_value else _plan(mask, grid, block)


@lru_cache(maxsize=64)
def _kept(mask: Any, grid: Grid, block: int) -> Pieces:
    return _plan(mask, grid, block)


def _plan(mask: Mask, grid: Grid, block: int) -> Pieces:
    if 0 in (*grid.batch, grid.heads, grid.queries, grid.keys):
        nobody = torch.zeros(1, 1, max(grid.queries, grid.keys), dtype=torch.bool, device="cpu")
        return Pieces((), nobody[..., : grid.queries], nobody[..., : grid.keys], False, False, 0)
    lanes = _lanes(mask, grid, block)
    own_batch, own_heads = lanes[-1][0][0] is not None, lanes[-1][0][1] is not None
    every_batch, every_head = torch.Size(grid.batch).numel(), grid.heads
    sees = torch.zeros(
        every_batch if own_batch else 1, every_head if own_heads else 1, grid.queries, dtype=torch.bool, device="cpu"
    )
    shown = sees.new_zeros(*sees.shape[:2], grid.keys)
    met_rows, met_keys = torch.zeros_like(sees), torch.zeros_like(shown)
    pieces, pairs = [], 0
    tiles: dict[object, Tensor] = {}
    for lane, cells in lanes:
        at = (lane[0] or 0, lane[1] or 0)
        for piece in _join(lane, cells):
            if piece.tile is not None:
                # Equal tiles are kept once: a plan of many heads would be large.
                same = tiles.setdefault((piece.tile.shape, piece.tile.numpy().tobytes()), piece.tile)
                piece = replace(piece, tile=same)
            pieces.append(piece)
            pairs += piece.blocks * piece.rows * piece.keys
            _mark(sees[at], met_rows[at], piece, piece.row, piece.rows, piece.rows, dim=1)
            _mark(shown[at], met_keys[at], piece, piece.key, piece.keys, piece.step, dim=0)
    fill = bool((met_rows & ~sees).any() or (met_keys & ~shown).any())
    shared = (1 if own_batch else every_batch) * (1 if own_heads else every_head)
    return Pieces(tuple(pieces), sees, shown, fill, bool(met_rows.all()), pairs * shared)


def _mark(seen: Tensor, met: Tensor, piece: Piece, start: int, size: int, step: int, dim: int) -> None:
    """Mark what a piece meets, and what of that its tile lets see or be seen."""
    open_ = None if piece.tile is None else (piece.tile == 0).any(dim)
    if (open_ is None or bool(open_.all())) and step <= size:
        whole = slice(start, start + size + (piece.blocks - 1) * step)
        seen[whole] = met[whole] = True
        return
    for block in range(piece.blocks):
        part = slice(start + block * step, start + block * step + size)
        met[part] = True
        seen[part] |= True if open_ is None else open_


def _lanes(mask: Mask, grid: Grid, block: int) -> list[tuple[Lane, list[list[_Cell]]]]:
    """Give the cells of each block of queries, for every batch row and head that has its own, or for all at once."""
    if isinstance(mask, IntervalMask):
        start, stop = mask.bounds(grid.rows(), grid)
        bounds = _split((start.clamp(0, grid.keys), stop.clamp(0, grid.keys)), grid, 1)
        return [(lane, _cells_of_bounds(one.numpy(), other.numpy(), block)) for lane, (one, other) in bounds]
    some, every = mask.runs(block, grid)
    own = list(_split((some.start, some.stop, every.start, every.stop), grid, 2))
    lanes = [lane for lane, _ in own]
    runs = [[part.tolist() for part in parts] for _, parts in own]
    cells: list[list[list[_Cell]]] = [[] for _ in lanes]
    for at, row in enumerate(range(0, grid.queries, block)):
        rows = min(block, grid.queries - row)
        cuts = [cut_runs(*(part[at] for part in parts)) for parts in runs]
        patterns = _patterns(mask, grid, lanes, row, rows, cuts)
        for here, cut in zip(cells, cuts, strict=True):
            here.append(
                [_Cell(row, rows, key, end - key, None if solid else next(patterns)) for key, end, solid in cut]
            )
    return list(zip(lanes, cells, strict=True))


def _patterns(
    mask: Mask, grid: Grid, lanes: list[Lane], row: int, rows: int, cuts: list[list[tuple[int, int, bool]]]
) -> Iterator[np.ndarray]:
    """Ask the mask once for all the runs of a block that are not solid, and give each its pattern."""
    ranges = [(lane, key, end) for lane, cut in zip(lanes, cuts, strict=True) for key, end, solid in cut if not solid]
    if not ranges:
        return
    columns = torch.cat([torch.arange(key, end, device="cpu") for _, key, end in ranges])
    seen = mask.tile(torch.arange(row, row + rows, device="cpu"), columns, grid)
    seen = seen.expand(*grid.batch, grid.heads, *seen.shape[-2:])
    seen = seen.reshape(-1, grid.heads, *seen.shape[-2:])
    at = 0
    for (batch, head), key, end in ranges:
        yield seen[batch or 0, head or 0, :, at : at + end - key].numpy()
        at += end - key


def _split(parts: tuple[Tensor, ...], grid: Grid, trailing: int) -> Iterator[tuple[Lane, tuple[Tensor, ...]]]:
    """Go through the leading dimensions of several tensors together: batch rows as one dimension, and heads."""
    lead = torch.broadcast_shapes(*(part.shape[:-trailing] for part in parts))
    lead = (1,) * (len(grid.batch) + 1 - len(lead)) + tuple(lead)
    batch = grid.batch if torch.Size(lead[:-1]).numel() > 1 else (1,) * len(grid.batch)
    flat = [part.expand(*batch, lead[-1], *part.shape[-trailing:]) for part in parts]
    flat = [part.reshape(-1, lead[-1], *part.shape[-trailing:]) for part in flat]
    batches, heads = flat[0].shape[:2]
    for b in range(batches):
        for h in range(heads):
            yield (b if batches > 1 else None, h if heads > 1 else None), tuple(part[b, h] for part in flat)


def _cells_of_bounds(start: np.ndarray, stop: np.ndarray, block: int) -> list[list[_Cell]]:
    """Cut rows that each see one interval: neighbours that see the same stay together, others go into blocks."""
    rows = len(start)
    change = np.flatnonzero((np.diff(start) != 0) | (np.diff(stop) != 0)) + 1
    if len(change) > rows // block:
        # A far jump of the start (another document) begins a block, so that no block straddles it.
        jumps = np.flatnonzero(np.diff(start) >= block // 2) + 1
        edges = [0, *jumps.tolist(), rows]
        change = np.concatenate([np.arange(one, other, block) for one, other in pairwise(edges)])[1:]
    cells: list[list[_Cell]] = []
    edges = [0, *change.tolist(), rows]
    for row, after in pairwise(edges):
        # Neither end falls from a row to the next.
        low, high, inner_low, inner_high = int(start[row]), int(stop[after - 1]), int(start[after - 1]), int(stop[row])
        cells.append([])
        for key, end, solid in _cut(low, high, inner_low, inner_high):
            columns = np.arange(key, end)
            pattern = None if solid else (columns >= start[row:after, None]) & (columns < stop[row:after, None])
            cells[-1].append(_Cell(row, after - row, key, end - key, pattern))
    return cells


def cut_runs(
    some_start: list[int], some_stop: list[int], every_start: list[int], every_stop: list[int]
) -> list[tuple[int, int, bool]]:
    """Cut the runs of a block, each by the longest run in it that every row may see."""
    inner = [(one, other) for one, other in zip(every_start, every_stop, strict=True) if one < other]
    found = []
    for low, high in zip(some_start, some_stop, strict=True):
        within = [(max(low, one), min(high, other)) for one, other in inner if max(low, one) < min(high, other)]
        found += _cut(low, high, *max(within, key=lambda run: run[1] - run[0], default=(high, low)))
    return found


def _cut(low: int, high: int, inner_low: int, inner_high: int) -> list[tuple[int, int, bool]]:
    """Cut a run [low, high) of which all rows see the inner one: start, stop, and whether all of it may meet."""
    if low >= high:
        return []
    if inner_low <= low and inner_high >= high:
        return [(low, high, True)]
    if inner_high - inner_low < WORTH_SPLITTING:
        return [(low, high, False)]
    parts = [(low, inner_low, False), (inner_low, inner_high, True), (inner_high, high, False)]
    return [part for part in parts if part[0] < part[1]]


def _join(lane: Lane, cells: list[list[_Cell]]) -> Iterator[Piece]:
    """Join neighbouring cells that are alike into pieces; the first cells of all rows come first."""
    for slot in range(max((len(here) for here in cells), default=0)):
        run: list[_Cell] = []
        for cell in (here[slot] for here in cells if slot < len(here)):
            if run and not _continues(run, cell):
                yield _piece(lane, run, slot == 0)
                run = []
            run.append(cell)
        if run:
            yield _piece(lane, run, slot == 0)


def _continues(run: list[_Cell], cell: _Cell) -> bool:
    last = run[-1]
    if (cell.row, cell.rows, cell.keys) != (last.row + last.rows, last.rows, last.keys) or cell.key < last.key:
        return False
    if len(run) > 1 and cell.key - last.key != last.key - run[-2].key:
        return False
    if cell.pattern is None or last.pattern is None:
        return cell.pattern is last.pattern
    return np.array_equal(cell.pattern, last.pattern)


def _piece(lane: Lane, run: list[_Cell], first: bool) -> Piece:
    cell, blocks = run[0], len(run)
    rows, step = cell.rows, run[1].key - cell.key if blocks > 1 else 0
    if cell.pattern is None:
        if step == 0:
            # The same keys for all of them: one long block.
            rows, blocks = rows * blocks, 1
        return Piece(lane, cell.row, rows, blocks, cell.key, cell.keys, step, None, None, first)
    open_ = torch.from_numpy(cell.pattern)
    tile = torch.zeros(open_.shape, device="cpu").masked_fill_(~open_, -torch.inf)
    blind = ~open_.any(-1)
    return Piece(lane, cell.row, rows, blocks, cell.key, cell.keys, step, tile, blind if blind.any() else None, first)
