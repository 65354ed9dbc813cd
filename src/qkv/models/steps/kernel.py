"""The kernel of GPT-2's step. It reads each weight once, in order, for all rows. Arrays are flat, row after row.

At every moment memory is asked for what is read a moment later, past the end of a matrix too: for that, whoever reads
says what follows.
"""

import math
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import carray, types

from qkv.backends.compiled import kernel
from qkv.backends.decode.kernel import (
    LINE,
    PAIR,
    WIDTH,
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
    intrinsic,
)
from qkv.models.steps.board import finish, take, wait

TOGETHER = 8
"""Rows of a matrix whose sums are one vector."""

AHEAD = 8192
"""Numbers that memory is asked for before they are read: a processor by itself looks no further than a page."""

PHASES = 4
"""Phases of a block: attention in each head, its output, the feed-forward layer's two matrices."""

WEIGHTS = (
    *("norm", "shift", "query", "query_bias", "key", "key_bias", "value", "value_bias", "output", "output_bias"),
    *("second_norm", "second_shift", "expand", "expand_bias", "contract", "contract_bias"),
)
PLACES = np.dtype([(name, np.int64) for name in (*WEIGHTS, "keys", "values", "capacity")])
"""Where a block's weights and its caches lie in memory, and for how many positions the caches have room."""

SIZES = np.dtype(
    [(name, np.int64) for name in ("heads", "dim", "hidden", "tanh")] + [("epsilon", "f8"), ("second_epsilon", "f8")]
)


@intrinsic
def _pointer_to(typing: Any, address: Any) -> Any:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        return builder.inttoptr(arguments[0], ir.FloatType().as_pointer())

    return types.CPointer(types.float32)(types.intp), generate


@kernel
def floats(address, count):  # type: ignore[no-untyped-def]
    """Give the numbers that lie at an address."""
    return carray(_pointer_to(address), (count,))


@kernel
def leap(end, following):  # type: ignore[no-untyped-def]
    """Give how many numbers lie between the end of what is read, and what is read next."""
    return (following - end) // 4


@kernel
def norm(x, rows, width, weight, bias, epsilon, out):  # type: ignore[no-untyped-def]
    """LayerNorm of each row."""
    for row in range(rows):
        # Compilers make vectors of loops from 0.
        line, made = x[row * width : row * width + width], out[row * width : row * width + width]
        mean = np.float64(0)
        for i in range(width):
            mean += line[i]
        mean /= width
        variance = np.float64(0)
        for i in range(width):
            variance += (line[i] - mean) * (line[i] - mean)
        scale = np.float32(1 / math.sqrt(variance / width + epsilon))
        shift = np.float32(mean)
        for i in range(width):
            made[i] = (line[i] - shift) * scale * weight[i] + bias[i]


@kernel
def _eight(weight, a, b, c, d, e, f, g, h, x, start, width, ahead, sums):  # type: ignore[no-untyped-def]
    """Multiply eight rows of a matrix and x."""
    p = q = r = s = t = u = v = w = _all(np.float32(0))
    rest = width % WIDTH
    for j in range(0, width - rest, WIDTH):
        y, soon = _load(x, start + j), j + ahead
        _prefetch(weight, a + soon)
        p = _add_product(p, y, _load(weight, a + j))
        _prefetch(weight, b + soon)
        q = _add_product(q, y, _load(weight, b + j))
        _prefetch(weight, c + soon)
        r = _add_product(r, y, _load(weight, c + j))
        _prefetch(weight, d + soon)
        s = _add_product(s, y, _load(weight, d + j))
        _prefetch(weight, e + soon)
        t = _add_product(t, y, _load(weight, e + j))
        _prefetch(weight, f + soon)
        u = _add_product(u, y, _load(weight, f + j))
        _prefetch(weight, g + soon)
        v = _add_product(v, y, _load(weight, g + j))
        _prefetch(weight, h + soon)
        w = _add_product(w, y, _load(weight, h + j))
    if rest:
        j = width - WIDTH
        y = _load_last(x, start + j, rest)
        p = _add_product(p, y, _load_last(weight, a + j, rest))
        q = _add_product(q, y, _load_last(weight, b + j, rest))
        r = _add_product(r, y, _load_last(weight, c + j, rest))
        s = _add_product(s, y, _load_last(weight, d + j, rest))
        t = _add_product(t, y, _load_last(weight, e + j, rest))
        u = _add_product(u, y, _load_last(weight, f + j, rest))
        v = _add_product(v, y, _load_last(weight, g + j, rest))
        w = _add_product(w, y, _load_last(weight, h + j, rest))
    _store(sums, 0, _sums(p, q, r, s, t, u, v, w))


