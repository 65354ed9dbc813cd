"""A model to use: of a run, of a folder in Hugging Face's layout, or of a name on its Hub."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from torch import nn

from qkv.errors import UnsupportedError, must
from qkv.folders import find_folder, read_json
from qkv.integrations.architectures import load_architecture
from qkv.lens.page.build import check_page, write_page
from qkv.lens.page.view import View
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
    """Load a model of any kind and its tokenizer: of a run, of qkv's own kinds, or of an architecture of transformers.

    Raises: as `load_model` and `load_architecture`.
    """
    is_run = (Path(place) / RECORD).is_file()
    found = find_folder(open_run(place, command).model if is_run else place, command)
    if read_json(found / "config.json", command).get("model_type") in LAYOUTS:
        try:
            return load_model(found), load_tokenizer(found)
        except UnsupportedError:
            # A BERT or GPT-2 that computes what ours does not is still transformers'.
            if find_spec("transformers") is None:
                raise
    return load_architecture(found), load_tokenizer(found)


def check_see(see: Path | None) -> None:
    """Raise FileError if the page could not be written, before any work."""
    if see is not None:
        check_page(see)


def show(see: Path, views: list[View], subtitle: str) -> None:
    """Write the page and say where it is."""
    size = write_page(see, views, title="Attention", subtitle=subtitle)
    print(f"page: {see} ({size / 1e6:.2f} MB), open it in a browser")
