"""attend and the definition against torch.nn.functional.scaled_dot_product_attention, within the float64 budget."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from budget import assert_gradients_within, assert_within
from torch import Tensor
from torch.nn import functional as F

import qkv


@dataclass
class Case:
    """The same attention asked of PyTorch and of qkv; `extra` makes a mask or bias, given to each in its own way."""

    name: str
    query: tuple[int, ...] = (2, 4, 5, 8)
    key: tuple[int, ...] = (2, 4, 7, 8)
    value_width: int = 8
    torch: dict[str, Any] = field(default_factory=dict)
    qkv: dict[str, Any] = field(default_factory=dict)
    mask: tuple[int, ...] | None = None
    bias: tuple[int, ...] | None = None

    def __str__(self) -> str:
        return self.name


SOME = {"query": (2, 6, 5, 8), "key": (2, 2, 7, 8), "torch": {"enable_gqa": True}}
TOP_LEFT = {"torch": {"is_causal": True}, "qkv": {"mask": qkv.causal(offset=0)}}
CASES = [
    Case("every pair"),
    Case("one query", query=(2, 4, 1, 8)),
    Case("one key", key=(2, 4, 1, 8)),
    Case("no batch", query=(4, 5, 8), key=(4, 7, 8)),
    Case("two batch dimensions", query=(2, 3, 4, 5, 8), key=(2, 3, 4, 7, 8)),
    Case("scale", torch={"scale": 0.7}, qkv={"score": qkv.scaled_dot(0.7)}),
    Case("values of another width", value_width=3),
    Case("mask shared by all", mask=(5, 7)),
    Case("mask of each example", mask=(2, 1, 5, 7)),
    Case("mask of each head", mask=(4, 5, 7)),
    Case("mask of each", mask=(2, 4, 5, 7)),
    Case("mask of keys", mask=(2, 1, 1, 7)),
    Case("bias shared by all", bias=(5, 7)),
    Case("bias of each head", bias=(1, 4, 5, 7)),
    Case("bias of each", bias=(2, 4, 5, 7)),
    Case("bias of keys", bias=(2, 1, 1, 7)),
    Case("causal", query=(2, 4, 7, 8), torch={"is_causal": True}, qkv={"mask": qkv.causal()}),
    Case("causal with more keys", **TOP_LEFT),
    Case("causal with more queries", query=(2, 4, 9, 8), **TOP_LEFT),
    Case("grouped queries", **SOME),
    Case("one key head", query=(2, 6, 5, 8), key=(2, 1, 7, 8), torch={"enable_gqa": True}),
    Case("grouped queries, mask", **SOME, mask=(2, 6, 5, 7)),
    Case("grouped queries, bias", **SOME, bias=(2, 6, 5, 7)),
]


@pytest.mark.parametrize("impl", ["auto", "reference"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_pytorch_forward_and_backward(case: Case, dtype: torch.dtype, impl: str) -> None:
    tensors = _tensors(case, dtype)
    exact = _run(_pytorch, case, tensors, torch.float64)
    plain = _run(_pytorch, case, tensors, torch.float32 if dtype == torch.float64 else dtype)
    got = _run(_qkv(impl), case, tensors, dtype)
    assert got[0].dtype == dtype
    assert_within(got[0], exact[0], plain[0], tensors["value"], what=f"{case}")
    assert_gradients_within(got[1:], exact[1:], plain[1:], what=f"{case}")


def test_auto_takes_pytorchs_own_where_it_can() -> None:
    for case in CASES:
        tensors = _tensors(case, torch.float32)
        plan = qkv.explain(*(tensors[name] for name in ("query", "key", "value")), **_choices(case, tensors))
        # The decode path is SDPA too while the cases are as small as here, with the heads of a group folded.
        assert plan.backend in ("sdpa", "decode"), f"{case}: {plan}"


def _tensors(case: Case, dtype: torch.dtype) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(len(case.name))

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    made = {"query": draw(*case.query), "key": draw(*case.key), "value": draw(*case.key[:-1], case.value_width)}
    made["upstream"] = draw(*case.query[:-1], case.value_width)
    if case.bias:
        made["bias"] = draw(*case.bias)
    if case.mask:
        # PyTorch's paths disagree on a row that sees nothing, so each sees its first key.
        made["mask"] = (draw(*case.mask) > 0) | (torch.arange(case.mask[-1]) == 0)
    return made


def _run(attend: Callable[..., Tensor], case: Case, tensors: dict[str, Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Attend in a dtype, and give the output and the gradient of everything that has one."""
    copies = {
        name: tensor if tensor.dtype == torch.bool else tensor.detach().to(dtype).requires_grad_(name != "upstream")
        for name, tensor in tensors.items()
    }
    output = attend(case, copies)
    wanted = [tensor for tensor in copies.values() if tensor.requires_grad]
    return [output.detach(), *torch.autograd.grad(output, wanted, copies["upstream"])]


def _pytorch(case: Case, tensors: dict[str, Tensor]) -> Tensor:
    mask = tensors.get("mask", tensors.get("bias"))
    return F.scaled_dot_product_attention(
        tensors["query"], tensors["key"], tensors["value"], attn_mask=mask, **case.torch
    )


def _qkv(impl: str) -> Callable[..., Tensor]:
    def attend(case: Case, tensors: dict[str, Tensor]) -> Tensor:
        return qkv.attend(tensors["query"], tensors["key"], tensors["value"], **_choices(case, tensors), impl=impl)

    return attend


def _choices(case: Case, tensors: dict[str, Tensor]) -> dict[str, Any]:
    return case.qkv | {name: tensors[name] for name in ("mask", "bias") if name in tensors}
