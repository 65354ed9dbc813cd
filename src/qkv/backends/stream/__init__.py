"""Softmax attention by dot products, streamed on the CPU: dropout, learned biases, soft caps, sinks, any widths.

Queries go in bands, the keys that a band may see in cuts. A tile of scores (some heads × a band × a cut) stays in the
cache between two of PyTorch's matrix products and is done with in one pass; the backward pass computes it again.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from qkv.backends.available import no_kernels
from qkv.backends.once import once
from qkv.backends.stream.bands import Bands, plan_bands
from qkv.backends.stream.learned import learned
from qkv.backends.stream.tiles import Task, backward, features_together, forward
from qkv.core.backend import Backend, Cost, dense_cost
from qkv.core.call import Call, exact
from qkv.core.checks import are_concrete
from qkv.core.dropout import draw_seed, streams
from qkv.core.map import reach, tensors_of
from qkv.core.reference import hide_rows, spread_heads
from qkv.core.types import CappedPair, Summary, dot_of, wide
from qkv.selections.sink import Sink
from qkv.selections.soft import Softmax

FEWEST_PAIRS = 128 * 128
"""Pairs a head from which PyTorch's slow path, or a bias spelled out, costs more than the tiles."""


def refuses(call: Call) -> str | None:
    """Say what of a call the tiles do not express, or why another path is as fast, or None."""
    if call.grid.device.type != "cpu":
        return f"it runs on the CPU, not on {call.grid.device}"
    if dot_of(call.pair) is None:
        return f"it scores by dot products alone, softly capped or not, not by {call.score}"
    if not isinstance(call.select, Softmax | Sink):
        return f"it selects by softmax alone, with a sink or not, not by {call.select}"
    # Before any number of positions is asked, which would tie a traced call to it.
    if not are_concrete(call.query, call.key, call.value):
        return "its tiles are cut by plain Python, which torch.compile, torch.func and fake tensors cannot follow"
    if not _pays(call):
        return "PyTorch's own attention is as fast without dropout, cap, sink, or many pairs with a bias or two widths"
    if 0 in (*call.query.shape, *call.key.shape, *call.value.shape):
        return "there are no pairs, or no features"
    return no_kernels()


def _pays(call: Call) -> bool:
    """Say whether PyTorch's fused attention does not express a call, or takes its slow path."""
    pair = call.pair
    beyond = call.dropout > 0 or isinstance(call.select, Sink) or isinstance(pair, CappedPair)
    # PyTorch's slow path, and a dense mask with a bias in it, cost little while they are small.
    large = call.grid.queries * call.grid.keys >= FEWEST_PAIRS
    slow = call.bias is not None or pair.dim != call.value.shape[-1]
    return beyond or _rounds(call) or (slow and large)


def _held(call: Call) -> tuple[Tensor, ...]:
    """List what the bias holds that wants a gradient."""
    return learned(call.bias) if call.bias is not None and torch.is_grad_enabled() else ()


def _rounds(call: Call) -> bool:
    return call.bias is not None and call.query.dtype in (torch.float16, torch.bfloat16)


def run(call: Call) -> tuple[Tensor, Summary]:
    """Attend tile by tile."""
    grid, found = call.grid, dot_of(call.pair)
    assert found is not None
    pair, cap = found
    query, key, value = call.query, call.key, call.value
    if not all(_is_finite(x) for x in (query, key, value)):
        # Where nobody sees it, 0 · NaN must not happen; numbers change nothing there, so they may stay.
        sees, shown = reach(call)
        if sees is not None and shown is not None:
            query, key, value = hide_rows(query, key, value, sees, shown)
    query, key = call.score.prepare(query, key)
    key = key.expand(*value.shape[:-1], key.shape[-1])
    dtype = wide(query.dtype)
    query, key, value = (
        query.to(dtype),
        spread_heads(key.to(dtype), call.group),
        spread_heads(value.to(dtype), call.group),
    )
    query, key, value = (features_together(x.reshape(-1, *x.shape[-3:])) for x in (query.to(dtype), key, value))
    lines = streams(draw_seed(grid.device), grid).reshape(-1) if call.dropout else None
    task = Task(
        grid, plan_bands(call.mask, call.bias, grid), pair.scale, cap, call.bias, call.mask, call.dropout, lines
    )
    with exact(grid.device):
        output, peak, rest = Stream.apply(query, key, value, task, *_held(call))
        output, peak, rest = (x.unflatten(0, grid.batch) if grid.batch else x[0] for x in (output, peak, rest))
        if isinstance(call.select, Sink):
            output, rest = _sunk(call.select, output, peak, rest)
    return output.to(call.value.dtype), (peak, rest)


def _is_finite(x: Tensor) -> bool:
    """Say whether there is neither NaN nor inf: a sum, which is read once, mostly tells; it may also be too large."""
    x = x.detach()
    return bool(x.sum().isfinite()) or bool(x.isfinite().all())


def _sunk(
    select: Sink,
    output: Float[Tensor, "*batch heads queries dim"],
    peak: Float[Tensor, "*batch heads queries"],
    rest: Float[Tensor, "*batch heads queries"],
) -> tuple[Tensor, Tensor]:
    """Let the sink take its share: what is left of the output is exp(level − level with the sink)."""
    alive = peak != -torch.inf
    sink = select.logits.to(rest.dtype).reshape(-1, 1) - torch.where(alive, peak, 0)
    both = torch.where(alive, torch.logaddexp(rest, sink), 0)
    return output * (rest - both).exp()[..., None], both


class Stream(torch.autograd.Function):
    """The output, and each row's peak and log Σ exp(score − peak), which is differentiable as well."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, task: Task, *held: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        output, peak, total = forward(task, query, key, value)
        # The backward pass asks bias and mask again: kept here, PyTorch knows if what they hold has changed meanwhile.
        asked = [tensor for part in (task.bias, task.mask) for tensor in tensors_of(part)]
        ctx.save_for_backward(query, key, value, output, peak, total, *held, *asked)
        ctx.task, ctx.held = task, len(held)
        ctx.mark_non_differentiable(peak)
        return output, peak, torch.where(peak != -torch.inf, total, 1).log()

    @staticmethod
    def backward(ctx: Any, above: Tensor, _: Tensor, above_rest: Tensor) -> tuple[Tensor | None, ...]:
        saved, task = ctx.saved_tensors, ctx.task
        query, key, value, output, peak, total = saved[:6]
        held = list(saved[6 : 6 + ctx.held])
        with torch.no_grad(), exact(task.grid.device):
            gradients = backward(task, query, key, value, output, peak, total, above, above_rest, held)
        found = once("stream", gradients, (*saved, above, above_rest))
        return *found[:3], None, *found[3:]


def _cost(call: Call) -> Cost:
    return dense_cost(call, _bands(call).pairs, 0)


def _bands(call: Call) -> Bands:
    return plan_bands(call.mask, call.bias, call.grid)


def _caveat(call: Call) -> str:
    if call.mask is None and call.bias is None:
        return ""
    return (
        "NaN or inf in a key or value that only some queries see may reach the others (impl='reference' keeps it away)"
    )


STREAM = Backend(name="stream", refuses=refuses, run=run, cost=_cost, caveat=_caveat)
