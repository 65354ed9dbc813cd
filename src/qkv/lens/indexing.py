"""The making of an index: what it will hold and how large it will be, then its growth.

An index has its name only when it is whole. Until then it grows beside it, part by part, and goes on after any crash
from the last part that was written.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from tokenizers import Tokenizer
from torch import nn

from qkv.core.checks import check_whole
from qkv.errors import ArgumentError, FileError, KindError, must
from qkv.files import sync, write_whole
from qkv.lens.batches import Coming, read_words, readers
from qkv.lens.blocks import sums_of
from qkv.lens.index import (
    ABOUT,
    CENTRE,
    EDGES,
    FORMAT,
    PLACE,
    PLACES,
    TEXTS,
    WordIndex,
    about_of,
    layer_file,
    model_name,
    own_sum,
    spans,
)
from qkv.lens.running import hidden_states, positions_of, still
from qkv.lens.sentences import Sentence, encoded, plain, words_of

PROGRESS = "progress.json"

Tell = Callable[[int, int], None]
"""What is told how many texts are read, of how many."""


def words(
    path: str | PathLike[str],
    texts: Iterable[str],
    model: nn.Module,
    tokenizer: Tokenizer,
    *,
    layers: Sequence[int] | None = None,
    most: int | None = 100,
    name: str = "",
    tell: Tell | None = None,
) -> WordIndex:
    """Build an index of a corpus's words in context at `path`, or open a finished one; one interrupted resumes.

    Each text is a sentence; of one longer than the model's positions the beginning is read. Of each word at most `most`
    places are kept, spread over the corpus. `layers` are counted as in `WordIndex`; None keeps all, 0 always is kept.

    Cost: two readings of the corpus by the tokenizer, one by the model; 2·width bytes a word and layer.
    Raises: KindError unless the texts are strings that can be read twice; ArgumentError for layers that are not there,
    or texts without a word; FileError if something else stands at the path, or the disk is full.
    """
    return plan(path, texts, model, tokenizer, layers=layers, most=most, name=name).build(tell)


@dataclass(frozen=True)
class _Part:
    """Sentences that are read and written together, and how many texts come before them."""

    number: int
    read: int
    sentences: list[Sentence]


@dataclass(frozen=True, eq=False)
class Plan:
    """An index to be made: what it is made of, and how large it will be."""

    path: Path
    texts: Iterable[str]
    model: nn.Module
    tokenizer: Tokenizer
    made_of: dict[str, Any]
    name: str
    vocabulary: dict[str, int]
    counts: Int[np.ndarray, " vocabulary"]
    sentences: int
    characters: int
    width: int

    @property
    def kept(self) -> Int[np.ndarray, " vocabulary"]:
        """How many places of each word are kept."""
        most = self.made_of["most"]
        return self.counts if most is None else np.minimum(self.counts, most)

    @property
    def words(self) -> int:
        """How many words are kept."""
        return int(self.kept.sum())

    @property
    def bytes(self) -> int:
        """How large it will be, at most."""
        vectors_ = 2 * self.width * len(self.made_of["layers"])
        return self.words * (vectors_ + PLACE.itemsize) + 8 * self.sentences + 4 * self.characters

    @property
    def growing(self) -> Path:
        """Where it is until it is whole."""
        return self.path.with_name(f".{self.path.name}.growing")

    @property
    def done(self) -> bool:
        """Whether it is there already. Raises: FileError if something else is."""
        if not os.path.lexists(self.path):
            return False
        fix = "choose another name or move it away"
        if not os.path.lexists(self.path / ABOUT):
            got = f"a folder without {ABOUT}" if self.path.is_dir() else "a file"
            raise FileError(must("words", str(self.path), "be new or an index", got, fix))
        if about_of(self.path)["made_of"] != self.made_of:
            rule, got = "be new, or an index of this corpus, model and choice", "another index"
            raise FileError(must("words", str(self.path), rule, got, fix))
        return True

    def build(self, tell: Tell | None = None) -> WordIndex:
        """Make it, or go on with it; `tell` is told after each batch how many texts are read, of how many.

        Raises: as `words`.
        """
        if self.done:
            return WordIndex(self.path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.growing.mkdir(exist_ok=True)
            with _held(self.growing), still(self.model):
                self._grow(tell or (lambda done, total: None))
                self._finish()
                os.rename(self.growing, self.path)
                if os.name == "posix":
                    sync(self.path.parent)
        except FileError:
            raise
        except OSError as error:
            fix = "what is done is kept: make room, and the same command goes on"
            raise FileError(must("words", str(self.path), "be writable", error.strerror or error, fix)) from error
        return WordIndex(self.path)

    def _grow(self, tell: Tell) -> None:
        """Read what is left, a part at a time: one is written, and the next but one tokenised, as the next is read."""
        progress = self._progress()
        begun: tuple[_Part, Coming] | None = None
        with readers() as pool:
            for part in self._parts():
                if part.number < progress["parts"]:
                    continue
                coming = read_words(pool, self.model, part.sentences, self.made_of["layers"], self.width)
                if begun is not None:
                    self._write(*begun, progress, tell)
                begun = part, coming
            if begun is not None:
                self._write(*begun, progress, tell)
        tell(self.sentences, self.sentences)

    def _progress(self) -> dict[str, Any]:
        """Say how far an index has grown, and cut off what was written after its last whole part."""
        progress: dict[str, Any] = {"made_of": self.made_of, "parts": 0, "sentences": 0, "words": 0, "bytes": 0}
        try:
            before = json.loads((self.growing / PROGRESS).read_text())
            progress = before if before["made_of"] == self.made_of else progress
        except (OSError, ValueError, KeyError, TypeError):
            pass
        sizes = {
            TEXTS: progress["bytes"],
            EDGES: 8 * progress["sentences"],
            PLACES: PLACE.itemsize * progress["words"],
            **{layer_file(layer): 2 * self.width * progress["words"] for layer in self.made_of["layers"]},
        }
        for name, size in sizes.items():
            with open(self.growing / name, "ab") as file:
                if file.tell() < size:
                    raise FileError(
                        must("words", str(self.growing / name), f"hold {size} bytes", file.tell(), "remove it")
                    )
                file.truncate(size)
        return progress

    def _parts(self) -> Iterator["_Part"]:
        """Give the sentences that hold a word to keep, a part at a time.

        Of n places of a word m are kept, as evenly spread as whole numbers allow.
        """
        seen, kept, counts, read = [0] * len(self.counts), self.kept.tolist(), self.counts.tolist(), 0
        for number, encodings in enumerate(encoded(self.texts, self.tokenizer, self.made_of["positions"])):
            sentences = []
            for text, encoding in encodings:
                words_ = []
                for word in words_of(text, encoding):
                    which = self.vocabulary[word.written]
                    place, m, n = seen[which], kept[which], counts[which]
                    seen[which] += 1
                    if (place + 1) * m // n > place * m // n:
                        words_.append((word, which))
                if words_:
                    sentences.append(Sentence(text, encoding.ids, words_))
            yield _Part(number, read, sentences)
            read += len(encodings)

    def _write(self, part: "_Part", coming: Coming, progress: dict[str, Any], tell: Tell) -> None:
        """Wait for a part, telling of each batch, and write it behind the others."""
        done = part.read
        for batch in coming.batches:
            done += batch.result()
            tell(done, self.sentences)
        texts = [one.text.encode() for one in part.sentences]
        rows = [
            (at, word.start, word.stop, word.token, word.after - word.token, which)
            for at, one in enumerate(part.sentences, progress["sentences"])
            for word, which in one.words
        ]
        edges = progress["bytes"] + np.cumsum([len(text) for text in texts], dtype=np.int64)
        written = {TEXTS: b"".join(texts), EDGES: edges.data, PLACES: np.array(rows, PLACE).data}
        # Nothing is copied that is as large as this.
        written |= {
            layer_file(layer): each.data for layer, each in zip(self.made_of["layers"], coming.vectors, strict=True)
        }
        for name, content in written.items():
            with open(self.growing / name, "ab") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        progress["parts"] = part.number + 1
        progress["sentences"] += len(texts)
        progress["words"] += len(rows)
        progress["bytes"] += sum(map(len, texts))
        write_whole("words", self.growing / PROGRESS, json.dumps(progress).encode(), overwrite=True)

    def _finish(self) -> None:
        """Measure the mean of each layer, and say what is there: an index is whole once that can be read."""
        progress = json.loads((self.growing / PROGRESS).read_text())
        shape = (progress["words"], self.width)
        centre = []
        for layer in self.made_of["layers"]:
            mapped = np.memmap(self.growing / layer_file(layer), np.float16, "r", shape=shape)
            sums = (mapped[start:stop].sum(0, dtype=np.float64) for start, stop in spans(len(mapped)))
            centre.append(sum(sums) / shape[0])
        write_whole("words", self.growing / CENTRE, np.array(centre, np.float32).tobytes(), overwrite=True)
        about = {"format": FORMAT, "name": self.name, "made_of": self.made_of, "width": self.width}
        about |= {name: progress[name] for name in ("sentences", "words", "bytes")}
        about |= {"vocabulary": list(self.vocabulary)}
        names = [TEXTS, EDGES, PLACES, CENTRE, *map(layer_file, self.made_of["layers"])]
        about["sums"] = {name: sums_of(self.growing / name) for name in names}
        about["sum"] = own_sum(about)
        write_whole("words", self.growing / ABOUT, json.dumps(about).encode(), overwrite=True)
        (self.growing / PROGRESS).unlink()
        (self.growing / "lock").unlink(missing_ok=True)


def plan(
    path: str | PathLike[str],
    texts: Iterable[str],
    model: nn.Module,
    tokenizer: Tokenizer,
    *,
    layers: Sequence[int] | None = None,
    most: int | None = 100,
    name: str = "",
) -> Plan:
    """Count a corpus's words, to say how large their index will be. The numbers are those of `words`.

    Raises: as `words`.
    """
    if isinstance(texts, str) or not isinstance(texts, Iterable):
        raise KindError(must("words", "texts", "be many strings", type(texts).__name__, "a list of sentences"))
    if iter(texts) is texts:
        fix = "a list, or qkv.text.corpus.read_texts(...)"
        raise KindError(must("words", "texts", "be readable twice", type(texts).__name__, fix))
    if most is not None:
        check_whole("words", "most", most, 1)
    positions = positions_of(model)
    with still(model):
        hidden = hidden_states(model, torch.zeros(1, 1, dtype=torch.long))
    for layer in layers or ():
        if not isinstance(layer, int) or not 0 <= layer < len(hidden):
            raise ArgumentError(must("words", "layers", f"lie in 0..{len(hidden) - 1}", layer))
    chosen = sorted({0, *layers}) if layers is not None else list(range(len(hidden)))
    copied = plain(tokenizer, positions)
    digest = hashlib.blake2b(digest_size=16)
    numbers: dict[str, int] = {}
    counts: list[int] = []
    sentences = characters = 0
    for encodings in encoded(texts, copied, positions):
        for text, encoding in encodings:
            digest.update(text.encode() + b"\n")
            sentences, characters = sentences + 1, characters + len(text)
            for word in words_of(text, encoding):
                number = numbers.setdefault(word.written, len(numbers))
                if number == len(counts):
                    counts.append(0)
                counts[number] += 1
    if not numbers:
        raise ArgumentError(must("words", "texts", "hold a word", f"{sentences} texts without one"))
    made_of = {"texts": digest.hexdigest(), "model": model_name(model, copied), "layers": chosen, "most": most}
    made_of |= {"positions": positions}
    return Plan(
        Path(os.path.abspath(path)), texts, model, copied, made_of, name, numbers, np.array(counts), sentences,
        characters, hidden[0].shape[-1],
    )  # fmt: skip


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Keep other processes out of an index that grows."""
    with open(folder / "lock", "a") as file:
        try:
            import fcntl

            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Windows has no such locks.
        except ModuleNotFoundError:
            pass
        except OSError as error:
            raise FileError(must("words", str(folder), "not grow in another process", error.strerror)) from error
        yield
