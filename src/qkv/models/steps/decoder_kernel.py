"""The kernel of a decoder's step: one layer for all rows. Arrays are flat, row after row."""

import math

import numpy as np

from qkv.backends.compiled import kernel
from qkv.models.steps.kernel import norm, product


@kernel
def linear(weight, bias, features, x, rows, width):  # type: ignore[no-untyped-def]
    """Give W x + b of each row."""
    out = np.empty(rows * features, np.float32)
    product(weight, 0, features, x, rows, width, width, out, np.arange(rows) * features)
    for row in range(rows):
        at = row * features
        for i in range(features):
            out[at + i] += bias[i]
    return out


@kernel
def _look(asked, keys, values, begin, seen, dim, scores, mixed):  # type: ignore[no-untyped-def]
    """Let one query of one head attend to the keys from row `begin` of their matrix on."""
    product(keys, begin, begin + seen, asked, 1, 0, dim, scores, np.zeros(1, np.int64))
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
