"""The kernel of a decoder's step: one layer for all rows. Arrays are flat, row after row."""

import math

import numpy as np

from qkv.backends.compiled import kernel
from qkv.backends.decode.kernel import WIDTH, _add_product, _all, _load, _load_last, _prefetch, _store, _sums
from qkv.models.steps.kernel import AHEAD, norm, product

BLOCK = 16
"""Rows of a matrix that stay in the first cache while all rows of x meet them."""


@kernel
def _tile(weight, i, second, x, a, b, c, d, width, sums):  # type: ignore[no-untyped-def]
    """Multiply two rows of a matrix and four rows of x, each number read once for all."""
    a1 = b1 = c1 = d1 = a2 = b2 = c2 = d2 = _all(np.float32(0))
    rest = width % WIDTH
    for j in range(0, width - rest, WIDTH):
        _prefetch(weight, i + AHEAD + j)
        _prefetch(weight, second + AHEAD + j)
        one, two = _load(weight, i + j), _load(weight, second + j)
        y = _load(x, a + j)
        a1, a2 = _add_product(a1, y, one), _add_product(a2, y, two)
        y = _load(x, b + j)
        b1, b2 = _add_product(b1, y, one), _add_product(b2, y, two)
        y = _load(x, c + j)
        c1, c2 = _add_product(c1, y, one), _add_product(c2, y, two)
        y = _load(x, d + j)
        d1, d2 = _add_product(d1, y, one), _add_product(d2, y, two)
    if rest:
        j = width - WIDTH
        one, two = _load_last(weight, i + j, rest), _load_last(weight, second + j, rest)
        y = _load_last(x, a + j, rest)
        a1, a2 = _add_product(a1, y, one), _add_product(a2, y, two)
        y = _load_last(x, b + j, rest)
        b1, b2 = _add_product(b1, y, one), _add_product(b2, y, two)
        y = _load_last(x, c + j, rest)
        c1, c2 = _add_product(c1, y, one), _add_product(c2, y, two)
        y = _load_last(x, d + j, rest)
        d1, d2 = _add_product(d1, y, one), _add_product(d2, y, two)
    _store(sums, 0, _sums(a1, b1, c1, d1, a2, b2, c2, d2))


@kernel
def products(weight, first, last, x, rows, width, features, out):  # type: ignore[no-untyped-def]
    """out[row · features + i] = weight[i] · x[row] for the matrix's rows `first` to `last`."""
    if rows == 1:
        product(weight, first, last, x, 1, width, width, out, np.full(1, first), 0)
        return
    sums, end = np.empty(8, np.float32), rows - 1
    for block in range(first, last, BLOCK):
        stop = min(block + BLOCK, last)
        for a in range(0, rows, 4):
            # Past the end, the last row is multiplied again.
            b, c, d = min(a + 1, end), min(a + 2, end), min(a + 3, end)
            for i in range(block, stop, 2):
                second = min(i + 1, stop - 1)
                _tile(weight, i * width, second * width, x, a * width, b * width, c * width, d * width, width, sums)
                for at, k in ((0, i), (4, second)):
                    out[a * features + k] = sums[at]
                    out[b * features + k] = sums[at + 1]
                    out[c * features + k] = sums[at + 2]
                    out[d * features + k] = sums[at + 3]


@kernel
def linear(weight, bias, features, x, rows, width):  # type: ignore[no-untyped-def]
    """Give W x + b of each row."""
    out = np.empty(rows * features, np.float32)
    products(weight, 0, features, x, rows, width, features, out)
    for row in range(rows):
        at = row * features
        for i in range(features):
            out[at + i] += bias[i]
    return out


@kernel
def _look(asked, keys, values, begin, seen, dim, scores, mixed):  # type: ignore[no-untyped-def]
    """Let one query of one head attend to the keys from row `begin` of their matrix on."""
    product(keys, begin, begin + seen, asked, 1, 0, dim, scores, np.zeros(1, np.int64), 0)
    scale, peak, total = np.float32(1 / math.sqrt(dim)), np.float32(-np.inf), np.float32(0)
    for j in range(seen):
        scores[j] *= scale
        peak = max(peak, scores[j])
    for j in range(seen):
        scores[j] = np.exp(scores[j] - peak)
        total += scores[j]
    mixed[:] = 0
    for j in range(seen):
        share, at = scores[j] / total, (begin + j) * dim
        for i in range(dim):
            mixed[i] += share * values[at + i]


@kernel
def _add(stream, made, weight, bias, epsilon, rows, width, pre):  # type: ignore[no-untyped-def]
    """Add what a layer made; where norms stand after the sum, norm it."""
    for i in range(rows * width):
        stream[i] += made[i]
    if not pre:
        norm(stream, rows, width, weight, bias, epsilon, stream)


@kernel
def _read(stream, weight, bias, epsilon, rows, width, pre):  # type: ignore[no-untyped-def]
    """Give what a layer reads: the stream, normed where norms stand before."""
    if not pre:
        return stream
    out = np.empty_like(stream)
    norm(stream, rows, width, weight, bias, epsilon, out)
    return out


@kernel
def layer(  # type: ignore[no-untyped-def]
    stream, rows, width, heads, dim, hidden, pre,
    norm1, shift1, epsilon1, query, query_bias, key, key_bias, value, value_bias, output, output_bias,
    keys, values, capacity, position,
    norm2, shift2, epsilon2, ask, ask_bias, tell, tell_bias,
    memory_keys, memory_values, lengths, longest,
    norm3, shift3, epsilon3, expand, expand_bias, contract, contract_bias,
):  # fmt: skip
    """Take one token of each row through self-attention, attention to the memory and the feed-forward layer.

    The new keys and values go into the caches at `position`; the stream is advanced in place.
    """
    inner, share = heads * dim, rows // len(lengths)
    scores, mixed = np.empty(max(capacity, longest), np.float32), np.empty(rows * inner, np.float32)
    read = _read(stream, norm1, shift1, epsilon1, rows, width, pre)
    asked = linear(query, query_bias, inner, read, rows, width)
    known, told = linear(key, key_bias, inner, read, rows, width), linear(value, value_bias, inner, read, rows, width)
    for row in range(rows):
        for head in range(heads):
            at, begin = row * inner + head * dim, (row * heads + head) * capacity
            new = (begin + position) * dim
            keys[new : new + dim] = known[at : at + dim]
            values[new : new + dim] = told[at : at + dim]
            _look(asked[at : at + dim], keys, values, begin, position + 1, dim, scores, mixed[at : at + dim])
    _add(stream, linear(output, output_bias, width, mixed, rows, inner), norm1, shift1, epsilon1, rows, width, pre)
    read = _read(stream, norm2, shift2, epsilon2, rows, width, pre)
    asked = linear(ask, ask_bias, inner, read, rows, width)
    for row in range(rows):
        source = row // share
        for head in range(heads):
            at, begin = row * inner + head * dim, (source * heads + head) * longest
            out = mixed[at : at + dim]
            _look(asked[at : at + dim], memory_keys, memory_values, begin, lengths[source], dim, scores, out)
    _add(stream, linear(tell, tell_bias, width, mixed, rows, inner), norm2, shift2, epsilon2, rows, width, pre)
    read = _read(stream, norm3, shift3, epsilon3, rows, width, pre)
    between = linear(expand, expand_bias, hidden, read, rows, width)
    for i in range(rows * hidden):
        between[i] = max(between[i], np.float32(0))
    _add(
        stream, linear(contract, contract_bias, width, between, rows, hidden), norm3, shift3, epsilon3, rows, width, pre
    )
