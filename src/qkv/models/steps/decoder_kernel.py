"""The kernel of a decoder's step: one layer for all rows. Arrays are flat, row after row."""

import math
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types

from qkv.backends.compiled import kernel
from qkv.backends.decode.kernel import (
    PAIR,
    WIDTH,
    _add_product,
    _all,
    _load,
    _load_last,
    _pointer,
    _prefetch,
    _spread,
    _store,
    _sums,
    _wide,
    intrinsic,
)
from qkv.models.steps.kernel import AHEAD, look, norm, product

PANEL = WIDTH
"""Rows of x that are computed side by side where they are many."""

TWELVE = 12
"""Rows of a matrix that meet a panel at once: their sums and what they are made of fit into all registers."""

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


@intrinsic
def _everywhere(typing: Any, array: Any, index: Any) -> Any:
    """array[index] in every place."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        return _spread(builder, builder.load(_pointer(context, builder, signature, arguments)), WIDTH)

    return _wide(array, types.intp), generate


@kernel
def _panel(weight, first, x, at, width, sums):  # type: ignore[no-untyped-def]
    """Multiply twelve rows of a matrix and a panel of x: numbers that stand side by side are of different rows of x."""
    a = b = c = d = e = f = g = h = k = o = m = n = _all(np.float32(0))
    # Processors add up to eight times a register to an address: so four of them point to all rows.
    third, sixth, ninth = first + 3 * width, first + 6 * width, first + 9 * width
    for start in range(0, width, WIDTH):
        for row in range(TWELVE):
            _prefetch(weight, first + row * width + start + AHEAD)
        for j in range(start, min(start + WIDTH, width)):
            y = _load(x, at + j * PANEL)
            a = _add_product(a, y, _everywhere(weight, first + j))
            b = _add_product(b, y, _everywhere(weight, first + width + j))
            c = _add_product(c, y, _everywhere(weight, first + 2 * width + j))
            d = _add_product(d, y, _everywhere(weight, third + j))
            e = _add_product(e, y, _everywhere(weight, third + width + j))
            f = _add_product(f, y, _everywhere(weight, third + 2 * width + j))
            g = _add_product(g, y, _everywhere(weight, sixth + j))
            h = _add_product(h, y, _everywhere(weight, sixth + width + j))
            k = _add_product(k, y, _everywhere(weight, sixth + 2 * width + j))
            o = _add_product(o, y, _everywhere(weight, ninth + j))
            m = _add_product(m, y, _everywhere(weight, ninth + width + j))
            n = _add_product(n, y, _everywhere(weight, ninth + 2 * width + j))
    _store(sums, 0, a)
    _store(sums, PANEL, b)
    _store(sums, 2 * PANEL, c)
    _store(sums, 3 * PANEL, d)
    _store(sums, 4 * PANEL, e)
    _store(sums, 5 * PANEL, f)
    _store(sums, 6 * PANEL, g)
    _store(sums, 7 * PANEL, h)
    _store(sums, 8 * PANEL, k)
    _store(sums, 9 * PANEL, o)
    _store(sums, 10 * PANEL, m)
    _store(sums, 11 * PANEL, n)


@kernel
def _in_panels(weight, first, last, x, rows, width, features, out):  # type: ignore[no-untyped-def]
    """Do what `products` does for so many rows that computing takes longer than reading."""
    panels = -(-rows // PANEL)
    turned, sums = np.zeros(panels * width * PANEL, np.float32), np.empty(TWELVE * PANEL, np.float32)
    for row in range(rows):
        at = row // PANEL * width * PANEL + row % PANEL
        for j in range(width):
            turned[at + j * PANEL] = x[row * width + j]
    for twelve in range(first, last, TWELVE):
        # The last twelve may begin early: what they overlap they find again.
        i = min(twelve, last - TWELVE)
        for panel in range(panels):
            _panel(weight, i * width, turned, panel * width * PANEL, width, sums)
            for row in range(min(PANEL, rows - panel * PANEL)):
                place = (panel * PANEL + row) * features + i
                for k in range(TWELVE):
                    out[place + k] = sums[k * PANEL + row]


@kernel
def _in_fours(weight, first, last, x, start, rows, width, features, out):  # type: ignore[no-untyped-def]
    """Do what `products` does for the rows of x from `start` on."""
    sums, end = np.empty(8, np.float32), rows - 1
    for block in range(first, last, BLOCK):
        stop = min(block + BLOCK, last)
        for a in range(start, rows, 4):
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
def products(weight, first, last, x, rows, width, features, out):  # type: ignore[no-untyped-def]
    """out[row · features + i] = weight[i] · x[row] for the matrix's rows `first` to `last`."""
    if rows == 1:
        product(weight, first, last, x, 1, width, width, out, np.full(1, first), 0)
        return
    # The last panel pays if it is nearly full.
    start = (rows + PANEL // 4) // PANEL * PANEL if last - first >= TWELVE else 0
    if start:
        _in_panels(weight, first, last, x, min(start, rows), width, features, out)
    _in_fours(weight, first, last, x, start, rows, width, features, out)


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
    scores, mixed = np.empty(max(capacity, longest) + PAIR, np.float32), np.empty(rows * inner, np.float32)
    scale = np.float32(1 / math.sqrt(dim))
    read = _read(stream, norm1, shift1, epsilon1, rows, width, pre)
    asked = linear(query, query_bias, inner, read, rows, width) * scale
    known, told = linear(key, key_bias, inner, read, rows, width), linear(value, value_bias, inner, read, rows, width)
    for row in range(rows):
        for head in range(heads):
            at, begin = row * inner + head * dim, (row * heads + head) * capacity
            new = (begin + position) * dim
            keys[new : new + dim] = known[at : at + dim]
            values[new : new + dim] = told[at : at + dim]
            look(asked[at : at + dim], keys, values, begin, position + 1, dim, scores, mixed[at : at + dim], 0)
    _add(stream, linear(output, output_bias, width, mixed, rows, inner), norm1, shift1, epsilon1, rows, width, pre)
    read = _read(stream, norm2, shift2, epsilon2, rows, width, pre)
    asked = linear(ask, ask_bias, inner, read, rows, width) * scale
    for row in range(rows):
        source = row // share
        for head in range(heads):
            at, begin = row * inner + head * dim, (source * heads + head) * longest
            out = mixed[at : at + dim]
            look(asked[at : at + dim], memory_keys, memory_values, begin, lengths[source], dim, scores, out, 0)
    _add(stream, linear(tell, tell_bias, width, mixed, rows, inner), norm2, shift2, epsilon2, rows, width, pre)
    read = _read(stream, norm3, shift3, epsilon3, rows, width, pre)
    between = linear(expand, expand_bias, hidden, read, rows, width)
    for i in range(rows * hidden):
        between[i] = max(between[i], np.float32(0))
    _add(
        stream, linear(contract, contract_bias, width, between, rows, hidden), norm3, shift3, epsilon3, rows, width, pre
    )
