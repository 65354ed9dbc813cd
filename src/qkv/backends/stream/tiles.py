"""The loops over bands, cuts and heads: what is asked of a tile, forward and backward."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from qkv.backends.stream.bands import TILE, Band, Bands, Cut
from qkv.backends.stream.learned import four, make_learnt, sum_learnt
from qkv.backends.stream.tile import Tile
from qkv.backends.threads import in_parallel
from qkv.core.dropout import threshold
from qkv.core.types import Bias, Grid, Mask
from qkv.positions.dense import DenseBias


@dataclass(frozen=True, eq=False)
class Task:
    """All that a call wants beside its query, key and value."""

    grid: Grid
    bands: Bands
    scale: float
    cap: float
    """0 for none."""
    bias: Bias | None
    mask: Mask | None
    rate: float
    streams: Int[Tensor, " lanes"] | None
    """Dropout's numbers for each batch row and head, if there is dropout."""

    @property
    def last_dropped(self) -> int:
        """The largest scrambled number whose pair is dropped; −1 if none is."""
        return threshold(self.rate) - 1

    @property
    def boost(self) -> float:
        """What the weights that are kept grow by."""
        return 1 / (1 - self.rate) if self.rate < 1 else 0.0


def forward(
    task: Task,
    query: Float[Tensor, "batch heads queries dim"],
    key: Float[Tensor, "batch heads keys dim"],
    value: Float[Tensor, "batch heads keys width"],
) -> tuple[
    Float[Tensor, "batch heads queries width"],
    Float[Tensor, "batch heads queries"],
    Float[Tensor, "batch heads queries"],
]:
    """Attend; also give each row's peak and Σ exp(score − peak)."""
    from qkv.backends.stream import numba

    output = _zeros_laid_as(query, value.shape[-1])
    peak = query.new_full(query.shape[:-1], -torch.inf)
    total = query.new_zeros(query.shape[:-1])
    flat = [x.flatten(0, 1).numpy() for x in (peak, total)]

    def run(tiles: "_Tiles") -> None:
        for band, cut in tiles.cuts():
            for tile in tiles.heads(band, cut):
                high = tile.scores.amax(-1)
                numba.weigh(tile.scores.numpy(), high.numpy(), *flat, tiles.streams, *tile.place, task.last_dropped)
                into, values = tile.rows(output), tile.keys(value)
                if tile.first:
                    torch.bmm(tile.scores, values, out=into)
                else:
                    into.mul_(high[..., None]).baddbmm_(tile.scores, values)

    _in_parts(task, run, query, key)
    output.mul_(torch.where(total != 0, task.boost / total, 0)[..., None])
    return output, peak, total


def backward(
    task: Task,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    peak: Tensor,
    total: Tensor,
    above: Float[Tensor, "batch heads queries width"],
    above_rest: Float[Tensor, "batch heads queries"],
    held: list[Tensor],
) -> tuple[Tensor, ...]:
    """Give the gradients of query, key and value, and of what the bias holds, from those of output and log total."""
    from qkv.backends.stream import numba

    above = features_together(above)
    delta = (above * output).sum(-1).sub_(above_rest)
    share = torch.where(total != 0, 1 / total, 0)
    peak = torch.where(peak != -torch.inf, peak, 0)
    flat = [x.flatten(0, 1).numpy() for x in (peak, share, delta)]
    parts = _parts(task)
    by_query = torch.zeros_like(query)
    # Keys meet the bands of every part; what a part gives them is added up afterwards, in order.
    by_key = [torch.zeros_like(key) for _ in range(parts)]
    by_value = [torch.zeros_like(value) for _ in range(parts)]
    learnt = make_learnt(task.bias, held, task.grid, query.dtype, parts)

    def run(tiles: "_Tiles") -> None:
        mine = learnt[tiles.part] if held else None
        for band, cut in tiles.cuts():
            for tile in tiles.heads(band, cut):
                slope = tiles.slope[: tile.scores.numel()].view(tile.scores.shape)
                aboves = tile.rows(above)
                torch.bmm(aboves, tile.keys(value).mT, out=slope)
                place = (tiles.streams, *tile.place, task.last_dropped, task.boost)
                numba.pull(tile.scores.numpy(), slope.numpy(), *flat, *place)
                if mine is not None:
                    mine.add(tile, cut, slope)
                if tile.bend is not None:
                    slope.mul_(tile.bend)
                tile.keys(by_value[tiles.part]).baddbmm_(tile.scores.mT, aboves)
                tile.rows(by_query).baddbmm_(slope, tile.keys(key), alpha=task.scale)
                tile.keys(by_key[tiles.part]).baddbmm_(slope.mT, tile.rows(query), alpha=task.scale)
            if mine is not None:
                mine.settle(band, cut)

    _in_parts(task, run, query, key, bend=True)
    return by_query, _sum(by_key), _sum(by_value), *sum_learnt(learnt)


def features_together(x: Float[Tensor, "batch heads positions dim"]) -> Float[Tensor, "batch heads positions dim"]:
    """Lay features side by side; whether heads or positions follow is all the same to a tile."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _zeros_laid_as(query: Float[Tensor, "batch heads queries dim"], width: int) -> Tensor:
    """Give zeros for an output: where a query's heads are side by side, who joins its heads next need not copy."""
    batch, heads, queries, _ = query.shape
    if query.stride(1) < query.stride(2):
        return query.new_zeros(batch, queries, heads, width).transpose(1, 2)
    return query.new_zeros(batch, heads, queries, width)


def _sum(parts: list[Tensor]) -> Tensor:
    whole = parts[0]
    for part in parts[1:]:
        whole += part
    return whole


