"""BERT in Hugging Face's layout, with whichever heads a file holds."""

import re
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from qkv.errors import UnsupportedError, must
from qkv.models.bert import Bert, BertConfig
from qkv.models.layouts.layout import Layout

_EXACT_GELU, _TANH_GELU = ("gelu", "gelu_python"), ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")

_MODULES = {
    "embeddings.tokens": "embeddings.word_embeddings",
    "embeddings.positions": "embeddings.position_embeddings",
    "embeddings.segments": "embeddings.token_type_embeddings",
    "embeddings.norm": "embeddings.LayerNorm",
    "attention.query": "attention.self.query",
    "attention.key": "attention.self.key",
    "attention.value": "attention.self.value",
    "attention.output": "attention.output.dense",
    "attention_residual.norm": "attention.output.LayerNorm",
    "feed_forward.expand": "intermediate.dense",
    "feed_forward.contract": "output.dense",
    "feed_forward_residual.norm": "output.LayerNorm",
    "pooler": "pooler.dense",
    "masked": "cls.predictions",
    "masked.dense": "cls.predictions.transform.dense",
    "masked.norm": "cls.predictions.transform.LayerNorm",
    "next_sentence": "cls.seq_relationship",
    "labels": "classifier",
    "token_labels": "classifier",
}
"""Hugging Face's names of our modules; those of a block without its number."""

_HEADS = ("cls.", "classifier.")
"""What stands beside the encoder, not in it."""


class BertLayout(Layout):
    """BertModel, and BertFor: MaskedLM, PreTraining, NextSentencePrediction, Sequence- and TokenClassification."""

    model = Bert
    kind, what = "bert", "a BERT"
    fields: ClassVar = {
        "vocab_size": "vocabulary",
        "hidden_size": "width",
        "num_hidden_layers": "layers",
        "num_attention_heads": "heads",
        "intermediate_size": "feed_forward",
        "max_position_embeddings": "positions",
        "type_vocab_size": "segments",
        "hidden_dropout_prob": "dropout",
        "attention_probs_dropout_prob": "attention_dropout",
        "layer_norm_eps": "epsilon",
        "pad_token_id": "padding",
    }
    supported: ClassVar = {
        "hidden_act": (*_EXACT_GELU, *_TANH_GELU),
        "position_embedding_type": ("absolute",),
        "is_decoder": (False,),
        "add_cross_attention": (False,),
        "pruned_heads": ({},),
    }
    layers = ("num_hidden_layers", r"encoder\.layer\.(\d+)\.")

    def fits(self, model: nn.Module) -> bool:
        return isinstance(model, Bert) and model.is_the_papers

    def plain(self, function: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        plain = {}
        for name, tensor in tensors.items():
            name = name.removeprefix("bert.")
            name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
            plain[name] = tensor
        plain.pop("embeddings.position_ids", None)
        bias = plain.pop("cls.predictions.decoder.bias", None)
        if bias is not None:
            plain.setdefault("cls.predictions.bias", bias)
        decoder = plain.pop("cls.predictions.decoder.weight", None)
        check_tied(function, "cls.predictions.decoder.weight", decoder, plain.get("embeddings.word_embeddings.weight"))
        return plain

    def config(self, found: Mapping[str, Any]) -> BertConfig:
        fields = {ours: found[theirs] for theirs, ours in self.fields.items() if found.get(theirs) is not None}
        return BertConfig(**fields, tanh_gelu=found.get("hidden_act") in _TANH_GELU)

    def build(self, config: BertConfig, found: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Bert:
        bert = Bert(config)
        labels = tensors.get("classifier.weight")
        if labels is not None and labels.ndim == 2 and not any(name.startswith("cls.") for name in tensors):
            bert.add_labels(labels.shape[0], of_tokens=not any(name.startswith("pooler.") for name in tensors))
        for head in ("pooler", "masked", "next_sentence"):
            if not any(name.startswith(_their_name(f"{head}.")) for name in tensors):
                setattr(bert, head, None)
        return bert

    def theirs(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {_their_name(name): tensor for name, tensor in state.items()}

    def ours(self, tensors: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensors[_their_name(name)] for name in state}

    def written(self, function: str, model: Bert) -> tuple[dict[str, object], dict[str, Tensor]]:
        check_papers(function, model.is_the_papers)
        architecture = _architecture(model)
        config: dict[str, object] = {
            "architectures": [architecture],
            "model_type": "bert",
            "dtype": str(model.embeddings.tokens.weight.dtype).removeprefix("torch."),
            "hidden_act": "gelu_new" if model.config.tanh_gelu else "gelu",
            "position_embedding_type": "absolute",
            "initializer_range": 0.02,
        }
        labels = model.labels or model.token_labels
        if labels is not None:
            config["id2label"] = {str(label): f"LABEL_{label}" for label in range(labels.out_features)}
            config["label2id"] = {f"LABEL_{label}": label for label in range(labels.out_features)}
        config |= {theirs: getattr(model.config, ours) for theirs, ours in self.fields.items()}
        prefix = "" if architecture == "BertModel" else "bert."
        tensors = self.theirs(model.state_dict())
        return config, {name if name.startswith(_HEADS) else prefix + name: tensor for name, tensor in tensors.items()}


def check_tied(function: str, name: str, head: Tensor | None, embedding: Tensor | None) -> None:
    """Raise UnsupportedError unless a head's matrix, if there is one, is the token embedding's."""
    if head is not None and (embedding is None or not torch.equal(head, embedding)):
        rule = "be the token embedding, transposed (tied)"
        raise UnsupportedError(must(function, name, rule, "another matrix"))


def check_papers(function: str, is_the_papers: bool) -> None:
    """Raise UnsupportedError unless a model has the paper's choices alone."""
    if not is_the_papers:
        rule = "have the paper's norms, positions, score and selection, as Hugging Face's layout names no others"
        fix = "save_model keeps such a model"
        raise UnsupportedError(must(function, "the model", rule, "other choices", fix))


def _their_name(name: str) -> str:
    """Translate a parameter's name to Hugging Face's, without a prefix."""
    block, module, leaf = re.fullmatch(r"(?:layers\.(\d+)\.)?(.+)\.(.*)", name).groups()  # type: ignore[union-attr]
    theirs = f"{_MODULES[module]}.{leaf}"
    return theirs if block is None else f"encoder.layer.{block}.{theirs}"


def _architecture(bert: Bert) -> str:
    """Name the class of transformers that holds what this model holds."""
    if bert.labels is not None:
        return "BertForSequenceClassification"
    if bert.token_labels is not None:
        return "BertForTokenClassification"
    if bert.masked is not None:
        return "BertForMaskedLM" if bert.next_sentence is None else "BertForPreTraining"
    return "BertModel" if bert.next_sentence is None else "BertForNextSentencePrediction"
