"""A model to use: of a run, of a folder in Hugging Face's layout, or of a name on its Hub."""

import contextlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from torch import nn

from qkv.errors import UnsupportedError, must
from qkv.folders import find_folder, read_json
from qkv.integrations.architectures import architecture_of, load_architecture
from qkv.lens.page.build import check_page, write_page
from qkv.lens.page.view import View
from qkv.lens.reading import sees_pictures
from qkv.models.pretrained import LAYOUTS, load_model
from qkv.text.tokenizer import load_tokenizer
from qkv.training.run import RECORD, open_run


def load(command: str, place: str, *kinds: type[nn.Module]) -> tuple[Any, Tokenizer]:
    """Load a model and its tokenizer; a run's is the best so far.

    Raises: UnsupportedError for a model of another kind; as `load_model`.
    """
    folder: str | Path = place
    if (Path(place) / RECORD).is_file():
        folder = open_run(place, command).model
    model = load_model(folder)
    if not isinstance(model, kinds):
        rule = "be " + " or ".join(kind.__name__ for kind in kinds)
        raise UnsupportedError(must(command, f"the model in {place}", rule, type(model).__name__))
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
            return load_model(found), load_tokenizer(found)
        except UnsupportedError:
            # A BERT or GPT-2 that computes what ours does not is still transformers'.
            if find_spec("transformers") is None:
                raise
    return load_architecture(found), load_tokenizer(found)


def find(command: str, place: str | Path) -> Path:
    """Find the folder of a model: a run's, a folder, or that of a name on the Hub."""
    is_run = (Path(place) / RECORD).is_file()
    return find_folder(open_run(place, command).model if is_run else place, command)


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


def check_see(see: Path | None) -> None:
    """Raise FileError if the page could not be written, before any work."""
    if see is not None:
        check_page(see)


def show(see: Path, views: list[View], subtitle: str) -> None:
    """Write the page and say where it is."""
    size = write_page(see, views, subtitle=subtitle)
    print(f"page: {see} ({size / 1e6:.2f} MB), open it in a browser")
