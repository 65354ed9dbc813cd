"""Partial results joined: attention over parts of the keys is attention over all of them."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from qkv.core.checks import check_floats
from qkv.core.types import wide
from qkv.errors import ArgumentError, KindError, ShapeError, must


def merge_attention(
    outputs: Sequence[Float[Tensor, "*batch heads queries dim"]],
    logsumexps: Sequence[Float[Tensor, "*batch heads queries"]],
) -> tuple[Float[Tensor, "*batch heads queries dim"], Float[Tensor, "*batch heads queries"]]:
    """Join the outputs of softmax attention over disjoint parts of the keys, each weighed by exp(its logsumexp).

    A part without a key for a row has logsumexp −inf and counts nothing there, whatever its output holds. Merging is
    associative, so parts may come from different devices or steps (ring attention). `AttentionMap.logsumexp` gives
    a part's.

    Paper: Milakov and Gimelshein 2018, arXiv:1805.02867; Liu et al. 2023 (ring attention), arXiv:2310.01889.
    Cost: O(parts·queries·dim).
    Raises: ArgumentError without a part; ShapeError or KindError if the parts do not fit each other.
    """
    _check(outputs, logsumexps)
    dtype = wide(outputs[0].dtype)
    levels = torch.stack([level.to(dtype) for level in logsumexps])
    highest = levels.detach().amax(0)
    highest = torch.where(highest != -torch.inf, highest, 0)
    shares = (levels - highest).exp()
    total = shares.sum(0)
    alive = total != 0
    shares = (shares / torch.where(alive, total, 1))[..., None]
    parts = [torch.where(share != 0, output.to(dtype), 0) for output, share in zip(outputs, shares, strict=True)]
    merged = sum((share * part for share, part in zip(shares, parts, strict=True)), start=torch.zeros_like(parts[0]))
    level = torch.where(alive, torch.where(alive, total, 1).log() + highest, -torch.inf)
    return merged.to(outputs[0].dtype), level


def _check(outputs: Sequence[Tensor], logsumexps: Sequence[Tensor]) -> None:
    name = "merge_attention"
    for argument, parts in (("outputs", outputs), ("logsumexps", logsumexps)):
        if not isinstance(parts, Sequence):
            raise KindError(must(name, argument, "be a list or a tuple of tensors", type(parts).__name__))
    if not len(outputs):
        raise ArgumentError(must(name, "outputs", "hold at least one part", 0))
    if len(outputs) != len(logsumexps):
        rule = f"hold one for each of the {len(outputs)} outputs"
        raise ArgumentError(must(name, "logsumexps", rule, len(logsumexps)))
    for at, (output, level) in enumerate(zip(outputs, logsumexps, strict=True)):
        for argument, tensor in (("outputs", output), ("logsumexps", level)):
            check_floats(name, f"{argument}[{at}]", tensor)
            if tensor.device != outputs[0].device:
                raise KindError(must(name, argument, f"all be on {outputs[0].device}", tensor.device))
        if output.dtype != outputs[0].dtype:
            raise KindError(must(name, "outputs", f"all have the dtype {outputs[0].dtype}", output.dtype))
        if output.shape != outputs[0].shape:
            rule = f"all have the shape {list(outputs[0].shape)}"
            raise ShapeError(must(name, "outputs", rule, list(output.shape)))
        if level.shape != output.shape[:-1]:
            rule = f"have the outputs' shape without its last, {list(output.shape[:-1])}"
            raise ShapeError(must(name, "logsumexps", rule, list(level.shape)))
