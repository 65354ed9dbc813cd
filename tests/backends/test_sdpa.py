"""SDPA: when it refuses, and that a row which sees nothing is emptied whatever PyTorch makes of it."""

import pytest
import torch

import qkv
from qkv.attention import call_of
from qkv.backends.sdpa import SDPA

NOTHING = {"score": None, "bias": None, "mask": None, "select": None, "dropout": 0.0}


@pytest.mark.parametrize(
    ("parts", "word"),
    [
        ({"score": qkv.soft_cap(qkv.dot(), 2.0)}, "scores by dot products alone"),
        ({"select": qkv.topk(1)}, "selects by softmax alone"),
        ({"dropout": 0.5}, "dropout"),
    ],
)
def test_it_refuses_what_it_cannot_say(parts: dict, word: str) -> None:
    tensors = torch.zeros(3, 1, 2, 5, 8).unbind()
    call = call_of("attend", *tensors, **{**NOTHING, **parts})
    assert word in (SDPA.refuses(call) or "")


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
@pytest.mark.parametrize("lead", [(), (2,), (1, 2)])
def test_batches_and_masks_of_any_rank(batch: tuple[int, ...], lead: tuple[int, ...]) -> None:
    if len(lead) > len(batch) + 1:
        return
    draw = torch.Generator().manual_seed(0)
    tensors = [torch.randn(*batch, 2, n, 4, generator=draw, dtype=torch.float64) for n in (3, 5, 5)]
    seen = torch.rand(*lead, 3, 5, generator=draw) > 0.4
    seen[..., 1, :] = False
    bias = torch.randn(*lead, 1, 5, generator=draw, dtype=torch.float64)
    output = qkv.attend(*tensors, mask=seen, bias=bias, impl="sdpa")
    torch.testing.assert_close(output, qkv.attend(*tensors, mask=seen, bias=bias, impl="reference"))
    assert (output[..., 1, :] == 0).all()
