"""A model to use: of a run, of a folder in Hugging Face's layout, or of a name on its Hub."""

import contextlib
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tokenizers import Encoding, Tokenizer
from torch import nn

from qkv.errors import FileError, UnsupportedError, must
from qkv.folders import find_folder, read_json
from qkv.integrations.architectures import architecture_of, load_architecture
from qkv.lens.page.build import check_page, write_page
from qkv.lens.page.view import View
from qkv.lens.reading import sees_pictures, unknown_tokens
from qkv.models.pretrained import LAYOUTS, load_model
from qkv.text.corpus import encodable
from qkv.text.printable import printable
from qkv.text.tokenizer import load_tokenizer
from qkv.training.run import RECORD, open_run


def load(command: str, place: str, *kinds: type[nn.Module]) -> tuple[Any, Tokenizer]:
    """Load a model and its tokenizer; a run's is the best so far.

    Raises: UnsupportedError for a model of another kind; as `load_model`.
    """
    folder = _folder_of(command, place)
    model = load_model(folder)
    if not isinstance(model, kinds):
        rule = "be " + " or ".join(kind.__name__ for kind in kinds)
        raise UnsupportedError(must(command, f"the model in {place}", rule, type(model).__name__))
    _check_finite(command, place, model)
    return model, load_tokenizer(folder)


def load_any(command: str, place: str | Path) -> tuple[nn.Module, Tokenizer]:
    """Load a model of text of any kind and its tokenizer: of a run, of qkv's kinds, or an architecture of transformers.

    Raises: UnsupportedError for a vision model; as `load_model` and `load_architecture`.
    """
    found = find(command, place)
    if (architecture := vision_of(found, command)) is not None:
        rule, fix = "read text", "qkv see --model FOLDER PICTURE.png shows what it sees in a picture"
        raise UnsupportedError(must(command, f"the model in {place}", rule, architecture.__name__, fix))
    if read_json(found / "config.json", command).get("model_type") in LAYOUTS:
        try:
            model = load_model(found)
            _check_finite(command, place, model)
            return model, load_tokenizer(found)
        except UnsupportedError:
            # A BERT or GPT-2 that computes what ours does not is still transformers'.
            if find_spec("transformers") is None:
                raise
    model = load_architecture(found)
    _check_finite(command, place, model)
    return model, load_tokenizer(found)


def find(command: str, place: str | Path) -> Path:
    """Find the folder of a model: a run's, a folder, or that of a name on the Hub."""
    return find_folder(_folder_of(command, place), command)


def _folder_of(command: str, place: str | Path) -> str | Path:
    """Give a run's model, the best so far; anything else as it is."""
    if not (Path(place) / RECORD).is_file():
        return place
    folder = open_run(place, command).model
    if not folder.is_dir():
        fix = "it is written at the first validation, after --every steps; a run that stopped goes on with --resume"
        raise FileError(must(command, f"the run {place}", "have a model", "none yet", fix))
    return folder


def _check_finite(command: str, place: str | Path, model: nn.Module) -> None:
    """Raise FileError if a model's weights are no numbers: all that it says would follow from none."""
    for name, weight in model.named_parameters():
        if not weight.isfinite().all():
            got = f"{weight[~weight.isfinite()][0].item()} in {name}"
            raise FileError(must(command, f"the model in {place}", "have finite weights", got))


def vision_of(folder: Path, command: str) -> type[nn.Module] | None:
    """Say which vision model of transformers is in a folder, by its config.json; None for another model."""
    if read_json(folder / "config.json", command).get("model_type") in LAYOUTS:
        return None
    architecture = architecture_of(folder)
    return architecture if sees_pictures(architecture) else None


def sizes_of(folder: Path, command: str) -> tuple[int | None, int | None]:
    """Say how many layers a model has and how many heads in each, by its config.json; None is known once it runs."""
    config = read_json(folder / "config.json", command)
    layout = LAYOUTS.get(config.get("model_type", ""))
    told: Any = None
    # What is wrong with a config is told where it is loaded.
    with contextlib.suppress(Exception):
        if layout is not None:
            told = layout.config(config)
            return getattr(told, "layers", None), getattr(told, "heads", None)
        from transformers import AutoConfig

        told = AutoConfig.from_pretrained(str(folder), local_files_only=True)
    names = "num_hidden_layers", "num_attention_heads"
    layers, heads = (found if isinstance(found := getattr(told, name, None), int) else None for name in names)
    return layers, heads


def encoded(command: str, tokenizer: Tokenizer, text: str, *, special: bool = True) -> Encoding:
    """Turn a text into tokens, and say on standard error what of it the vocabulary does not hold."""
    text = encodable(text)
    found = tokenizer.encode(text, add_special_tokens=special)
    if unknown := unknown_tokens(tokenizer, found.ids):
        names = dict.fromkeys(text[slice(*found.offsets[at])] for at in unknown)
        told = f"{command}: not in the model's vocabulary, so that it sees [UNK]: {' '.join(names)}"
        print(printable(told), file=sys.stderr)
    return found


def check_see(see: Path | None) -> None:
    """Raise FileError if the page could not be written, before any work."""
    if see is not None:
        check_page(see)


def show(see: Path, views: list[View], subtitle: str) -> None:
    """Write the page and say where it is."""
    size = write_page(see, views, subtitle=subtitle)
    print(f"page: {see} ({size / 1e6:.2f} MB), open it in a browser")
