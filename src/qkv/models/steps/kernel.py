"""The kernels of a step: each reads its weights once, in order, for all rows. Arrays are flat, row after row."""

import math

import numpy as np

from qkv.backends.compiled import kernel
from qkv.backends.decode.kernel import (
    LINE,
    PAIR,
    WIDTH,
    _add,
    _add_product,
    _all,
    _all_pair,
    _exp_below,
    _load,
    _load_last,
    _load_pair,
    _prefetch,
    _store,
    _sums,
)

TOGETHER = 8
"""Rows of a matrix whose sums are one vector."""

AHEAD = 1024
"""Numbers that memory is asked for before they are read: a processor by itself looks no further than a page."""


@kernel
def norm(x, rows, width, weight, bias, epsilon, out):  # type: ignore[no-untyped-def]
    """LayerNorm of each row."""
    for row in range(rows):
        at = row * width
        mean = np.float64(0)
        for i in range(at, at + width):
            mean += x[i]
        mean /= width
        variance = np.float64(0)
        for i in range(at, at + width):
            variance += (x[i] - mean) * (x[i] - mean)
        scale = np.float32(1 / math.sqrt(variance / width + epsilon))
        shift = np.float32(mean)
        for i in range(width):
            out[at + i] = (x[at + i] - shift) * scale * weight[i] + bias[i]


