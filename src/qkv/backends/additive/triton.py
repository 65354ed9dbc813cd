"""Additive attention on CUDA: tiles of pairs, each scored, weighed and forgotten; the twin of `numba.py`.

tanh(a + b) = 1 − 2r with r = 1 / (1 + e^{2a} e^{2b}), and softmax ignores what all keys of a row share. So a pair costs
a feature one division after one exponential for each number of the queries and the keys. A feature whose numbers spread
too widely for that takes r = 1 / (1 + e^{2(a + b)}) pair by pair, which is exact for any finite numbers.

The gradients of queries and of keys have kernels of their own, each of which scores again and sums in a fixed order.
Each keeps a row of features in registers, whose f-th number is chosen by comparison: no two threads add to one address.
"""

import inspect
from collections.abc import Callable
from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from qkv.core.dropout import threshold

ROWS, COLUMNS = 32, 64
"""Queries and keys that a program holds at once; they divide the block and the tile of `tiles`."""

REACH, SETTLED = 43.6, 9.1
"""Numbers within ±REACH have exponentials in float32; from ±SETTLED on tanh is ±1 there."""


def _kernel(function: Callable[..., Any]) -> Any:
    """Hand a function to Triton as it is written, without what checks its arguments in tests."""
    return triton.jit(inspect.unwrap(function))


@no_type_check
@_kernel
def _mix(x):
    """Scramble 32 bits held in 64: `qkv.core.dropout.mix`."""
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
    x = ((x ^ (x >> 15)) * 0x846CA68B) & 0xFFFFFFFF
    return x ^ (x >> 16)


@no_type_check
@_kernel
def _fractions(by_row, by_key, spaced, row, column, real_row, real_column, f, lane, hidden, keys):
    """Give r of a tile for one feature."""
    a = tl.load(by_row + row * hidden + f, mask=real_row, other=0.0)
    b = tl.load(by_key + (lane * hidden + f) * keys + column, mask=real_column, other=0.0)
    if tl.load(spaced + lane * hidden + f) != 0:
        power = a[:, None] * b[None, :]
    else:
        power = tl.exp(2 * (a[:, None] + b[None, :]))
    return 1 / (1 + power)