def _parts(task: Task) -> int:
    return max(1, min(torch.get_num_threads(), len(task.bands.bands)))


def _in_parts(task: Task, run: Callable[["_Tiles"], None], query: Tensor, key: Tensor, bend: bool = False) -> None:
    """Share the bands among the threads, always in the same way."""
    parts = _parts(task)
    streams = (query.new_zeros(1) if task.streams is None else task.streams).numpy().astype("uint32")

    def work(part: int) -> None:
        threads = torch.get_num_threads()
        # Each part has a thread, so PyTorch's own products within it must not ask for more.
        torch.set_num_threads(1)
        try:
            with torch.no_grad():
                run(_Tiles(task, query, key, streams, part, parts, bend))
        finally:
            torch.set_num_threads(threads)

    in_parallel(work, parts)


class _Tiles:
    """One part's way through the bands, and its room for a tile."""

    def __init__(
        self, task: Task, query: Tensor, key: Tensor, streams: object, part: int, parts: int, bend: bool
    ) -> None:
        self.task, self.query, self.key, self.streams, self.part, self.parts = task, query, key, streams, part, parts
        self.scores, self.slope, self.bend = (query.new_empty(TILE), query.new_empty(TILE * bend), None)
        if bend and task.cap:
            self.bend = query.new_empty(TILE)
        self.lead = (query.shape[0], query.shape[1])

    def cuts(self) -> Iterator[tuple[Band, Cut]]:
        """Go through this part's bands, each by its cuts."""
        for band in self.task.bands.bands[self.part :: self.parts]:
            self.begun: set[tuple[int, int]] = set()
            for cut in band.cuts:
                yield band, cut

    def heads(self, band: Band, cut: Cut) -> Iterator[Tile]:
        """Score a cut, some heads at a time."""
        task = self.task
        shared, shown = self._shared(band, cut)
        batch_rows, all_heads = self.lead
        for batch in range(batch_rows):
            head = 0
            while head < all_heads:
                start, stop = band.within(cut, batch, head)
                size = (band.stop - band.start) * max(1, stop - start)
                heads = min(all_heads - head, max(1, TILE // size)) if task.bands.alike else 1
                if start < stop:
                    yield self._score(band, cut, batch, head, heads, start, stop, shared, shown)
                head += heads

    def _score(
        self,
        band: Band,
        cut: Cut,
        batch: int,
        head: int,
        heads: int,
        start: int,
        stop: int,
        shared: Tensor | None,
        shown: "_Shown | None",
    ) -> Tile:
        task, shape = self.task, (heads, band.stop - band.start, stop - start)
        scores = self.scores[: math.prod(shape)].view(shape)
        bend = None if self.bend is None else self.bend[: scores.numel()].view(shape)
        first = (batch, head) not in self.begun
        # Another cut's width may begin its groups at other heads.
        self.begun.update((batch, each) for each in range(head, head + heads))
        tile = Tile(scores, bend, batch, head, band, start, stop, self.lead[1], first)
        scale = task.scale / task.cap if task.cap else task.scale
        torch.baddbmm(scores, tile.rows(self.query), tile.keys(self.key).mT, beta=0, alpha=scale, out=scores)
        if task.cap:
            scores.tanh_()
            if bend is not None:
                torch.mul(scores, scores, out=bend)
                bend.neg_().add_(1)
            scores.mul_(task.cap)
        if shared is not None:
            scores.add_(tile.of(shared, cut))
        if shown is not None:
            shown.hide_others(tile, cut)
        return tile

    def _shared(self, band: Band, cut: Cut) -> "tuple[Tensor | None, _Shown | None]":
        """Ask bias and mask for a cut, the bias as [batch or 1, heads or 1, rows, columns]."""
        task = self.task
        rows, columns = band.places(cut)
        shared = None if task.bias is None else four(_bias_tile(task.bias, rows, columns, task.grid), task.grid)
        if task.mask is None or cut.solid:
            return shared, None
        return shared, _Shown(four(task.mask.tile(rows, columns, task.grid), task.grid), cut)


class _Shown:
    """What a mask shows of a cut. Most show each row one run of keys: its ends are quicker to go by than its pairs."""

    def __init__(self, seen: Bool[Tensor, "batch heads rows columns"], cut: Cut) -> None:
        from qkv.backends.stream import numba

        self.seen = seen
        self.begin, self.end = (torch.empty(seen.shape[:-1], dtype=torch.int32) for _ in range(2))
        flat = (x.flatten(0, 1).numpy() for x in (seen.contiguous(), self.begin, self.end))
        self.are_runs = numba.find_ends(next(flat), cut.start, *flat)

    def hide_others(self, tile: Tile, cut: Cut) -> None:
        """Set the tile's other scores to −inf."""
        from qkv.backends.stream import numba

        if not self.are_runs:
            tile.scores.masked_fill_(~tile.of(self.seen, cut), -torch.inf)
            return
        batch = tile.batch if self.seen.shape[0] > 1 else 0
        heads = slice(tile.head, tile.head + tile.scores.shape[0]) if self.seen.shape[1] > 1 else slice(0, 1)
        numba.hide(tile.scores.numpy(), tile.start, *(side[batch, heads].numpy() for side in (self.begin, self.end)))


def _bias_tile(bias: Bias, rows: Tensor, columns: Tensor, grid: Grid) -> Tensor:
    if isinstance(bias, DenseBias):
        # A view, where picking would copy.
        tensor = bias.tensor.expand(*bias.tensor.shape[:-2], grid.queries, grid.keys)
        return tensor[..., rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return bias.tile(rows, columns, grid)
