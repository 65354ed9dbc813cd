"""The attention map: every weight of a call, computed when asked for, never stored."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from qkv.core.call import Call, exact
from qkv.core.checks import are_concrete, check_indices, check_whole
from qkv.core.reference import hide_rows, score_tile, visible
from qkv.core.runs import Runs
from qkv.core.types import Grid, Mask, Pair, Selection, Summary, Tiles, wide
from qkv.errors import ArgumentError, KindError, ShapeError, must

TILE_NUMBERS = 1 << 19
"""Scores held at once while streaming: 2 MiB of float32, and a few temporaries of that size beside it."""

BLOCK = 128
"""Rows for which the mask is asked together what they see: they score whatever one of them does."""

Columns: TypeAlias = slice | Tensor
"""Some keys, in order: an interval of them, or their indices."""

DENSE_BYTES = 1 << 30
"""What `dense()` may take unless told otherwise."""


@dataclass(frozen=True, eq=False)
class Statistics:
    """What `AttentionMap.statistics` answers; entropy and received attention are differentiable."""

    top_weights: Float[Tensor, "*batch heads queries top"]
    top_keys: Int[Tensor, "*batch heads queries top"]
    entropy: Float[Tensor, "*batch heads queries"]
    received: Float[Tensor, "*batch heads keys"]


@dataclass(eq=False)
class AttentionMap:
    """The weights [*batch, heads, queries, keys] of a call, before dropout.

    Keeps the prepared query and key and a few numbers a row, never queries × keys. Whatever is asked is computed in
    tiles, of the keys that some row of the tile may see. All but `top_keys` and `pooled` is differentiable when the
    inputs require gradients. Indexing gives a tile: `map[0, 3, :5, 10:20]`.

    Cost: O((queries + keys)·dim) memory; each question O(queries·keys·dim) time, or less where it needs less or, on
    the CPU, where the mask hides keys from whole blocks of queries.
    """

    query: Float[Tensor, "*batch heads queries dim"]
    key: Float[Tensor, "*batch key_heads keys dim"]
    pair: Pair
    bias: Tiles | None
    mask: "Mask | _NarrowedMask | None"
    select: Selection
    grid: Grid
    kept: Summary | None = None
    made_of: tuple[tuple[Tensor, int], ...] = ()
    """The tensors that it refers to, with their versions: one changed in place would make the answers nonsense."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of all weights: (*batch, heads, queries, keys)."""
        return (*self.grid.batch, self.grid.heads, self.grid.queries, self.grid.keys)

    def __repr__(self) -> str:
        shape = " × ".join(str(size) for size in self.shape)
        return f"AttentionMap({shape}, {self.select})"

    # What can be asked

    def dense(self, *, limit: int = DENSE_BYTES) -> Float[Tensor, "*batch heads queries keys"]:
        """Compute every weight.

        Cost: O(queries·keys) memory for each head.
        Raises: ArgumentError if that would take more than `limit` bytes.
        """
        self._check_size("AttentionMap.dense", self.grid.queries, self.grid.keys, limit)
        whole = (_spread(weights, columns, self.grid.keys) for _, columns, weights, _ in self.blocks())
        return _join(whole, -2, self.grid.queries)

    def scores(self, *, limit: int = DENSE_BYTES) -> Float[Tensor, "*batch heads queries keys"]:
        """Compute every score as the selection sees it: capped, biased, −inf where the mask hides a pair.

        Cost: O(queries·keys) memory for each head.
        Raises: ArgumentError if that would take more than `limit` bytes.
        """
        self._check_size("AttentionMap.scores", self.grid.queries, self.grid.keys, limit)
        return _join((self._scores(rows) for rows in self._split_rows(self.grid.rows())), -2, self.grid.queries)

    def statistics(self, k: int) -> "Statistics":
        """Answer `top_keys(k)`, `entropy()` and `received()` together, scoring each pair once.

        Raises: as `top_keys`.
        """
        self._check_top("AttentionMap.statistics", k)
        heaviest, where = self._no_keys(k)
        received = self._no_weight()

        def entropies() -> Iterator[Tensor]:
            nonlocal received
            for rows, columns, weights, _ in self.blocks():
                heaviest[..., rows, :], where[..., rows, :] = self._top(weights.detach(), columns, k)
                received = received + _spread(weights.sum(-2), columns, self.grid.keys)
                yield _entropy(weights)

        entropy = _join(entropies(), -1, self.grid.queries)
        return Statistics(heaviest, where, entropy, received)

    def row(self, query: int) -> Float[Tensor, "*batch heads keys"]:
        """Compute the weights of one query; a negative number counts from the last. Cost: O(keys·dim)."""
        index = _index("AttentionMap.row", "query", query, self.grid.queries)
        if self.select.by_chance:
            self._settle()
        return self._rows(torch.tensor([index], device=self.grid.device))[0].squeeze(-2)

    def rows(self, queries: Int[Tensor, " rows"]) -> Float[Tensor, "*batch heads rows keys"]:
        """Compute the weights of some queries, numbered from 0. Cost: O(rows·keys·dim) time, O(rows·keys) memory."""
        check_indices("AttentionMap.rows", "queries", queries, self.grid.queries)
        if self.select.by_chance:
            self._settle()
        return self._rows(queries)[0]

    def entropy(self) -> Float[Tensor, "*batch heads queries"]:
        """Compute each row's entropy in nats, of its weights scaled to sum 1; 0 for a row without a key."""
        return _join((_entropy(weights) for _, _, weights, _ in self.blocks()), -1, self.grid.queries)

    def received(self) -> Float[Tensor, "*batch heads keys"]:
        """Sum the attention that each key receives from all queries."""
        total = self._no_weight()
        for _, columns, weights, _ in self.blocks():
            total = total + _spread(weights.sum(-2), columns, self.grid.keys)
        return total

    def logsumexp(self) -> Float[Tensor, "*batch heads queries"]:
        """Give log Σ exp(score) of each row, −inf for a row without a key: what `merge_attention` wants.

        Raises: UnsupportedError if the selection is not softmax.
        """
        levels = (self.select.logsumexp(summary) for _, _, _, summary in self.blocks())
        return _join(levels, -1, self.grid.queries)

    def top_keys(
        self, k: int
    ) -> tuple[Float[Tensor, "*batch heads queries {k}"], Int[Tensor, "*batch heads queries {k}"]]:
        """Find the k heaviest keys of every query, heaviest first: their weights and their indices.

        Raises: KindError, ArgumentError if k is not an integer in 1..keys.
        """
        self._check_top("AttentionMap.top_keys", k)
        heaviest, where = self._no_keys(k)
        # Not a decorator: torch.compile cannot trace one on a method.
        with torch.no_grad():
            for rows, columns, weights, _ in self.blocks():
                heaviest[..., rows, :], where[..., rows, :] = self._top(weights, columns, k)
        return heaviest, where

    def pooled(
        self, height: int, width: int, *, reduce: Callable[..., Tensor] = torch.mean
    ) -> Float[Tensor, "*batch heads {height} {width}"]:
        """Shrink the map to a picture: the mean or the maximum of the weights in each of height × width boxes.

        The boxes are as equal as whole numbers allow and do not overlap.

        Raises: ArgumentError unless 1 <= height <= queries, 1 <= width <= keys and reduce is torch.mean or torch.amax.
        """
        for name, size, most in (("height", height, self.grid.queries), ("width", width, self.grid.keys)):
            check_whole("AttentionMap.pooled", name, size, 1)
            if size > most:
                raise ArgumentError(must("AttentionMap.pooled", name, f"be <= {most}", size))
        if reduce not in (torch.mean, torch.amax):
            got = getattr(reduce, "__name__", repr(reduce))
            raise ArgumentError(must("AttentionMap.pooled", "reduce", "be torch.mean or torch.amax", got))
        how = "sum" if reduce is torch.mean else "amax"
        box_row = self.grid.rows() * height // self.grid.queries
        box_column = self.grid.columns() * width // self.grid.keys
        picture = torch.zeros(*self.shape[:-2], height, width, dtype=wide(self.query.dtype), device=self.grid.device)
        with torch.no_grad():
            for rows, columns, weights, _ in self.blocks():
                across = weights.new_zeros(*weights.shape[:-1], width)
                across.scatter_reduce_(-1, box_column[columns].expand_as(weights), weights, how)
                picture.scatter_reduce_(-2, box_row[rows][:, None].expand_as(across), across, how)
        if reduce is torch.mean:
            picture /= box_row.bincount(minlength=height)[:, None] * box_column.bincount(minlength=width)
        return picture

    def head(self, head: int) -> "AttentionMap":
        """Narrow the map to one head, which stays as a dimension of 1."""
        index = _index("AttentionMap.head", "head", head, self.grid.heads)
        group = self.grid.heads // self.key.shape[-3]
        key = self.key.narrow(-3, index // group, 1)
        kept = None if self.kept is None else tuple(part.narrow(-2, index, 1) for part in self.kept)
        return self._narrow(-3, index, replace(self.grid, heads=1), key, self.select.head(index), kept)

    def example(self, example: int) -> "AttentionMap":
        """Narrow the map to one example of the first batch dimension, which stays as a dimension of 1."""
        if not self.grid.batch:
            raise ShapeError(must("AttentionMap.example", "the map", "have a batch", list(self.shape)))
        index = _index("AttentionMap.example", "example", example, self.grid.batch[0])
        dim = -3 - len(self.grid.batch)
        key = self.key.narrow(dim, index, 1)
        kept = None if self.kept is None else tuple(part.narrow(dim + 1, index, 1) for part in self.kept)
        return self._narrow(dim, index, replace(self.grid, batch=(1, *self.grid.batch[1:])), key, self.select, kept)

    def __getitem__(self, index: object) -> Tensor:
        lead, rows, columns = self._split(index)
        if self.select.by_chance:
            self._settle()
        seen = self
        if lead and isinstance(lead[-1], int):
            seen, lead = seen.head(lead[-1]), (*lead[:-1], 0)
        if len(lead) > 1 and isinstance(lead[0], int):
            seen, lead = seen.example(lead[0]), (0, *lead[1:])
        picked, across = self.grid.rows()[rows], self.grid.columns()[columns]
        seen._check_size("AttentionMap[…]", picked.numel(), across.numel(), DENSE_BYTES)
        weights = seen._tile(picked.reshape(-1), across.reshape(-1))
        return weights.reshape(*weights.shape[:-2], *picked.shape, *across.shape)[lead]

    # How it is computed

    def _check_unchanged(self) -> None:
        if any(tensor._version != version for tensor, version in self.made_of):
            rule, fix = "be as they were when the map was made", "ask before the optimiser steps, or copy what changes"
            raise ArgumentError(must("AttentionMap", "its tensors", rule, "one changed in place", fix))

    def __getstate__(self) -> dict[str, Any]:
        self._check_unchanged()
        return dict(vars(self))

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A copy's tensors, and those read from a file, count their changes anew.
        versions = tuple((tensor, tensor._version) for tensor, _ in state["made_of"])
        vars(self).update(state | {"made_of": versions})

    def _scores(self, rows: Tensor, columns: Columns = slice(None)) -> Float[Tensor, "*batch heads rows columns"]:
        """Score some rows against some columns, or all."""
        self._check_unchanged()
        query = self.query.index_select(-2, rows)
        key = self.key[..., columns, :] if isinstance(columns, slice) else self.key.index_select(-2, columns)
        across = self.grid.columns()[columns]
        with exact(self.grid.device):
            bias = None if self.bias is None else self.bias.tile(rows, across, self.grid)
            seen = visible(self.mask, bias, rows, across, self.grid)
            return score_tile(self.pair, query, key, bias, seen)

    def _rows(
        self, rows: Tensor, columns: Columns = slice(None)
    ) -> tuple[Float[Tensor, "*batch heads rows columns"], Summary]:
        """Weigh rows at all columns, or at those that hold whatever the rows may see; also give their summary."""
        scores, across = self._scores(rows, columns), self.grid.columns()[columns]
        if self.kept is None:
            return self.select.read(scores, across)
        summary = tuple(part.index_select(-1, rows) for part in self.kept)
        if torch.is_grad_enabled():
            summary = self.select.refresh(scores, summary)
        return self.select.weights(scores, summary, across), summary

    def _tile(self, rows: Tensor, columns: Tensor) -> Float[Tensor, "*batch heads rows columns"]:
        """Weigh some rows at some columns: by their kept summary, or reading them whole where a gradient needs that."""
        if self.kept is None or (torch.is_grad_enabled() and self._rows(rows[:1])[0].requires_grad):
            parts = (self._rows(some)[0][..., columns] for some in self._split_rows(rows))
        else:
            kept = self.kept
            parts = (
                self.select.weights(
                    self._scores(some, columns), tuple(part.index_select(-1, some) for part in kept), columns
                )
                for some in self._split_rows(rows)
            )
        return _join(parts, -2, rows.shape[0])

    def blocks(self) -> Iterator[tuple[Tensor, Columns, Tensor, Summary]]:
        """Go through all rows, a block at a time: their indices, columns, weights there and summary, which is kept."""
        kept: Summary = ()
        for rows, columns in meetings(self.mask, self.query, self.grid, self.pair.held):
            weights, summary = self._rows(rows, columns)
            kept = kept or tuple(part.new_empty(self.shape[:-1]) for part in summary)
            for whole, part in zip(kept, summary, strict=True):
                whole[..., rows] = part.detach()
            yield rows, columns, weights, summary
        if self.kept is None and self.select.keeps:
            self.kept = kept

    def _split_rows(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Split rows into blocks that one tile can hold, of all keys."""
        return _split_rows(rows, _product(self.shape[:-2]) * self.grid.keys * self.pair.held)

    def _settle(self) -> None:
        """Draw what is drawn by chance, once."""
        if self.kept is None:
            with torch.no_grad():
                for _ in self.blocks():
                    pass

    def _narrow(
        self, dim: int, index: int, grid: Grid, key: Tensor, select: Selection, kept: Summary | None
    ) -> "AttentionMap":
        """Narrow the query, and see bias and mask through a window on that dimension."""
        bias = None if self.bias is None else _Narrowed(self.bias, self.grid, dim, index)
        mask = None if self.mask is None else _NarrowedMask(self.mask, self.grid, dim, index)
        query = self.query.narrow(dim, index, 1)
        return AttentionMap(query, key, self.pair, bias, mask, select, grid, kept, self.made_of)

    def _split(self, index: object) -> tuple[tuple, int | slice, int | slice]:
        """Read an index as one for the leading dimensions, one for the rows and one for the columns."""
        given = index if isinstance(index, tuple) else (index,)
        if sum(one is Ellipsis for one in given) > 1 or not all(
            one is Ellipsis
            or (isinstance(one, slice) and (one.step is None or one.step > 0))
            or (isinstance(one, int) and not isinstance(one, bool))
            for one in given
        ):
            rule = "be integers, slices that step forwards and at most one ..."
            raise KindError(must("AttentionMap[…]", "the index", rule, index, "others: map.dense()[index]"))
        short = len(self.shape) - sum(one is not Ellipsis for one in given)
        if short < 0:
            raise ShapeError(must("AttentionMap[…]", "the index", f"have at most {len(self.shape)} parts", len(given)))
        at = given.index(Ellipsis) if Ellipsis in given else len(given)
        full = (*given[:at], *[slice(None)] * short, *given[at + 1 :])
        for one, size in zip(full, self.shape, strict=True):
            if isinstance(one, int):
                _index("AttentionMap[…]", "the index", one, size)
        return full[:-2], full[-2], full[-1]

    def _no_weight(self) -> Float[Tensor, "*batch heads keys"]:
        shape = (*self.shape[:-2], self.grid.keys)
        return torch.zeros(shape, dtype=wide(self.query.dtype), device=self.grid.device)

    def _no_keys(self, k: int) -> tuple[Tensor, Tensor]:
        """Make room for k weights and indices a row."""
        shape, device = (*self.shape[:-1], k), self.grid.device
        return (
            torch.empty(shape, dtype=wide(self.query.dtype), device=device),
            torch.empty(shape, dtype=torch.long, device=device),
        )

    def _top(self, weights: Tensor, columns: Columns, k: int) -> tuple[Tensor, Tensor]:
        """Find the k heaviest keys of rows that are weighed at some columns; keys of weight 0 fill up what is short."""
        if weights.shape[-1] < k:
            weights, columns = _spread(weights, columns, self.grid.keys), slice(None)
        heaviest, place = weights.topk(k, dim=-1)
        return heaviest, self.grid.columns()[columns][place]

    def _check_top(self, function: str, k: int) -> None:
        check_whole(function, "k", k, 1)
        if k > self.grid.keys:
            raise ArgumentError(must(function, "k", f"be <= {self.grid.keys}", k, "that many keys"))

    def _check_size(self, function: str, rows: int, columns: int, limit: int) -> None:
        bytes_ = _product(self.shape[:-2]) * rows * columns * wide(self.query.dtype).itemsize
        if bytes_ > limit:
            fix = "ask for less: map[..., :64, :64], map.row(i), map.pooled(512, 512), map.head(0)"
            method = function.rpartition(".")[2]
            fix = f"{method}(limit={bytes_}), or {fix}" if method in ("dense", "scores") else fix
            raise ArgumentError(must(function, "the weights", f"fit in {limit:,} bytes", f"{bytes_:,}", fix))


def make_map(call: Call, kept: Summary | None = None) -> AttentionMap:
    """Make the map of a call; `kept` is the summary of its rows, where something has computed it already."""
    sees, shown = reach(call)
    query, key = call.query, call.key
    if sees is not None and shown is not None:
        query, key, _ = hide_rows(query, key, key, sees, shown)
    query, key = call.score.prepare(query, key)
    kept = tuple(part.detach() for part in kept) if kept is not None and call.select.keeps else None
    parts = (query, key, call.pair, call.bias, call.mask, call.select)
    versions = tuple((tensor, tensor._version) for part in parts for tensor in tensors_of(part))
    return AttentionMap(query, key, call.pair, call.bias, call.mask, call.select, call.grid, kept, versions)


def tensors_of(part: object) -> Iterator[Tensor]:
    """Find the tensors that a part holds and whose changes PyTorch counts: not those of inference mode."""
    if isinstance(part, Tensor) and type(part) in (Tensor, nn.Parameter):
        if not (torch.compiler.is_compiling() or part.is_inference()):
            yield part
    elif isinstance(part, nn.Module):
        for held in (*part.parameters(), *part.buffers()):
            yield from tensors_of(held)
    else:
        for held in getattr(part, "__dict__", {}).values():
            yield from tensors_of(held)


@torch.no_grad()
def reach(call: Call) -> tuple[Tensor | None, Tensor | None]:
    """Say which queries see some key and which keys some query sees, a block of queries at a time."""
    if call.mask is None and call.bias is None:
        return None, None
    grid, sees, shown = call.grid, [], torch.zeros((), dtype=torch.bool, device=call.grid.device)
    if call.mask is not None and call.bias is None and are_concrete(call.query):
        some, every = call.mask.runs(1, grid)
        if torch.equal(some.start, every.start) and torch.equal(some.stop, every.stop):
            # Runs of single rows that claim too much and too little are both exact where they agree.
            return some.count() > 0, some.shown()
    for rows, columns in meetings(call.mask, call.query, grid):
        across = grid.columns()[columns]
        bias = None if call.bias is None else call.bias.tile(rows, across, grid)
        seen = visible(call.mask, bias, rows, across, grid)
        assert seen is not None
        sees.append(seen.any(-1))
        shown = shown | _spread(seen.any(-2), columns, grid.keys)
    return torch.cat(sees, dim=-1), shown


def meetings(
    mask: "Mask | _NarrowedMask | None", query: Tensor, grid: Grid, held: int = 1
) -> Iterator[tuple[Tensor, Columns]]:
    """Split the pairs into tiles: rows that fit into one, `held` numbers a pair, and the keys that they may see.

    All keys without a mask, and where reading its runs would wait for a GPU or break a trace.
    """
    lanes = _product((*grid.batch, grid.heads)) * held
    if mask is None or not grid.queries or not are_concrete(query):
        for rows in _split_rows(grid.rows(), lanes * grid.keys):
            yield rows, slice(None)
        return
    some, _ = mask.runs(BLOCK, grid)
    # The runs of every example and head are joined, so that one set of keys serves a tile: [blocks, slots].
    start, stop = (ends.movedim(-2, 0).flatten(1) for ends in (some.start, some.stop))
    some = Runs.make(start, stop, grid.keys)
    for block, starts, stops in zip(grid.rows().split(BLOCK), some.start.tolist(), some.stop.tolist(), strict=True):
        runs = [(first, after) for first, after in zip(starts, stops, strict=True) if first < after] or [(0, 0)]
        columns = slice(*runs[0]) if len(runs) == 1 else torch.cat([torch.arange(*run) for run in runs])
        for rows in _split_rows(block, lanes * sum(after - first for first, after in runs)):
            yield rows, columns


def _split_rows(rows: Tensor, numbers: int) -> tuple[Tensor, ...]:
    """Split rows, of so many numbers each, into blocks that one tile can hold."""
    return rows.split(max(1, TILE_NUMBERS // max(1, numbers)))


def _spread(part: Shaped[Tensor, "*lead columns"], columns: Columns, keys: int) -> Shaped[Tensor, "*lead keys"]:
    """Give what some keys have its place among all keys; the others have 0."""
    if part.shape[-1] == keys:
        return part
    whole = part.new_zeros((*part.shape[:-1], keys))
    whole[..., columns] = part
    return whole


@dataclass(frozen=True, eq=False)
class _Narrowed:
    """A bias or a mask of the whole grid, seen through one index of a leading dimension."""

    inner: Tiles
    whole: Grid
    dim: int
    index: int

    def tile(self, rows: Tensor, columns: Tensor, grid: Grid) -> Tensor:
        return self._narrow(self.inner.tile(rows, columns, self.whole))

    def _narrow(self, answer: Tensor) -> Tensor:
        spread = answer.ndim >= -self.dim and answer.shape[self.dim] != 1
        return answer.narrow(self.dim, self.index, 1) if spread else answer


@dataclass(frozen=True, eq=False)
class _NarrowedMask(_Narrowed):
    inner: "Mask | _NarrowedMask"

    def runs(self, block: int, grid: Grid) -> tuple[Runs, Runs]:
        some, every = (
            Runs(self._narrow(runs.start), self._narrow(runs.stop), runs.keys)
            for runs in self.inner.runs(block, self.whole)
        )
        return some, every


def _join(parts: Iterator[Tensor], dim: int, size: int) -> Tensor:
    """Join parts along a dimension of a known size, each in its place as soon as it is there.

    A list of small parts, made between large temporaries, would keep the heap from using their room again.
    """
    first = next(parts)
    if first.requires_grad:
        return torch.cat([first, *parts], dim=dim)
    shape = list(first.shape)
    shape[dim] = size
    whole, start = first.new_empty(shape), 0
    for part in itertools.chain([first], parts):
        whole.narrow(dim, start, part.shape[dim]).copy_(part)
        start += part.shape[dim]
    return whole


def _entropy(weights: Float[Tensor, "*lead rows keys"]) -> Float[Tensor, "*lead rows"]:
    """−Σ (w/t) log (w/t) = log t − Σ w log w / t, with t = Σ w: fewer passes over the tile."""
    total = weights.sum(-1)
    # 0 · log 0 is 0, and so is its gradient. Where no gradient wants them, steps in place save memory and time.
    if weights.requires_grad:
        dot = (weights * torch.where(weights > 0, weights, 1).log()).sum(-1)
    else:
        dot = weights.clamp(min=torch.finfo(weights.dtype).tiny).log_().mul_(weights).sum(-1)
    # Not `total > 0`: a row that holds a NaN is NaN.
    alive = total != 0
    total = torch.where(alive, total, 1)
    return torch.where(alive, total.log() - dot / total, 0).clamp(min=0)


def _index(function: str, argument: str, index: int, size: int) -> int:
    if isinstance(index, bool) or not isinstance(index, int):
        raise KindError(must(function, argument, "be an integer", type(index).__name__))
    if not -size <= index < size:
        raise ArgumentError(must(function, argument, f"lie in 0..{size - 1}", index))
    return index % size


def _product(sizes: tuple[int, ...]) -> int:
    return torch.Size(sizes).numel()
