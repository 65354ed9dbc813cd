"""What a training reads, made ready once: a tokenizer, and the corpus in its tokens, kept on the disk between runs.

They lie in a folder of the cache, named after what they were made from: the files with their sizes and times, and how
the tokenizer was made. So other runs on the same corpus begin at once.
"""

import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import cast

import numpy as np
import torch
from jaxtyping import Bool
from tokenizers import Tokenizer
from torch import Tensor

from qkv.errors import FileError, must
from qkv.files import whole_or_nothing
from qkv.folders import file_error
from qkv.text import stdlib
from qkv.text.corpus import TextPairs, each_file, read_pairs, read_texts
from qkv.text.dates import date_pairs
from qkv.text.pictures import pixel_file, read_captions
from qkv.text.tokens import TokenFile, token_file
from qkv.training.held_out import PairsPart, is_held_out

HELD_OUT = 0.05
"""The share of a user's texts, at their end, that is held out."""

LEAST = 20
"""Tokens of a text of which one is held out."""

DATES, DATES_HELD_OUT = 20_000, 1_000
"""Pairs of dates, where no others are given."""

Makes = Callable[[Iterable[str]], Tokenizer]
"""What makes a tokenizer of texts, or gives one that is made already."""


@dataclass(frozen=True)
class Prepared:
    """A tokenizer, tokens to learn from and tokens held out: of pairs two files each, source and target."""

    tokenizer: Tokenizer
    training: tuple[TokenFile, ...]
    held_out: tuple[TokenFile, ...]
    identity: str
    """A name for all of it: another corpus or tokenizer has another."""


def prepare_texts(
    data: str | None,
    make: Makes,
    how: str,
    *,
    prose: bool = False,
    start: str | None = None,
    field: str | None = None,
    begun: str | None = None,
) -> Prepared:
    """Make texts ready: of a file, a folder or a data set, or of Python's own library (its code, or its `prose`).

    A plain file is one document. `how` names how the tokenizer is made. Documents begin with the token `start`, if the
    tokenizer has it. `begun` is the identity of what a run that goes on has learned from.

    Raises: FileError for what is no text, naming file and line, or not what a run has begun with; as the tokenizer's
    maker.
    """
    if data is not None:
        texts = read_texts(data, field, split=each_file)
        folder, identity = _folder(texts.identity, how, data, begun)
        tokenizer = _tokenizer(folder, texts, make)
        start = start if start in tokenizer.get_vocab() else None
        whole = token_file(folder / "texts.tokens", texts, tokenizer, start=start)
        if len(whole.tokens) < LEAST:
            rule, fix = f"hold at least {LEAST} tokens", "a part of them is held out: give more text"
            raise file_error("train", Path(data), rule, len(whole.tokens), fix)
        both = whole.split(HELD_OUT)
        return Prepared(tokenizer, both[:1], both[1:], identity)
    read = stdlib.prose if prose else stdlib.code
    name = f"python {sys.version} {'prose' if prose else 'code'}"
    folder, identity = _folder(name, how, data, begun)
    tokenizer = _tokenizer(folder, _Again(read), make)
    start = start if start in tokenizer.get_vocab() else None
    training, held_out = (
        token_file(
            folder / f"{'held_out' if side else 'training'}.tokens",
            _Again(lambda side=side: read(held_out=side)),  # type: ignore[misc]
            tokenizer,
            identity=f"{name} {side}",
            start=start,
        )
        for side in (False, True)
    )
    return Prepared(tokenizer, (training,), (held_out,), identity)


def prepare_pairs(
    data: str | None, make: Makes, how: str, *, longest: int | None = None, begun: str | None = None
) -> Prepared:
    """Make pairs ready: two columns of a file, or two fields of JSON; or dates in many languages and in ISO form.

    Raises: FileError for a pair with one side, or with one of more than `longest` tokens, its end too, naming file and
    line, or as `prepare_texts`; as the tokenizer's maker.
    """
    if data is None:
        name = f"dates {DATES} {DATES_HELD_OUT}"
        sides: dict[str, Iterable[tuple[str, str]]] = {
            "training": _Again(lambda: _dates(DATES, False)),
            "held_out": _Again(lambda: _dates(DATES_HELD_OUT, True)),
        }
    else:
        pairs = read_pairs(data)
        name = pairs.identity
        sides = {"training": PairsPart(pairs, False), "held_out": PairsPart(pairs, True)}
    folder, identity = _folder(name, how, data, begun)
    tokenizer = _tokenizer(folder, _Again(lambda: (text for pair in sides["training"] for text in pair)), make)
    made = {
        part: tuple(
            token_file(
                folder / f"{part}_{side}.tokens",
                _Again(lambda some=some, column=column: (pair[column] for pair in some)),  # type: ignore[misc]
                tokenizer,
                identity=f"{name} {part} {side}",
            )
            for column, side in enumerate(("source", "target"))
        )
        for part, some in sides.items()
    }
    for part, some in sides.items():
        if longest is not None and isinstance(some, PairsPart):
            _check_longest(some, made[part], longest)
    return Prepared(tokenizer, made["training"], made["held_out"], identity)


