"""Token files: a corpus as numbers on the disk, made once, read where it lies; it may be larger than memory.

    tokens = token_file("run/training.tokens", read_texts("poems/"), tokenizer, start="<|endoftext|>")
    training, validation = tokens.split(0.05)

A file has its name only when it is whole: it is written beside it, synced and renamed. Its end tells what it was made
from, so that another corpus or another tokenizer makes it anew.
"""

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int
from tokenizers import Tokenizer
from torch import Tensor

from qkv.errors import ArgumentError, FileError, must
from qkv.files import whole_or_nothing
from qkv.folders import file_error
from qkv.text.bar import bar
from qkv.text.corpus import encodable

# The file: this mark, the tokens, zeros up to a multiple of 8, the documents' edges, what it is (JSON), how long that
# is, and the other mark.
_BEGIN, _END = b"qkv tokens 1\n\0\0\0", b"complete"
_FIXED = len(_BEGIN) + 8 + len(_END)

_AT_ONCE = 1 << 18
"""Characters that are handed to the tokenizer at once."""

_ABANDONED = 3600.0
"""Seconds after which a temporary file that nobody writes to is one that a killed process left behind."""


@runtime_checkable
class Measured(Protocol):
    """Texts that tell how far they are read, such as `read_texts` gives."""

    @property
    def size(self) -> int:
        """How much there is to read."""
        ...

    def measured(self) -> Iterator[tuple[str, int]]:
        """Give each text, and how much was read for it."""
        ...


class TokenFile:
    """Documents of a token file, mapped into memory: `file[i]` are the tokens of document i.

    A copy in another process opens the file again. `first` and `last` bound the tokens that it shows.

    `vocabulary` is one more than the largest token there may be, `start` the token that documents begin with, if any.

    Raises: FileError unless the file is there and whole.
    """

    def __init__(self, path: str | PathLike[str], first: int = 0, last: int | None = None) -> None:
        self.path = Path(path)
        self.about = about = _about(self.path)
        self.vocabulary: int = about["vocabulary"]
        self.start: int | None = about["start"]
        total, documents, dtype = about["tokens"], about["documents"], np.dtype(about["dtype"])
        self.first, self.last = first, total if last is None else last
        self.tokens = np.memmap(self.path, dtype, "r", len(_BEGIN), (total,))[self.first : self.last]
        edges = np.memmap(self.path, np.int64, "r", len(_BEGIN) + _padded(total * dtype.itemsize), (documents + 1,))
        self.edges: np.ndarray = edges
        if (self.first, self.last) != (0, total):
            inside = edges[np.searchsorted(edges, first, "right") : np.searchsorted(edges, self.last, "left")]
            self.edges = np.concatenate(([self.first], inside, [self.last])) - self.first

    def __len__(self) -> int:
        return len(self.edges) - 1

    def __getitem__(self, index: int) -> Int[Tensor, " length"]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.part(int(self.edges[index]), int(self.edges[index + 1]))

    def part(self, start: int, stop: int) -> Int[Tensor, " length"]:
        """Give the tokens from one place up to another."""
        return torch.from_numpy(self.tokens[start:stop].astype(np.int64))

    @property
    def lengths(self) -> Int[Tensor, " documents"]:
        """How many tokens each document has."""
        return torch.from_numpy(np.diff(self.edges))

    def split(self, share: float) -> tuple["TokenFile", "TokenFile"]:
        """Hold out the last tokens, about `share` of them: from the edge of a document if there is one near.

        Raises: ArgumentError unless both parts hold a token.
        """
        total = len(self.tokens)
        cut = round(total * (1 - share))
        near = int(self.edges[np.abs(self.edges - cut).argmin()])
        if abs(near - cut) <= total * share / 2:
            cut = near
        if not 0 < cut < total:
            rule, fix = "leave tokens on both sides", f"there are {total} tokens"
            raise ArgumentError(must("TokenFile.split", "share", rule, share, fix))
        middle = self.first + cut
        return TokenFile(self.path, self.first, middle), TokenFile(self.path, middle, self.last)

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenFile, (self.path, self.first, self.last)


def token_file(
    path: str | PathLike[str],
    texts: Iterable[str],
    tokenizer: Tokenizer,
    *,
    identity: str | None = None,
    start: str | None = None,
    progress: bool = True,
) -> TokenFile:
    """Open the token file of a corpus; make it if it is not there, or was made from something else.

    `identity` names the corpus, by default `texts.identity`, which files have: their names, sizes and times. Documents
    begin with the token `start`, if given. Several processes may make the same file at once.

    Cost: one reading of the texts; memory for the longest of them, and about 100 MB.
    Raises: ArgumentError if the texts have no identity, or the tokenizer no such token; FileError if the texts are
    broken or empty, or if the path cannot be written or holds something else.
    """
    target = Path(path)
    identity = getattr(texts, "identity", None) if identity is None else identity
    if not isinstance(identity, str):
        raise ArgumentError(must("token_file", "identity", "be a name for these texts", repr(identity)))
    first = [] if start is None or (token := tokenizer.token_to_id(start)) is None else [token]
    if start is not None and not first:
        raise ArgumentError(must("token_file", "start", "be a token of the tokenizer", repr(start)))
    made_of = {"texts": identity, "tokenizer": _fingerprint(tokenizer), "start": start}
    if target.exists() or target.is_symlink():
        _check_ours(target)
        try:
            if (found := TokenFile(target)).about["made_of"] == made_of:
                return found
            del found
        except FileError:
            # It is damaged, so it is made anew.
            pass
    try:
        _sweep(target)
        with whole_or_nothing(target) as temporary, open(temporary, "wb") as file:
            about = {"start": first[0] if first else None, "made_of": made_of}
            _write(file, _encoded(texts, tokenizer, first, progress), tokenizer, about)
    except FileError:
        raise
    except OSError as error:
        raise file_error("token_file", target, "be writable", error.strerror or error) from error
    return TokenFile(target)


