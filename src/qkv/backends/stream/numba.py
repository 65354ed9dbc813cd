"""The elementwise work on a tile of scores, between two matrix products: one pass each way."""

import math
from typing import Any, no_type_check

import numpy as np
from jaxtyping import Bool, Float, Int32, UInt32
from numba import types
from numba.extending import overload

from qkv.backends.compiled import kernel


def _exp(x: Any) -> Any:
    """Give e^x for x <= 0, and 0 where that would be subnormal; NaN stays NaN."""
    raise NotImplementedError


@no_type_check
# Without "reassoc": the two parts of log 2 must not be added up.
@overload(_exp, jit_options={"fastmath": {"contract"}, "error_model": "numpy"})
def _exp_of(x):
    if x != types.float32:
        return lambda x: math.exp(x)

    def exp(x):
        # Unlike the library's, this runs on whole vectors.
        near = np.float32(-87) if x < np.float32(-87) else x
        whole = np.int32(near * np.float32(1.4426950408889634) - np.float32(0.5))
        part = near - np.float32(whole) * np.float32(0.693359375)
        part = part + np.float32(whole) * np.float32(2.12194440e-4)
        power = np.float32(1.9875691500e-4)
        power = power * part + np.float32(1.3981999507e-3)
        power = power * part + np.float32(8.3334519073e-3)
        power = power * part + np.float32(4.1665795894e-2)
        power = power * part + np.float32(1.6666665459e-1)
        power = power * part + np.float32(5.0000001201e-1)
        power = power * part * part + part + np.float32(1)
        # A whole power of two is its exponent's bits.
        scale = np.int32((whole + np.int32(127)) << np.int32(23)).view(np.float32)
        return np.float32(0) if x < np.float32(-87) else np.float32(power * scale)

    return exp


@kernel
def _mix(x: Any) -> Any:
    """Scramble 32 bits: `qkv.core.dropout.mix`."""
    x = np.uint32(np.uint32(x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D))
    x = np.uint32(np.uint32(x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B))
    return np.uint32(x ^ (x >> np.uint32(16)))


@kernel
def find_ends(
    seen: Bool[np.ndarray, "lanes rows columns"],
    column: int,
    begin: Int32[np.ndarray, "lanes rows"],
    end: Int32[np.ndarray, "lanes rows"],
) -> bool:
    """Find where what a row sees begins and ends, of keys from `column` on; say whether all rows see all between."""
    whole = True
    for i in range(seen.shape[0]):
        for j in range(seen.shape[1]):
            row = seen[i, j]
            first, last, count = 0, row.shape[0], 0
            while first < last and not row[first]:
                first += 1
            while first < last and not row[last - 1]:
                last -= 1
            for k in range(row.shape[0]):
                count += row[k]
            begin[i, j], end[i, j] = column + first, column + last
            whole = whole and count == last - first
    return whole


@kernel
def hide(
    tile: Float[np.ndarray, "lanes rows columns"],
    column: int,
    begin: Int32[np.ndarray, "some rows"],
    end: Int32[np.ndarray, "some rows"],
) -> None:
    """Set scores to −inf outside of what a row sees, of keys from `column` on; ends of one lane are those of all."""
    for i in range(tile.shape[0]):
        alike = min(i, begin.shape[0] - 1)
        for j in range(tile.shape[1]):
            row = tile[i, j]
            first = min(max(begin[alike, j] - column, 0), row.shape[0])
            last = min(max(end[alike, j] - column, first), row.shape[0])
            row[:first] = -np.inf
            row[last:] = -np.inf


@kernel
def weigh(
    tile: Float[np.ndarray, "lanes rows columns"],
    high: Float[np.ndarray, "lanes rows"],
    peak: Float[np.ndarray, "all queries"],
    total: Float[np.ndarray, "all queries"],
    streams: UInt32[np.ndarray, " all"],
    lane: int,
    row: int,
    column: int,
    last_dropped: int,
) -> None:
    """Turn scores into exp(score − peak), 0 where dropped, and bring each row's peak and total up to date.

    The tile begins at (`lane`, `row`, `column`) of all pairs. `high` holds its rows' largest scores; it leaves as the
    factor exp(old peak − new peak), by which what was summed before must shrink. Dropout counts in no total.
    """
    nought = tile.dtype.type(0)
    limit = np.uint32(max(last_dropped, 0))
    # A counter within the loop would have 64 bits, and halve the numbers in a vector.
    columns = np.arange(column, column + tile.shape[2]).astype(np.uint32)
    for i in range(tile.shape[0]):
        for j in range(tile.shape[1]):
            scores = tile[i, j]
            before, now = peak[lane + i, row + j], high[i, j]
            # Not `now > before`: a row that holds a NaN becomes NaN.
            now = before if now <= before else now
            base = nought if now == -np.inf else now
            shrunk = nought if before == -np.inf else _exp(before - base)
            sum_ = nought
            if last_dropped < 0:
                for k in range(scores.shape[0]):
                    weight = _exp(scores[k] - base)
                    scores[k] = weight
                    sum_ += weight
            else:
                stream = _mix(np.uint32(streams[lane + i] ^ np.uint32(row + j)))
                for k in range(scores.shape[0]):
                    weight = _exp(scores[k] - base)
                    sum_ += weight
                    scores[k] = weight if _mix(np.uint32(stream ^ columns[k])) > limit else nought
            peak[lane + i, row + j] = now
            total[lane + i, row + j] = total[lane + i, row + j] * shrunk + sum_
            high[i, j] = shrunk


@kernel
def pull(
    tile: Float[np.ndarray, "lanes rows columns"],
    slope: Float[np.ndarray, "lanes rows columns"],
    peak: Float[np.ndarray, "all queries"],
    share: Float[np.ndarray, "all queries"],
    delta: Float[np.ndarray, "all queries"],
    streams: UInt32[np.ndarray, " all"],
    lane: int,
    row: int,
    column: int,
    last_dropped: int,
    boost: float,
) -> None:
    """Turn scores into weights, and the gradients of weights into those of scores.

    A weight is w = exp(score − peak) · share; dropout makes it k · w, with k either 0 or `boost`; the gradient of its
    score is w · (k · slope − delta). The peaks are finite.
    """
    nought, more = tile.dtype.type(0), tile.dtype.type(boost)
    limit = np.uint32(max(last_dropped, 0))
    # A counter within the loop would have 64 bits, and halve the numbers in a vector.
    columns = np.arange(column, column + tile.shape[2]).astype(np.uint32)
    for i in range(tile.shape[0]):
        for j in range(tile.shape[1]):
            scores, slopes = tile[i, j], slope[i, j]
            base, part, mean = peak[lane + i, row + j], share[lane + i, row + j], delta[lane + i, row + j]
            if last_dropped < 0:
                for k in range(scores.shape[0]):
                    weight = _exp(scores[k] - base) * part
                    scores[k] = weight
                    slopes[k] = weight * (slopes[k] - mean)
            else:
                stream = _mix(np.uint32(streams[lane + i] ^ np.uint32(row + j)))
                for k in range(scores.shape[0]):
                    weight = _exp(scores[k] - base) * part
                    factor = more if _mix(np.uint32(stream ^ columns[k])) > limit else nought
                    scores[k] = weight * factor
                    slopes[k] = weight * (factor * slopes[k] - mean)
