"""A model to use: of a run, of a folder in Hugging Face's layout, or of a name on its Hub."""

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from torch import nn

from qkv.errors import UnsupportedError, must
from qkv.lens.page.build import check_page, write_page
from qkv.lens.page.view import View
from qkv.models.pretrained import load_model
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


def check_see(see: Path | None) -> None:
    """Raise FileError if the page could not be written, before any work."""
    if see is not None:
        check_page(see)


def show(see: Path, views: list[View], subtitle: str) -> None:
    """Write the page and say where it is."""
    size = write_page(see, views, title="Attention", subtitle=subtitle)
    print(f"page: {see} ({size / 1e6:.2f} MB), open it in a browser")
