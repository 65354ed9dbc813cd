"""ONNX's Attention operator in terms of qkv: inputs and attributes become a query, a key, a value and four choices.

Nothing here attends. Heads are split and joined, past and present concatenated, a mask's missing keys filled in, and
each attribute becomes the object of qkv that means it.
"""

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx.backend.test.case.node
import torch
from onnx.helper import get_attribute_value
from torch import Tensor
from torch.nn import functional as F

import qkv
from qkv.core.types import Score

FLOAT, DOUBLE = 1, 11


@dataclass
class Node:
    """One case: the node's attributes, its inputs and the outputs it must give, by their names in the definition."""

    name: str
    rtol: float
    atol: float
    attributes: dict[str, Any]
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]

    def __str__(self) -> str:
        return self.name.removeprefix("test_attention_")


@dataclass
class Choices:
    """What `qkv.attend` is called with."""

    query: Tensor
    key: Tensor
    value: Tensor
    score: Score
    capped: Score
    bias: Tensor | None
    mask: qkv.Mask | None
    joined: bool


INPUTS = ("Q", "K", "V", "attn_mask", "past_key", "past_value", "nonpad_kv_seqlen")
OUTPUTS = ("Y", "present_key", "present_value", "qk_matmul_output")


def cases() -> list[Node]:
    """Collect ONNX's own cases of the operator itself (each comes again as a graph of simpler operators)."""
    # Importing this module collects its cases; `collect_testcases` would import those of every operator, for 13 s.
    importlib.import_module("onnx.backend.test.case.node.attention")
    found = []
    for case in onnx.backend.test.case.node._NodeTestCases:
        node = case.model.graph.node[0]
        if node.op_type != "Attention":
            continue
        [(inputs, outputs)] = case.data_sets
        found.append(
            Node(
                case.name,
                case.rtol,
                case.atol,
                {attribute.name: get_attribute_value(attribute) for attribute in node.attribute},
                _named(INPUTS, node.input, inputs),
                _named(OUTPUTS, node.output, outputs),
            )
        )
    return found


def _named(names: tuple[str, ...], present: list[str], arrays: list[np.ndarray]) -> dict[str, Tensor]:
    """Give each array its name; an empty name says that an optional one is left out."""
    given = [name for name, there in zip(names, present, strict=False) if there]
    return {name: _tensor(array) for name, array in zip(given, arrays, strict=True)}


def _tensor(array: np.ndarray) -> Tensor:
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.uint16).copy()).view(torch.bfloat16)
    return torch.from_numpy(array.copy())


def run(node: Node, impl: str) -> dict[str, Tensor]:
    """Compute every output that the node asks for."""
    made = choices(node)
    query, key, value, mask, bias = made.query, made.key, made.value, made.mask, made.bias
    output = qkv.attend(query, key, value, score=made.capped, bias=bias, mask=mask, impl=impl)
    outputs = {
        "Y": output.transpose(-3, -2).flatten(-2) if made.joined else output,
        "present_key": key,
        "present_value": value,
    }
    if "qk_matmul_output" in node.outputs:
        weights = qkv.attention_map(query, key, score=made.capped, bias=bias, mask=mask)
        mode = node.attributes.get("qk_matmul_output_mode", 0)
        # The scores are asked for after the product, after the soft cap, and after bias and mask; then the weights.
        if mode == 0:
            asked = qkv.attention_map(query, key, score=made.score).scores()
        elif mode == 1:
            asked = qkv.attention_map(query, key, score=made.capped).scores()
        else:
            asked = weights.scores() if mode == 2 else weights.dense()
        outputs["qk_matmul_output"] = asked.to(query.dtype)
    return {name: outputs[name] for name in node.outputs}


def choices(node: Node) -> Choices:
    """Say in qkv's terms what the node computes."""
    given, wanted = node.inputs, node.attributes
    query, key, value = given["Q"], given["K"], given["V"]
    joined = query.ndim == 3
    if joined:
        query = _split(query, wanted["q_num_heads"])
        key, value = (_split(x, wanted["kv_num_heads"]) for x in (key, value))
    offset: int | Tensor = 0
    if "past_key" in given:
        offset = given["past_key"].shape[-2]
        key, value = torch.cat((given["past_key"], key), -2), torch.cat((given["past_value"], value), -2)
    masks: list[qkv.Mask] = []
    if "nonpad_kv_seqlen" in given:
        masks.append(qkv.padding(keys=given["nonpad_kv_seqlen"]))
        offset = given["nonpad_kv_seqlen"] - query.shape[-2]
    if wanted.get("is_causal"):
        masks.append(qkv.causal(offset=offset))
    before, after = wanted.get("left_window_size", -1), wanted.get("right_window_size", -1)
    if before >= 0 or after >= 0:
        # −1 leaves a side open: farther than any position stands from any other.
        far = query.shape[-2] + key.shape[-2]
        sides = {"before": before if before >= 0 else far, "after": after if after >= 0 else far}
        masks.append(qkv.window(**sides, offset=offset))
    bias = None
    if "attn_mask" in given:
        attn_mask, missing = given["attn_mask"], key.shape[-2] - given["attn_mask"].shape[-1]
        if attn_mask.dtype == torch.bool:
            masks.append(qkv.dense_mask(F.pad(attn_mask, (0, missing), value=False)))
        else:
            bias = F.pad(attn_mask, (0, missing), value=-torch.inf)
    mask = None
    for one in masks:
        mask = one if mask is None else mask & one
    score = qkv.scaled_dot(wanted.get("scale"))
    capped = qkv.soft_cap(score, wanted["softcap"]) if wanted.get("softcap") else score
    # qkv's softmax runs in float32 or wider whatever the inputs are, so nothing narrower can be asked of it.
    assert wanted.get("softmax_precision", FLOAT) in (FLOAT, DOUBLE)
    return Choices(query, key, value, score, capped, bias, mask, joined)


def _split(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(-3, -2)
