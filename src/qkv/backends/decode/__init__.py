"""A few queries against many keys, as in a step of generation (CPU): each key and value is read once.

All query heads of a key head meet it together. Where every key is seen and keys and values are so few that PyTorch's
matrix products find them in the processor's caches, they are *folded*: they become queries of one head. Else a *kernel*
reads what a mask leaves, in caches with spare capacity where they lie, half precision by its bits, the keys split among
the threads.

Paper: the parts of a row are merged as in Dao et al. 2023 (Flash-Decoding).
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F

from qkv.backends.available import no_kernels
from qkv.core.backend import Backend, Cost
from qkv.core.call import Call, exact
from qkv.core.checks import are_concrete
from qkv.core.types import dot_of
from qkv.masks.causal import Causal
from qkv.scores.dot import Dot
from qkv.scores.softcap import SoftCap
from qkv.selections.soft import Softmax

MOST_ROWS = 32
"""Queries that may share a key head's keys (its heads × queries); for more, reading is not what takes the time."""

FEWEST_NUMBERS = 1 << 16
"""Numbers in keys and values below which PyTorch's attention is done before the kernel has begun."""

FROM_MEMORY = 1 << 22
"""Numbers in keys and values from which on the kernel beats products of matrices, which do not ask memory ahead."""

BEYOND_CACHES = 1 << 24
"""The same where products are at their best: one row of float32, more than four of bfloat16."""

UNITS, UNIT = 64, 512
"""Parts to split the keys of all heads into, none below 512 keys. They do not depend on the number of threads."""

_BITS = {torch.bfloat16: torch.uint16, torch.float16: torch.int16}
"""What the kernel knows half precision by; to NumPy float16 is known, but not to numba, and bfloat16 to neither."""


def refuses(call: Call) -> str | None:
    """Say what of a call the kernel does not express, or why it would not pay, or None."""
    grid = call.grid
    if grid.device.type != "cpu":
        return f"it runs on the CPU, not on {grid.device}"
    # Before any number of positions is asked, which would tie a traced call to it.
    if not are_concrete(call.query, call.key, call.value):
        return "it reads memory itself, which torch.compile, torch.func and fake tensors cannot follow"
    rows = grid.queries * call.group
    if rows > MOST_ROWS:
        return f"{rows} rows of queries meet each key (its heads × queries), more than {MOST_ROWS}"
    if call.query.dtype not in (torch.float32, *_BITS):
        return f"it computes in float32, not in {call.query.dtype}"
    if dot_of(call.pair) is None:
        return f"it scores by dot products alone, softly capped or not, not by {call.score}"
    if not isinstance(call.select, Softmax):
        return f"it selects by softmax alone, not by {call.select}"
    if call.bias is not None:
        return "it has no place for a bias"
    if call.dropout:
        return "it has no dropout"
    if call.needs_gradient or (torch.is_grad_enabled() and not _is_fixed(call)) or forward_ad._current_level >= 0:
        return "it gives no gradients (with torch.no_grad(): ...)"
    if 0 in (*call.query.shape, *call.key.shape, *call.value.shape):
        return "there are no pairs, or no features"
    if _folds(call):
        return None if call.group > 1 else "no query heads share keys, so PyTorch's own attention reads each once too"
    if missing := no_kernels():
        return missing
    if call.key.numel() + call.value.numel() < FEWEST_NUMBERS:
        return f"{grid.keys} keys are too few for the kernel to pay"
    return None


def _folds(call: Call) -> bool:
    """Say whether every key is seen and PyTorch's matrix products do it sooner; float16 they round the weights to."""
    found, rows, dtype = dot_of(call.pair), call.grid.queries * call.group, call.query.dtype
    if dtype == torch.float16 or not _sees_all(call) or found is None or found[1]:
        return False
    if found[0].dim != call.value.shape[-1]:
        return False
    at_best = rows > 4 if dtype == torch.bfloat16 else rows == 1
    return call.key.numel() + call.value.numel() < (BEYOND_CACHES if at_best else FROM_MEMORY)


def _sees_all(call: Call) -> bool:
    mask = call.mask
    return mask is None or (call.grid.queries == 1 and isinstance(mask, Causal) and mask.offset is None)


def _is_fixed(call: Call) -> bool:
    """Say whether nothing of a score can learn."""
    score = call.score.score if isinstance(call.score, SoftCap) else call.score
    return isinstance(score, Dot)


class Live(NamedTuple):
    """What the queries may see: runs of keys of each lane (or of all alike), and a tile where not all see the same.

    A lane is a key head, or where a mask tells its query heads apart, a query head.
    """

    starts: np.ndarray
    stops: np.ndarray
    longest: int
    by_query_head: bool = False
    tile: np.ndarray = np.zeros(1, np.uint8)
    steps: tuple[int, ...] = (0, 0, 0, 0)
    tile_from: int = 0
    tile_to: int = 0


def _live(call: Call) -> Live:
    grid, mask = call.grid, call.mask
    if mask is None or _sees_all(call):
        return Live(np.zeros((1, 1), np.int64), np.full((1, 1), grid.keys), grid.keys)
    some, every = mask.runs(grid.queries, grid)
    starts, stops = some.start.squeeze(-2), some.stop.squeeze(-2)
    by_query_head = call.group > 1 and starts.ndim > 1 and starts.shape[-2] > 1
    heads = grid.heads if by_query_head else call.key.shape[-3]
    if starts.shape[:-1].numel() > 1:
        lead = (*grid.batch, heads, starts.shape[-1])
        starts, stops = starts.expand(lead), stops.expand(lead)
    first, after = (ends.reshape(-1, ends.shape[-1]).contiguous().numpy() for ends in (starts, stops))
    alike = torch.equal(some.start, every.start) and torch.equal(some.stop, every.stop)
    alive, longest = first < after, int((after - first).sum(-1).max())
    if alike or not alive.any():
        return Live(first, after, longest, by_query_head)
    low, high = int(first[alive].min()), int(after[alive].max())
    tile = mask.tile(grid.rows(), torch.arange(low, high), grid).contiguous()
    tile = tile.expand(*grid.batch, grid.heads, *tile.shape[-2:]).reshape(-1, grid.heads, *tile.shape[-2:])
    flat, steps = _numbers(tile.view(torch.uint8))
    return Live(first, after, longest, by_query_head, flat, steps, low, high)


