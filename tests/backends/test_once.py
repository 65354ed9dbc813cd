"""A gradient passed through `once` is what it was; a derivative of it is refused."""

from typing import Any

import pytest
import torch
from torch import Tensor

from qkv.backends.once import once
from qkv.errors import UnsupportedError


class Cube(torch.autograd.Function):
    """x³, its gradient made where autograd does not look, as a kernel makes it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return once("cube", ((3 * x.square() * above).detach(),), (above, x))[0]


def test_the_first_derivative_is_unchanged() -> None:
    x = torch.tensor([1.0, -2.0], requires_grad=True)
    for keep in (False, True):
        (found,) = torch.autograd.grad(Cube.apply(x).sum(), x, create_graph=keep)
        assert found.tolist() == [3, 12] and found.requires_grad == keep


def test_a_second_derivative_is_refused_and_not_silently_zero() -> None:
    x = torch.tensor([1.0, -2.0], requires_grad=True)
    (found,) = torch.autograd.grad(Cube.apply(x).sum(), x, create_graph=True)
    with pytest.raises(UnsupportedError) as refused:
        (x.sum() + found.sum()).backward()
    assert str(refused.value) == (
        "attend: a gradient must be differentiated once; got twice "
        "(a second backward is not implemented on the path 'cube'; impl='reference' has one)"
    )
