"""The kernel: a few rows of queries against runs of keys, each key and value read once, a register at a time.

A *lane* is one batch row and one head; its rows are the queries that read the same keys. Rows go in fours and keys in
twos: the eight scores of four rows and two keys are one vector, and so are their maxima, exponentials and sums.
"""

import math
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from llvmlite.binding import get_host_cpu_features  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic as typed_intrinsic
from numba.extending import models, register_model

from qkv.backends.compiled import kernel

ROWS = 4
"""Rows computed together; a lane has a multiple of them."""

BLOCK = 256
"""Keys between two looks at the rows' maxima. Their scores stay in the first cache, and memory is read in long runs."""

AHEAD = 32
"""Keys that memory is asked for before they are read: a processor by itself looks no further than a page."""

LINE = 64
PAIR = 2 * ROWS
WIDTH = 16 if get_host_cpu_features().get("avx512f") else 8
"""Numbers in a register: eight vectors of sums and what they are made of must fit into all of them."""

# Within kernels, intrinsics take what `generate` takes.
intrinsic: Any = typed_intrinsic

_FLOAT, _INT = ir.FloatType(), ir.IntType(32)
_EMPTY, _LEAST = np.float32(-np.inf), np.finfo(np.float32).min


class Lanes(types.Type):
    """Some floats in one register. Compilers find such vectors in plain loops, but not over four rows and two keys."""

    def __init__(self, count: int) -> None:
        super().__init__(f"lanes of {count}")
        self.count = count


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Lanes) -> None:
        super().__init__(manager, kind, ir.VectorType(_FLOAT, kind.count))


_wide, _pair = Lanes(WIDTH), Lanes(PAIR)


def _constant(number: float | int, like: ir.Type) -> ir.Constant:
    return ir.Constant(like, [number] * like.count if isinstance(like, ir.VectorType) else number)


def _spread(builder: ir.IRBuilder, scalar: ir.Value, count: int) -> ir.Value:
    none = ir.Constant(ir.VectorType(scalar.type, count), ir.Undefined)
    first = builder.insert_element(none, scalar, ir.Constant(_INT, 0))
    return builder.shuffle_vector(first, none, _constant(0, ir.VectorType(_INT, count)))


def _call(builder: ir.IRBuilder, name: str, result: ir.Type, arguments: list[ir.Value]) -> ir.Value:
    """Call an LLVM intrinsic."""
    function = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, function, name), arguments)