@no_type_check
@_kernel
def _scores(
    by_row, by_key, spaced, vector, row, column, real_row, real_column, lane, hidden, keys,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Score a tile: −2 Σ w r."""
    scores = tl.zeros([ROWS, COLUMNS], tl.float32)
    for f in range(hidden):
        r = _fractions(by_row, by_key, spaced, row, column, real_row, real_column, f, lane, hidden, keys)
        scores -= 2 * tl.load(vector + f) * r
    return scores


@no_type_check
@_kernel
def _seen(
    patterns, number, i, column, real_row, real_column, BLOCK: tl.constexpr, TILE: tl.constexpr
):  # fmt: skip
    """Say which pairs of a tile may meet."""
    seen = real_row[:, None] & real_column[None, :]
    at = patterns + number.to(tl.int64) * BLOCK * TILE + (i % BLOCK)[:, None] * TILE + (column % TILE)[None, :]
    return seen & (tl.load(at, mask=seen, other=0) != 0)


@no_type_check
@_kernel
def _number(table, lane, member, i0, j0, key_heads, group, batches, heads, blocks, tiles, BLOCK, TILE):
    """Give the number of the pattern of a tile; batch rows and heads may share theirs."""
    batch, head = lane // key_heads, lane % key_heads * group + member
    place = ((batch % batches) * heads + head % heads) * blocks + i0 // BLOCK
    return tl.load(table + place * tiles + j0 // TILE)


@no_type_check
@_kernel
def _boosts(streams, stream, i, column, limit, boost):
    """Give 1 / (1 − rate) where a pair survives dropout, 0 where not."""
    drawn = _mix(_mix(tl.load(streams + stream) ^ i.to(tl.int64))[:, None] ^ column.to(tl.int64)[None, :])
    return tl.where(drawn >= limit, boost, 0.0)


@no_type_check
@_kernel
def _forward(
    by_row, by_key, spaced, vector, value, table, patterns, streams, output, peaks, totals,
    queries, keys, hidden, dim, key_heads, group, batches, heads, blocks, tiles, limit, boost,
    DIM: tl.constexpr, DROPS: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    lane, member, i0 = tl.program_id(1).to(tl.int64), tl.program_id(2), tl.program_id(0) * ROWS
    i, d = i0 + tl.arange(0, ROWS), tl.arange(0, DIM)
    stream = lane * group + member
    row, real_row, real_d = stream * queries + i, i < queries, d < dim
    peak = tl.full([ROWS], -float("inf"), tl.float32)
    total, sums = tl.zeros([ROWS], tl.float32), tl.zeros([ROWS, DIM], tl.float32)
    for j0 in range(0, keys, COLUMNS):
        number = _number(table, lane, member, i0, j0, key_heads, group, batches, heads, blocks, tiles, BLOCK, TILE)
        if number != 0:
            column = j0 + tl.arange(0, COLUMNS)
            real_column = column < keys
            scores = _scores(
                by_row, by_key, spaced, vector, row, column, real_row, real_column, lane, hidden, keys, ROWS, COLUMNS
            )
            seen = _seen(patterns, number, i, column, real_row, real_column, BLOCK, TILE)
            scores = tl.where(seen, scores, -float("inf"))
            higher = tl.maximum(peak, tl.max(scores, 1))
            # A row that has seen nothing yet stays at 0, not at −inf − (−inf).
            level = tl.where(higher == -float("inf"), 0.0, higher)
            shares, fall = tl.exp(scores - level[:, None]), tl.exp(peak - level)
            total = total * fall + tl.sum(shares, 1)
            if DROPS:
                shares *= _boosts(streams, stream, i, column, limit, boost)
            values = tl.load(
                value + (lane * keys + column)[:, None] * dim + d[None, :],
                mask=real_column[:, None] & real_d[None, :],
                other=0.0,
            )
            sums = sums * fall[:, None] + tl.dot(shares, values, input_precision="ieee")
            peak = higher
    sums = sums / tl.where(total > 0, total, 1.0)[:, None]
    tl.store(output + row[:, None] * dim + d[None, :], sums, mask=real_row[:, None] & real_d[None, :])
    tl.store(peaks + row, peak, mask=real_row)
    tl.store(totals + row, total, mask=real_row)


@no_type_check
@_kernel
def _weights(peaks, totals, row, real_row, scores, seen):
    """Give the weights of a tile, from what the forward pass found of its rows."""
    peak, total = tl.load(peaks + row, mask=real_row, other=0.0), tl.load(totals + row, mask=real_row, other=1.0)
    level = tl.where(peak == -float("inf"), 0.0, peak)
    weights = tl.exp(scores - level[:, None]) / tl.where(total > 0, total, 1.0)[:, None]
    return tl.where(seen, weights, 0.0)


@no_type_check
@_kernel
def _backward_rows(
    by_row, by_key, spaced, vector, value, table, patterns, streams, gradient, deltas, peaks, totals,
    for_rows, for_vector,
    queries, keys, hidden, dim, key_heads, group, batches, heads, blocks, tiles, limit, boost,
    HIDDEN: tl.constexpr, DIM: tl.constexpr, DROPS: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    lane, member, i0 = tl.program_id(1).to(tl.int64), tl.program_id(2), tl.program_id(0) * ROWS
    i, d, features = i0 + tl.arange(0, ROWS), tl.arange(0, DIM), tl.arange(0, HIDDEN)
    stream = lane * group + member
    row, real_row, real_d = stream * queries + i, i < queries, d < dim
    pull = tl.load(
        gradient + row[:, None] * dim + d[None, :], mask=real_row[:, None] & real_d[None, :], other=0.0
    )  # fmt: skip
    delta = tl.load(deltas + row, mask=real_row, other=0.0)
    by_feature, whole = tl.zeros([ROWS, HIDDEN], tl.float32), tl.zeros([HIDDEN], tl.float32)
    for j0 in range(0, keys, COLUMNS):
        number = _number(table, lane, member, i0, j0, key_heads, group, batches, heads, blocks, tiles, BLOCK, TILE)
        if number != 0:
            column = j0 + tl.arange(0, COLUMNS)
            real_column = column < keys
            scores = _scores(
                by_row, by_key, spaced, vector, row, column, real_row, real_column, lane, hidden, keys, ROWS, COLUMNS
            )
            seen = _seen(patterns, number, i, column, real_row, real_column, BLOCK, TILE)
            weights = _weights(peaks, totals, row, real_row, scores, seen)
            values = tl.load(
                value + (lane * keys + column)[None, :] * dim + d[:, None],
                mask=real_column[None, :] & real_d[:, None],
                other=0.0,
            )
            slopes = tl.dot(pull, values, input_precision="ieee")
            if DROPS:
                slopes *= _boosts(streams, stream, i, column, limit, boost)
            slopes = tl.where(seen, weights * (slopes - delta[:, None]), 0.0)
            for f in range(hidden):
                r = _fractions(by_row, by_key, spaced, row, column, real_row, real_column, f, lane, hidden, keys)
                r = tl.where(seen, r, 0.0)
                here = features == f
                whole += tl.where(here, tl.sum(tl.sum(slopes * r, 1), 0), 0.0)
                by_feature += tl.where(here[None, :], tl.sum(slopes * r * (1 - r), 1)[:, None], 0.0)
    real = features < hidden
    scale = 4 * tl.load(vector + features, mask=real, other=0.0)
    tl.store(
        for_rows + row[:, None] * hidden + features[None, :],
        by_feature * scale[None, :],
        mask=real_row[:, None] & real[None, :],
    )
    part = stream * tl.num_programs(0) + tl.program_id(0)
    tl.store(for_vector + part * hidden + features, -2 * whole, mask=real)


@no_type_check
@_kernel
def _backward_keys(
    by_row, by_key, spaced, vector, value, table, patterns, streams, gradient, deltas, peaks, totals,
    for_keys, for_values,
    queries, keys, hidden, dim, key_heads, group, batches, heads, blocks, tiles, limit, boost,
    HIDDEN: tl.constexpr, DIM: tl.constexpr, DROPS: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    lane, j0 = tl.program_id(1).to(tl.int64), tl.program_id(0) * COLUMNS
    column, d, features = j0 + tl.arange(0, COLUMNS), tl.arange(0, DIM), tl.arange(0, HIDDEN)
    real_column, real_d = column < keys, d < dim
    values = tl.load(
        value + (lane * keys + column)[None, :] * dim + d[:, None],
        mask=real_column[None, :] & real_d[:, None],
        other=0.0,
    )
    by_feature, by_value = tl.zeros([COLUMNS, HIDDEN], tl.float32), tl.zeros([COLUMNS, DIM], tl.float32)
    for member in range(group):
        stream = lane * group + member
        for i0 in range(0, queries, ROWS):
            number = _number(table, lane, member, i0, j0, key_heads, group, batches, heads, blocks, tiles, BLOCK, TILE)
            if number != 0:
                i = i0 + tl.arange(0, ROWS)
                row, real_row = stream * queries + i, i < queries
                scores = _scores(
                    by_row, by_key, spaced, vector, row, column, real_row, real_column, lane, hidden, keys,
                    ROWS, COLUMNS,
                )  # fmt: skip
                seen = _seen(patterns, number, i, column, real_row, real_column, BLOCK, TILE)
                weights = _weights(peaks, totals, row, real_row, scores, seen)
                pull = tl.load(
                    gradient + row[:, None] * dim + d[None, :], mask=real_row[:, None] & real_d[None, :], other=0.0
                )  # fmt: skip
                delta = tl.load(deltas + row, mask=real_row, other=0.0)
                slopes, shares = tl.dot(pull, values, input_precision="ieee"), weights
                if DROPS:
                    boosts = _boosts(streams, stream, i, column, limit, boost)
                    slopes *= boosts
                    shares = shares * boosts
                by_value += tl.dot(tl.trans(shares), pull, input_precision="ieee")
                slopes = tl.where(seen, weights * (slopes - delta[:, None]), 0.0)
                for f in range(hidden):
                    r = _fractions(by_row, by_key, spaced, row, column, real_row, real_column, f, lane, hidden, keys)
                    r = tl.where(seen, r, 0.0)
                    step = tl.sum(slopes * r * (1 - r), 0)
                    by_feature += tl.where((features == f)[None, :], step[:, None], 0.0)
    real = features < hidden
    scale = 4 * tl.load(vector + features, mask=real, other=0.0)
    at = (lane * keys + column)[:, None]
    tl.store(
        for_keys + at * hidden + features[None, :], by_feature * scale[None, :],
        mask=real_column[:, None] & real[None, :],
    )  # fmt: skip
    tl.store(for_values + at * dim + d[None, :], by_value, mask=real_column[:, None] & real_d[None, :])


def _laid_out(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Take exponentials of the features that have them; give queries, keys transposed, and which features those are.

    A shift by c leaves the sum, (a − c) + (b + c), and centres the side that spreads less. What then still lies beyond
    ±REACH on the other side is moved there: the sum stays beyond ±SETTLED.
    """
    a, b = query.double(), key.double()
    low_a, high_a, low_b, high_b = (x[:, None] for x in (a.amin(1), a.amax(1), b.amin(1), b.amax(1)))
    spread_a, spread_b = high_a - low_a, high_b - low_b
    near = torch.maximum(a.abs().amax(1), b.abs().amax(1))[:, None] <= REACH
    centre = torch.where(spread_a < spread_b, (low_a + high_a) / 2, -(low_b + high_b) / 2)
    # A NaN or an infinity on either side fails here.
    spaced = (spread_a + spread_b).isfinite() & (near | (torch.minimum(spread_a, spread_b) / 2 <= REACH - SETTLED))
    shift = torch.where(near, 0, centre)
    a = torch.where(spaced, (2 * (a - shift).clamp(-REACH, REACH)).exp(), a)
    b = torch.where(spaced, (2 * (b + shift).clamp(-REACH, REACH)).exp(), b)
    return a.to(query.dtype), b.to(key.dtype).mT.contiguous(), spaced.squeeze(1).to(torch.int32)


def _sizes(
    query: Tensor, key: Tensor, value: Tensor, table: Tensor, queries: int, key_heads: int, rate: float
) -> tuple[Any, ...]:
    boost = 1 / (1 - rate) if rate < 1 else 0.0
    group = query.shape[1] // queries
    widths = key.shape[1], query.shape[-1], value.shape[-1]
    return queries, *widths, key_heads, group, *table.shape, threshold(rate), boost


def _shapes(patterns: Tensor, value: Tensor, rate: float) -> dict[str, Any]:
    block, tile = patterns.shape[1:]
    assert block % ROWS == 0 and tile % COLUMNS == 0
    dim = max(16, triton.next_power_of_2(value.shape[-1]))
    return {"DIM": dim, "DROPS": rate > 0, "BLOCK": block, "TILE": tile, "ROWS": ROWS, "COLUMNS": COLUMNS}


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
    """Attend: `qkv.backends.additive.attend`, in float32."""
    rows = query.shape[:-1]
    output, peak, total = query.new_empty(*rows, value.shape[-1]), query.new_empty(rows), query.new_empty(rows)
    by_row, by_key, spaced = _laid_out(query, key)
    _forward[triton.cdiv(queries, ROWS), query.shape[0], query.shape[1] // queries](
        *(by_row, by_key, spaced, vector, value, table, patterns.view(torch.uint8), streams, output, peak, total),
        *_sizes(query, key, value, table, queries, key_heads, rate),
        **_shapes(patterns, value, rate),
    )
    return output, peak, total


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
    """Give the gradients: `qkv.backends.additive.gradients`, in float32."""
    lanes, rows, hidden = query.shape
    group, blocks = rows // queries, triton.cdiv(queries, ROWS)
    for_rows, for_keys, for_values = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
    for_vector = query.new_empty(lanes * group * blocks, hidden)
    by_row, by_key, spaced = _laid_out(query, key)
    given = (by_row, by_key, spaced, vector, value, table, patterns.view(torch.uint8), streams)
    found = (gradient, (gradient * output).sum(-1), peak, total)
    sizes = _sizes(query, key, value, table, queries, key_heads, rate)
    shapes = {"HIDDEN": triton.next_power_of_2(hidden), **_shapes(patterns, value, rate)}
    _backward_rows[blocks, lanes, group](*given, *found, for_rows, for_vector, *sizes, **shapes)
    _backward_keys[triton.cdiv(key.shape[1], COLUMNS), lanes](*given, *found, for_keys, for_values, *sizes, **shapes)
    return for_rows, for_keys, for_values, for_vector.sum(0)
