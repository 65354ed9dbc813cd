"""Softmax attention by additive scores, fused: nothing is stored for a pair, least of all for its features.

The backward pass scores each tile again. Custom operators of torch carry both, so torch.compile and gradcheck work.
Their kernels are numba's on the CPU and Triton's on CUDA.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from qkv.backends.additive.tiles import Tiles, plan_tiles
from qkv.backends.available import has_triton, no_kernels
from qkv.core.backend import Backend, Cost, dense_cost
from qkv.core.call import Call, exact
from qkv.core.checks import is_transformed
from qkv.core.dropout import draw_seed, streams
from qkv.core.reference import hide_rows, with_batch
from qkv.core.types import AdditivePair, wide
from qkv.errors import UnsupportedError, must
from qkv.selections.soft import Softmax

FEWEST_QUERIES = 4
"""Queries that share a key head, below which laying out the keys costs what it saves."""

FEWEST_FEATURES = 1 << 18
"""Features of all pairs together, below which a call of the definition is over before this one has begun."""


def refuses(call: Call) -> str | None:
    """Say what of a call the kernels do not express, or None."""
    device = call.grid.device.type
    if device not in ("cpu", "cuda"):
        return f"it runs on the CPU and on CUDA, not on {call.grid.device}"
    pair = call.pair
    if not isinstance(pair, AdditivePair):
        return f"it scores by v · tanh(q + k) alone, not by {call.score}"
    if not isinstance(call.select, Softmax):
        return f"it selects by softmax alone, not by {call.select}"
    if call.bias is not None:
        return "it has no place for a bias"
    if 0 in (*call.query.shape, *call.key.shape, *call.value.shape):
        return "there are no pairs, or no features"
    if device == "cuda" and wide(call.query.dtype) == torch.float64:
        return "its kernels on CUDA add up in float32"
    if device == "cuda" and not has_triton():
        return "its kernels on CUDA need Triton, which is not installed"
    if torch.compiler.is_compiling():
        # Before any number of positions is asked, which would tie a traced call to it.
        return None if call.mask is None else "torch.compile cannot follow how a mask is cut into tiles"
    rows = call.grid.queries * call.group
    if rows < FEWEST_QUERIES:
        return f"with {rows} queries for a key, laying out the keys costs what it saves"
    if call.key.shape[:-1].numel() * rows * pair.dim < FEWEST_FEATURES:
        return f"{call.grid.queries} × {call.grid.keys} pairs of {pair.dim} features are too few to pay"
    if is_transformed():
        return "torch.func cannot look into its kernels"
    if forward_ad._current_level >= 0:
        return "forward-mode differentiation cannot look into its kernels"
    return no_kernels() if device == "cpu" else None


def run(call: Call) -> tuple[Tensor, None]:
    """Attend tile by tile."""
    grid, query, key, value = call.grid, call.query, call.key, call.value
    tiles = _tiles(call)
    if call.mask is not None:
        sees, shown = tiles.sees(grid.queries), tiles.shown(grid.keys)
        query, key, value = hide_rows(query, key, value, with_batch(sees, grid), with_batch(shown, grid))
    query, key = call.score.prepare(query, key)
    pair = call.pair
    assert isinstance(pair, AdditivePair)
    dtype = wide(query.dtype)
    # Each lane is a key head, its rows the queries of all the heads that share it.
    heads = value.shape[-3]
    key = key.expand(*value.shape[:-1], key.shape[-1])
    key, value = (x.to(dtype).reshape(-1, grid.keys, x.shape[-1]) for x in (key, value))
    query = query.to(dtype).reshape(key.shape[0], call.group * grid.queries, -1)
    lines = streams(draw_seed(grid.device), grid) if call.dropout else query.new_zeros(1, dtype=torch.int64)
    with exact(grid.device):
        output, *_ = attend(
            *(x.contiguous() for x in (query, key, value, pair.vector.to(dtype))),
            tiles.table,
            tiles.patterns,
            lines.reshape(-1),
            grid.queries,
            heads,
            call.dropout,
        )
    return output.reshape(*grid.batch, grid.heads, grid.queries, -1).to(call.value.dtype), None


def _tiles(call: Call) -> Tiles:
    return plan_tiles(call.mask, call.grid)


@torch.library.custom_op("qkv::additive_attention", mutates_args=(), device_types="cpu")
def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    vector: Tensor,
    table: Tensor,
    patterns: Tensor,
    streams: Tensor,
    queries: int,
    key_heads: int,
    rate: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Attend; also give each row's peak and Σ exp(score − peak).

    query [lanes, rows, hidden], key [lanes, keys, hidden], value [lanes, keys, dim], vector [hidden]; a lane is a key
    head of a batch row, its rows the `queries` of each head that shares it. The table and its patterns are `Tiles`',
    the streams [lanes · heads of each] dropout's.
    """
    from qkv.backends.additive import numba

    return numba.attend(query, key, value, vector, table, patterns, streams, queries, key_heads, rate)


@attend.register_kernel("cuda")
def attend_on_cuda(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Attend as `attend`."""
    from qkv.backends.additive import triton

    return triton.attend(*arguments)


@attend.register_fake
def _(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    vector: Tensor,
    table: Tensor,
    patterns: Tensor,
    streams: Tensor,
    queries: int,
    key_heads: int,
    rate: float,
) -> tuple[Tensor, Tensor, Tensor]:
    rows = query.shape[:-1]
    return query.new_empty(*rows, value.shape[-1]), query.new_empty(rows), query.new_empty(rows)


@torch.library.custom_op("qkv::additive_attention_backward", mutates_args=(), device_types="cpu")
def gradients(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    vector: Tensor,
    table: Tensor,
    patterns: Tensor,
    streams: Tensor,
    output: Tensor,
    peak: Tensor,
    total: Tensor,
    queries: int,
    key_heads: int,
    rate: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Give the gradients of query, key, value and vector, from that of the output."""
    from qkv.backends.additive import numba

    return numba.gradients(
        gradient, query, key, value, vector, table, patterns, streams, output, peak, total, queries, key_heads, rate
    )


@gradients.register_kernel("cuda")
def gradients_on_cuda(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Give the gradients as `gradients`."""
    from qkv.backends.additive import triton

    return triton.gradients(*arguments)


@gradients.register_fake
def _(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    vector: Tensor,
    *rest: object,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), torch.empty_like(vector)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, ctx.queries, ctx.key_heads, ctx.rate = inputs
    ctx.save_for_backward(*tensors, *output)


def _backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    found = gradients(gradient.contiguous(), *ctx.saved_tensors, ctx.queries, ctx.key_heads, ctx.rate)
    return (*found, *[None] * 6)


attend.register_autograd(_backward, setup_context=_save)


def _refuse_twice(ctx: Any, *_: Tensor) -> None:
    rule = "have a path whose gradient has a gradient"
    raise UnsupportedError(must("attend", "create_graph=True", rule, "additive", "impl='reference'"))


gradients.register_autograd(_refuse_twice)


def _cost(call: Call) -> Cost:
    return dense_cost(call, _tiles(call).pairs(call.grid), 0)


def _caveat(call: Call) -> str:
    if call.mask is None:
        return ""
    return "NaN or inf in a key or value that only some queries see may reach others near them"


ADDITIVE = Backend(name="additive", refuses=refuses, run=run, cost=_cost, caveat=_caveat)