def _fingerprint(tokenizer: Tokenizer) -> str:
    return hashlib.blake2b(tokenizer.to_str().encode(), digest_size=16).hexdigest()


def _padded(size: int) -> int:
    return -(-size // 8) * 8


def _about(path: Path) -> dict[str, Any]:
    """Read the end of a token file. Raises: FileError unless it is whole."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            begin = file.read(len(_BEGIN))
            file.seek(max(0, size - 8 - len(_END)))
            length, end = int.from_bytes(file.read(8), "little"), file.read()
            if begin != _BEGIN or end != _END or size < _FIXED + length:
                raise file_error("TokenFile", path, "be a whole token file", f"{size} bytes of something else")
            file.seek(size - 8 - len(_END) - length)
            about = json.loads(file.read(length))
        if not about.keys() >= {"vocabulary", "start", "made_of"}:
            raise KeyError("vocabulary, start, made_of")
        data = _padded(about["tokens"] * np.dtype(about["dtype"]).itemsize)
        if size != _FIXED + data + 8 * (about["documents"] + 1) + length:
            raise file_error("TokenFile", path, f"hold {about['tokens']} tokens", f"{size} bytes")
        return about
    except FileError:
        raise
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        got = getattr(error, "strerror", None) or error
        raise file_error("TokenFile", path, "be a whole token file", got) from error


def _check_ours(path: Path) -> None:
    """Raise FileError if something stands at a path that is no token file, and would be lost."""
    try:
        with open(path, "rb") as file:
            if file.read(len(_BEGIN)) == _BEGIN:
                return
        got = "something else"
    except OSError as error:
        got = error.strerror or str(error)
    raise file_error("token_file", path, "be a token file, or new", got, "choose another name or move it away")


def _sweep(target: Path) -> None:
    """Remove what killed processes left of this file."""
    for left in target.parent.glob(f".{target.name}.*"):
        try:
            if time.time() - left.stat().st_mtime > _ABANDONED:
                left.unlink()
        # Another process was faster.
        except FileNotFoundError:
            continue


def _encoded(texts: Iterable[str], tokenizer: Tokenizer, first: list[int], progress: bool) -> Iterator[list[list[int]]]:
    """Give the tokens of the documents, many documents at a time."""
    held: list[str] = []
    characters = done = 0
    measured = texts.measured() if isinstance(texts, Measured) else ((text, 0) for text in texts)
    size = texts.size if isinstance(texts, Measured) else None
    with bar("tokens", size, shown=progress) as advance:
        for text, read in chain(measured, [(None, -1)]):
            if text is not None:
                held.append(encodable(text))
                characters, done = characters + len(text) + 1, read
            if held and (text is None or characters >= _AT_ONCE):
                found = tokenizer.encode_batch_fast(held, add_special_tokens=False)
                documents = [first + encoding.ids for encoding in found]
                advance(done, sum(map(len, documents)))
                yield documents
                held, characters = [], 0


def _write(file: BinaryIO, batches: Iterator[list[list[int]]], tokenizer: Tokenizer, about: dict[str, Any]) -> None:
    vocabulary = max(tokenizer.get_vocab().values(), default=-1) + 1
    dtype = np.dtype(np.uint16 if vocabulary <= 1 << 16 else np.uint32)
    file.write(_BEGIN)
    total = documents = 0
    # Where the documents end is told after the tokens, and is kept on the disk until then.
    with tempfile.TemporaryFile(dir=Path(file.name).parent) as edges:
        edges.write(np.zeros(1, np.int64).tobytes())
        for batch in batches:
            ends = total + np.cumsum([len(document) for document in batch], dtype=np.int64)
            file.write(np.fromiter((token for document in batch for token in document), dtype).tobytes())
            edges.write(ends.tobytes())
            total, documents = int(ends[-1]), documents + len(batch)
        if not total:
            raise FileError(must("token_file", "texts", "hold a token", f"{documents} texts without one"))
        file.write(bytes(_padded(total * dtype.itemsize) - total * dtype.itemsize))
        edges.seek(0)
        shutil.copyfileobj(edges, file)
    about |= {"tokens": total, "documents": documents, "dtype": dtype.name, "vocabulary": vocabulary}
    written = json.dumps(about).encode()
    file.write(written + len(written).to_bytes(8, "little") + _END)
