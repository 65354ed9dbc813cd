"""Cross-entropy of a language model's last layer, in chunks: places × vocabulary is never stored.

    loss = cross_entropy(hidden, embedding, targets) / count

The logits of a chunk are made, read and thrown away. Their gradients are taken while they are there, in the forward
pass, as only the loss's own gradient is missing then, a factor.

Paper: the idea of Wijmans et al. 2024 (cut cross-entropy), arXiv:2411.09009, by PyTorch's own products.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from qkv.backends.available import no_kernels
from qkv.backends.threads import in_parallel
from qkv.core.call import exact
from qkv.core.checks import (
    autocasts,
    check_device,
    check_dtype,
    check_floats,
    check_integers,
    check_rate,
    check_whole,
    check_width,
    readable,
)
from qkv.core.types import wide
from qkv.errors import ArgumentError, ShapeError, UnsupportedError, must

LOGITS = 1 << 21
"""Logits in a chunk: enough for products at full speed, few enough to stay in the last cache."""

MANY = 1 << 15
"""Logits in a chunk from which on the kernel saves more than calling it costs."""


def cross_entropy(
    hidden: Float[Tensor, "places width"],
    weight: Float[Tensor, "vocabulary width"],
    targets: Int[Tensor, " places"],
    bias: Float[Tensor, " vocabulary"] | None = None,
    *,
    smoothing: float = 0.0,
    chunk: int | None = None,
) -> Float[Tensor, ""]:
    """Sum −log softmax(W h + b)[target] over the places whose target is not negative.

    With smoothing s a target is 1 − s of itself and s of the uniform distribution. `chunk` says how many places are
    computed at once. Logits and sums are float32 at least; under autocast the products are in its dtype.

    Paper: Szegedy et al. 2016, arXiv:1512.00567, section 7 (label smoothing).
    Cost: 2·places·vocabulary·width operations, three times that with gradients; chunk·vocabulary memory.
    Raises: KindError, ShapeError, ArgumentError for what does not fit, or a target beyond the vocabulary (read on the
    CPU); UnsupportedError when the gradient is differentiated again.
    """
    _check(hidden, weight, targets, bias, smoothing, chunk)
    places = chunk or max(1, LOGITS // weight.shape[0])
    wants = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (hidden, weight, bias))
    return _CrossEntropy.apply(hidden, weight, targets, bias, smoothing, places, wants)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        bias: Tensor | None,
        smoothing: float,
        chunk: int,
        wants: bool,
    ) -> Tensor:
        device, vocabulary = hidden.device, weight.shape[0]
        dtype = hidden.dtype
        if autocasts(device) and dtype != torch.float64:
            dtype = torch.get_autocast_dtype(device.type)
        whole = wide(dtype)
        matrix = weight.detach().to(dtype)
        shift = None if bias is None else bias.detach().to(whole)
        # Gradients of chunks add up in float32, whatever the dtype of the products.
        above_weight = torch.zeros_like(weight, dtype=whole) if wants else None
        above_bias = torch.zeros_like(bias, dtype=whole) if wants and bias is not None else None
        above_hidden = torch.empty_like(hidden) if wants else None
        total = torch.zeros((), dtype=whole, device=device)
        with exact(device):
            for start in range(0, hidden.shape[0], chunk):
                some = slice(start, start + chunk)
                inner, target = hidden[some].detach().to(dtype), targets[some].long()
                counts = target >= 0
                target = target.clamp(min=0)[:, None]
                logits = (inner @ matrix.T).to(whole)
                if shift is not None:
                    logits += shift
                likely = logits.gather(-1, target).squeeze(-1)
                if smoothing:
                    likely = (1 - smoothing) * likely + smoothing * logits.mean(-1)
                above, peak, rest = _softmax(logits)
                del logits
                total -= torch.where(counts, likely - peak - rest, 0).sum()
                if above_weight is None or above_hidden is None:
                    continue
                # In place, the softmax becomes the gradients of the logits.
                if smoothing:
                    above -= smoothing / vocabulary
                above.scatter_add_(-1, target, torch.full_like(target, smoothing - 1.0, dtype=whole))
                # An ignored place is a row of 0, here and there, not in all of what is chunk × vocabulary.
                counted = counts[:, None].to(whole)
                if above_bias is not None:
                    above_bias += (above.T @ counted).squeeze(-1)
                above, counted = above.to(dtype), counted.to(dtype)
                above_hidden[some] = (above @ matrix) * counted
                if dtype == whole:
                    above_weight.addmm_(above.T, inner * counted)
                else:
                    above_weight += above.T @ (inner * counted)
        if above_weight is not None and above_hidden is not None:
            ctx.save_for_backward(above_hidden, above_weight, above_bias, hidden, weight, bias)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        above_hidden, above_weight, above_bias, hidden, weight, bias = ctx.saved_tensors
        if torch.is_grad_enabled():
            raise UnsupportedError(must("cross_entropy", "a gradient", "be differentiated once", "create_graph=True"))
        found = [
            None if above is None else (above * gradient).to(x.dtype)
            for above, x in ((above_hidden, hidden), (above_weight, weight), (above_bias, bias))
        ]
        return found[0], found[1], None, found[2], None, None, None


def _softmax(
    logits: Float[Tensor, "places vocabulary"],
) -> tuple[Float[Tensor, "places vocabulary"], Float[Tensor, " places"], Float[Tensor, " places"]]:
    """Give the softmax, where it may in the logits' place, and each row's peak and log Σ exp(logit − peak)."""
    if logits.dtype != torch.float32 or logits.numel() < MANY or not readable(logits) or no_kernels():
        likely = logits.softmax(-1)
        return likely, logits.amax(-1), -likely.amax(-1).log()
    from qkv.models.pointwise import kernel

    places, parts = logits.shape[0], torch.get_num_threads()
    peak, rest = logits.new_empty(places), logits.new_empty(places)
    flat = [x.numpy() for x in (logits, peak, rest)]
    in_parallel(lambda part: kernel.softmax(*flat, places * part // parts, places * (part + 1) // parts), parts)
    return logits, peak, rest


def _check(
    hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, smoothing: float, chunk: int | None
) -> None:
    named = [("hidden", hidden, 2), ("weight", weight, 2)] + ([] if bias is None else [("bias", bias, 1)])
    for name, tensor, dimensions in named:
        check_floats("cross_entropy", name, tensor)
        if tensor.ndim != dimensions:
            shape = {"hidden": "[places, width]", "weight": "[vocabulary, width]", "bias": "[vocabulary]"}[name]
            raise ShapeError(must("cross_entropy", name, f"have the shape {shape}", list(tensor.shape)))
        check_dtype("cross_entropy", name, tensor, weight)
    check_width("cross_entropy", "hidden", hidden, weight.shape[1])
    if bias is not None:
        check_width("cross_entropy", "bias", bias, weight.shape[0])
    check_integers("cross_entropy", "targets", targets)
    if targets.shape != hidden.shape[:1]:
        rule = f"have the shape {list(hidden.shape[:1])}, one for each place"
        raise ShapeError(must("cross_entropy", "targets", rule, list(targets.shape)))
    check_device("cross_entropy", "targets", targets, hidden)
    if readable(targets) and targets.numel() and (highest := int(targets.max())) >= weight.shape[0]:
        rule = f"lie below the vocabulary of {weight.shape[0]}, or be negative where there is none"
        raise ArgumentError(must("cross_entropy", "targets", rule, highest))
    check_rate("cross_entropy", "smoothing", smoothing)
    if chunk is not None:
        check_whole("cross_entropy", "chunk", chunk, 1, "how many places are computed at once")
