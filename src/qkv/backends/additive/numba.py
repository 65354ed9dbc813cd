"""Additive attention on the CPU: tiles of pairs, each scored, weighed and forgotten.

tanh(a + b) = 1 − 2r with r = 1 / (1 + e^{2a} e^{2b}). So after one exponential for each number of the queries and the
keys, a pair costs a feature a quarter of a division: four fractions are summed over their common denominator. Where a
and b are both far from 0 their exponentials say too little, and the sum itself is taken. Nothing depends on the numbers
of others: a pair's score is the same bits whatever other pairs there are.

Keys and values stand transposed within their tile, so that the innermost loops run over neighbouring keys.
"""

import math
from collections.abc import Callable
from typing import Any, no_type_check

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numba import types
from numba.extending import overload
from torch import Tensor

from qkv.backends.compiled import kernel
from qkv.backends.threads import in_parallel
from qkv.core.dropout import threshold

CHUNKS = 16
"""Chunks of rows, over all lanes, that each sum for the keys by themselves; added up in their order."""

# The sizes of `tiles`, which the loops must know when they are compiled; a change there is not seen on the disk.
BLOCK, TILE = 64, 128

# Numbers that keep the type of what they meet: float32 stays float32.
_ONE, _TWO = np.float32(1), np.float32(2)


def _exp(x: Any) -> Any:
    """Give e^x, 0 where that would be subnormal; NaN stays NaN. Unlike the library's it runs on whole vectors."""
    raise NotImplementedError


@no_type_check
@overload(_exp)
def _exp_of(x):
    if x == types.float32:

        def exp(x):
            near = np.float32(-87) if x < np.float32(-87) else x
            near = np.float32(88) if near > np.float32(88) else near
            whole = np.floor(near * np.float32(1.4426950408889634) + np.float32(0.5))
            part = near - whole * np.float32(0.6931471805599453)
            power = np.float32(1 / 5040)
            power = power * part + np.float32(1 / 720)
            power = power * part + np.float32(1 / 120)
            power = power * part + np.float32(1 / 24)
            power = power * part + np.float32(1 / 6)
            power = power * part + np.float32(0.5)
            power = power * part + np.float32(1)
            power = power * part + np.float32(1)
            # Beside 1.5·2^23 a whole number stands in the last bits; from there it goes into the exponent.
            bits = np.float32(whole + np.float32(12582912)).view(np.int32)
            bits = np.int32((bits << np.int32(23)) + np.int32(127 << 23))
            return np.float32(0) if x < np.float32(-87) else np.float32(power * bits.view(np.float32))

        return exp

    def wide_exp(x):
        near = -708.0 if x < -708.0 else x
        near = 709.0 if near > 709.0 else near
        whole = np.floor(near * 1.4426950408889634 + 0.5)
        part = near - whole * 0.6931471805599453
        power = 1 / 6227020800
        power = power * part + 1 / 479001600
        power = power * part + 1 / 39916800
        power = power * part + 1 / 3628800
        power = power * part + 1 / 362880
        power = power * part + 1 / 40320
        power = power * part + 1 / 5040
        power = power * part + 1 / 720
        power = power * part + 1 / 120
        power = power * part + 1 / 24
        power = power * part + 1 / 6
        power = power * part + 0.5
        power = power * part + 1.0
        power = power * part + 1.0
        bits = np.float64(whole + 6755399441055744.0).view(np.int64)
        bits = np.int64((bits << np.int64(52)) + np.int64(1023 << 52))
        return 0.0 if x < -708.0 else power * bits.view(np.float64)

    return wide_exp


def _square(x: Any, like: Any) -> Any:
    """Give e^{2x} as exactly as the type of `like` can say it; x is a float64."""
    raise NotImplementedError


@no_type_check
@overload(_square)
def _square_of(x, like):
    if like == types.float32:
        return lambda x, like: np.float32(_exp(2 * x))
    return lambda x, like: math.exp(2 * x)


@kernel
def _mix(x: Any) -> Any:
    """Scramble 32 bits: `qkv.core.dropout.mix`."""
    x = np.uint32(np.uint32(x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D))
    x = np.uint32(np.uint32(x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B))
    return np.uint32(x ^ (x >> np.uint32(16)))


