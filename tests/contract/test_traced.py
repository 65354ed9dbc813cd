"""attend traced whole, by torch.compile(fullgraph=True) and by torch.export, at sizes that its fast paths take."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import qkv

POSITIONS = 512
LENGTHS, DOCUMENTS = torch.tensor([70, 512]), torch.tensor([[40, 472], [100, 412]])


class Attend(nn.Module):
    """A module that calls attend; what it is given beside the tensors becomes its mask."""

    def __init__(self, build: Callable[..., qkv.Mask] | None = None, **choices: Any) -> None:
        super().__init__()
        self.build, self.choices = build, choices
        # Parameters inside a dictionary would be nobody's.
        self.score = choices.get("score") if isinstance(choices.get("score"), nn.Module) else None

    def forward(self, query: Tensor, key: Tensor, value: Tensor, *given: Tensor) -> Tensor:
        mask = {} if self.build is None else {"mask": self.build(*given)}
        return qkv.attend(query, key, value, **self.choices, **mask)


def cases() -> dict[str, tuple[Attend, tuple[Tensor, ...]]]:
    return {
        "dense": (Attend(), ()),
        "causal": (Attend(mask=qkv.causal()), ()),
        "causal and window": (Attend(mask=qkv.causal() & qkv.window(17)), ()),
        "not a window": (Attend(mask=~qkv.window(4) | qkv.prefix(2)), ()),
        "padding held": (Attend(mask=qkv.padding(keys=LENGTHS)), ()),
        "padding given": (Attend(lambda lengths: qkv.padding(keys=lengths)), (LENGTHS,)),
        "documents given": (Attend(lambda lengths: qkv.causal() & qkv.documents(lengths)), (DOCUMENTS,)),
        "ALiBi": (Attend(mask=qkv.causal(), bias=qkv.alibi(heads=4)), ()),
        "dropout": (Attend(dropout=0.1), ()),
        "additive": (Attend(score=qkv.Additive(16, 16, 16)), ()),
        "soft cap": (Attend(score=qkv.soft_cap(qkv.scaled_dot(), 5.0)), ()),
        "sink": (Attend(select=qkv.sink(torch.zeros(4))), ()),
    }


def compiled(module: nn.Module, arguments: tuple[Tensor, ...]) -> Callable[..., Tensor]:
    torch.compiler.reset()
    return torch.compile(module, fullgraph=True, backend="aot_eager")


def exported(module: nn.Module, arguments: tuple[Tensor, ...]) -> Callable[..., Tensor]:
    return torch.export.export(module, arguments).module()


def answers(attend: Callable[..., Tensor], leaves: list[Tensor], given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    output = attend(*leaves, *given)
    return output, *torch.autograd.grad(output.square().sum(), leaves)


@pytest.mark.compile
@pytest.mark.parametrize("trace", [compiled, exported])
@pytest.mark.parametrize("name", cases())
def test_a_traced_call_gives_what_the_call_gives(name: str, trace: Callable) -> None:
    module, given = cases()[name]
    leaves = [torch.randn(2, 4, POSITIONS, 16, requires_grad=True) for _ in range(3)]
    traced = trace(module, (*leaves, *given))
    assert_close(answers(traced, leaves, given), answers(module, leaves, given))


@pytest.mark.compile
@pytest.mark.parametrize("trace", [compiled, exported])
@torch.no_grad()
def test_a_traced_step_of_generation_gives_what_the_step_gives(trace: Callable) -> None:
    tensors = tuple(torch.randn(2, heads, positions, 64) for heads, positions in ((8, 1), (2, 4096), (2, 4096)))
    assert_close(trace(Attend(), tensors)(*tensors), Attend()(*tensors))
