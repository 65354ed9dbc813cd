"""A map too large to look at whole, zoomed like a street map: tiles of 256 × 256 pixels at levels of detail.

At level n a pixel stands for 2ⁿ × 2ⁿ pairs; level 0 is the weights themselves. A tile is computed when it is looked at,
and no more than one picture of `BASE` pixels is kept, from which all coarser levels follow.

A coarse tile needs all its queries at all keys. Until `steps` has been through them, a tile is computed from some of
its queries, exactly, and says how many: `Tile.read`.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from qkv.core.checks import check_whole
from qkv.core.map import AttentionMap
from qkv.errors import ArgumentError, ShapeError, must

SIDE = 256
"""Pixels of a tile's side."""

BASE = 1 << 22
"""Pixels of the picture that is kept: two numbers each, 32 MiB."""

PAIRS = 1 << 24
"""Pairs that a tile may score at once; what needs more is first read from some of its queries, half as many."""

ROWS = 16
"""Queries that are read at once for a preview."""

PREVIEWS = 4
"""Rows of tiles, read from some of their queries, that are kept until all have been read."""

PEAK_ROWS = 64
"""Queries, evenly spread, whose highest weights say where the shades end."""

SMALL = 64
"""Pixels of the side of a map that stands among those of all heads."""

HEADER = struct.Struct("<HHfff")
"""How a tile's bytes begin: its rows and columns, the steps of the two planes, and the share of queries read."""


@dataclass(frozen=True, eq=False)
class Tile:
    """A part of a map at some level: the mean and the highest weight under each pixel.

    `read` is the share of the queries that it was computed from: 1 if it is exact.
    """

    mean: Float[Tensor, "rows columns"]
    most: Float[Tensor, "rows columns"]
    read: float = 1.0

    def packed(self) -> bytes:
        """Write the tile as HEADER and two planes of 16-bit numbers, weight = step × number.

        A pixel is wrong by at most 1/131,070 of the plane's highest.
        """
        planes, steps = [], []
        for plane in (self.mean, self.most):
            step = float(plane.max()) / 65535 or 1.0
            steps.append(step)
            planes.append((plane / step).round().clamp(0, 65535).numpy().astype("<u2").tobytes())
        return HEADER.pack(*self.mean.shape, *steps, self.read) + b"".join(planes)

    @staticmethod
    def unpacked(content: bytes) -> "Tile":
        """Read what `packed` wrote."""
        rows, columns, *steps, read = HEADER.unpack_from(content)
        planes = np.frombuffer(content, "<u2", offset=HEADER.size).reshape(2, rows, columns).astype(np.float32)
        mean, most = (torch.from_numpy(plane * np.float32(step)) for plane, step in zip(planes, steps, strict=True))
        return Tile(mean, most, read)


