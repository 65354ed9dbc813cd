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


def padded(lengths: Tensor) -> qkv.Mask:
    return qkv.padding(keys=lengths)


@pytest.mark.compile
@pytest.mark.parametrize("traced_at", [8, 64])
@pytest.mark.parametrize(
    "module",
    [
        Attend(),
        Attend(mask=qkv.causal()),
        Attend(mask=qkv.window(4)),
        Attend(mask=qkv.causal(), bias=qkv.alibi(heads=2)),
        Attend(padded),
    ],
    ids=["dense", "causal", "window", "ALiBi", "padding given"],
)
@torch.no_grad()
def test_an_export_serves_every_length(module: Attend, traced_at: int) -> None:
    def inputs(positions: int) -> tuple[Tensor, ...]:
        tensors = tuple(torch.randn(2, 2, positions, 8) for _ in range(3))
        return tensors if module.build is None else (*tensors, torch.tensor([1, 2]))

    positions = {2: torch.export.Dim("positions", min=2, max=4096)}
    given = () if module.build is None else ((None,),)
    traced = torch.export.export(module, inputs(traced_at), dynamic_shapes=(*[positions] * 3, *given)).module()
    for length in (2, 5, 32, 33, 300):
        tensors = inputs(length)
        assert_close(traced(*tensors), module(*tensors))


@pytest.mark.compile
@pytest.mark.parametrize(
    "ask",
    [
        lambda seen: seen.top_keys(3),
        lambda seen: seen.pooled(2, 3),
        lambda seen: seen.pooled(2, 3, reduce=torch.amax),
        lambda seen: seen.entropy(),
        lambda seen: seen.statistics(2).top_keys,
    ],
)
def test_a_map_answers_inside_a_compiled_function(ask: Callable[[qkv.AttentionMap], Any]) -> None:
    def answer(query: Tensor, key: Tensor) -> Any:
        return ask(qkv.attention_map(query, key, mask=qkv.causal()))

    torch.compiler.reset()
    tensors = torch.randn(2, 1, 2, 9, 4, requires_grad=True).unbind()
    assert_close(torch.compile(answer, fullgraph=True, backend="aot_eager")(*tensors), answer(*tensors))


@pytest.mark.compile
@pytest.mark.parametrize("trace", [compiled, exported])
@torch.no_grad()
def test_a_traced_step_of_generation_gives_what_the_step_gives(trace: Callable) -> None:
    tensors = tuple(torch.randn(2, heads, positions, 64) for heads, positions in ((8, 1), (2, 4096), (2, 4096)))
    assert_close(trace(Attend(), tensors)(*tensors), Attend()(*tensors))
