"""PyTorch's scaled_dot_product_attention, where it expresses a call exactly."""

import torch
from torch import Tensor
from torch.nn import functional as F

from qkv.backends.added import added, any_of
from qkv.core.backend import Backend, Cost, all_pairs, dense_cost
from qkv.core.call import Call, exact
from qkv.core.checks import are_concrete
from qkv.core.reference import hide_rows, visible
from qkv.core.types import DotPair
from qkv.masks.causal import Causal
from qkv.selections.soft import Softmax


def refuses(call: Call) -> str | None:
    """Say what of a call SDPA does not express exactly, or None."""
    if not isinstance(call.pair, DotPair):
        return f"it scores by dot products alone, not by {call.score}"
    if not isinstance(call.select, Softmax):
        return f"it selects by softmax alone, not by {call.select}"
    if call.dropout:
        return "its dropout is not the function of (seed, batch, head, query, key) that every path of qkv shares"
    if call.bias is not None and _dtype(call) in (torch.float16, torch.bfloat16):
        return f"it would round the bias to {_dtype(call)}"
    if 0 in (*call.query.shape, *call.key.shape, *call.value.shape):
        return "there are no pairs, or no features"
    return None


def _dtype(call: Call) -> torch.dtype:
    """Tell what SDPA runs in. On the CPU float16 is no faster than float32, and the weights would be rounded to it."""
    dtype = call.query.dtype
    return torch.float32 if dtype == torch.float16 and call.grid.device.type == "cpu" else dtype


def as_it_is(call: Call) -> bool:
    """Say whether a call is what PyTorch's attention was made for: nothing to spell out, nothing it is slow at."""
    pair, value = call.pair, call.value
    return (
        call.bias is None
        and (call.mask is None or square_causal(call))
        and isinstance(call.select, Softmax)
        and isinstance(pair, DotPair)
        and not call.dropout
        and pair.dim == value.shape[-1]
        and call.query.numel() * value.numel() > 0
    )


def run(call: Call) -> tuple[Tensor, None]:
    """Call SDPA, with a dense mask where there is a mask or a bias; rows that see nothing become 0."""
    query, key, value = call.query, call.key, call.value
    pair = call.pair
    assert isinstance(pair, DotPair)
    if call.bias is None and (call.mask is None or square_causal(call)):
        query, key = call.score.prepare(query, key)
        return _sdpa(call, query, key, value, None, pair.scale, causal=call.mask is not None), None
    grid, rows, columns = call.grid, call.grid.rows(), call.grid.columns()
    bias = None if call.bias is None else call.bias.tile(rows, columns, grid)
    seen = visible(call.mask, bias, rows, columns, grid)
    assert seen is not None
    by_bytes = grid.device.type == "cpu" and are_concrete(query, seen)
    sees, shown = (any_of(seen, -1), any_of(seen, -2)) if by_bytes else (seen.any(-1), seen.any(-2))
    everybody = by_bytes and bool(sees.all())
    if not (everybody and bool(shown.all())):
        query, key, value = hide_rows(query, key, value, sees, shown)
    query, key = call.score.prepare(query, key)
    sees = sees[..., None]
    if not everybody:
        # PyTorch's paths disagree on a row that sees nothing, so such a row sees everything, and is emptied after.
        seen = seen | ~sees
    if bias is not None:
        mask = torch.where(seen, torch.where(sees, bias, 0), -torch.inf).to(_dtype(call))
    else:
        mask = added(seen, _dtype(call)) if by_bytes else seen
    output = _sdpa(call, query, key, value, mask, pair.scale, causal=False)
    return output if everybody else torch.where(sees, output, 0), None


def square_causal(call: Call) -> bool:
    """Say whether the mask is what PyTorch's own `is_causal` means."""
    grid, mask = call.grid, call.mask
    return grid.queries == grid.keys and isinstance(mask, Causal) and mask.offset is None


def _sdpa(
    call: Call, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, causal: bool
) -> Tensor:
    """Call SDPA on four dimensions, which its fast paths want."""
    grid, batch, dtype = call.grid, len(call.grid.batch), _dtype(call)
    if dtype is not query.dtype:
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    if batch != 1:
        if mask is not None and mask.ndim > 3:
            mask = mask.expand(*grid.batch, *mask.shape[-3:]).flatten(0, batch - 1)
        query, key, value = (x.flatten(0, batch - 1) if batch else x.unsqueeze(0) for x in (query, key, value))
    if mask is not None and mask.ndim < 4:
        mask = mask.expand(1, *[1] * (3 - mask.ndim), *mask.shape)
    # SDPA takes no symbol here, which is what a comparison of dynamic shapes would give.
    grouped = {} if call.key.shape[-3] == grid.heads else {"enable_gqa": True}
    with exact(grid.device):
        output = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=causal, scale=scale, **grouped
        )
    if dtype is not call.value.dtype:
        output = output.to(call.value.dtype)
    return output if batch == 1 else output.reshape(*grid.batch, *output.shape[1:])


def _cost(call: Call) -> Cost:
    pairs = all_pairs(call)
    causal = call.bias is None and call.mask is not None and square_causal(call)
    if causal:
        pairs = pairs * (call.grid.queries + 1) // (2 * call.grid.queries)
    dense = not causal and not (call.mask is None and call.bias is None)
    return dense_cost(call, pairs, int(dense))


def _caveat(call: Call) -> str:
    if call.mask is None and call.bias is None:
        return ""
    return (
        "NaN or inf in a key or value that only some queries see may reach the others (impl='reference' keeps it away)"
    )


SDPA = Backend(name="sdpa", refuses=refuses, run=run, cost=_cost, caveat=_caveat)
