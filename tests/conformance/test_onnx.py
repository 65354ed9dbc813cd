"""ONNX's own cases of its Attention operator, at its own tolerances, through `attend` and through the definition."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from budget import assert_within
from onnx_attention import Node, cases, choices, run
from torch.nn import functional as F

NODES = cases()

ROUNDED_OTHERWISE = {
    "test_attention_4d_causal_bf16",
    "test_attention_4d_padded_kv_bf16",
    "test_attention_4d_causal_padded_kv_bf16",
    "test_attention_4d_attn_mask_causal_bf16",
    "test_attention_3d_causal_bf16",
}
"""Cases that prescribe bfloat16 after every step, where qkv computes scores and softmax in float32."""


def test_there_are_93() -> None:
    assert len(NODES) == 93
    assert {node.name for node in NODES} >= ROUNDED_OTHERWISE
    assert {node.inputs["Q"].dtype for node in NODES} == {torch.float32, torch.float16, torch.bfloat16}


@pytest.mark.parametrize("impl", ["auto", "reference"])
@pytest.mark.parametrize("node", [node for node in NODES if node.name not in ROUNDED_OTHERWISE], ids=str)
def test_onnx_case(node: Node, impl: str) -> None:
    for name, got in run(node, impl).items():
        want = node.outputs[name]
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=node.rtol, atol=node.atol, err_msg=name)


@pytest.mark.parametrize("impl", ["auto", "reference"])
@pytest.mark.parametrize("node", [node for node in NODES if node.name in ROUNDED_OTHERWISE], ids=str)
def test_onnx_case_rounded_otherwise(node: Node, impl: str) -> None:
    [(name, got)] = run(node, impl).items()
    assert name == "Y" and got.dtype == node.outputs["Y"].dtype == torch.bfloat16
    exact, plain = _pytorch(node, torch.float64), _pytorch(node, torch.bfloat16)
    assert_within(got, exact, plain, choices(node).value if got.ndim == 4 else None, what=f"{node}")


def _pytorch(node: Node, dtype: torch.dtype) -> torch.Tensor:
    """Compute a case by PyTorch's own attention; a row that sees nothing is 0, as ONNX prescribes."""
    made = choices(node)
    assert made.score is made.capped and made.query.shape[-3] == made.key.shape[-3]
    bias = torch.zeros(made.query.shape[-2], made.key.shape[-2]) if made.bias is None else made.bias
    batch, heads, queries, _ = made.query.shape
    if made.mask is not None:
        seen = made.mask.dense(queries, made.key.shape[-2], batch=(batch,), heads=heads)
        bias = torch.where(seen, bias, -torch.inf)
    bias = bias.to(dtype).expand(batch, heads, -1, -1)
    output = F.scaled_dot_product_attention(made.query.to(dtype), made.key.to(dtype), made.value.to(dtype), bias)
    output = torch.where((bias > -torch.inf).any(-1, keepdim=True), output, 0)
    return output.transpose(-3, -2).flatten(-2) if made.joined else output


def test_a_wrong_choice_is_noticed() -> None:
    """Without a cache ONNX's causal attention starts at the first key; ending at the last is something else."""
    node = next(node for node in NODES if node.name == "test_attention_4d_causal")
    later = replace(node, inputs={**node.inputs, "nonpad_kv_seqlen": torch.tensor([6, 6])})
    assert not torch.allclose(run(later, "reference")["Y"], node.outputs["Y"], rtol=0.05)
