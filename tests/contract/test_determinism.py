"""The same inputs, seed and number of threads give the same bits, forward and backward, on every path."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from cases import PARTS, Case, case_of, same
from torch import Tensor

import qkv
from qkv.core.card import Card

pytestmark = pytest.mark.usefixtures("as_users_run")

BATCH, HEADS, KEY_HEADS, LENGTH, WIDTH = 3, 4, 2, 64, 32
SHAPED = [
    Case("every pair", {}),
    Case("causal", {"mask": qkv.causal()}),
    Case("window", {"mask": qkv.causal() & qkv.window(9)}),
    Case("padding", {"mask": qkv.padding(keys=torch.tensor([64, 50, 1]), queries=torch.tensor([64, 50, 0]))}),
    Case("documents", {"mask": qkv.documents(torch.tensor([30, 20, 10]))}),
    Case("bias", {"bias": qkv.alibi(heads=HEADS), "mask": qkv.causal()}),
    Case("learned bias", {"bias": torch.linspace(-1, 1, LENGTH * LENGTH).view(LENGTH, LENGTH)}),
]


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def large(heads: int = HEADS, key_heads: int = KEY_HEADS) -> tuple[Tensor, ...]:
    """Draw inputs large enough for PyTorch to split the work among threads."""
    draw = torch.Generator().manual_seed(0)
    return tuple(torch.randn(BATCH, each, LENGTH, WIDTH, generator=draw) for each in (heads, key_heads, key_heads))


def run(tensors: tuple[Tensor, ...], parts: dict[str, Any], seed: int, **how: Any) -> list[Tensor]:
    """Attend from a seed, and give the output and all gradients, a learned bias's included."""
    torch.manual_seed(seed)
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    if isinstance(parts.get("bias"), Tensor):
        leaves.append(parts["bias"].clone().requires_grad_())
        parts = {**parts, "bias": leaves[-1]}
    output = qkv.attend(*leaves[:3], **parts, **how)
    upstream = torch.linspace(-1, 1, output.numel()).view(output.shape)
    return [output.detach(), *torch.autograd.grad(output, leaves, upstream, materialize_grads=True)]


def assert_same(first: list[Tensor], second: list[Tensor]) -> None:
    for index, (one, other) in enumerate(zip(first, second, strict=True)):
        assert same(one, other), ("output", "query", "key", "value", "bias")[index]


@pytest.mark.parametrize("impl", ["auto", "reference"])
@pytest.mark.parametrize("card", PARTS, ids=lambda card: card.name)
def test_every_part_twice(card: Card, impl: str) -> None:
    draw = torch.Generator().manual_seed(0)
    tensors = tuple(torch.randn(2, 2, positions, 8, generator=draw) for positions in (5, 7, 7))
    first = run(tensors, case_of(card).parts, 0, impl=impl)
    assert_same(first, run(tensors, case_of(card).parts, 0, impl=impl))


@pytest.mark.parametrize("how", [{"impl": "auto"}, {"impl": "reference"}, {"dropout": 0.3}], ids=str)
@pytest.mark.parametrize("case", SHAPED, ids=lambda case: case.name)
def test_work_split_among_threads_twice(case: Case, how: dict[str, Any], threads: int) -> None:
    first = run(large(), case.parts, 0, **how)
    for _ in range(2):
        assert_same(first, run(large(), case.parts, 0, **how))


def test_dropout_follows_the_seed() -> None:
    first = run(large(), {}, 0, dropout=0.3)
    assert not same(first[0], run(large(), {}, 1, dropout=0.3)[0])
    torch.manual_seed(0)
    query, key, value = large()
    outputs = [qkv.attend(query, key, value, dropout=0.3) for _ in range(2)]
    assert same(outputs[0], first[0]) and not same(outputs[0], outputs[1])


def test_dropout_drops_the_same_pairs_on_every_path() -> None:
    query, key, _ = large()
    dropped = []
    for impl in ("auto", "reference"):
        torch.manual_seed(0)
        # With values of one-hot rows the output is the weights themselves.
        eye = torch.eye(LENGTH).expand(BATCH, KEY_HEADS, LENGTH, LENGTH)
        dropped.append(qkv.attend(query, key, eye, mask=qkv.causal(), dropout=0.3, impl=impl) == 0)
    assert torch.equal(*dropped)
    causal = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
    assert abs(dropped[0][..., causal].double().mean().item() - 0.3) < 0.02


PROGRAM = """
import hashlib, torch, qkv
torch.set_num_threads(2)
torch.manual_seed(0)
query, key, value = (torch.randn(3, 4, 96, 32, requires_grad=True) for _ in range(3))
for how in ({}, {"impl": "reference"}, {"dropout": 0.3}, {"select": qkv.entmax15()}):
    output = qkv.attend(query, key, value, mask=qkv.causal(), **how)
    for result in (output, *torch.autograd.grad(output.square().sum(), (query, key, value))):
        print(hashlib.sha256(result.detach().numpy().tobytes()).hexdigest())
"""


@pytest.mark.slow
def test_another_process_gives_the_same_bits() -> None:
    first, second = (
        subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    )
    assert first == second and len(set(first.split())) == 16