@kernel
def lay_out(
    query: Float[np.ndarray, "lanes rows hidden"],
    key: Float[np.ndarray, "lanes keys hidden"],
    value: Float[np.ndarray, "lanes keys dim"],
    reach: float,
    far: float,
    by_row: Float[np.ndarray, "lanes rows hidden"],
    by_key: Float[np.ndarray, "lanes tiles features_of_keys"],
    values: Float[np.ndarray, "lanes tiles dim tile"],
    anywhere: UInt8[np.ndarray, "lanes tiles hidden"],
    tallest: Float[np.ndarray, "lanes tiles hidden"],
    first: int,
    last: int,
) -> None:
    """Lay out e^{2a} by rows, e^{2b} and the values by tiles, transposed.

    Units from `first` to `last` are tiles of all lanes, each with its part of the lane's rows.

    Numbers beyond ±`reach` have no such exponential and take that of ±`reach`: with one that is not far from 0 their
    sum still is where tanh is ±1. Far is what has an exponential beyond `far` or 1 / `far`; `anywhere` says which
    features of a tile of keys are, and `tallest` gives the largest exponential of each.
    """
    zero = query.dtype.type(0)
    keys = key.shape[1]
    tiles, rows = by_key.shape[1], query.shape[1]
    for unit in range(first, last):
        lane, tile = unit // tiles, unit % tiles
        for i in range(rows * tile // tiles, rows * (tile + 1) // tiles):
            for f in range(query.shape[2]):
                x = query[lane, i, f]
                x = np.float64(-reach if x < -reach else x)
                by_row[lane, i, f] = _square(reach if x > reach else x, zero)
        there = tile * TILE
        count = min(TILE, keys - there)
        for f in range(key.shape[2]):
            column = by_key[lane, tile, f * TILE : (f + 1) * TILE]
            for j in range(count):
                column[j] = key[lane, there + j, f]
            for j in range(count):
                x = column[j]
                x = np.float64(-reach if x < -reach else x)
                column[j] = _square(reach if x > reach else x, zero)
            column[count:] = 1
            away, top = 0, zero
            for j in range(TILE):
                away |= (column[j] > far) | (column[j] < 1 / far)
                top = column[j] if column[j] > top else top
            anywhere[lane, tile, f], tallest[lane, tile, f] = away, top
        for d in range(value.shape[2]):
            for j in range(count):
                values[lane, tile, d, j] = value[lane, there + j, d]
            values[lane, tile, d, count:] = 0


@kernel
def _balance(weights: Any, scale: float, level: Any, fours: Any) -> None:
    """Give what makes one fraction of four: Σ w / y = m Σ 1 / z, where z = y m / w and m⁴ is the product of the |w|.

    So the product of the four z is that of the four y, whatever the weights. A weight too small to count beside the
    largest, which is about `scale`, is taken as a little more than it is: no m / w is large enough to overflow.
    """
    least = 2.0**-36 if weights.itemsize == 4 else 2.0**-80
    for f in range(weights.shape[0]):
        level[f] = 1
    for g in range(fours.shape[0]):
        product = 1.0
        for f in range(4 * g, 4 * g + 4):
            product *= max(abs(weights[f] / scale), least)
        mean = math.sqrt(math.sqrt(product))
        fours[g] = 2 * mean
        for f in range(4 * g, 4 * g + 4):
            size = max(abs(weights[f] / scale), least)
            level[f] = -mean / size if weights[f] < 0 else mean / size


@kernel
def _lean(leaning: Any, limits: Any, by_row: Any, level: Any, cap: float) -> None:
    """Give a row's a m / w, and the b from which on its a b is as good as `cap`."""
    most = leaning.dtype.type(cap)
    for f in range(level.shape[0]):
        leaning[f], limits[f] = level[f] * by_row[f], most / by_row[f]


@kernel
def _reaches(by_row: Any, tallest: Any, cap: float) -> bool:
    """Say whether a pair of a row and a tile of keys has a feature beyond `cap`."""
    most, found = by_row.dtype.type(cap), 0
    for f in range(by_row.shape[0]):
        found |= by_row[f] * tallest[f] > most
    return found != 0


@kernel
def _score(
    shares: Any, leaning: Any, limits: Any, by_row: Any, by_key: Any, weights: Any, level: Any, fours: Any,
    scale: float, capped: Any, rows: int,
) -> None:  # fmt: skip
    """Score a block of queries against a tile of keys: Σ v − 2 Σ v r. `_balance` says how four fractions become one.

    Where a row is `capped`, keys are held at its limits, so that the product of four denominators stays finite. Two
    rows at a time share what is read of the keys.
    """
    hidden, size = weights.shape[0], weights.dtype.type(scale)
    whole = weights.dtype.type(0)
    for f in range(hidden):
        whole += weights[f] / size
    for i in range(0, rows, 2):
        # An odd last row meets the one after it, which nobody reads.
        p, q, a, c, ours, next_ = shares[i], shares[i + 1], leaning[i], leaning[i + 1], limits[i], limits[i + 1]
        held = capped[i] | capped[i + 1]
        for j in range(TILE):
            p[j] = q[j] = whole
        for f in range(0, hidden - 3, 4):
            a0, a1, a2, a3, c0, c1, c2, c3 = a[f], a[f + 1], a[f + 2], a[f + 3], c[f], c[f + 1], c[f + 2], c[f + 3]
            l0, l1, l2, l3 = ours[f], ours[f + 1], ours[f + 2], ours[f + 3]
            k0, k1, k2, k3 = next_[f], next_[f + 1], next_[f + 2], next_[f + 3]
            m0, m1, m2, m3, mean = level[f], level[f + 1], level[f + 2], level[f + 3], fours[f // 4]
            four = by_key[f * TILE : (f + 4) * TILE]
            for j in range(TILE):
                b0, b1, b2, b3 = four[j], four[TILE + j], four[2 * TILE + j], four[3 * TILE + j]
                d0, d1, d2, d3 = b0, b1, b2, b3
                if held:
                    d0, d1, d2, d3 = min(d0, k0), min(d1, k1), min(d2, k2), min(d3, k3)
                    b0, b1, b2, b3 = min(b0, l0), min(b1, l1), min(b2, l2), min(b3, l3)
                y0, y1, y2, y3 = m0 + a0 * b0, m1 + a1 * b1, m2 + a2 * b2, m3 + a3 * b3
                z0, z1, z2, z3 = m0 + c0 * d0, m1 + c1 * d1, m2 + c2 * d2, m3 + c3 * d3
                y, z, s, t = y0 * y1, z0 * z1, y2 * y3, z2 * z3
                p[j] -= mean * (((y0 + y1) * s + (y2 + y3) * y) / (y * s))
                q[j] -= mean * (((z0 + z1) * t + (z2 + z3) * z) / (z * t))
    for i in range(rows):
        p = shares[i]
        for f in range(hidden - hidden % 4, hidden):
            a0, w, limit = by_row[i, f], _TWO * (weights[f] / size), limits[i, f]
            keys = by_key[f * TILE : (f + 1) * TILE]
            for j in range(TILE):
                p[j] -= w / (_ONE + a0 * min(keys[j], limit))
        for j in range(TILE):
            p[j] *= size


@kernel
def _fractions(fractions: Any, limits: Any, by_row: Any, by_key: Any, capped: bool) -> None:
    """Give each r of one query and a tile of keys. Two share a division; of four, each would err too much."""
    hidden = by_row.shape[0]
    for f in range(0, hidden - 1, 2):
        a0, a1, l0, l1 = by_row[f], by_row[f + 1], limits[f], limits[f + 1]
        keys, r = by_key[f * TILE : (f + 2) * TILE], fractions[f * TILE : (f + 2) * TILE]
        for j in range(TILE):
            b0, b1 = keys[j], keys[TILE + j]
            if capped:
                b0, b1 = l0 if b0 > l0 else b0, l1 if b1 > l1 else b1
            y0, y1 = _ONE + a0 * b0, _ONE + a1 * b1
            both = _ONE / (y0 * y1)
            r[j], r[TILE + j] = both * y1, both * y0
    if hidden % 2:
        a, limit, at = by_row[hidden - 1], limits[hidden - 1], (hidden - 1) * TILE
        keys, r = by_key[at : at + TILE], fractions[at : at + TILE]
        for j in range(TILE):
            r[j] = _ONE / (_ONE + a * (limit if keys[j] > limit else keys[j]))


@kernel
def _mend(
    fractions: Any,
    scores: Any,
    numbers: Any,
    query: Any,
    key: Any,
    by_row: Any,
    by_key: Any,
    there: int,
    weights: Any,
    anywhere: Any,
    far: float,
    cap: float,
) -> None:
    """Put the r of the sum itself in the place of those whose query and key are both far from 0."""
    above, most = weights.dtype.type(far), weights.dtype.type(cap)
    below = _ONE / above
    for f in range(weights.shape[0]):
        a, number = by_row[f], query[f]
        if not anywhere[f] or not (a > above or a < below):
            continue
        w, b = _TWO * weights[f], by_key[f * TILE : (f + 1) * TILE]
        at = f * TILE % fractions.shape[0]
        fraction = fractions[at : at + TILE]
        for j in range(TILE):
            numbers[j] = key[min(there + j, key.shape[0] - 1), f]
        for j in range(TILE):
            # The score holds the r of the exponentials, which are finite.
            y = _ONE + a * b[j]
            r = _ONE / (most if y > most else y)
            away = b[j] > above or b[j] < below
            y = _ONE + _exp(_TWO * (number + numbers[j]))
            right = _ONE / (most if y > most else y) if away else r
            scores[j] -= w * (right - r)
            fraction[j] = right


@kernel
def _hide(scores: Any, seen: Any, state: int, count: int) -> None:
    """Give −inf to what the tile hides, and to what is no key."""
    hidden = -np.float32(np.inf)
    if state > 1:
        for j in range(TILE):
            scores[j] = scores[j] if seen[j] else hidden
    for j in range(count, TILE):
        scores[j] = hidden


@kernel
def forward(
    query: Float[np.ndarray, "lanes rows hidden"],
    key: Float[np.ndarray, "lanes keys hidden"],
    weights: Float[np.ndarray, " hidden"],
    scale: float,
    far: float,
    cap: float,
    by_row: Float[np.ndarray, "lanes rows hidden"],
    by_key: Float[np.ndarray, "lanes tiles features_of_keys"],
    values: Float[np.ndarray, "lanes tiles dim tile"],
    anywhere: UInt8[np.ndarray, "lanes tiles hidden"],
    tallest: Float[np.ndarray, "lanes tiles hidden"],
    queries: int,
    table: Int[np.ndarray, "table_batch table_heads blocks tiles"],
    seen: UInt8[np.ndarray, "patterns block tile"],
    streams: Int[np.ndarray, " heads"],
    threshold: int,
    boost: float,
    output: Float[np.ndarray, "lanes rows dim"],
    peak: Float[np.ndarray, "lanes rows"],
    total: Float[np.ndarray, "lanes rows"],
    key_heads: int,
    first: int,
    last: int,
) -> None:
    """Attend with the blocks of queries from `first` to `last`: the output, and each row's peak and Σ e^{score−peak}.

    Rows are the queries of all the heads that share a key head, head by head. `table` says which pattern of `seen` a
    tile has: 0 is nothing, 1 everything.
    """
    blocks, tiles = table.shape[2], table.shape[3]
    hidden, dim = weights.shape[0], values.shape[2]
    group = by_row.shape[1] // max(1, queries)
    keys = key.shape[1]
    shares, unused = np.empty((BLOCK, TILE), weights.dtype), np.empty(TILE, weights.dtype)
    level, fours = np.empty(hidden, weights.dtype), np.empty(hidden // 4, weights.dtype)
    _balance(weights, scale, level, fours)
    leaning, limits = np.ones((BLOCK, hidden), weights.dtype), np.ones((BLOCK, hidden), weights.dtype)
    capped = np.zeros(BLOCK, np.bool_)
    best, numbers = np.empty(TILE // 2, weights.dtype), np.empty(TILE, weights.dtype)
    for unit in range(first, last):
        block, head = unit % blocks, unit // blocks
        lane = head // group
        states = table[min(lane // key_heads, table.shape[0] - 1)]
        states = states[min(lane % key_heads * group + head % group, states.shape[0] - 1), block]
        start = head % group * queries + block * BLOCK
        rows = min(BLOCK, queries - block * BLOCK)
        output[lane, start : start + rows] = 0
        for i in range(rows):
            peak[lane, start + i] = -np.inf
            total[lane, start + i] = 0
            _lean(leaning[i], limits[i], by_row[lane, start + i], level, cap)
        for tile in range(tiles):
            state = states[tile]
            if state == 0:
                continue
            there = tile * TILE
            count = min(TILE, keys - there)
            away = anywhere[lane, tile].any()
            for i in range(rows):
                capped[i] = _reaches(by_row[lane, start + i], tallest[lane, tile], cap)
            ends = leaning, limits, by_row[lane, start : start + rows], by_key[lane, tile]
            _score(shares, *ends, weights, level, fours, scale, capped, rows)
            for i in range(rows):
                row, score = start + i, shares[i]
                if away:
                    both = query[lane, row], key[lane], by_row[lane, row], by_key[lane, tile]
                    _mend(unused, score, numbers, *both, there, weights, anywhere[lane, tile], far, cap)
                if state > 1 or count < TILE:
                    _hide(score, seen[state, i], state, count)
                top = _top(score, best, peak[lane, row])
                floor = top if top > -np.inf else np.float32(0)
                summed = weights.dtype.type(0)
                for j in range(TILE):
                    score[j] = _exp(score[j] - floor)
                    summed += score[j]
                if top > peak[lane, row]:
                    if total[lane, row] != 0:
                        shrink = _exp(peak[lane, row] - floor)
                        total[lane, row] *= shrink
                        for d in range(dim):
                            output[lane, row, d] *= shrink
                    peak[lane, row] = top
                total[lane, row] += summed
                if threshold:
                    _drop(score, streams[head], block * BLOCK + i, there, threshold, boost)
            _weigh(shares, values[lane, tile], output[lane, start : start + rows], rows)
        for i in range(rows):
            row = start + i
            if total[lane, row] != 0:
                share = _ONE / total[lane, row]
                for d in range(dim):
                    output[lane, row, d] *= share


@kernel
def _top(scores: Any, best: Any, top: float) -> float:
    """Give the largest score that is no NaN, or `top`. Halves are compared whole: a loop that carries one number on,
    where NaN counts, would go one by one.
    """
    for j in range(TILE // 2):
        best[j] = scores[j] if scores[j] > scores[j + TILE // 2] else scores[j + TILE // 2]
    for j in range(TILE // 4):
        best[j] = best[j] if best[j] > best[j + TILE // 4] else best[j + TILE // 4]
    for j in range(TILE // 8):
        best[j] = best[j] if best[j] > best[j + TILE // 8] else best[j + TILE // 8]
    for j in range(TILE // 8):
        top = best[j] if best[j] > top else top
    return top


@kernel
def _drop(shares: Any, stream: int, row: int, there: int, threshold: int, boost: float) -> None:
    """Set dropped weights to 0 and boost the others: `qkv.core.dropout.drop`."""
    line = _mix(np.uint32(np.uint32(stream) ^ np.uint32(row)))
    bound, up = np.uint32(min(threshold, 0xFFFFFFFF)), shares.dtype.type(boost)
    for j in range(TILE):
        drawn = _mix(np.uint32(line ^ np.uint32(there + j)))
        shares[j] = shares[j] * up if drawn >= bound else shares.dtype.type(0)


@kernel
def _weigh(shares: Any, values: Any, output: Any, rows: int) -> None:
    """Add each row's sum of values by their shares. Two rows and four features at a time stay in registers."""
    dim = values.shape[0]
    zero = shares.dtype.type(0)
    for i in range(0, rows, 2):
        # An odd last row meets itself, and is written once.
        p, q = shares[i], shares[min(i + 1, rows - 1)]
        for d in range(0, dim - 3, 4):
            v0, v1 = values[d], values[d + 1]
            v2, v3 = values[d + 2], values[d + 3]
            p0 = p1 = p2 = p3 = q0 = q1 = q2 = q3 = zero
            for j in range(TILE):
                p0 += p[j] * v0[j]
                p1 += p[j] * v1[j]
                p2 += p[j] * v2[j]
                p3 += p[j] * v3[j]
                q0 += q[j] * v0[j]
                q1 += q[j] * v1[j]
                q2 += q[j] * v2[j]
                q3 += q[j] * v3[j]
            output[i, d] += p0
            output[i, d + 1] += p1
            output[i, d + 2] += p2
            output[i, d + 3] += p3
            if i + 1 < rows:
                output[i + 1, d] += q0
                output[i + 1, d + 1] += q1
                output[i + 1, d + 2] += q2
                output[i + 1, d + 3] += q3
        for d in range(dim - dim % 4, dim):
            v0 = values[d]
            p0 = q0 = zero
            for j in range(TILE):
                p0 += p[j] * v0[j]
                q0 += q[j] * v0[j]
            output[i, d] += p0
            if i + 1 < rows:
                output[i + 1, d] += q0


@kernel
def backward(
    query: Float[np.ndarray, "lanes rows hidden"],
    key: Float[np.ndarray, "lanes keys hidden"],
    weights: Float[np.ndarray, " hidden"],
    scale: float,
    far: float,
    cap: float,
    by_row: Float[np.ndarray, "lanes rows hidden"],
    by_key: Float[np.ndarray, "lanes tiles features_of_keys"],
    values: Float[np.ndarray, "lanes tiles dim tile"],
    anywhere: UInt8[np.ndarray, "lanes tiles hidden"],
    tallest: Float[np.ndarray, "lanes tiles hidden"],
    queries: int,
    table: Int[np.ndarray, "table_batch table_heads blocks tiles"],
    seen: UInt8[np.ndarray, "patterns block tile"],
    streams: Int[np.ndarray, " heads"],
    threshold: int,
    boost: float,
    output: Float[np.ndarray, "lanes rows dim"],
    peak: Float[np.ndarray, "lanes rows"],
    total: Float[np.ndarray, "lanes rows"],
    gradient: Float[np.ndarray, "lanes rows dim"],
    key_heads: int,
    for_rows: Float[np.ndarray, "lanes rows hidden"],
    for_keys: Float[np.ndarray, "lanes chunks tiles hidden tile"],
    for_values: Float[np.ndarray, "lanes chunks tiles dim tile"],
    for_weights: Float[np.ndarray, "lanes chunks hidden"],
    first: int,
    last: int,
) -> None:
    """Give the gradients of the chunks of rows from `first` to `last`, each chunk's share of the keys' apart.

    Of a weight p, ds = p (dp − Σ dp p), where Σ dp p is gradient · output; of a feature, 1 − tanh² = 4 r (1 − r).
    """
    blocks, tiles = table.shape[2], table.shape[3]
    keys, hidden, dim = key.shape[1], weights.shape[0], values.shape[2]
    group = by_row.shape[1] // max(1, queries)
    chunks = for_keys.shape[1]
    zero = weights.dtype.type(0)
    fractions = np.empty(hidden * TILE, weights.dtype)
    level, fours = np.empty(hidden, weights.dtype), np.empty(hidden // 4, weights.dtype)
    _balance(weights, scale, level, fours)
    leaning, limits = np.ones((BLOCK, hidden), weights.dtype), np.ones((BLOCK, hidden), weights.dtype)
    capped = np.zeros(BLOCK, np.bool_)
    shares = np.empty((BLOCK, TILE), weights.dtype)
    slopes = np.empty((BLOCK, TILE), weights.dtype)
    kept, numbers = np.empty(TILE, weights.dtype), np.empty(TILE, weights.dtype)
    for unit in range(first, last):
        lane, chunk = unit // chunks, unit % chunks
        mine = group * blocks
        from_, to = mine * chunk // chunks, mine * (chunk + 1) // chunks
        for_keys[lane, chunk] = 0
        for_values[lane, chunk] = 0
        for_weights[lane, chunk] = 0
        means = np.zeros((to - from_) * BLOCK, weights.dtype)
        for part in range(from_, to):
            start = part // blocks * queries + part % blocks * BLOCK
            for i in range(min(BLOCK, queries - part % blocks * BLOCK)):
                for_rows[lane, start + i] = 0
                wide = 0.0
                for d in range(dim):
                    wide += np.float64(gradient[lane, start + i, d]) * np.float64(output[lane, start + i, d])
                means[(part - from_) * BLOCK + i] = wide
        for tile in range(tiles):
            there = tile * TILE
            count = min(TILE, keys - there)
            away = anywhere[lane, tile].any()
            for part in range(from_, to):
                member, block = part // blocks, part % blocks
                states = table[min(lane // key_heads, table.shape[0] - 1)]
                state = states[min(lane % key_heads * group + member, states.shape[0] - 1), block, tile]
                if state == 0:
                    continue
                start = member * queries + block * BLOCK
                rows = min(BLOCK, queries - block * BLOCK)
                coming = gradient[lane, start : start + rows]
                for i in range(rows):
                    _lean(leaning[i], limits[i], by_row[lane, start + i], level, cap)
                    capped[i] = _reaches(by_row[lane, start + i], tallest[lane, tile], cap)
                ends = leaning, limits, by_row[lane, start : start + rows], by_key[lane, tile]
                _score(shares, *ends, weights, level, fours, scale, capped, rows)
                _slopes(slopes, coming, output[lane, start : start + rows], values[lane, tile], rows)
                for i in range(rows):
                    row, share, slope = start + i, shares[i], slopes[i]
                    _fractions(fractions, limits[i], by_row[lane, row], by_key[lane, tile], capped[i])
                    if away:
                        both = query[lane, row], key[lane], by_row[lane, row], by_key[lane, tile]
                        _mend(fractions, share, numbers, *both, there, weights, anywhere[lane, tile], far, cap)
                    if state > 1 or count < TILE:
                        _hide(share, seen[state, i], state, count)
                    top, sum_ = peak[lane, row], total[lane, row]
                    floor = top if top > -np.inf else np.float32(0)
                    inverse = _ONE / sum_ if sum_ != 0 else zero
                    mean = means[(part - from_) * BLOCK + i]
                    for j in range(TILE):
                        share[j] = _exp(share[j] - floor) * inverse
                    if threshold:
                        for j in range(TILE):
                            kept[j] = _ONE
                        _drop(kept, streams[lane * group + member], block * BLOCK + i, there, threshold, boost)
                        for j in range(TILE):
                            slope[j] = share[j] * (slope[j] * kept[j] + mean * (kept[j] - _ONE))
                            share[j] = share[j] * kept[j]
                    else:
                        for j in range(TILE):
                            slope[j] = share[j] * slope[j]
                    ours = for_keys[lane, chunk, tile], for_rows[lane, row], for_weights[lane, chunk]
                    _spread(fractions, slope, *ours)
                _collect(shares, coming, for_values[lane, chunk, tile], rows)
        for part in range(from_, to):
            start = part // blocks * queries + part % blocks * BLOCK
            for i in range(min(BLOCK, queries - part % blocks * BLOCK)):
                for f in range(hidden):
                    for_rows[lane, start + i, f] *= _TWO * _TWO * weights[f]
        for f in range(hidden):
            for_weights[lane, chunk, f] *= -_TWO
            for tile in range(tiles):
                for j in range(TILE):
                    for_keys[lane, chunk, tile, f, j] *= _TWO * _TWO * weights[f]


@kernel
def _slopes(slopes: Any, gradient: Any, output: Any, values: Any, rows: int) -> None:
    """Give the slope of each weight above the row's mean: gradient · (value − output), which loses no digits."""
    dim = values.shape[0]
    for i in range(0, rows, 2):
        other = min(i + 1, rows - 1)
        p, q, g, h, a, b = slopes[i], slopes[i + 1], gradient[i], gradient[other], output[i], output[other]
        p[:] = 0
        q[:] = 0
        for d in range(0, dim - 1, 2):
            g0, g1, h0, h1 = g[d], g[d + 1], h[d], h[d + 1]
            a0, a1, b0, b1 = a[d], a[d + 1], b[d], b[d + 1]
            v0, v1 = values[d], values[d + 1]
            for j in range(TILE):
                p[j] += g0 * (v0[j] - a0) + g1 * (v1[j] - a1)
                q[j] += h0 * (v0[j] - b0) + h1 * (v1[j] - b1)
        if dim % 2:
            d = dim - 1
            g0, h0, a0, b0, v0 = g[d], h[d], a[d], b[d], values[d]
            for j in range(TILE):
                p[j] += g0 * (v0[j] - a0)
                q[j] += h0 * (v0[j] - b0)


@kernel
def _collect(shares: Any, gradient: Any, for_values: Any, rows: int) -> None:
    """Add each value's sum of gradients by its shares."""
    dim = for_values.shape[0]
    for i in range(0, rows - 3, 4):
        p0, p1, p2, p3 = shares[i], shares[i + 1], shares[i + 2], shares[i + 3]
        for d in range(dim):
            g0, g1, g2, g3 = gradient[i, d], gradient[i + 1, d], gradient[i + 2, d], gradient[i + 3, d]
            v = for_values[d]
            for j in range(TILE):
                v[j] += p0[j] * g0 + p1[j] * g1 + p2[j] * g2 + p3[j] * g3
    for i in range(rows - rows % 4, rows):
        p0 = shares[i]
        for d in range(dim):
            g0, v = gradient[i, d], for_values[d]
            for j in range(TILE):
                v[j] += p0[j] * g0


@kernel
def _spread(fractions: Any, slopes: Any, for_keys: Any, for_row: Any, for_weights: Any) -> None:
    """Add a row's slopes times r (1 − r) to its own features and the keys', and times r − ½ to the weights'."""
    zero = half = slopes.dtype.type(0)
    for j in range(TILE):
        half += slopes[j]
    half /= _TWO
    for f in range(for_row.shape[0]):
        r, key = fractions[f * TILE : (f + 1) * TILE], for_keys[f]
        row = weight = zero
        for j in range(TILE):
            step = slopes[j] * r[j]
            weight += step
            step -= step * r[j]
            row += step
            key[j] += step
        for_row[f] += row
        for_weights[f] += weight - half


def _laid_out(query: Tensor, key: Tensor, value: Tensor, vector: Tensor) -> tuple[Any, ...]:
    """Lay out all lanes: the arguments that `forward` and `backward` begin with."""
    lanes, keys, hidden = key.shape
    tiles = -(-keys // TILE)
    queries, keys_, values, weights = (x.detach().numpy() for x in (query, key, value, vector))
    by_row, by_key = np.empty_like(queries), np.empty((lanes, tiles, hidden * TILE), queries.dtype)
    by_value = np.empty((lanes, tiles, value.shape[-1], TILE), queries.dtype)
    anywhere, tallest = np.empty((lanes, tiles, hidden), np.uint8), np.empty((lanes, tiles, hidden), queries.dtype)
    # The power of 2 below the largest weight, which divides without rounding.
    scale = math.ldexp(1.0, max(math.frexp(float(abs(weights).max()))[1] - 1, -126))
    # e^{2·reach} m / w is still finite; from reach − near on tanh is 1, and beyond `near` a number is far.
    reach, near, cap = (34.5, 25.5, 2.0**30) if queries.dtype == np.float32 else (330.0, 310.0, 2.0**100)
    far = math.exp(2 * near)
    made = (by_row, by_key, by_value, anywhere, tallest)
    _share(lanes * tiles, lambda first, last: lay_out(queries, keys_, values, reach, far, *made, first, last))
    return queries, keys_, weights, scale, far, cap, *made


def _share(units: int, work: Callable[[int, int], None]) -> None:
    """Share units of work among threads: a call of a kernel takes several, which costs less than a call for each."""
    parts = min(units, 4 * torch.get_num_threads() if torch.get_num_threads() > 1 else 1)
    in_parallel(lambda part: work(units * part // parts, units * (part + 1) // parts), parts)


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
    """Attend: `qkv.backends.additive.attend`."""
    assert patterns.shape[1:] == (BLOCK, TILE)
    laid_out = _laid_out(query, key, value, vector)
    output, peak = query.new_empty(*query.shape[:-1], value.shape[-1]), query.new_empty(query.shape[:-1])
    total = torch.empty_like(peak)
    chosen = _choices(table, patterns, streams, queries, rate)
    made = tuple(x.numpy() for x in (output, peak, total))
    units = query.shape[0] * (query.shape[1] // queries) * table.shape[2]
    _share(units, lambda first, last: forward(*laid_out, *chosen, *made, key_heads, first, last))
    return output, peak, total


def _choices(table: Tensor, patterns: Tensor, streams: Tensor, queries: int, rate: float) -> tuple:
    seen = patterns.view(torch.uint8)
    boost = 1 / (1 - rate) if rate < 1 else 0.0
    return queries, table.numpy(), seen.numpy(), streams.numpy(), threshold(rate), boost


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
    """Give the gradients: `qkv.backends.additive.gradients`."""
    laid_out = _laid_out(query, key, value, vector)
    lanes, rows, hidden = query.shape
    dim, tiles = value.shape[-1], table.shape[3]
    blocks = rows // queries * table.shape[2]
    chunks = max(1, min(blocks, CHUNKS // lanes))
    for_rows = torch.empty_like(query)
    for_keys = query.new_empty(lanes, chunks, tiles, hidden, TILE)
    for_values = query.new_empty(lanes, chunks, tiles, dim, TILE)
    for_weights = query.new_empty(lanes, chunks, hidden)
    chosen = _choices(table, patterns, streams, queries, rate)
    given = tuple(x.numpy() for x in (output, peak, total, gradient))
    made = tuple(x.numpy() for x in (for_rows, for_keys, for_values, for_weights))
    _share(lanes * chunks, lambda first, last: backward(*laid_out, *chosen, *given, key_heads, *made, first, last))
    for_key, for_value = (x.sum(1).mT.flatten(1, 2)[:, : key.shape[1]].contiguous() for x in (for_keys, for_values))
    return for_rows, for_key, for_value, for_weights.sum((0, 1))
