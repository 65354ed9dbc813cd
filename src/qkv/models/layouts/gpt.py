"""GPT-2 in Hugging Face's layout: query, key and value in one matrix, and matrices the other way round."""

import re
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from qkv.models.gpt import Gpt, GptConfig
from qkv.models.layouts.bert import check_papers, check_tied
from qkv.models.layouts.layout import Layout

_MODULES = {
    "tokens": "wte",
    "places": "wpe",
    "norm": "ln_f",
    "attention_residual.norm": "ln_1",
    "attention.query": "attn.c_attn",
    "attention.key": "attn.c_attn",
    "attention.value": "attn.c_attn",
    "attention.output": "attn.c_proj",
    "feed_forward_residual.norm": "ln_2",
    "feed_forward.expand": "mlp.c_fc",
    "feed_forward.contract": "mlp.c_proj",
}
"""Hugging Face's names of our modules; those of a block without its number."""

_HEADS = ("attention.query", "attention.key", "attention.value")
"""What stands side by side in one matrix, in this order."""


class GptLayout(Layout):
    """GPT2LMHeadModel, and GPT2Model, which differs by a prefix."""

    model = Gpt
    kind, what = "gpt2", "a GPT-2"
    fields: ClassVar = {
        "vocab_size": "vocabulary",
        "n_embd": "width",
        "n_layer": "layers",
        "n_head": "heads",
        "n_inner": "feed_forward",
        "n_positions": "positions",
        "resid_pdrop": "dropout",
        "attn_pdrop": "attention_dropout",
        "embd_pdrop": "embedding_dropout",
        "layer_norm_epsilon": "epsilon",
        "eos_token_id": "end",
    }
    supported: ClassVar = {
        "activation_function": ("gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu", "gelu_python"),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
        "tie_word_embeddings": (True,),
        "pruned_heads": ({},),
    }
    layers = ("n_layer", r"h\.(\d+)\.")

    def fits(self, model: nn.Module) -> bool:
        return isinstance(model, Gpt) and model.is_the_papers

    def plain(self, function: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        plain = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
        # Old files hold the causal mask too.
        plain = {name: x for name, x in plain.items() if not re.fullmatch(r"h\.\d+\.attn\.(masked_)?bias", name)}
        check_tied(function, "lm_head.weight", plain.pop("lm_head.weight", None), plain.get("wte.weight"))
        return plain

    def config(self, found: Mapping[str, Any]) -> GptConfig:
        fields = {ours: found[theirs] for theirs, ours in self.fields.items() if found.get(theirs) is not None}
        if isinstance(width := fields.get("width", GptConfig.width), int):
            fields.setdefault("feed_forward", 4 * width)
        exact = found.get("activation_function", "gelu_new") in ("gelu", "gelu_python")
        return GptConfig(**fields, tanh_gelu=not exact)

    def build(self, config: GptConfig, found: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Gpt:
        return Gpt(config)

    def theirs(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        parts: dict[str, list[Tensor]] = {}
        for name, tensor in state.items():
            parts.setdefault(_their_name(name), []).append(tensor)
        whole = {name: tensors[0] if len(tensors) == 1 else torch.cat(tensors) for name, tensors in parts.items()}
        return {name: tensor.T.contiguous() if _is_turned(name) else tensor for name, tensor in whole.items()}

    def ours(self, tensors: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: self._ours(tensors[_their_name(name)], name) for name in state}

    def _ours(self, tensor: Tensor, name: str) -> Tensor:
        if _is_turned(_their_name(name)):
            tensor = tensor.T
        head = re.sub(r"layers\.\d+\.|\.\w+$", "", name)
        if head in _HEADS:
            tensor = tensor.chunk(3)[_HEADS.index(head)]
        # A parameter of its own, so that saving or training it drags nothing along.
        return tensor.clone(memory_format=torch.contiguous_format)

    def written(self, function: str, model: Gpt) -> tuple[dict[str, object], dict[str, Tensor]]:
        check_papers(function, model.is_the_papers)
        config: dict[str, object] = {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "dtype": str(model.tokens.weight.dtype).removeprefix("torch."),
            "activation_function": "gelu_new" if model.config.tanh_gelu else "gelu",
            "bos_token_id": model.config.end,
            "tie_word_embeddings": True,
            "initializer_range": 0.02,
        }
        config |= {theirs: getattr(model.config, ours) for theirs, ours in self.fields.items()}
        return config, {f"transformer.{name}": tensor for name, tensor in self.theirs(model.state_dict()).items()}


def _their_name(name: str) -> str:
    """Translate a parameter's name to Hugging Face's, without a prefix."""
    block, module, leaf = re.fullmatch(r"(?:layers\.(\d+)\.)?(.+)\.(.*)", name).groups()  # type: ignore[union-attr]
    return f"{_MODULES[module]}.{leaf}" if block is None else f"h.{block}.{_MODULES[module]}.{leaf}"


def _is_turned(name: str) -> bool:
    """Say whether their tensor is a matrix [in, out], the other way round than ours."""
    return bool(re.search(r"\.c_\w+\.weight$", name))