def _pointer(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
    array = context.make_array(signature.args[0])(context, builder, arguments[0])
    return builder.gep(array.data, [arguments[1]])


def _loaded(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
    """Load a register as float32. uint16 holds the bits of a bfloat16, int16 those of a float16."""
    pointer, stored = _pointer(context, builder, signature, arguments), signature.args[0].dtype
    bits = builder.load(builder.bitcast(pointer, ir.VectorType(pointer.type.pointee, WIDTH).as_pointer()))
    bits.align = stored.bitwidth // 8
    if stored == types.float32:
        return bits
    if stored == types.int16:
        return builder.fpext(builder.bitcast(bits, ir.VectorType(ir.HalfType(), WIDTH)), ir.VectorType(_FLOAT, WIDTH))
    high = builder.zext(bits, ir.VectorType(_INT, WIDTH))
    return builder.bitcast(builder.shl(high, _constant(16, high.type)), ir.VectorType(_FLOAT, WIDTH))


@intrinsic
def _load(typing: Any, array: Any, index: Any) -> Any:
    """array[index : index + WIDTH] as float32."""
    return _wide(array, types.intp), _loaded


@intrinsic
def _load_last(typing: Any, array: Any, index: Any, count: Any) -> Any:
    """array[index : index + WIDTH] as float32, 0 but for the last `count`."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        vector = _loaded(context, builder, signature, arguments)
        back = ir.Constant(ir.VectorType(_INT, WIDTH), list(range(WIDTH, 0, -1)))
        last = builder.icmp_signed("<=", back, _spread(builder, builder.trunc(arguments[2], _INT), WIDTH))
        return builder.select(last, vector, _constant(0.0, vector.type))

    return _wide(array, types.intp, types.intp), generate


@intrinsic
def _prefetch(typing: Any, array: Any, index: Any) -> Any:
    """Ask for what stands around array[index]; beyond the array this does nothing.

    It goes to the second cache, which waits for many lines at once; the first, for half of what memory gives.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        place = builder.bitcast(_pointer(context, builder, signature, arguments), ir.IntType(8).as_pointer())
        _call(builder, "llvm.prefetch.p0i8", ir.VoidType(), [place, *(ir.Constant(_INT, hint) for hint in (0, 2, 1))])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


@intrinsic
def _store(typing: Any, array: Any, index: Any, vector: Any) -> Any:
    """array[index : index + the vector's width] = vector."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        place = _pointer(context, builder, signature, arguments)
        builder.store(arguments[2], builder.bitcast(place, arguments[2].type.as_pointer())).align = 4
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), generate


@intrinsic
def _load_pair(typing: Any, array: Any, index: Any) -> Any:
    """array[index : index + 8] of float32."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        place = _pointer(context, builder, signature, arguments)
        vector = builder.load(builder.bitcast(place, ir.VectorType(_FLOAT, PAIR).as_pointer()))
        vector.align = 4
        return vector

    return _pair(array, types.intp), generate


@intrinsic
def _all(typing: Any, number: Any) -> Any:
    """The same number in every place."""
    return _wide(types.float32), lambda context, builder, signature, arguments: _spread(builder, arguments[0], WIDTH)


@intrinsic
def _all_pair(typing: Any, number: Any) -> Any:
    """The same number in every place."""
    return _pair(types.float32), lambda context, builder, signature, arguments: _spread(builder, arguments[0], PAIR)


def _fused(builder: ir.IRBuilder, one: ir.Value, other: ir.Value, total: ir.Value) -> ir.Value:
    return _call(builder, f"llvm.fmuladd.v{one.type.count}f32", one.type, [one, other, total])


@intrinsic
def _add_product(typing: Any, total: Any, one: Any, other: Any) -> Any:
    """total + one · other."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        return _fused(builder, arguments[1], arguments[2], arguments[0])

    return total(total, total, total), generate


@intrinsic
def _add(typing: Any, one: Any, other: Any) -> Any:
    return one(one, one), lambda context, builder, signature, arguments: builder.fadd(*arguments)


@intrinsic
def _larger(typing: Any, one: Any, other: Any) -> Any:
    """The larger of each two; `other` where `one` is NaN."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        return builder.select(builder.fcmp_ordered(">", *arguments), *arguments)

    return one(one, one), generate


def _ordered(builder: ir.IRBuilder, one: ir.Value, other: ir.Value, order: list[int]) -> ir.Value:
    return builder.shuffle_vector(one, other, ir.Constant(ir.VectorType(_INT, len(order)), order))


@intrinsic
def _sums(typing: Any, a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any, h: Any) -> Any:
    """The sum of each vector, as one vector."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        if WIDTH > PAIR:
            low, high = list(range(PAIR)), list(range(PAIR, WIDTH))
            arguments = [builder.fadd(_ordered(builder, x, x, low), _ordered(builder, x, x, high)) for x in arguments]
        # Within halves first, which is what processors shuffle fast: after two rounds each half has its own sums.
        for _ in range(2):
            arguments = [
                builder.fadd(
                    _ordered(builder, one, other, [0, 2, 8, 10, 4, 6, 12, 14]),
                    _ordered(builder, one, other, [1, 3, 9, 11, 5, 7, 13, 15]),
                )
                for one, other in zip(arguments[::2], arguments[1::2], strict=True)
            ]
        one, other = arguments
        return builder.fadd(
            _ordered(builder, one, other, [0, 1, 2, 3, 8, 9, 10, 11]),
            _ordered(builder, one, other, [4, 5, 6, 7, 12, 13, 14, 15]),
        )

    return _pair(*[_wide] * PAIR), generate


@intrinsic
def _swapped(typing: Any, vector: Any) -> Any:
    """The halves (of one key and of the other) swapped."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        return _ordered(builder, arguments[0], arguments[0], [4, 5, 6, 7, 0, 1, 2, 3])

    return _pair(_pair), generate


@intrinsic
def _exp_below(typing: Any, number: Any, peak: Any) -> Any:
    """e^(number − peak) where that is at most 1, within 2 units in the last place; 0 below 2⁻¹²⁶, NaN of NaN."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        kind, ints = arguments[0].type, ir.VectorType(_INT, PAIR)
        x = builder.fmul(builder.fsub(*arguments), _constant(1 / math.log(2), kind))
        least = _constant(-126.0, kind)
        clamped = builder.select(builder.fcmp_ordered(">=", x, least), x, least)
        whole = builder.fptosi(builder.fsub(clamped, _constant(0.5, kind)), ints)
        rest = builder.fsub(clamped, builder.sitofp(whole, kind))
        # The series of e^(rest · ln 2), |rest| ≤ 1/2: the next term is below half a unit in the last place.
        series = _constant(math.log(2) ** 7 / math.factorial(7), kind)
        for power in range(6, -1, -1):
            series = _fused(builder, series, rest, _constant(math.log(2) ** power / math.factorial(power), kind))
        power_of_two = builder.shl(builder.add(whole, _constant(127, ints)), _constant(23, ints))
        result = builder.fmul(series, builder.bitcast(power_of_two, kind))
        result = builder.select(builder.fcmp_ordered("<", x, least), _constant(0.0, kind), result)
        return builder.select(builder.fcmp_unordered("uno", x, x), x, result)

    return _pair(_pair, _pair), generate


@kernel
def _score(query, key, at, step, keys, dim, scale, cap, scores):  # type: ignore[no-untyped-def]
    """Score `keys` keys from `at` on, a pair of keys and four rows at a time: scores[rows // 4, key, row % 4]."""
    rows = query.shape[0] // dim
    whole, end, rest = dim - dim % WIDTH, dim - WIDTH, dim % WIDTH
    for j in range(0, keys, 2):
        one = at + j * step
        other = one if j + 1 == keys else one + step
        for i in range(0, dim, LINE // key.itemsize):
            _prefetch(key, one + AHEAD * step + i)
            _prefetch(key, other + AHEAD * step + i)
        for group in range(rows // ROWS):
            row = group * ROWS * dim
            a = b = c = d = e = f = g = h = _all(np.float32(0))
            for i in range(0, whole, WIDTH):
                x, y = _load(key, one + i), _load(key, other + i)
                q = _load(query, row + i)
                a, e = _add_product(a, q, x), _add_product(e, q, y)
                q = _load(query, row + dim + i)
                b, f = _add_product(b, q, x), _add_product(f, q, y)
                q = _load(query, row + 2 * dim + i)
                c, g = _add_product(c, q, x), _add_product(g, q, y)
                q = _load(query, row + 3 * dim + i)
                d, h = _add_product(d, q, x), _add_product(h, q, y)
            if rest:
                x, y = _load_last(key, one + end, rest), _load_last(key, other + end, rest)
                q = _load_last(query, row + end, rest)
                a, e = _add_product(a, q, x), _add_product(e, q, y)
                q = _load_last(query, row + dim + end, rest)
                b, f = _add_product(b, q, x), _add_product(f, q, y)
                q = _load_last(query, row + 2 * dim + end, rest)
                c, g = _add_product(c, q, x), _add_product(g, q, y)
                q = _load_last(query, row + 3 * dim + end, rest)
                d, h = _add_product(d, q, x), _add_product(h, q, y)
            _store(scores, (group * BLOCK + j) * ROWS, _sums(a, b, c, d, e, f, g, h))
    for group in range(rows // ROWS):
        first = group * BLOCK * ROWS
        for i in range(first, first + keys * ROWS):
            scores[i] *= scale
        if cap > 0:
            for i in range(first, first + keys * ROWS):
                scores[i] = cap * np.tanh(scores[i] / cap)
        if keys % 2:
            scores[first + keys * ROWS : first + (keys + 1) * ROWS] = _EMPTY


@kernel
def _exponentiate(scores, rows, keys, peaks, totals, factors):  # type: ignore[no-untyped-def]
    """Turn scores into weights below the rows' peaks so far; say by what the sums before are now too large."""
    for group in range(rows // ROWS):
        first, place = group * BLOCK * ROWS, group * PAIR
        before = _load_pair(peaks, place)
        peak = before
        for i in range(first, first + keys * ROWS, PAIR):
            peak = _larger(_load_pair(scores, i), peak)
        peak = _larger(_swapped(peak), peak)
        _store(peaks, place, peak)
        # A row that has seen nothing yet: −inf − (−inf) would be NaN.
        peak = _larger(peak, _all_pair(_LEAST))
        factor = _exp_below(before, peak)
        total = _all_pair(np.float32(0))
        for i in range(first, first + keys * ROWS, PAIR):
            weight = _exp_below(_load_pair(scores, i), peak)
            _store(scores, i, weight)
            total = _add(total, weight)
        _store(totals, place, _add_product(total, _load_pair(totals, place), factor))
        _store(factors, place, factor)


@kernel
def _weigh(scores, value, at, step, keys, dim, careful, sums, factors):  # type: ignore[no-untyped-def]
    """Add the values of `keys` keys from `at` on to the rows' sums, four keys and two rows at a time.

    `careful` leaves out what has no weight: it is hidden, and 0 · NaN would not be 0.
    """
    rows = sums.shape[0] // dim
    whole, end, rest = dim - dim % WIDTH, dim - WIDTH, dim % WIDTH
    for r in range(rows):
        sums[r * dim : r * dim + dim] *= factors[r // ROWS * PAIR + r % ROWS]
    fours = 0 if careful else keys - keys % 4
    for j in range(0, fours, 4):
        first = at + j * step
        second, third, fourth = first + step, first + 2 * step, first + 3 * step
        for i in range(0, dim, LINE // value.itemsize):
            _prefetch(value, first + AHEAD * step + i)
            _prefetch(value, second + AHEAD * step + i)
            _prefetch(value, third + AHEAD * step + i)
            _prefetch(value, fourth + AHEAD * step + i)
        for r in range(0, rows, 2):
            place = (r // ROWS * BLOCK + j) * ROWS + r % ROWS
            one, other = r * dim, r * dim + dim
            a, e = _all(scores[place]), _all(scores[place + 1])
            b, f = _all(scores[place + ROWS]), _all(scores[place + ROWS + 1])
            c, g = _all(scores[place + 2 * ROWS]), _all(scores[place + 2 * ROWS + 1])
            d, h = _all(scores[place + 3 * ROWS]), _all(scores[place + 3 * ROWS + 1])
            for i in range(0, whole, WIDTH):
                x, y = _load(sums, one + i), _load(sums, other + i)
                v = _load(value, first + i)
                x, y = _add_product(x, a, v), _add_product(y, e, v)
                v = _load(value, second + i)
                x, y = _add_product(x, b, v), _add_product(y, f, v)
                v = _load(value, third + i)
                x, y = _add_product(x, c, v), _add_product(y, g, v)
                v = _load(value, fourth + i)
                x, y = _add_product(x, d, v), _add_product(y, h, v)
                _store(sums, one + i, x)
                _store(sums, other + i, y)
            if rest:
                x, y = _load(sums, one + end), _load(sums, other + end)
                v = _load_last(value, first + end, rest)
                x, y = _add_product(x, a, v), _add_product(y, e, v)
                v = _load_last(value, second + end, rest)
                x, y = _add_product(x, b, v), _add_product(y, f, v)
                v = _load_last(value, third + end, rest)
                x, y = _add_product(x, c, v), _add_product(y, g, v)
                v = _load_last(value, fourth + end, rest)
                x, y = _add_product(x, d, v), _add_product(y, h, v)
                _store(sums, one + end, x)
                _store(sums, other + end, y)
    for j in range(fours, keys):
        first = at + j * step
        for r in range(rows):
            weight = scores[(r // ROWS * BLOCK + j) * ROWS + r % ROWS]
            if careful and weight == 0:
                continue
            for i in range(r * dim, r * dim + whole, WIDTH):
                _store(sums, i, _add_product(_load(sums, i), _all(weight), _load(value, first + i - r * dim)))
            if rest:
                i = r * dim + end
                _store(sums, i, _add_product(_load(sums, i), _all(weight), _load_last(value, first + end, rest)))


@kernel
def _hide(  # type: ignore[no-untyped-def]
    scores, at, keys, tile, tile_steps, tile_from, tile_to, rows, queries, batch, head
):
    """Set the scores of pairs that the tile hides to −inf. Rows go by heads, then by queries."""
    for row in range(rows):
        seen = batch * tile_steps[0] + (head * (rows // queries) + row // queries) * tile_steps[1]
        seen += row % queries * tile_steps[2] - tile_from * tile_steps[3]
        place = row // ROWS * BLOCK * ROWS + row % ROWS
        for j in range(max(0, tile_from - at), min(keys, tile_to - at)):
            if not tile[seen + (at + j) * tile_steps[3]]:
                scores[place + j * ROWS] = _EMPTY


@kernel
def attend(  # type: ignore[no-untyped-def]
    query, queries, heads, share, key, key_steps, value, value_steps, starts, stops,
    tile, tile_steps, tile_from, tile_to, scale, cap, output, levels, rows, first, last,
):  # fmt: skip
    """Attend for the units from `first` to `last`; a unit is a lane and one of the equal parts of its live keys.

    A part leaves the weighed sum of the values in output[lane, part], and each row's peak and sum of weights in
    levels[lane, part]. Of key, value and tile come all numbers in one dimension, and the steps of their dimensions.
    `share` lanes have one key head. Keys from `tile_from` to `tile_to` are seen where the tile says so.
    """
    parts, filled = levels.shape[1], levels.shape[2]
    width, dim = query.shape[1] // filled, output.shape[2] // filled
    scores = np.empty(filled * BLOCK, np.float32)
    peaks = np.empty(filled // ROWS * PAIR, np.float32)
    totals, factors = np.empty_like(peaks), np.empty_like(peaks)
    for unit in range(first, last):
        lane, part = unit // parts, unit % parts
        batch, head = lane // heads, lane % heads
        runs = lane if starts.shape[0] > 1 else 0
        alive = (stops[runs] - starts[runs]).sum()
        low, high = alive * part // parts, alive * (part + 1) // parts
        sums = output[lane, part]
        sums[:], peaks[:], totals[:] = 0, _EMPTY, 0
        key_from = batch * key_steps[0] + head // share * key_steps[1]
        value_from = batch * value_steps[0] + head // share * value_steps[1]
        passed = 0
        for slot in range(starts.shape[1]):
            # Of this run, what lies between `low` and `high` along the live keys.
            size = stops[runs, slot] - starts[runs, slot]
            end = starts[runs, slot] + min(size, high - passed)
            for at in range(starts[runs, slot] + max(0, low - passed), end, BLOCK):
                keys = min(BLOCK, end - at)
                key_at, value_at = key_from + at * key_steps[2], value_from + at * value_steps[2]
                _score(query[lane], key, key_at, key_steps[2], keys, width, scale, cap, scores)
                partial = at < tile_to and at + keys > tile_from
                if partial:
                    _hide(scores, at, keys, tile, tile_steps, tile_from, tile_to, rows, queries, batch, head)
                _exponentiate(scores, filled, keys, peaks, totals, factors)
                _weigh(scores, value, value_at, value_steps[2], keys, dim, partial, sums, factors)
            passed += size
        for row in range(filled):
            place = row // ROWS * PAIR + row % ROWS
            levels[lane, part, row, 0] = peaks[place]
            levels[lane, part, row, 1] = totals[place] + totals[place + ROWS]


@kernel
def merge(output, levels, result):  # type: ignore[no-untyped-def]
    """Join the parts of each row by their peaks and sums; a row that saw nothing becomes 0."""
    dim = output.shape[2] // levels.shape[2]
    rows = result.shape[1] // dim
    for lane in range(result.shape[0]):
        for row in range(rows):
            peak = _EMPTY
            for part in range(levels.shape[1]):
                peak = max(peak, levels[lane, part, row, 0])
            sums = result[lane, row * dim : row * dim + dim]
            sums[:] = 0
            total = np.float32(0)
            for part in range(levels.shape[1]):
                # A NaN is no peak: it shows in the sum alone.
                height, weight = levels[lane, part, row, 0], levels[lane, part, row, 1]
                if weight != 0:
                    share = np.exp(height - peak) if height > _EMPTY else np.float32(1)
                    total += share * weight
                    for i in range(dim):
                        sums[i] += share * output[lane, part, row * dim + i]
            if total != 0:
                for i in range(dim):
                    sums[i] /= total
