"""PyTorch's FlexAttention on CUDA, for what SDPA would only take with a dense mask: what a mask hides is skipped.

Its BlockMask comes from the masks' closed forms, not from trying every pair. PyTorch compiles a kernel at the first
call of each kind of mask, bias and shape; other numbers of the same kind take the same kernel.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from qkv.backends.available import has_triton
from qkv.backends.mods import lead, mask_mod, score_mod
from qkv.backends.sdpa import square_causal
from qkv.core.backend import Backend, Cost, all_pairs, dense_cost
from qkv.core.call import Call, exact
from qkv.core.reference import hide_rows, visible
from qkv.core.runs import Runs
from qkv.core.types import Bias, CappedPair, DotPair, Grid, Mask, Pair
from qkv.masks.algebra import IntervalMask, Or
from qkv.positions.alibi import Alibi
from qkv.positions.dense import DenseBias
from qkv.positions.relative import T5Relative
from qkv.selections.soft import Softmax

BLOCK = 128
"""Queries, and keys, of a block: the size that FlexAttention's own masks have."""

NARROWEST = 16
"""Features that its kernels want at least."""

KINDS = 256
"""Kernels that a process may compile; PyTorch's own limit of 8 is soon met by layers of several kinds."""

CHUNK = 1 << 24
"""Pairs spelled out at once, where only that tells who sees and who is seen."""

Flex: TypeAlias = Callable[..., Tensor]

_Present: TypeAlias = tuple[Bool[Tensor, "*lead queries"], Bool[Tensor, "*lead2 keys"]]
"""Whether a query sees a key, and whether a key is seen."""


def refuses(call: Call) -> str | None:
    """Say what of a call FlexAttention does not express, or why it would not pay, or None."""
    if call.grid.device.type != "cuda":
        return f"it runs on CUDA, not on {call.grid.device}"
    pair = call.pair
    if not isinstance(_innermost(pair), DotPair):
        return f"it scores by dot products alone, softly capped or not, not by {call.score}"
    if isinstance(pair, DotPair) and call.bias is None and (call.mask is None or square_causal(call)):
        return "SDPA does as much without a dense mask"
    if not isinstance(call.select, Softmax):
        return f"it selects by softmax alone, not by {call.select}"
    if call.dropout:
        return "it has no dropout"
    if call.query.dtype == torch.float64:
        return "its kernels add up in float32"
    if call.bias is not None:
        learned = _tensor(call.bias)
        if learned is None and not isinstance(call.bias, Alibi):
            return f"it knows ALiBi, T5's bias and dense ones, not {call.bias}"
        if learned is not None and learned.requires_grad and torch.is_grad_enabled():
            return "it adds up the gradient of a learned bias by atomics, whose order and bits vary from run to run"
    if 0 in (*call.query.shape, *call.key.shape, *call.value.shape):
        return "there are no pairs, or no features"
    if torch.compiler.is_compiling() or any(
        torch._C._functorch.is_functorch_wrapped_tensor(x) for x in (call.query, call.key, call.value)
    ):
        return "its blocks are planned by plain Python, which torch.compile and torch.func cannot follow"
    if forward_ad._current_level >= 0:
        return "forward-mode differentiation cannot look into its kernels"
    if not has_triton():
        return "its kernels need Triton, which is not installed"
    return None


def _innermost(pair: Pair) -> Pair:
    while isinstance(pair, CappedPair):
        pair = pair.inner
    return pair


def _tensor(bias: Bias | None) -> Tensor | None:
    """Give the numbers that a bias holds, if it does: they may be learned, or hide a pair by −inf."""
    if isinstance(bias, DenseBias):
        return bias.tensor
    return bias.weight if isinstance(bias, T5Relative) else None


@cache
def _compiled() -> Flex:
    # fullgraph: what cannot be compiled is an error, not a path that stores every score.
    return torch.compile(flex_attention, fullgraph=True)


def run(call: Call) -> tuple[Tensor, None]:
    """Call the compiled FlexAttention."""
    with torch._dynamo.config.patch(recompile_limit=KINDS):
        return attend(call, _compiled()), None


def attend(call: Call, flex: Flex) -> Tensor:
    """Attend by `flex`, which is FlexAttention, compiled or not; rows that see nothing become 0."""
    grid, query, key, value = call.grid, call.query, call.key, call.value
    plan = _plan(call)
    if plan.present is not None:
        query, key, value = hide_rows(query, key, value, *plan.present)
    query, key = call.score.prepare(query, key)
    pair = call.pair
    innermost, features = _innermost(pair), value.shape[-1]
    assert isinstance(innermost, DotPair)
    key = key.expand(*value.shape[:-1], key.shape[-1])
    # Zeros change no product.
    query, key, value = (F.pad(x, (0, max(0, NARROWEST - x.shape[-1]))) for x in (query, key, value))
    with exact(grid.device):
        output = flex(
            *(x.reshape(-1, *x.shape[-3:]) for x in (query, key, value)),
            score_mod=score_mod(pair, call.bias, grid, query.dtype),
            block_mask=plan.blocks,
            scale=innermost.scale,
            enable_gqa=call.group > 1,
        )
    output = output[..., :features].reshape(*grid.batch, *output.shape[1:-1], features)
    return output if plan.present is None else torch.where(plan.present[0][..., None], output, 0)


@dataclass(frozen=True, eq=False)
class _Plan:
    """The blocks of a mask, and who takes part; None where there is nothing to skip, or nothing to hide."""

    blocks: BlockMask | None
    present: _Present | None