def _numbers(tensor: Tensor) -> tuple[np.ndarray, tuple[int, ...]]:
    """Give all numbers from a tensor's first to its last, in one dimension and without a copy, and its steps."""
    (a, b, c, d), steps = tensor.shape, tensor.stride()
    extent = 1 + (a - 1) * steps[0] + (b - 1) * steps[1] + (c - 1) * steps[2] + (d - 1) * steps[3]
    flat = tensor.detach().as_strided((extent,), (1,))
    bits = _BITS.get(tensor.dtype)
    return (flat if bits is None else flat.view(bits)).numpy(), steps


def run(call: Call) -> tuple[Tensor, None]:
    """Fold, or let the kernel attend."""
    return (_fold(call) if _folds(call) else _attend(call)), None


def _fold(call: Call) -> Tensor:
    """Call SDPA with the query heads of a key head as queries of one head."""
    found = dot_of(call.pair)
    assert found is not None
    query, key = call.score.prepare(call.query, call.key)
    key, value = (x if x.ndim == 4 else x.reshape(-1, *x.shape[-3:]) for x in (_spread(key, call), call.value))
    rows = query.reshape(key.shape[0], key.shape[1], -1, query.shape[-1])
    with exact(call.grid.device):
        output = F.scaled_dot_product_attention(rows, key, value, scale=found[0].scale)
    return output.reshape(*call.query.shape[:-1], value.shape[-1])


def _attend(call: Call) -> Tensor:
    """Attend part by part by the kernel, and merge."""
    from qkv.backends.decode import kernel
    from qkv.backends.threads import in_parallel

    grid, found, live = call.grid, dot_of(call.pair), _live(call)
    assert found is not None
    pair, cap = found
    query, key = call.score.prepare(call.query, call.key)
    key, value = _four(_spread(key, call), kernel.WIDTH), _four(call.value, kernel.WIDTH)
    share = call.group if live.by_query_head else 1
    heads = key.shape[1] * share
    lanes, dim = key.shape[0] * heads, value.shape[3]
    rows = grid.queries * call.group // share
    filled = -(-rows // kernel.ROWS) * kernel.ROWS
    queries = query.reshape(lanes, rows, query.shape[-1]).float()
    if filled != rows or key.shape[3] != query.shape[-1]:
        queries = F.pad(queries, (0, key.shape[3] - query.shape[-1], 0, filled - rows))
    parts = max(1, min(-(-UNITS // lanes), live.longest // UNIT))
    output = np.empty((lanes, parts, filled * dim), np.float32)
    levels = np.empty((lanes, parts, filled, 2), np.float32)
    task = (
        queries.detach().reshape(lanes, -1).contiguous().numpy(), grid.queries, heads, share,
        *_numbers(key), *_numbers(value),
        live.starts, live.stops, live.tile, live.steps, live.tile_from, live.tile_to,
        np.float32(pair.scale), np.float32(cap), output, levels, rows,
    )  # fmt: skip
    threads = torch.get_num_threads()
    pieces = min(lanes * parts, 4 * threads) if threads > 1 else 1
    units = [lanes * parts * piece // pieces for piece in range(pieces + 1)]
    in_parallel(lambda piece: kernel.attend(*task, units[piece], units[piece + 1]), pieces)
    result = torch.empty(lanes, rows * dim)
    kernel.merge(output, levels, result.numpy())
    result = result.view(*call.query.shape[:-1], dim)
    return (result if dim == call.value.shape[-1] else result[..., : call.value.shape[-1]]).to(call.value.dtype)


def _spread(key: Tensor, call: Call) -> Tensor:
    """Give a prepared key that is the same for all heads its batch and heads."""
    return key if key.shape[:-1] == call.key.shape[:-1] else key.expand(*call.key.shape[:-1], key.shape[-1])


def _four(x: Tensor, width: int) -> Tensor:
    """See the batch as one dimension and each position's numbers side by side, at least as many as `width`."""
    x = x.reshape(-1, *x.shape[-3:]) if x.ndim != 4 else x
    if x.shape[3] < width:
        return F.pad(x, (0, width - x.shape[3]))
    return x if x.stride(3) == 1 else x.contiguous()


def _cost(call: Call) -> Cost:
    live, found = _live(call), dot_of(call.pair)
    assert found is not None
    grid, width, dim = call.grid, found[0].dim, call.value.shape[-1]
    batch = torch.Size(grid.batch).numel()
    lanes = batch * (grid.heads if live.by_query_head else call.key.shape[-3])
    keys = int((live.stops - live.starts).sum()) * lanes // live.starts.shape[0]
    pairs = keys * batch * grid.heads * grid.queries // lanes
    ends = call.query.numel() + batch * grid.heads * grid.queries * dim
    return Cost(pairs, pairs * (2 * width + 2 * dim + 5), (keys * (width + dim) + ends) * call.query.element_size())


DECODE = Backend(name="decode", refuses=refuses, run=run, cost=_cost, caveat=lambda call: "")
