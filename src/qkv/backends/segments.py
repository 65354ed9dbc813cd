"""SDPA over the live keys of each block of queries: what a mask hides is neither read nor computed (CPU).

A mask is cut into *pieces*: neighbouring blocks of queries whose runs of keys are equally long and advance in step. A
piece is one call of PyTorch's flash attention on overlapping strided views; pieces of the same rows merge by logsumexp.
The backward pass goes over the same pieces with the merged output and logsumexp, which is exact. A dilated window is
regrouped first: it is an ordinary one over every `dilation`-th position.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from qkv.backends.once import once
from qkv.backends.pieces import Piece, Pieces, plan_pieces
from qkv.backends.sdpa import square_causal
from qkv.core.backend import Backend, Cost, all_pairs, dense_cost
from qkv.core.call import Call
from qkv.core.checks import are_concrete
from qkv.core.reference import hide_rows, spread_heads, with_batch
from qkv.core.types import DotPair, Grid, Summary, wide
from qkv.masks.algebra import IntervalMask
from qkv.masks.window import DilatedWindow, Window
from qkv.scores.dot import Dot
from qkv.selections.soft import Softmax

BLOCK, TRAINING_BLOCK = 64, 128
"""Queries in a block: a longer one computes more of what is hidden, a shorter one costs more in the backward pass."""

FEWEST_PAIRS = 512 * 512
"""Pairs a head below which one masked call beats several small ones."""

MANY_ROWS = 192
"""Rows of a piece from which flash attention takes as many at a time as it ever does."""

CUT, TILED, MERGED = 1.15, 1.25, 60
"""What a pair costs in pieces of few rows, and in one with a tile; pairs in whose time a row is merged. Measured."""

WAITS = 1.2
"""How much more these cost where threads wait for one another between calls."""

SPELLED, WEIGHED = 12, 16
"""Features in whose time one call spells out a pair of its mask, for all heads that share it; and weighs a score."""

WORKSPACE = 8 << 20
"""Bytes that one call of flash attention may make, forward or backward."""

_FORWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default


def refuses(call: Call) -> str | None:
    """Say what of a call the pieces do not express, or why they would not pay, or None."""
    if call.mask is None:
        return "there is no mask, so nothing to skip"
    query, grid = call.query, call.grid
    if grid.device.type != "cpu":
        return f"it runs on the CPU, not on {grid.device}"
    if not isinstance(call.pair, DotPair):
        return f"it scores by dot products alone, not by {call.score}"
    if not isinstance(call.select, Softmax):
        return f"it selects by softmax alone, not by {call.select}"
    if call.bias is not None:
        return "it has no place for a bias"
    if call.dropout:
        return "it has no dropout"
    if query.dtype == torch.float16:
        return "on the CPU float16 rounds the weights"
    if not are_concrete(query):
        return "its pieces are cut by plain Python, which torch.compile, torch.func and fake tensors cannot follow"
    if 0 in (*query.shape, *call.value.shape):
        return "there are no pairs, or no features"
    return None


def outdone(call: Call) -> str | None:
    """Say why one masked call is faster, or None: what the pieces would compute is set against what that one does."""
    grid, mask = call.grid, call.mask
    assert mask is not None
    if grid.queries * grid.keys < FEWEST_PAIRS:
        return f"{grid.queries} × {grid.keys} pairs a head are too few to cut"
    if square_causal(call):
        return "PyTorch's own causal path skips as much"
    heads = torch.Size(grid.batch).numel() * grid.heads
    # A training step spells the mask out once, for twice the work and more.
    spelled = SPELLED / (call.pair.dim + WEIGHED) / (2 if call.needs_gradient else 1)
    whole = heads + spelled * _own_lanes(call)
    if not (mask.is_value or isinstance(mask, IntervalMask)):
        # Its pieces are asked of the mask pair by pair, so a bound comes first.
        some, every = mask.runs(_block(call), grid)
        solid, touched = (int(runs.count().sum()) / runs.count().numel() * grid.queries for runs in (every, some))
        if (solid + TILED * (touched - solid)) * heads > whole * grid.queries * grid.keys:
            return _leaves(touched * heads, call)
    plans = _plans(call)
    if sum(_work(pieces, heads) for pieces in plans) <= whole * grid.queries * grid.keys:
        return None
    return _leaves(sum(pieces.pairs for pieces in plans), call)


def _leaves(pairs: int | float, call: Call) -> str:
    return f"the mask leaves {pairs / all_pairs(call):.0%} of the pairs to compute"


def _own_lanes(call: Call) -> int:
    """Count the batch rows and heads for which a dense mask would be spelled out apart."""
    grid, mask = call.grid, call.mask
    assert mask is not None
    one = torch.zeros(1, dtype=torch.int64, device="cpu")
    return mask.tile(one, one, grid).numel()


def _work(pieces: Pieces, heads: int) -> float:
    """Measure pieces by the pairs that one call of many rows would compute in the same time."""
    lanes = pieces.sees.shape[0] * pieces.sees.shape[1]
    waits = WAITS if torch.get_num_threads() > 1 else 1.0
    work = 0.0
    for piece in pieces.pieces:
        pairs = piece.rows * piece.keys
        if piece.tile is None and piece.rows >= MANY_ROWS:
            each: float = pairs
        else:
            each = pairs * (CUT if piece.tile is None else TILED) * waits
        if not piece.first:
            each += piece.rows * MERGED * waits
        work += each * piece.blocks
    return work * heads / lanes


def run(call: Call) -> tuple[Tensor, Summary | None]:
    """Attend piece by piece; a dilated window group by group."""
    groups = _groups(call)
    if not groups:
        return _attend(call), None
    step = len(groups)
    query, key, value = (_apart(x, step) for x in (call.query, call.key, call.value))
    longest, parts = query[0].shape[-2], []
    for row, (behind, window, grid) in enumerate(groups):
        queries, keys, values = (
            query[row][..., : grid.queries, :],
            *(x[behind][..., : grid.keys, :] for x in (key, value)),
        )
        if grid.queries and grid.keys:
            part = _attend(replace(call, query=queries, key=keys, value=values, mask=window, grid=grid))
        else:
            part = values.new_zeros(*queries.shape[:-1], values.shape[-1])
        parts.append(F.pad(part, (0, 0, 0, longest - grid.queries)) if grid.queries < longest else part)
    return torch.stack(parts, -2).flatten(-3, -2)[..., : call.grid.queries, :], None


def _attend(call: Call) -> Tensor:
    grid, query, key, value = call.grid, call.query, call.key, call.value
    pieces = _pieces(call)
    pair = call.pair
    assert isinstance(pair, DotPair)
    if pieces.fill or not isinstance(call.score, Dot):
        query, key, value = hide_rows(query, key, value, with_batch(pieces.sees, grid), with_batch(pieces.shown, grid))
    query, key = call.score.prepare(query, key)
    width, features = query.shape[-1], value.shape[-1]
    key, value = spread_heads(key, call.group), spread_heads(value, call.group)
    if width != features:
        # Flash attention wants one width; zeros change no product. (A pad by nothing would still copy.)
        query, key = (F.pad(x, (0, max(0, features - width))) for x in (query, key))
        value = F.pad(value, (0, max(0, width - features)))
    query, key, value = (x.reshape(-1, *x.shape[-3:]).contiguous() for x in (query, key, value))
    if torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value)):
        output = Segments.apply(query, key, value, pieces, pair.scale)
    else:
        output, _ = forward(query, key, value, pieces, pair.scale)
    return output[..., :features].reshape(*grid.batch, *output.shape[1:-1], features)


def _pieces(call: Call) -> Pieces:
    if call.planned is None:
        assert call.mask is not None
        call.planned = plan_pieces(call.mask, call.grid, _block(call))
    assert isinstance(call.planned, Pieces)
    return call.planned


def _block(call: Call) -> int:
    return TRAINING_BLOCK if call.needs_gradient else BLOCK


def _groups(call: Call) -> list[tuple[int, Window, Grid]]:
    """Turn a dilated window into ordinary ones, each over every `dilation`-th query and key; no group for another mask.

    A query meets only keys that stand whole steps from it. Group i begins at query i; also tell at which key.
    """
    mask, grid = call.mask, call.grid
    if not isinstance(mask, DilatedWindow) or isinstance(mask.offset, Tensor) or not isinstance(call.score, Dot):
        # Another score may tell the keys' places apart.
        return []
    step, offset = mask.dilation, grid.keys - grid.queries if mask.offset is None else mask.offset
    groups = []
    for row in range(step):
        far, behind = divmod(offset + row, step)
        inner = replace(grid, queries=len(range(row, grid.queries, step)), keys=len(range(behind, grid.keys, step)))
        groups.append((behind, Window(mask.before, mask.after, far), inner))
    return groups


def _apart(x: Float[Tensor, "*batch positions dim"], step: int) -> tuple[Tensor, ...]:
    """See every `step`-th position, from the first, the second, … on; zeros fill the last ones."""
    lacks = -x.shape[-2] % step
    return (F.pad(x, (0, 0, 0, lacks)) if lacks else x).unflatten(-2, (-1, step)).unbind(-2)


def _plans(call: Call) -> list[Pieces]:
    """Give the pieces of a call, or of each of its groups."""
    groups = _groups(call)
    return [plan_pieces(window, grid, _block(call)) for _, window, grid in groups] if groups else [_pieces(call)]


class Segments(torch.autograd.Function):
    """The pieces, with a backward pass that goes over them again."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, pieces: Pieces, scale: float) -> Tensor:
        output, level = forward(query, key, value, pieces, scale)
        ctx.save_for_backward(query, key, value, output, level)
        ctx.pieces, ctx.scale = pieces, scale
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, output, level = ctx.saved_tensors
        with torch.no_grad():
            found = backward(gradient.contiguous(), query, key, value, output, level, ctx.pieces, ctx.scale)
        return (*once("segments", found, (gradient, query, key, value)), None, None)


