"""The kernels of a step: each reads its weights once, in order, for all rows. Arrays are flat, row after row."""

import math

import numpy as np

from qkv.backends.compiled import kernel
from qkv.backends.decode.kernel import WIDTH, _add_product, _all, _load, _load_last, _prefetch, _store, _sums

TOGETHER = 8
"""Rows of a matrix that are multiplied together: their sums are one vector."""


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
def product(weight, first, last, x, rows, step, width, out, into):  # type: ignore[no-untyped-def]
    """out[into[row] + i − first] = weight[i] · x[row · step :] for the matrix's rows `first` to `last`."""
    whole, end, rest = width - width % WIDTH, width - WIDTH, width % WIDTH
    sums = np.empty(TOGETHER, np.float32)
    ahead = TOGETHER * width
    for i in range(first, last, TOGETHER):
        count = min(TOGETHER, last - i)
        at = i * width
        # Past the end, rows are multiplied twice and left out.
        one, two, three = min(1, count - 1) * width, min(2, count - 1) * width, min(3, count - 1) * width
        four, five, six = min(4, count - 1) * width, min(5, count - 1) * width, min(6, count - 1) * width
        seven = (count - 1) * width
        for row in range(rows):
            start = row * step
            a = b = c = d = e = f = g = h = _all(np.float32(0))
            for j in range(0, whole, WIDTH):
                if row == 0:
                    here = at + ahead + j
                    _prefetch(weight, here)
                    _prefetch(weight, here + one)
                    _prefetch(weight, here + two)
                    _prefetch(weight, here + three)
                    _prefetch(weight, here + four)
                    _prefetch(weight, here + five)
                    _prefetch(weight, here + six)
                    _prefetch(weight, here + seven)
                y, here = _load(x, start + j), at + j
                a, b = _add_product(a, y, _load(weight, here)), _add_product(b, y, _load(weight, here + one))
                c, d = _add_product(c, y, _load(weight, here + two)), _add_product(d, y, _load(weight, here + three))
                e, f = _add_product(e, y, _load(weight, here + four)), _add_product(f, y, _load(weight, here + five))
                g, h = _add_product(g, y, _load(weight, here + six)), _add_product(h, y, _load(weight, here + seven))
            if rest:
                y, here = _load_last(x, start + end, rest), at + end
                a = _add_product(a, y, _load_last(weight, here, rest))
                b = _add_product(b, y, _load_last(weight, here + one, rest))
                c = _add_product(c, y, _load_last(weight, here + two, rest))
                d = _add_product(d, y, _load_last(weight, here + three, rest))
                e = _add_product(e, y, _load_last(weight, here + four, rest))
                f = _add_product(f, y, _load_last(weight, here + five, rest))
                g = _add_product(g, y, _load_last(weight, here + six, rest))
                h = _add_product(h, y, _load_last(weight, here + seven, rest))
            _store(sums, 0, _sums(a, b, c, d, e, f, g, h))
            place = into[row] + i - first
            for k in range(count):
                out[place + k] = sums[k]


@kernel
def attend(  # type: ignore[no-untyped-def]
    x, rows, width, weight, bias, epsilon, query, query_bias, key, key_bias, value, value_bias,
    keys, values, places, capacity, heads, dim, first, last, out,
):  # fmt: skip
    """Norm x; project it to the heads `first` to `last`, the key and value into the caches; attend in each."""
    normed, asked = np.empty(rows * width, np.float32), np.empty(rows * dim, np.float32)
    into, scores, one = np.empty(rows, np.int64), np.empty(capacity, np.float32), np.zeros(1, np.int64)
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
            for j in range(seen):
                scores[j] = math.exp(scores[j] - peak)
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
    half, cube, root = np.float32(0.5), np.float32(0.044715), math.sqrt(2 / math.pi)
    for row in range(rows):
        for i in range(first, last):
            y = out[row * hidden + i] + bias[i]
            inner = math.tanh(root * (y + cube * y * y * y)) if tanh else math.erf(y * math.sqrt(0.5))
            out[row * hidden + i] = half * y * np.float32(1 + inner)
