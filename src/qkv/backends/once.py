"""Gradients that cannot be differentiated again, and say so."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from qkv.errors import UnsupportedError, must


def once(path: str, gradients: Sequence[Tensor], made_of: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Tie gradients to what they are made of, so that a derivative of them is refused and not silently 0.

    PyTorch's own `once_differentiable` ties them to the incoming gradient alone.
    """
    if not torch.is_grad_enabled():
        return tuple(gradients)
    return _Once.apply(path, len(gradients), *gradients, *made_of)


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, path: str, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.path = path
        return tuple(tensor.view_as(tensor) for tensor in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> None:
        fix = f"a second backward is not implemented on the path {ctx.path!r}; impl='reference' has one"
        raise UnsupportedError(must("attend", "a gradient", "be differentiated once", "twice", fix))