@kernel
def product(weight, first, last, x, rows, step, width, out, into, leap):  # type: ignore[no-untyped-def]
    """out[into[row] + i − first] = weight[i] · x[row · step :] for the matrix's rows `first` to `last`.

    What is read next lies `leap` numbers past the last of these.
    """
    sums = np.empty(TOGETHER, np.float32)
    near = last * width - AHEAD
    for i in range(first, last, TOGETHER):
        end = min(TOGETHER, last - i) - 1
        at = i * width
        # Past the end, the last row is multiplied again and left out.
        b, c, d, e = (
            at + min(1, end) * width,
            at + min(2, end) * width,
            at + min(3, end) * width,
            at + min(4, end) * width,
        )
        f, g, h = at + min(5, end) * width, at + min(6, end) * width, at + min(7, end) * width
        ahead = AHEAD if at < near else AHEAD + leap
        for row in range(rows):
            _eight(weight, at, b, c, d, e, f, g, h, x, row * step, width, ahead, sums)
            place = into[row] + i - first
            for k in range(end + 1):
                out[place + k] = sums[k]


@kernel
def _exponentiate(x, count, peak):  # type: ignore[no-untyped-def]
    """x = e^(x − peak) for the first `count` numbers, none larger than the peak; x has room for whole vectors."""
    for i in range(0, count, PAIR):
        _store(x, i, _exp_below(_load_pair(x, i), _all_pair(peak)))


