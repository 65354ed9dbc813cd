"""The Triton kernels of additive attention: by Triton's interpreter where there is no GPU, and compiled for one."""

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from budget import assert_gradients_within, assert_within
from torch import Tensor

import qkv
from qkv.attention import call_of
from qkv.backends import additive
from qkv.backends.additive import numba
from qkv.core.reference import attend as define

pytest.importorskip("triton", reason="Triton comes with CUDA builds of PyTorch, not with this one")

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def elsewhere(function: Callable[..., tuple[Tensor, ...]]) -> Callable[..., tuple[Tensor, ...]]:
    """Take tensors to where the kernels run, and what they find back."""

    def run(*arguments: Any) -> tuple[Tensor, ...]:
        moved = (x.to(DEVICE) if isinstance(x, Tensor) else x for x in arguments)
        return tuple(x.cpu() for x in function(*moved))

    return run


@pytest.fixture(autouse=True)
def in_the_place_of_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba, "attend", elsewhere(additive.attend_on_cuda))
    monkeypatch.setattr(numba, "gradients", elsewhere(additive.gradients_on_cuda))


def run(tensors: list[Tensor], dtype: torch.dtype, score: Any, parts: dict, fused: bool) -> tuple[Tensor, tuple]:
    score = score.to(dtype)
    inputs = [x.detach().to(dtype).requires_grad_() for x in tensors]
    call = call_of("attend", *inputs, score, None, parts.get("mask"), None, parts.get("dropout", 0.0))
    torch.manual_seed(1)
    output = additive.run(call)[0] if fused else define(call)[0]
    pull = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view(output.shape)
    return output.detach(), torch.autograd.grad(output, [*inputs, *score.parameters()], pull.to(dtype))


CASES: dict[str, dict[str, Any]] = {
    "small": {"queries": 5, "keys": 7, "hidden": 3, "dim": 2},
    "one feature": {"queries": 1, "keys": 1, "hidden": 1, "dim": 1},
    "odd": {"queries": 40, "keys": 70, "hidden": 5, "dim": 20},
    "causal": {"queries": 70, "keys": 130, "hidden": 6, "dim": 17, "mask": qkv.causal()},
    "rows that see nothing": {"queries": 70, "keys": 130, "hidden": 3, "dim": 4, "mask": qkv.causal(offset=-60)},
    "documents": {
        "queries": 70,
        "keys": 130,
        "hidden": 4,
        "dim": 4,
        "mask": qkv.documents(torch.tensor([[100, 30], [20, 30]])),
    },
    "heads of their own": {
        "queries": 70,
        "keys": 130,
        "hidden": 4,
        "dim": 4,
        "mask": qkv.bigbird(32, random=1),
    },
    "dropout": {"queries": 70, "keys": 130, "hidden": 3, "dim": 4, "mask": qkv.window(90), "dropout": 0.3},
    "wide numbers": {"queries": 40, "keys": 70, "hidden": 6, "dim": 4, "size": 50.0},
    "very wide numbers": {"queries": 40, "keys": 70, "hidden": 6, "dim": 4, "size": 1000.0},
}


@pytest.mark.parametrize("name", CASES)
def test_the_kernels_are_the_definition_forward_and_backward(name: str) -> None:
    case = dict(CASES[name])
    draw = torch.Generator().manual_seed(0)
    size, wide, dim = case.pop("size", 1.0), 8, case["dim"]
    shapes = ((4, case["queries"], wide), (2, case["keys"], wide), (2, case["keys"], dim))
    query, key, value = (torch.randn(2, *shape, generator=draw) for shape in shapes)
    # Some features of one tensor are as large as that, others are not.
    query, key = (torch.where(torch.arange(wide) < 4, size * x, x) for x in (query, key))
    torch.manual_seed(0)
    score = qkv.Additive(wide, wide, case["hidden"])
    tensors = [query, key, value]
    exact, exact_gradients = run(tensors, torch.float64, score, case, fused=False)
    plain, plain_gradients = run(tensors, torch.float32, score, case, fused=False)
    output, gradients = run(tensors, torch.float32, score, case, fused=True)
    assert_within(output, exact, plain, value)
    assert_gradients_within(gradients, exact_gradients, plain_gradients)
    if "mask" in case:
        seen = case["mask"].dense(case["queries"], case["keys"], batch=(2,), heads=4)
        blind = ~seen.any(-1).expand(output.shape[:-1])
        assert (output[blind] == 0).all()


COMPILE = """
import re, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from qkv.backends.additive import triton as ours

kinds = {"spaced": "*i32", "table": "*i64", "patterns": "*u8", "streams": "*i64", "limit": "i64", "boost": "fp32"}
numbers = "by_row by_key vector value output peaks totals gradient deltas for_rows for_vector for_keys for_values"
kinds |= dict.fromkeys(numbers.split(), "*fp32")
fixed = {"DIM": 64, "HIDDEN": 64, "DROPS": True, "BLOCK": 64, "TILE": 128, "ROWS": ours.ROWS, "COLUMNS": ours.COLUMNS}
for function in (ours._forward, ours._backward_rows, ours._backward_keys):
    signature = {name: "constexpr" if name in fixed else kinds.get(name, "i32") for name in function.arg_names}
    constants = {name: fixed[name] for name in function.arg_names if name in fixed}
    made = triton.compile(ASTSource(function, signature, constexprs=constants), target=GPUTarget("cuda", 80, 32))
    assert made.asm["cubin"] and made.metadata.shared < 100_000
    assert not re.search(r"\\b(atom|red)[.]", made.asm["ptx"]), "sums must keep their order"
print("compiled")
"""


@pytest.mark.slow
def test_the_kernels_compile_and_add_nothing_atomically() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "compiled\n", done.stderr
