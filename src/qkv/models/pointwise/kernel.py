"""What a layer does to each number by itself, compiled: dropout, GELU, a softmax, each one pass over memory.

Flat arrays go by lines; a thread takes some of the lines or rows, from `first` to `last`.
"""

import numpy as np
from jaxtyping import Float

from qkv.backends.compiled import kernel
from qkv.backends.stream.numba import _exp, _mix

LINE = 1024
"""Numbers in a line; dropout's random numbers are a function of (seed, line, place in the line)."""


@kernel
def drop(
    x: Float[np.ndarray, " numbers"],
    out: Float[np.ndarray, " numbers"],
    first: int,
    last: int,
    seed: int,
    last_dropped: int,
    boost: float,
) -> None:
    """out = x · boost, or 0 where the number drawn is no larger than `last_dropped`."""
    stream = _mix(np.uint32(_mix(np.uint32(seed)) ^ np.uint32(seed >> 32)))
    nought, more, limit = x.dtype.type(0), x.dtype.type(boost), np.uint32(last_dropped)
    # A counter within the loop would have 64 bits, and halve the numbers in a vector.
    places = np.arange(LINE).astype(np.uint32)
    for line in range(first, last):
        some, into = x[line * LINE : (line + 1) * LINE], out[line * LINE : (line + 1) * LINE]
        drawn = _mix(np.uint32(stream ^ np.uint32(line)))
        for k in range(some.shape[0]):
            into[k] = some[k] * more if _mix(np.uint32(drawn ^ places[k])) > limit else nought


@kernel
def gelu(x: Float[np.ndarray, " numbers"], out: Float[np.ndarray, " numbers"], first: int, last: int) -> None:
    """out = x σ(v), v = √(8/π) (x + 0.044715 x³): the same as x (1 + tanh(v / 2)) / 2."""
    one = np.float32(1)
    for line in range(first, last):
        some, into = x[line * LINE : (line + 1) * LINE], out[line * LINE : (line + 1) * LINE]
        for k in range(some.shape[0]):
            number = some[k]
            level = np.float32(1.5957691216057308) * (number + np.float32(0.044715) * number * number * number)
            power = _exp(-abs(level))
            into[k] = number * ((one if level >= 0 else power) / (one + power))


@kernel
def gelu_slope(
    x: Float[np.ndarray, " numbers"],
    above: Float[np.ndarray, " numbers"],
    out: Float[np.ndarray, " numbers"],
    first: int,
    last: int,
) -> None:
    """out = above · (σ(v) + x σ(v) (1 − σ(v)) v′)."""
    one, nought = np.float32(1), np.float32(0)
    for line in range(first, last):
        at = slice(line * LINE, (line + 1) * LINE)
        some, slopes, into = x[at], above[at], out[at]
        for k in range(some.shape[0]):
            number = some[k]
            square = number * number
            level = np.float32(1.5957691216057308) * (number + np.float32(0.044715) * square * number)
            steep = np.float32(1.5957691216057308) * (one + np.float32(0.134145) * square)
            power = _exp(-abs(level))
            share = one / (one + power)
            # Where σ is flat, v′ may be beyond any number.
            bend = number * steep * power * share * share if power > 0 else nought
            into[k] = slopes[k] * ((one if level >= 0 else power) * share + bend)


@kernel
def softmax(
    logits: Float[np.ndarray, "places vocabulary"],
    peak: Float[np.ndarray, " places"],
    rest: Float[np.ndarray, " places"],
    first: int,
    last: int,
) -> None:
    """Turn logits into probabilities; give each row's peak and log Σ exp(logit − peak)."""
    for i in range(first, last):
        row = logits[i]
        # The bits of floats are in their order, but for the negative ones, which are turned over: a maximum of integers
        # runs on whole vectors, one of floats does not.
        bits, high = row.view(np.int32), np.int32(-0x7F800001)
        for k in range(bits.shape[0]):
            high = max(high, np.int32(bits[k] ^ np.int32(np.int32(bits[k] >> np.int32(31)) & np.int32(0x7FFFFFFF))))
        highest = np.int32(high ^ np.int32(np.int32(high >> np.int32(31)) & np.int32(0x7FFFFFFF))).view(np.float32)
        total = np.float32(0)
        for k in range(row.shape[0]):
            weight = _exp(row[k] - highest)
            row[k] = weight
            total += weight
        share = np.float32(1) / total
        for k in range(row.shape[0]):
            row[k] *= share
        peak[i], rest[i] = highest, np.log(total)
