"""`qkv see`: sentences, or pictures, as a model reads them."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from qkv.commands.trained import find, load_any, sizes_of, vision_of
from qkv.errors import ArgumentError, FileError, must
from qkv.integrations.architectures import load_architecture, load_image_processor
from qkv.lens.index import WordIndex
from qkv.lens.language import sayer
from qkv.lens.patches import read_patches
from qkv.lens.reading import Reading, read
from qkv.lens.see import check_asked, check_place, effects_of, flows_of, see
from qkv.models.pretrained import default_folder
from qkv.text.corpus import each_file, read_texts

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
"""How files' names end that hold pictures, never a sentence."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is asked of the texts."""

    target: str | None = None
    layer: int | None = None
    head: int | None = None
    word: str | None = None
    sort: str | None = None
    index: Path | None = None
    ablate: bool = False
    out: Path | None = None
    depth: int | None = None
    json: Path | None = None


def see_texts(texts: Sequence[str], model: str | None, asked: Asked, *, language: str | None) -> None:
    """Print the attention of a model over some texts, or pictures; what is wrong is said before the model is loaded.

    Raises: ArgumentError, FileError, UnsupportedError, as `read`, `read_patches` and `lens.see.see`.
    """
    say = sayer("see", language)
    if not texts:
        raise ArgumentError(must("see", "TEXT", "be given", "none", "a sentence in quotes, or --serve"))
    for text in texts:
        if not text.strip():
            raise ArgumentError(must("see", "TEXT", "hold something to read", repr(text)))
    check_asked(
        len(texts), word=asked.word, sort=asked.sort, index=asked.index, out=asked.out, depth=asked.depth,
        numbers=asked.json,
    )  # fmt: skip
    corpus = None if asked.index is None else WordIndex(asked.index)
    folder = find("see", model or default_folder())
    layers, heads = sizes_of(folder, "see")
    check_place(asked.layer, asked.head, layers=layers, heads=heads)
    found, readings = _read(texts, folder, model, asked, corpus)
    see(
        readings, model=model or "all-MiniLM-L6-v2", layer=asked.layer, head=asked.head, word=asked.word,
        sort=asked.sort, index=corpus, flows=flows_of(found, readings),
        effects=effects_of(found, readings, asked.word, say) if asked.ablate else (),
        out=asked.out, depth=asked.depth, numbers=asked.json, language=language, say=say,
    )  # fmt: skip


def _read(
    texts: Sequence[str], folder: Path, model: str | None, asked: Asked, corpus: WordIndex | None
) -> tuple[nn.Module, list[Reading]]:
    """Load the model, and let it read."""
    if (architecture := vision_of(folder, "see")) is not None:
        _check_pictures(texts, architecture.__name__, asked)
        processor: Any = load_image_processor(folder)
        seeing = load_architecture(folder)
        return seeing, [read_patches(seeing, processor, text) for text in texts]
    for text in texts:
        if text.lower().endswith(PICTURES) and os.path.isfile(text):
            fix = "this model reads text; a ViT, or CLIP's vision model saved by itself, sees pictures"
            raise ArgumentError(must("see", "TEXT", "be a sentence", f"the picture {text!r}", fix))
    texts = [text_of(text) for text in texts]
    reading, tokenizer = load_any("see", model or folder)
    if corpus is not None:
        corpus.check(reading, tokenizer)
    return reading, [read(reading, tokenizer, text, asked.target) for text in texts]


def text_of(text: str) -> str:
    """Give a text, or what stands in the file that it names; a name without a suffix is a word.

    Raises: FileError for a file that holds no text, or a text file that is not there.
    """
    is_file = bool(Path(text).suffix) and os.path.isfile(text)
    if not is_file and Path(text).suffix in (".txt", ".md") and not re.search(r"\s", text):
        raise FileError(must("see", "TEXT", "be a sentence or a file that is there", repr(text)))
    return "\n".join(read_texts(text, split=each_file)) if is_file else text


def _check_pictures(texts: Sequence[str], kind: str, asked: Asked) -> None:
    """Raise ArgumentError for what is no picture's file, or what is asked of text alone."""
    for text in texts:
        if not os.path.isfile(text):
            raise ArgumentError(must("see", "TEXT", f"be a picture's file, as a {kind} sees pictures", repr(text)))
    for name, value in (("target", asked.target), ("word", asked.word), ("depth", asked.depth)):
        if value is not None:
            rule = "be left out with a model that sees pictures"
            raise ArgumentError(must("see", f"--{name}", rule, repr(value)))