def forward(
    query: Float[Tensor, "batch heads queries dim"],
    key: Float[Tensor, "batch heads keys dim"],
    value: Float[Tensor, "batch heads keys dim"],
    pieces: Pieces,
    scale: float,
) -> tuple[Float[Tensor, "batch heads queries dim"], Float[Tensor, "batch heads queries 1"]]:
    """Attend piece by piece; also give each row's logsumexp."""
    # Where every query is in a piece, the first one writes.
    output = (torch.empty_like if pieces.whole else torch.zeros_like)(query, dtype=wide(query.dtype))
    level = torch.full_like(output[..., :1], -torch.inf)
    for piece in pieces.pieces:
        ours = [_rows(x, piece) for x in (query, output, level)]
        theirs, tile = [_keys(x, piece) for x in (key, value)], _tile(piece, query)
        for some in _lanes(piece, ours[0]):
            queries, into, onto = (x[some] for x in ours)
            keys, values = (x[some] for x in theirs)
            part, height = _FORWARD(queries, keys, values, 0.0, False, attn_mask=tile, scale=scale)
            height = height.unsqueeze(-1)
            if piece.blind is not None:
                # The flash kernel says 0 where it should say −inf.
                height = torch.where(piece.blind[:, None], -torch.inf, height)
                part = torch.where(piece.blind[:, None], 0, part)
            _merge(into, onto, part, height, piece.first)
    return output.to(query.dtype), level