@kernel
def mix(weights, values, begin, seen, dim, out, leap):  # type: ignore[no-untyped-def]
    """Sum up `seen` rows of the values from row `begin` on, each by its weight; `leap` as in `product`."""
    start, wide = begin * dim, 4 * WIDTH
    near = seen - AHEAD // dim
    for i in range(0, dim - dim % wide, wide):
        a = b = c = d = _all(np.float32(0))
        for j in range(seen):
            at, share = start + j * dim + i, _all(weights[j])
            ahead = at + (AHEAD if j < near else AHEAD + leap)
            for line in range(0, wide, LINE // 4):
                _prefetch(values, ahead + line)
            a, b = _add_product(a, share, _load(values, at)), _add_product(b, share, _load(values, at + WIDTH))
            c = _add_product(c, share, _load(values, at + 2 * WIDTH))
            d = _add_product(d, share, _load(values, at + 3 * WIDTH))
        _store(out, i, a)
        _store(out, i + WIDTH, b)
        _store(out, i + 2 * WIDTH, c)
        _store(out, i + 3 * WIDTH, d)
    for i in range(dim - dim % wide, dim, WIDTH):
        # The last vector may begin early: what it overlaps it finds again.
        column = min(i, dim - WIDTH)
        a = _all(np.float32(0))
        for j in range(seen):
            a = _add_product(a, _all(weights[j]), _load(values, start + j * dim + column))
        _store(out, column, a)


@kernel
def look(asked, keys, values, begin, seen, dim, scores, mixed, leap):  # type: ignore[no-untyped-def]
    """Let a query, scaled already, attend to the keys from row `begin` of their matrix on."""
    to_values = (values.ctypes.data - keys.ctypes.data) // 4 - seen * dim
    product(keys, begin, begin + seen, asked, 1, 0, dim, scores, np.zeros(1, np.int64), to_values)
    peak = scores[0]
    for j in range(1, seen):
        peak = max(peak, scores[j])
    _exponentiate(scores, seen, peak)
    total = np.float32(0)
    for j in range(seen):
        total += scores[j]
    share = 1 / total
    for j in range(seen):
        scores[j] *= share
    mix(scores, values, begin, seen, dim, mixed, leap)


@kernel
def _attend(normed, rows, width, place, size, positions, first, last, out, following):  # type: ignore[no-untyped-def]
    """Project rows to the heads `first` to `last`, the key and value into the caches; attend in each."""
    heads, dim, capacity = size.heads, size.dim, place.capacity
    inner = heads * dim
    query, key, value = (
        floats(place.query, inner * width),
        floats(place.key, inner * width),
        floats(place.value, inner * width),
    )
    query_bias, key_bias = floats(place.query_bias, inner), floats(place.key_bias, inner)
    value_bias = floats(place.value_bias, inner)
    cached = rows * heads * capacity * dim
    keys, values = floats(place.keys, cached), floats(place.values, cached)
    asked, scores = np.empty(rows * dim, np.float32), np.empty(capacity + PAIR, np.float32)
    among, into = np.arange(rows) * dim, np.empty(rows, np.int64)
    scale = np.float32(1 / math.sqrt(dim))
    for head in range(first, last):
        start, stop = head * dim, head * dim + dim
        for row in range(rows):
            into[row] = ((row * heads + head) * capacity + positions[row]) * dim
        begin, end = 4 * start * width, 4 * stop * width
        to_cache = leap(place.value + end, place.keys + 4 * head * capacity * dim)
        product(
            query, start, stop, normed, rows, width, width, asked, among, leap(place.query + end, place.key + begin)
        )
        product(key, start, stop, normed, rows, width, width, keys, into, leap(place.key + end, place.value + begin))
        product(value, start, stop, normed, rows, width, width, values, into, to_cache)
        for row in range(rows):
            for i in range(dim):
                asked[row * dim + i] = (asked[row * dim + i] + query_bias[start + i]) * scale
                keys[into[row] + i] += key_bias[start + i]
                values[into[row] + i] += value_bias[start + i]
            # The cache of this row and head is a matrix, a key in each of its rows.
            begin, seen = (row * heads + head) * capacity, positions[row] + 1
            after = place.query + end if head + 1 < last else following
            mixed = out[row * inner + start : row * inner + stop]
            this = asked[row * dim : row * dim + dim]
            look(
                this,
                keys,
                values,
                begin,
                seen,
                dim,
                scores,
                mixed,
                leap(place.values + 4 * (begin + seen) * dim, after),
            )


@kernel
def _add_to(stream, width, address, bias_address, first, last, x, rows, inner, following):  # type: ignore[no-untyped-def]
    """stream += W x + b, for the matrix's rows `first` to `last`."""
    weight, bias = floats(address, width * inner), floats(bias_address, width)
    count = last - first
    found = np.empty(rows * count, np.float32)
    end = address + 4 * last * inner
    product(weight, first, last, x, rows, inner, inner, found, np.arange(rows) * count, leap(end, following))
    for row in range(rows):
        to, made, shift = (
            stream[row * width + first : row * width + last],
            found[row * count : row * count + count],
            bias[first:last],
        )
        for i in range(count):
            to[i] += made[i] + shift[i]


@kernel
def _expand(normed, rows, width, place, size, first, last, out, following):  # type: ignore[no-untyped-def]
    """out = gelu(W x + b), for the matrix's rows `first` to `last`."""
    hidden, count = size.hidden, last - first
    weight, bias = floats(place.expand, hidden * width), floats(place.expand_bias, hidden)[first:last]
    end = place.expand + 4 * last * width
    product(
        weight, first, last, normed, rows, width, width, out, np.arange(rows) * hidden + first, leap(end, following)
    )
    half, cube, root = np.float32(0.5), np.float32(0.044715), np.float32(-2 * math.sqrt(2 / math.pi))
    powers = np.empty(count + PAIR, np.float32)
    for row in range(rows):
        made = out[row * hidden + first : row * hidden + last]
        for i in range(count):
            y = made[i] + bias[i]
            made[i] = y
            powers[i] = root * abs(y + cube * y * y * y)
        if size.tanh:
            # tanh |u| = (1 − e^−2|u|) / (1 + e^−2|u|), whose powers are vectors'.
            _exponentiate(powers, count, np.float32(0))
            for i in range(count):
                y, power = made[i], powers[i]
                made[i] = half * (y + abs(y) * (1 - power) / (1 + power))
        else:
            for i in range(count):
                y = made[i]
                made[i] = half * y * np.float32(1 + math.erf(y * math.sqrt(0.5)))


@kernel
def _work(  # type: ignore[no-untyped-def]
    phase, part, parts, stream, rows, width, places, sizes, positions, last_norm, last_shift, epsilon, head, vocabulary,
    normed, mixed, bent, logits,
):  # fmt: skip
    """Do one part of a phase."""
    layer, kind = phase // PHASES, phase % PHASES
    if layer == len(places):
        norm(stream, rows, width, floats(last_norm, width), floats(last_shift, width), epsilon, normed)
        first, last = vocabulary * part // parts, vocabulary * (part + 1) // parts
        into, after = np.arange(rows) * vocabulary + first, places[0].query - (head + 4 * last * width)
        weight = floats(head, vocabulary * width)
        product(weight, first, last, normed, rows, width, width, logits, into, after // 4)
        return
    place, size = places[layer], sizes[layer]
    inner, hidden = size.heads * size.dim, size.hidden
    narrow, wide = width * part // parts, hidden * part // parts
    narrow_end, wide_end = width * (part + 1) // parts, hidden * (part + 1) // parts
    if kind == 0:
        norm(stream, rows, width, floats(place.norm, width), floats(place.shift, width), size.epsilon, normed)
        first, last = size.heads * part // parts, size.heads * (part + 1) // parts
        after = place.output + 4 * narrow * inner
        _attend(normed, rows, width, place, size, positions, first, last, mixed, after)
    elif kind == 1:
        after = place.expand + 4 * wide * width
        _add_to(stream, width, place.output, place.output_bias, narrow, narrow_end, mixed, rows, inner, after)
    elif kind == 2:
        weight, bias = floats(place.second_norm, width), floats(place.second_shift, width)
        norm(stream, rows, width, weight, bias, size.second_epsilon, normed)
        after = place.contract + 4 * narrow * hidden
        _expand(normed, rows, width, place, size, wide, wide_end, bent, after)
    else:
        after = head + 4 * (vocabulary * part // parts) * width
        if layer + 1 < len(places):
            dim = sizes[layer + 1].dim
            after = places[layer + 1].query + 4 * (sizes[layer + 1].heads * part // parts) * dim * width
        _add_to(stream, width, place.contract, place.contract_bias, narrow, narrow_end, bent, rows, hidden, after)


@kernel
def step(  # type: ignore[no-untyped-def]
    board, part, parts, stream, rows, width, places, sizes, positions,
    last_norm, last_shift, epsilon, head, vocabulary, mixed, bent, logits,
):  # fmt: skip
    """Take a token of each row through all blocks to the logits, together with others who call this with other parts.

    Say whether all is done; if not, whoever still works needs the processor, and this is to be called again.
    """
    normed = np.empty(rows * width, np.float32)
    for phase in range(len(board)):
        for turn in range(parts):
            mine = (part + turn) % parts
            if take(board, phase, mine):
                _work(
                    phase, mine, parts, stream, rows, width, places, sizes, positions,
                    last_norm, last_shift, epsilon, head, vocabulary, normed, mixed, bent, logits,
                )  # fmt: skip
                finish(board, phase)
        if not wait(board, phase, parts):
            return False
    return True