class Pyramid:
    """The tiles of one head of one example.

    Cost: 8 bytes for each of at most BASE pixels, and as much for previews. A tile O(BASE) time, or
    O(PAIRS·dim) before its queries were read;
    all of `steps` O(queries·keys·dim).
    Raises: ShapeError unless the map holds one head of one example, and a pair.
    """

    def __init__(self, seen: AttentionMap) -> None:
        *lead, self.queries, self.keys = seen.shape
        if any(size != 1 for size in lead) or not self.queries or not self.keys:
            rule, fix = "hold one head of one example, and a pair", "map.example(0).head(3)"
            raise ShapeError(must("Pyramid", "the map", rule, list(seen.shape), fix))
        self.seen = seen
        self.levels = 1 + next(n for n in range(64) if max(self.queries, self.keys) <= SIDE << n)
        self.base = next(n for n in range(64) if -(-self.queries >> n) * -(-self.keys >> n) <= BASE)
        self.pairs = PAIRS // max(1, seen.pair.held)
        self.read = 0
        """How many queries have been read, from the first."""
        self._total: Tensor | None = None
        self._most: Tensor | None = None
        self._previews: dict[tuple[int, int], tuple[Tensor, Tensor, float]] = {}
        if seen.select.by_chance:
            # What chance chose must not change between a preview and the rest.
            seen.entropy()

    @property
    def done(self) -> bool:
        """Whether every query has been read, so that every tile is exact."""
        return self.read == self.queries

    @property
    def bytes(self) -> int:
        """What is kept beside the map."""
        kept = [
            self._total,
            self._most,
            *(plane for mean, most, _ in self._previews.values() for plane in (mean, most)),
        ]
        return sum(plane.nbytes for plane in kept if plane is not None)

    def shape(self, level: int) -> tuple[int, int]:
        """How many pixels a level is high and wide."""
        return _boxes(self.queries, level), _boxes(self.keys, level)

    def steps(self) -> Iterator[None]:
        """Read all queries, some at each step: once this has ended, every tile is exact."""
        height, width = self.shape(self.base)
        total, most = torch.zeros(height, width), torch.zeros(height, width)
        self._total, self._most, self.read = total, most, 0
        side, blocks = 1 << self.base, self.seen.blocks()
        while True:
            with torch.no_grad():
                block = next(blocks, None)
                if block is None:
                    break
                rows, columns, weights, _ = block
                weights = weights.flatten(0, -3)[0].float()
                start = int(rows[0])
                for part in weights.split(_cuts(start, len(rows), side)):
                    box = start // side
                    summed = _spread(part.sum(0), columns, self.keys)
                    highest = _spread(part.amax(0), columns, self.keys)
                    total[box] += _across(summed, side, torch.sum).cpu()
                    torch.maximum(most[box], _across(highest, side, torch.amax).cpu(), out=most[box])
                    start += len(part)
                self.read = start
            yield
        self._previews.clear()

    @torch.no_grad()
    def tile(self, level: int, row: int, column: int) -> Tile:
        """Compute the tile at a row and a column of tiles.

        Raises: KindError, ArgumentError if there is no such tile.
        """
        check_whole("Pyramid.tile", "level", level, 0)
        if level >= self.levels:
            raise ArgumentError(must("Pyramid.tile", "level", f"lie in 0..{self.levels - 1}", level))
        for name, at, size in zip(("row", "column"), (row, column), self.shape(level), strict=True):
            check_whole("Pyramid.tile", name, at, 0)
            if at >= _tiles(size):
                raise ArgumentError(must("Pyramid.tile", name, f"lie in 0..{_tiles(size) - 1}", at, f"level {level}"))
        span = SIDE << level
        first, after = row * span, min(self.queries, (row + 1) * span)
        left, right = column * span, min(self.keys, (column + 1) * span)
        if level >= self.base and self.read >= after:
            return self._coarse(level, row, column)
        if self.done or (after - first) * self.keys <= self.pairs:
            return _pool(self._weights(slice(first, after), slice(left, right)), level)
        mean, most, read = self._preview(level, row)
        columns = slice(column * SIDE, (column + 1) * SIDE)
        return Tile(mean[:, columns], most[:, columns], read)

    def _weights(self, rows: slice, columns: slice) -> Float[Tensor, "rows columns"]:
        return self.seen[..., rows, columns].flatten(0, -3)[0].float().cpu()

    def _pooled(self, rows: Tensor, side: int) -> tuple[Tensor, Tensor]:
        """Sum the weights of rows, and find the highest, for every `side` keys; few rows at once stay in the cache."""
        weights = self.seen.rows(rows.to(self.seen.grid.device)).flatten(0, -3)[0].float()
        return _across(weights, side, torch.sum).cpu(), _across(weights, side, torch.amax).cpu()

    def _coarse(self, level: int, row: int, column: int) -> Tile:
        """Join the pixels of the picture that is kept."""
        assert self._total is not None and self._most is not None
        down = level - self.base
        span = SIDE << down
        part = (slice(row * span, (row + 1) * span), slice(column * span, (column + 1) * span))
        total = _squeeze(self._total[part], 1 << down, torch.sum)
        most = _squeeze(self._most[part], 1 << down, torch.amax)
        high = _counts(self.queries, level, row)[:, None]
        return Tile(total / (high * _counts(self.keys, level, column)), most)

    def _preview(self, level: int, row: int) -> tuple[Tensor, Tensor, float]:
        """Pool some queries of each pixel's, as many as may be, for a whole row of tiles."""
        if (level, row) not in self._previews:
            span, side = SIDE << level, 1 << level
            first, after = row * span, min(self.queries, (row + 1) * span)
            boxes = _boxes(after - first, level)
            some = side
            while some > 1 and boxes * some * self.keys > self.pairs // 2:
                some //= 2
            stride = side // some
            # The last box may be lower than the others: its last query stands for what it lacks.
            picked = (torch.arange(boxes * some) * stride + first + stride // 2).clamp(max=after - 1)
            parts = [self._pooled(rows, side) for rows in picked.split(ROWS)]
            total, highest = (torch.cat(part).unflatten(0, (boxes, some)) for part in zip(*parts, strict=True))
            wide = torch.cat([_counts(self.keys, level, at) for at in range(_tiles(_boxes(self.keys, level)))])
            mean, most = total.mean(1) / wide, highest.amax(1)
            while len(self._previews) >= PREVIEWS:
                del self._previews[next(iter(self._previews))]
            self._previews[level, row] = mean, most, some / side
        return self._previews[level, row]


@torch.no_grad()
def small(seen: AttentionMap, side: int = SMALL) -> Tile:
    """Make a head's map small, at most `side` × `side` pixels: each row is one of its queries, pooled over the keys.

    Cost: O(side·keys·dim) time, whatever the number of queries.
    Raises: ShapeError unless the map holds one head of one example, and a pair.
    """
    whole = Pyramid(seen)
    count, span = min(side, whole.queries), max(1, -(-whole.keys // side))
    rows = (torch.arange(count) * whole.queries + whole.queries // 2) // count
    total, most = whole._pooled(rows, span)
    wide = (whole.keys - torch.arange(total.shape[1]) * span).clamp(max=span)
    return Tile(total / wide, most, count / whole.queries)


@torch.no_grad()
def peak_of(seen: AttentionMap) -> float:
    """Find the mean of some queries' highest weights: shades end there."""
    stride = max(1, seen.grid.queries // PEAK_ROWS)
    highest = seen[..., stride // 2 :: stride, :].amax(-1)
    alive = highest[highest > 0]
    return float(alive.mean()) if alive.numel() else 1.0


def _boxes(size: int, level: int) -> int:
    return -(-size >> level)


def _tiles(pixels: int) -> int:
    return -(-pixels // SIDE)


def _counts(size: int, level: int, tile: int) -> Float[Tensor, " pixels"]:
    """How many queries, or keys, each pixel of a tile stands for: the last may stand for fewer."""
    starts = torch.arange(tile * SIDE, min((tile + 1) * SIDE, _boxes(size, level))) << level
    return (size - starts).clamp(max=1 << level).float()


def _cuts(start: int, count: int, side: int) -> list[int]:
    """Cut rows where a box ends."""
    ends = [*range(start // side * side + side, start + count, side), start + count]
    return [end - begin for begin, end in zip([start, *ends], ends, strict=False)]


def _spread(part: Tensor, columns: slice | Tensor, keys: int) -> Float[Tensor, " keys"]:
    if part.shape[-1] == keys:
        return part
    whole = part.new_zeros(keys)
    whole[columns] = part
    return whole


def _across(part: Float[Tensor, "*rows columns"], side: int, reduce) -> Float[Tensor, "*rows boxes"]:  # type: ignore[no-untyped-def]
    """Join `side` columns to one; what the last lacks counts as 0."""
    if side == 1:
        return part
    part = torch.nn.functional.pad(part, (0, -part.shape[-1] % side))
    return reduce(part.unflatten(-1, (-1, side)), -1)


def _squeeze(part: Float[Tensor, "rows columns"], side: int, reduce) -> Float[Tensor, "boxes boxes2"]:  # type: ignore[no-untyped-def]
    """Join side × side pixels to one, rows first: that is the cheaper way round."""
    if side == 1:
        return part
    part = torch.nn.functional.pad(part, (0, 0, 0, -part.shape[0] % side))
    return _across(reduce(part.unflatten(0, (-1, side)), 1), side, reduce)


def _pool(weights: Float[Tensor, "rows columns"], level: int) -> Tile:
    if not level:
        return Tile(weights, weights)
    side = 1 << level
    rows, columns = weights.shape
    high, wide = ((size - torch.arange(0, size, side)).clamp(max=side).float() for size in (rows, columns))
    mean = _squeeze(weights, side, torch.sum) / (high[:, None] * wide)
    return Tile(mean, _squeeze(weights, side, torch.amax))