def _merge(into: Tensor, onto: Tensor, part: Tensor, height: Tensor, first: bool) -> None:
    """Write a part's output and logsumexp, or merge them with what is there."""
    if first:
        into.copy_(part)
        onto.copy_(height)
        return
    both = torch.logaddexp(onto, height)
    finite = torch.where(both > -torch.inf, both, 0)
    into.copy_(into * (onto - finite).exp() + part * (height - finite).exp())
    onto.copy_(both)


def _lanes(piece: Piece, rows: Float[Tensor, "lanes blocks rows dim"]) -> Iterator[slice]:
    """Take a few lanes at a time: what a call makes then stays in the cache, and in memory that the allocator keeps."""
    longest = max(piece.keys, piece.rows)
    lanes = max(1, WORKSPACE // (piece.blocks * longest * rows.shape[-1] * rows.element_size()))
    yield from (slice(at, at + lanes) for at in range(0, rows.shape[0], lanes))


def backward(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    level: Tensor,
    pieces: Pieces,
    scale: float,
) -> tuple[Tensor, ...]:
    """Go over the pieces again: with the merged output and logsumexp, each gives its share of the gradients."""
    # exp(score − inf) is 0: a row that sees nothing passes nothing on.
    level = torch.where(level > -torch.inf, level, torch.inf)
    below = (torch.empty_like if pieces.whole else torch.zeros_like)(query, dtype=wide(query.dtype))
    gradients = (below, *(torch.zeros_like(x, dtype=wide(x.dtype)) for x in (key, value)))
    for piece in pieces.pieces:
        ours = [_rows(x, piece) for x in (gradient, query, output, level)]
        theirs, tile = [_keys(x, piece) for x in (key, value)], _tile(piece, query)
        for some in _lanes(piece, ours[1]):
            above, queries, out, height = (x[some] for x in ours)
            keys, values = (x[some] for x in theirs)
            parts = _BACKWARD(
                above,
                queries,
                keys,
                values,
                out,
                height.squeeze(-1),
                0.0,
                False,
                attn_mask=tile,
                scale=scale,
            )
            rows = _rows(below, piece)[some]
            rows.copy_(parts[0]) if piece.first else rows.add_(parts[0])
            for whole, part in zip(gradients[1:], parts[1:], strict=True):
                _add_keys(whole, part, piece, some)
    return tuple(x.to(query.dtype) for x in gradients)


def _tile(piece: Piece, query: Tensor) -> Tensor | None:
    return None if piece.tile is None else piece.tile.to(query.dtype)[None, None]


def _rows(x: Float[Tensor, "batch heads queries dim"], piece: Piece) -> Float[Tensor, "lanes blocks rows dim"]:
    return _view(x, piece, piece.row, piece.rows, piece.rows)


def _keys(x: Float[Tensor, "batch heads keys dim"], piece: Piece) -> Float[Tensor, "lanes blocks run dim"]:
    return _view(x, piece, piece.key, piece.keys, piece.step)


def _view(x: Tensor, piece: Piece, start: int, size: int, step: int) -> Tensor:
    """See each block's positions, `size` from `start + i·step` on, without a copy; they may overlap."""
    batch, head = piece.lane
    if batch is not None:
        x = x[batch : batch + 1]
    if head is not None:
        x = x[:, head : head + 1]
    lanes = x.shape[0] * x.shape[1]
    lane = x.stride(0) if x.shape[1] == 1 else x.stride(1)
    strides = (lane, step * x.stride(2), x.stride(2), x.stride(3))
    return x.as_strided((lanes, piece.blocks, size, x.shape[3]), strides, x.storage_offset() + start * x.stride(2))


def _add_keys(whole: Tensor, part: Float[Tensor, "lanes blocks run dim"], piece: Piece, lanes: slice) -> None:
    """Add what each block gives its keys; blocks overlap, so they go in slices that do not."""
    if piece.step == 0:
        _keys(whole, piece)[lanes, :1].add_(part.sum(1, keepdim=True))
        return
    for at in range(0, piece.keys, piece.step):
        size = min(piece.step, piece.keys - at)
        _view(whole, piece, piece.key + at, size, piece.step)[lanes].add_(part[:, :, at : at + size])


def _cost(call: Call) -> Cost:
    plans = _plans(call)
    cost = dense_cost(call, sum(pieces.pairs for pieces in plans), 0)
    tiles = {id(piece.tile): piece.tile.nbytes for pieces in plans for piece in pieces.pieces if piece.tile is not None}
    filled = sum(x.nbytes for x in (call.query, call.key, call.value) if any(pieces.fill for pieces in plans))
    return Cost(cost.pairs, cost.flops, cost.bytes + 2 * (sum(tiles.values()) + filled))


SEGMENTS = Backend(
    name="segments",
    refuses=refuses,
    outdone=outdone,
    run=run,
    cost=_cost,
    caveat=lambda call: "NaN or inf in a key or value that only some queries see may reach others near them",
)