@kernel
def _row(weight, at, x, start, width):  # type: ignore[no-untyped-def]
    """Multiply a row of a matrix and x, as a vector whose sum is the product."""
    a = b = c = d = _all(np.float32(0))
    whole, rest = width - width % (4 * WIDTH), width % WIDTH
    for j in range(0, whole, 4 * WIDTH):
        here, there = at + j, start + j
        for line in range(0, 4 * WIDTH, LINE // 4):
            _prefetch(weight, here + AHEAD + line)
        a = _add_product(a, _load(x, there), _load(weight, here))
        b = _add_product(b, _load(x, there + WIDTH), _load(weight, here + WIDTH))
        c = _add_product(c, _load(x, there + 2 * WIDTH), _load(weight, here + 2 * WIDTH))
        d = _add_product(d, _load(x, there + 3 * WIDTH), _load(weight, here + 3 * WIDTH))
    for j in range(whole, width - rest, WIDTH):
        a = _add_product(a, _load(x, start + j), _load(weight, at + j))
    if rest:
        end = width - WIDTH
        b = _add_product(b, _load_last(x, start + end, rest), _load_last(weight, at + end, rest))
    return _add(_add(a, b), _add(c, d))


@kernel
def product(weight, first, last, x, rows, step, width, out, into):  # type: ignore[no-untyped-def]
    """out[into[row] + i − first] = weight[i] · x[row · step :] for the matrix's rows `first` to `last`."""
    sums = np.empty(TOGETHER, np.float32)
    for i in range(first, last, TOGETHER):
        count, at = min(TOGETHER, last - i), i * width
        for row in range(rows):
            # Past the end, the last row is multiplied again and left out.
            y, end = row * step, count - 1
            a, b = _row(weight, at, x, y, width), _row(weight, at + min(1, end) * width, x, y, width)
            c, d = (
                _row(weight, at + min(2, end) * width, x, y, width),
                _row(weight, at + min(3, end) * width, x, y, width),
            )
            e, f = (
                _row(weight, at + min(4, end) * width, x, y, width),
                _row(weight, at + min(5, end) * width, x, y, width),
            )
            g, h = (
                _row(weight, at + min(6, end) * width, x, y, width),
                _row(weight, at + min(7, end) * width, x, y, width),
            )
            _store(sums, 0, _sums(a, b, c, d, e, f, g, h))
            place = into[row] + i - first
            for k in range(count):
                out[place + k] = sums[k]


@kernel
def _exponentiate(x, count, peak):  # type: ignore[no-untyped-def]
    """x = e^(x − peak) for the first `count` numbers, none larger than the peak; x has room for whole vectors."""
    for i in range(0, count, PAIR):
        _store(x, i, _exp_below(_load_pair(x, i), _all_pair(peak)))


@kernel
def attend(  # type: ignore[no-untyped-def]
    x, rows, width, weight, bias, epsilon, query, query_bias, key, key_bias, value, value_bias,
    keys, values, places, capacity, heads, dim, first, last, out,
):  # fmt: skip
    """Norm x; project it to the heads `first` to `last`, the key and value into the caches; attend in each."""
    normed, asked = np.empty(rows * width, np.float32), np.empty(rows * dim, np.float32)
    into, scores, one = np.empty(rows, np.int64), np.empty(capacity + PAIR, np.float32), np.zeros(1, np.int64)
    norm(x, rows, width, weight, bias, epsilon, normed)
    scale = np.float32(1 / math.sqrt(dim))
    for head in range(first, last):
        start, stop = head * dim, head * dim + dim
        for row in range(rows):
            into[row] = row * dim
        product(query, start, stop, normed, rows, width, width, asked, into)
        for row in range(rows):
            into[row] = ((row * heads + head) * capacity + places[row]) * dim
        product(key, start, stop, normed, rows, width, width, keys, into)
        product(value, start, stop, normed, rows, width, width, values, into)
        for row in range(rows):
            for i in range(dim):
                asked[row * dim + i] = (asked[row * dim + i] + query_bias[start + i]) * scale
                keys[into[row] + i] += key_bias[start + i]
                values[into[row] + i] += value_bias[start + i]
            # The cache of this row and head is a matrix, a key in each of its rows.
            begin, seen = (row * heads + head) * capacity, places[row] + 1
            product(keys, begin, begin + seen, asked[row * dim : row * dim + dim], 1, 0, dim, scores, one)
            peak = scores[0]
            for j in range(1, seen):
                peak = max(peak, scores[j])
            total = np.float32(0)
            _exponentiate(scores, seen, peak)
            for j in range(seen):
                total += scores[j]
            mixed = out[row * width + start : row * width + stop]
            mixed[:] = 0
            for j in range(seen):
                share, at = scores[j] / total, (begin + j) * dim
                for i in range(dim):
                    mixed[i] += share * values[at + i]


@kernel
def add(weight, bias, first, last, x, rows, width, stream, features):  # type: ignore[no-untyped-def]
    """stream += W x + b, for the matrix's rows `first` to `last`."""
    found, into = np.empty(rows * (last - first), np.float32), np.arange(rows) * (last - first)
    product(weight, first, last, x, rows, width, width, found, into)
    for row in range(rows):
        at, from_ = row * features, row * (last - first) - first
        for i in range(first, last):
            stream[at + i] += found[from_ + i] + bias[i]


@kernel
def expand(  # type: ignore[no-untyped-def]
    x, rows, width, norm_weight, norm_bias, epsilon, weight, bias, hidden, tanh, first, last, out
):
    """out = gelu(W norm(x) + b), for the matrix's rows `first` to `last`."""
    normed, into = np.empty(rows * width, np.float32), np.arange(rows) * hidden + first
    norm(x, rows, width, norm_weight, norm_bias, epsilon, normed)
    product(weight, first, last, normed, rows, width, width, out, into)
    half, cube, root = np.float32(0.5), np.float32(0.044715), np.float32(-2 * math.sqrt(2 / math.pi))
    powers = np.empty(last - first + PAIR, np.float32)
    for row in range(rows):
        at = row * hidden + first
        for i in range(last - first):
            y = out[at + i] + bias[first + i]
            out[at + i] = y
            powers[i] = root * abs(y + cube * y * y * y)
        if tanh:
            # tanh |u| = (1 − e^−2|u|) / (1 + e^−2|u|), whose powers are vectors'.
            _exponentiate(powers, last - first, np.float32(0))
            for i in range(last - first):
                y, power = out[at + i], powers[i]
                out[at + i] = half * (y + abs(y) * (1 - power) / (1 + power))
        else:
            for i in range(last - first):
                y = out[at + i]
                out[at + i] = half * y * np.float32(1 + math.erf(y * math.sqrt(0.5)))


@kernel
def block(  # type: ignore[no-untyped-def]
    stream, rows, width, weight, bias, epsilon, query, query_bias, key, key_bias, value, value_bias,
    keys, values, places, capacity, heads, dim, output, output_bias, second_weight, second_bias, second_epsilon,
    wide, wide_bias, hidden, tanh, narrow, narrow_bias,
):  # fmt: skip
    """All of a block, on one thread."""
    mixed, bent = np.empty(rows * width, np.float32), np.empty(rows * hidden, np.float32)
    attend(
        stream, rows, width, weight, bias, epsilon, query, query_bias, key, key_bias, value, value_bias,
        keys, values, places, capacity, heads, dim, 0, heads, mixed,
    )  # fmt: skip
    add(output, output_bias, 0, width, mixed, rows, width, stream, width)
    expand(
        stream, rows, width, second_weight, second_bias, second_epsilon, wide, wide_bias, hidden, tanh, 0, hidden, bent
    )
    add(narrow, narrow_bias, 0, width, bent, rows, hidden, stream, width)