def _plan(call: Call) -> _Plan:
    """Plan a call; masks of numbers alone keep their plans."""
    mask, grid = call.mask, call.grid
    held = _tensor(call.bias)
    if mask is None:
        return _Plan(None, None if held is None else _present(None, call.bias, grid))
    if not mask.is_value:
        return _Plan(block_mask(mask, grid), _present(mask, call.bias if held is not None else None, grid))
    kept = _kept(mask, grid)
    return kept if held is None else _Plan(kept.blocks, _present(mask, call.bias, grid))


@lru_cache(maxsize=64)
def _kept(mask: Any, grid: Grid) -> _Plan:
    # A plan made under inference_mode must serve a training step too.
    with torch.inference_mode(False):
        present = _present(mask, None, grid)
        # Read from the device once, for all the calls that follow.
        everybody = bool(present[0].all() & present[1].all())
        return _Plan(block_mask(mask, grid), None if everybody else present)


def block_mask(mask: Mask, grid: Grid) -> BlockMask:
    """Give the BlockMask of a mask. Cost: O(blocks of queries · blocks of keys) for each batch row and head apart."""
    some, every = mask.runs(BLOCK, grid)
    first = torch.arange(0, grid.keys, BLOCK, device=grid.device)
    last = first + BLOCK
    ends = last.clamp(max=grid.keys)
    touched = lead(_of_runs(some, lambda start, stop: (start < ends) & (stop > first)), grid, 2)
    # A short block is never called full: FlexAttention then compares it with the ends of queries and keys.
    whole = lead(_of_runs(every, lambda start, stop: (start <= first) & (stop >= last)), grid, 2)
    touched, whole = torch.broadcast_tensors(touched, whole)
    if grid.queries % BLOCK:
        whole = whole & (torch.arange(whole.shape[-2], device=grid.device) < grid.queries // BLOCK)[:, None]
    return BlockMask.from_kv_blocks(
        *_listed(touched & ~whole),
        *_listed(whole),
        BLOCK_SIZE=BLOCK,
        mask_mod=mask_mod(mask, grid),
        seq_lengths=(grid.queries, grid.keys),
    )


def _of_runs(runs: Runs, holds: Callable[[Tensor, Tensor], Tensor]) -> Bool[Tensor, "*lead query_blocks key_blocks"]:
    """Say for each pair of blocks whether something holds of one of the runs."""
    start, stop = runs.start[..., None], runs.stop[..., None]
    answers = holds(start[..., 0, :], stop[..., 0, :])
    for slot in range(1, start.shape[-2]):
        answers = answers | holds(start[..., slot, :], stop[..., slot, :])
    return answers


def _listed(flags: Bool[Tensor, "batch heads query_blocks key_blocks"]) -> tuple[Tensor, Tensor]:
    """Count the blocks of keys that are marked, and list them before the others, in their order."""
    order = flags.to(torch.uint8).argsort(dim=-1, descending=True, stable=True)
    return flags.sum(-1, dtype=torch.int32), order.int()


def _present(mask: Mask | None, bias: Bias | None, grid: Grid) -> _Present:
    """Say who sees and who is seen, exactly; a bias is given if it may hide by −inf.

    Cost: O(queries + keys) for intervals and what `|` makes of them; else every pair is looked at, `CHUNK` at a time.
    """
    if bias is None and isinstance(mask, Or):
        sees, shown = _present(mask.left, None, grid)
        sees_too, shown_too = _present(mask.right, None, grid)
        return sees | sees_too, shown | shown_too
    if bias is None and isinstance(mask, IntervalMask):
        return _present_between(*mask.bounds(grid.rows(), grid), grid)
    return _present_in_chunks(mask, bias, grid)


def _present_between(start: Tensor, stop: Tensor, grid: Grid) -> _Present:
    start, stop = (each.clamp(0, grid.keys).contiguous() for each in torch.broadcast_tensors(start, stop))
    # Neither end falls from a row to the next: of the rows that begin at or before a key, the last reaches farthest.
    columns = grid.columns().expand(*start.shape[:-1], -1).contiguous()
    rows = torch.searchsorted(start, columns, right=True)
    reach = stop.gather(-1, (rows - 1).clamp(min=0))
    return start < stop, (rows > 0) & (reach > columns)


def _present_in_chunks(mask: Mask | None, bias: Bias | None, grid: Grid) -> _Present:
    rows, columns = grid.rows(), grid.columns()
    size = max(1, CHUNK // (torch.Size(grid.batch).numel() * grid.heads * grid.keys))
    sees, shown = [], torch.zeros((), dtype=torch.bool, device=grid.device)
    for chunk in rows.split(size):
        seen = visible(mask, None if bias is None else bias.tile(chunk, columns, grid).detach(), chunk, columns, grid)
        assert seen is not None
        sees.append(seen.any(-1))
        shown = shown | seen.any(-2)
    return torch.cat(sees, -1), shown


def _cost(call: Call) -> Cost:
    if call.mask is None:
        return dense_cost(call, all_pairs(call), 0)
    blocks = _plan(call).blocks
    assert blocks is not None and blocks.full_kv_num_blocks is not None
    met = blocks.kv_num_blocks + blocks.full_kv_num_blocks
    lanes = torch.Size(call.grid.batch).numel() * call.grid.heads // (met.shape[0] * met.shape[1])
    return dense_cost(call, min(int(met.sum()) * lanes * BLOCK * BLOCK, all_pairs(call)), 0)


def _caveat(call: Call) -> str:
    return (
        "NaN or inf in a key or value that only some queries see may reach the others (impl='reference' keeps it away)"
        if call.mask is not None or call.bias is not None
        else ""
    )


FLEX = Backend(name="flex", refuses=refuses, run=run, cost=_cost, caveat=_caveat)