def _check_longest(part: PairsPart, files: tuple[TokenFile, ...], longest: int) -> None:
    """Raise FileError, naming file and line, if a pair has a side of more tokens."""
    lengths = torch.maximum(files[0].lengths, files[1].lengths) + 1
    too_long = (lengths > longest).nonzero().squeeze(-1).tolist()
    if not too_long:
        return
    number, _ = next(islice(part.with_numbers(), too_long[0], None))
    file, place, _ = next(islice(cast(TextPairs, part.pairs).with_places(), number, None))
    more = f"; and {len(too_long) - 1} more pairs" if len(too_long) > 1 else ""
    fix = f"{place}, with its end{more}: leave it out, or give --positions"
    raise file_error("train", file, f"hold pairs of at most {longest} tokens", int(lengths[too_long[0]]), fix)


@dataclass(frozen=True, eq=False)
class PreparedPictures:
    """A tokenizer, pictures [rows, height, width] with their captions in tokens, and the rows that are held out."""

    tokenizer: Tokenizer
    pixels: np.ndarray
    captions: TokenFile
    places: tuple[str, ...]
    held_out: Bool[Tensor, " rows"]
    identity: str


def prepare_pictures(
    data: str, make: Makes, how: str, height: int, width: int, *, begun: str | None = None
) -> PreparedPictures:
    """Make pictures with captions ready, of a table. A picture that is held out is so with all its captions.

    Raises: FileError for what is no picture, or has no caption, naming file and line, or as `prepare_texts`; as the
    tokenizer's maker.
    """
    table = read_captions(data)
    held_out = torch.tensor([is_held_out(str(picture)) for picture in table.pictures])
    if held_out.all():
        rule, fix = "hold a picture to learn from", "one in twenty is held out"
        raise file_error("train", Path(data), rule, f"{len(set(table.pictures))} pictures, all held out", fix)
    folder, identity = _folder(table.identity, f"{how} {height}x{width}", data, begun)
    seen = [caption for caption, out in zip(table.captions, held_out.tolist(), strict=True) if not out]
    tokenizer = _tokenizer(folder, seen, make)
    captions = token_file(folder / "captions.tokens", table.captions, tokenizer, identity=table.identity)
    pixels = pixel_file(folder / "pixels.npy", table, height, width)
    return PreparedPictures(tokenizer, pixels, captions, table.places, held_out, identity)


def cache_folder() -> Path:
    """Find where prepared corpora are kept: $QKV_CACHE, else qkv's folder in the user's cache."""
    if chosen := os.environ.get("QKV_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qkv"


class _Again:
    """Texts that can be read as often as one likes."""

    def __init__(self, read: Callable[[], Iterator]) -> None:
        self.read = read

    def __iter__(self) -> Iterator:
        return self.read()


def _dates(count: int, held_out: bool) -> Iterator[tuple[str, str]]:
    return ((pair.source, pair.target) for pair in date_pairs(count, held_out=held_out))


def _folder(name: str, how: str, data: str | None, begun: str | None) -> tuple[Path, str]:
    identity = hashlib.blake2b(f"{name} {how}".encode(), digest_size=12).hexdigest()
    if begun not in (None, identity):
        got = "what another Python or another qkv makes" if data is None else f"{data}, changed or moved since"
        fix = "a run learns from one corpus: bring it back, or begin a new run"
        raise FileError(must("train", "DATA", "be what the run has begun with", got, fix))
    folder = cache_folder() / identity
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fix = "QKV_CACHE names another folder"
        raise file_error("train", folder, "be writable", error.strerror or error, fix) from error
    return folder, identity


def _tokenizer(folder: Path, texts: Iterable[str], make: Makes) -> Tokenizer:
    """Read the tokenizer that was made before, or make it."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        made = make(texts)
        try:
            with whole_or_nothing(path) as temporary:
                made.save(str(temporary))
        except OSError as error:
            raise file_error("train", path, "be writable", error.strerror or error) from error
    return Tokenizer.from_file(str(path))
