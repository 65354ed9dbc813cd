"""Words in context, of a corpus: every word's vectors at each layer, kept on the disk and read where they lie.

    words = qkv.words("corpus.words", texts, model, tokenizer)
    words.nearest(read(model, tokenizer, "The mouse is wireless."), "mouse")

An index is a folder that has its name only when it is whole. Until then it grows beside it, part by part, and goes on
after any crash from the last part that was written.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import DTypeLike
from tokenizers import Encoding, Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from qkv.core.checks import check_whole, shown
from qkv.errors import ArgumentError, FileError, KindError, UnsupportedError, must
from qkv.files import sync, write_whole
from qkv.lens.blocks import Blocks, sum_of, sums_of
from qkv.lens.reading import Reading
from qkv.lens.running import hidden_states, still
from qkv.lens.subwords import joins, word_ranges
from qkv.lens.words import places, vectors

FORMAT = "qkv words 2"
ABOUT, PROGRESS = "words.json", "progress.json"
TEXTS, EDGES, PLACES, CENTRE = "texts.bin", "edges.bin", "places.bin", "centre.bin"

PLACE = np.dtype([(name, "<i4") for name in ("sentence", "start", "stop", "token", "tokens", "word")])
"""A word in a sentence: which, its characters, its first token and how many, and its number in the vocabulary."""

PART = 2048
"""Texts that are written together: what a crash costs."""

TOKENS = 2048
"""Tokens that the model reads at once."""

LONGEST = 100
"""Characters of a word; what is longer is none, such as a line of noise."""

Tell = Callable[[int, int], None]
"""What is told how many texts are read, of how many."""


@dataclass(frozen=True)
class Neighbour:
    """A word in a sentence of the corpus, and how near it is: a cosine, or, by position alone, minus the distance."""

    text: str
    start: int
    stop: int
    near: float


@dataclass(frozen=True)
class Layer:
    """The nearest words after a layer, by cosine: as they are, and with the layer's mean taken off."""

    layer: int
    raw: list[Neighbour]
    centred: list[Neighbour]


@dataclass(frozen=True, eq=False)
class Found:
    """A word at all its places, the one asked about last: sentences, characters, and a matrix of vectors a layer."""

    texts: list[str]
    marks: list[tuple[int, int]]
    vectors: list[Float[Tensor, "places width"]]


@dataclass(frozen=True, eq=False)
class Nearest:
    """The nearest sentences with a word, layer by layer, and by its position alone.

    Layer 0 is static: there a word's vector knows its own tokens and where they stand, and nothing else.
    """

    text: str
    start: int
    stop: int
    layers: list[Layer]
    position: list[Neighbour]
    others: list[Neighbour]
    """The nearest other words after the last layer, centred."""
    found: "Found"
    """All places of the word, to be drawn."""


# What is kept


class Words:
    """An index that is whole. `layers` are those kept: 0 enters the first, i leaves layer i − 1.

    What it was written with is compared with what is there: most of it here, vectors and texts as they are read.

    Cost: reading all but the vectors and texts, once.
    Raises: FileError unless the folder holds an index that is whole.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)
        self.about = about = _about(self.path)
        self.layers: tuple[int, ...] = tuple(about["made_of"]["layers"])
        count, width = about["words"], about["width"]
        self.vocabulary = {word: number for number, word in enumerate(about["vocabulary"])}

        def opened(name: str, kind: DTypeLike, *shape: int) -> Blocks:
            return Blocks(self.path / name, kind, shape, about["sums"][name])

        self.places: np.ndarray = opened(PLACES, PLACE, count).span(0, count)
        self._edges = opened(EDGES, np.int64, about["sentences"]).span(0, about["sentences"])
        self._texts = opened(TEXTS, np.uint8, about["bytes"])
        self._vectors = {layer: opened(_layer(layer), np.float16, count, width) for layer in self.layers}
        centre = np.array(opened(CENTRE, np.float32, len(self.layers), width).span(0, len(self.layers)))
        self._centre = dict(zip(self.layers, torch.from_numpy(centre), strict=True))

    def __len__(self) -> int:
        return len(self.places)

    def __repr__(self) -> str:
        sentences = self.about["sentences"]
        return f"Words({len(self):,} words of {sentences:,} sentences, layers {', '.join(map(str, self.layers))})"

    def check(self, model: nn.Module, tokenizer: Tokenizer) -> None:
        """Raise FileError if the index was made with another model or tokenizer: their vectors cannot be compared."""
        if _model_name(model, _plain(tokenizer, _positions(model))) != self.about["made_of"]["model"]:
            fix = "load the model that made it, or make another index"
            rule = f"be of this model; it was made with {self.about['name'] or 'another'}"
            raise FileError(must("Words.check", str(self.path), rule, "another model or tokenizer", fix))

    def text(self, sentence: int) -> str:
        """Give a sentence."""
        start = int(self._edges[sentence - 1]) if sentence else 0
        return self._texts.span(start, int(self._edges[sentence])).tobytes().decode()

    def find(self, word: str) -> Int[np.ndarray, "places parts"]:
        """Find a word, in any case: the rows of its parts, one for most; a Chinese word may have one a character.

        Raises: ArgumentError if the index does not hold it.
        """
        whole = word.strip().casefold()
        parts = [whole] if whole in self.vocabulary else _parts(whole)
        numbers = [self.vocabulary.get(part, -1) for part in parts]
        rows = np.flatnonzero(self.places["word"] == numbers[0]) if numbers else np.zeros(0, np.int64)
        rows = rows[rows + len(parts) <= len(self)][:, None] + np.arange(len(parts))
        found = self.places[rows]
        keep = (found["word"] == numbers).all(-1)
        for one, other in zip(range(len(parts)), range(1, len(parts)), strict=False):
            gap = found["start"][:, other] - found["stop"][:, one]
            keep &= (found["sentence"][:, one] == found["sentence"][:, other]) & (gap >= 0) & (gap <= 1)
        if not keep.any():
            raise ArgumentError(must("words", "word", "stand in the index", repr(word)))
        return rows[keep]

    def vectors(self, rows: Int[np.ndarray, "places parts"], layer: int) -> Float[Tensor, "places width"]:
        """Give words' vectors after a layer: the mean of their tokens'."""
        weights = torch.from_numpy(self.places["tokens"][rows].astype(np.float32))[..., None]
        found = torch.from_numpy(self._vectors[layer].take(rows).astype(np.float32))
        return (found * weights).sum(1) / weights.sum(1)

    def nearest(self, reading: Reading, word: str, count: int = 5) -> Nearest:
        """Find the sentences whose word is nearest to that of a reading (the first, if it stands there more often).

        The reading's own text is left out. Call `check` with its model first: a reading does not tell which it was.

        Cost: reading the word's vectors, and those of all words once.
        Raises: ArgumentError if the text or the index does not hold the word; KindError, ArgumentError for a count < 1.
        """
        check_whole("Words.nearest", "count", count, 1)
        place = places([reading], word)[0]
        rows = self.find(word)
        sentences = self.places["sentence"][rows[:, 0]]
        texts = {int(sentence): self.text(int(sentence)) for sentence in np.unique(sentences)}
        rows = rows[[texts[int(sentence)] != reading.text for sentence in sentences]]
        if not len(rows):
            rule = "stand in another sentence of the index"
            raise ArgumentError(must("words", "word", rule, repr(word), "this one alone has it"))

        def best(near: Tensor) -> list[Neighbour]:
            order = near.argsort(descending=True, stable=True)[:count].tolist()
            return [self._neighbour(rows[at], float(near[at])) for at in order]

        layers, points = [], []
        for layer in self.layers:
            asked, here = vectors([reading], [place], layer), self.vectors(rows, layer)
            raw, centred = (F.cosine_similarity(asked - less, here - less) for less in (0, self._centre[layer]))
            layers.append(Layer(layer, best(raw), best(centred)))
            points.append(torch.cat([here, asked]))
        own = reading.spans[place.tokens[0]][0], reading.spans[place.tokens[-1]][1]
        marks = [(int(self.places["start"][row[0]]), int(self.places["stop"][row[-1]])) for row in rows]
        labels = [texts[int(sentence)] for sentence in self.places["sentence"][rows[:, 0]]]
        distance = torch.from_numpy(-np.abs(self.places["token"][rows[:, 0]] - place.tokens[0])).float()
        others = self._others(points[-1][-1], self.places["word"][rows[0]].tolist(), self.layers[-1], count)
        found = Found([*labels, reading.text], [*marks, own], points)
        return Nearest(reading.text, *own, layers, best(distance), others, found)

    def _others(self, asked: Float[Tensor, " width"], words: Sequence[int], layer: int, count: int) -> list[Neighbour]:
        """Find the nearest other words, centred, each word once."""
        asked = asked - self._centre[layer]
        near = torch.cat(
            [
                F.cosine_similarity(torch.from_numpy(some.astype(np.float32)) - self._centre[layer], asked[None])
                for some in (self._vectors[layer].span(*span) for span in _spans(len(self)))
            ]
        )
        known, found = set(words), list[Neighbour]()
        for row in near.argsort(descending=True).tolist():
            if len(found) == count:
                break
            if (number := int(self.places["word"][row])) not in known:
                known.add(number)
                found.append(self._neighbour(np.array([row]), float(near[row])))
        return found

    def _neighbour(self, rows: Int[np.ndarray, " parts"], near: float) -> Neighbour:
        first, last = self.places[rows[0]], self.places[rows[-1]]
        return Neighbour(self.text(int(first["sentence"])), int(first["start"]), int(last["stop"]), near)


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
) -> Words:
    """Keep the vectors of a corpus's words on the disk, or open them if that was done; a crash costs a part of it.

    Each text is a sentence; of one longer than the model's positions the beginning is read. Of each word at most `most`
    places are kept, spread over the corpus. `layers` are counted as `Words` does; None keeps all, and 0 is always kept.

    Cost: two readings of the corpus by the tokenizer, one by the model; 2·width bytes a word and layer.
    Raises: KindError unless the texts are strings that can be read twice; ArgumentError for layers that are not there,
    or texts without a word; FileError if something else stands at the path, or the disk is full.
    """
    return plan(path, texts, model, tokenizer, layers=layers, most=most, name=name).build(tell)


# Making it


@dataclass(frozen=True)
class Sentence:
    """A text to be read: its tokens, and the places of its words that are kept."""

    text: str
    tokens: list[int]
    words: list[tuple[int, int, int, int, int]]


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
        if _about(self.path)["made_of"] != self.made_of:
            rule, got = "be new, or an index of this corpus, model and choice", "another index"
            raise FileError(must("words", str(self.path), rule, got, fix))
        return True

    def build(self, tell: Tell | None = None) -> Words:
        """Make it, or go on with it; `tell` is told after each batch how many texts are read, of how many.

        Raises: as `words`.
        """
        if self.done:
            return Words(self.path)
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
        return Words(self.path)

    def _grow(self, tell: Tell) -> None:
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
            **{_layer(layer): 2 * self.width * progress["words"] for layer in self.made_of["layers"]},
        }
        for name, size in sizes.items():
            # What was written after the last part is cut off.
            with open(self.growing / name, "ab") as file:
                if file.tell() < size:
                    raise FileError(
                        must("words", str(self.growing / name), f"hold {size} bytes", file.tell(), "remove it")
                    )
                file.truncate(size)
        for number, (read, part) in enumerate(self._parts()):
            if number < progress["parts"]:
                continue
            found = self._vectors(part, partial(_shift, tell, read, self.sentences))
            edges = progress["bytes"] + np.cumsum([len(one.text.encode()) for one in part], dtype=np.int64)
            rows = [(progress["sentences"] + at, *word) for at, one in enumerate(part) for word in one.words]
            written = {TEXTS: "".join(one.text for one in part).encode(), EDGES: edges.tobytes()}
            written |= {PLACES: np.array(rows, PLACE).tobytes()}
            written |= {
                _layer(layer): each.tobytes() for layer, each in zip(self.made_of["layers"], found, strict=True)
            }
            for name, content in written.items():
                with open(self.growing / name, "ab") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
            progress["parts"] = number + 1
            progress["sentences"] += len(part)
            progress["words"] += len(rows)
            progress["bytes"] += len(written[TEXTS])
            write_whole("words", self.growing / PROGRESS, json.dumps(progress).encode(), overwrite=True)
        tell(self.sentences, self.sentences)

    def _parts(self) -> Iterator[tuple[int, list[Sentence]]]:
        """Give the sentences that hold a word to keep, a part at a time, and how many texts were read before it.

        Of n places of a word m are kept, as evenly spread as whole numbers allow.
        """
        seen, kept, read = np.zeros_like(self.counts), self.kept, 0
        for encodings in _encoded(self.texts, self.tokenizer, self.made_of["positions"]):
            part = []
            for text, encoding in encodings:
                words_ = []
                for written, start, stop in _words(text, encoding):
                    number = self.vocabulary[written]
                    place, m, n = int(seen[number]), int(kept[number]), int(self.counts[number])
                    seen[number] += 1
                    if (place + 1) * m // n > place * m // n:
                        left, right = _trimmed(text, encoding.offsets[start][0], encoding.offsets[stop - 1][1])
                        words_.append((left, right, start, stop - start, number))
                if words_:
                    part.append(Sentence(text, encoding.ids, words_))
            yield read, part
            read += len(encodings)

    def _vectors(
        self, part: Sequence[Sentence], tell: Callable[[int], None]
    ) -> Float[np.ndarray, "layers words width"]:
        """Read sentences, those of one length together, so that none is padded, and give their words' vectors."""
        layers = self.made_of["layers"]
        ends = np.cumsum([len(one.words) for one in part], dtype=np.int64)
        found = np.empty((len(layers), int(ends[-1]) if len(part) else 0, self.width), np.float16)
        by_length: dict[int, list[int]] = {}
        for at, one in enumerate(part):
            by_length.setdefault(len(one.tokens), []).append(at)
        done = 0
        for length, same in sorted(by_length.items()):
            step = max(1, TOKENS // length)
            for some in (same[start : start + step] for start in range(0, len(same), step)):
                hidden = hidden_states(self.model, torch.tensor([part[at].tokens for at in some]))
                spots = [
                    (row * length + token, int(ends[at]) - len(part[at].words) + number)
                    for row, at in enumerate(some)
                    for number, (_, _, start, count, _) in enumerate(part[at].words)
                    for token in range(start, start + count)
                ]
                tokens, owners = torch.tensor(spots).unbind(1)
                rows, owners, counts = owners.unique(return_inverse=True, return_counts=True)
                for layer, kept in zip(layers, found, strict=True):
                    each = hidden[layer].flatten(0, 1)[tokens].float()
                    mean = torch.zeros(len(rows), self.width).index_add_(0, owners, each) / counts[:, None]
                    if not (half := mean.half()).isfinite().all():
                        rule, fix = "give vectors that float16 holds", f"after layer {layer}; leave it out of layers"
                        raise UnsupportedError(must("words", "model", rule, f"{float(mean.abs().max()):.3g}", fix))
                    kept[rows.numpy()] = half.numpy()
                done += len(some)
                tell(done)
        return found

    def _finish(self) -> None:
        """Measure the mean of each layer, and say what is there: an index is whole once that can be read."""
        progress = json.loads((self.growing / PROGRESS).read_text())
        shape = (progress["words"], self.width)
        centre = []
        for layer in self.made_of["layers"]:
            mapped = np.memmap(self.growing / _layer(layer), np.float16, "r", shape=shape)
            sums = (mapped[start:stop].sum(0, dtype=np.float64) for start, stop in _spans(len(mapped)))
            centre.append(sum(sums) / shape[0])
        write_whole("words", self.growing / CENTRE, np.array(centre, np.float32).tobytes(), overwrite=True)
        about = {"format": FORMAT, "name": self.name, "made_of": self.made_of, "width": self.width}
        about |= {name: progress[name] for name in ("sentences", "words", "bytes")}
        about |= {"vocabulary": list(self.vocabulary)}
        names = [TEXTS, EDGES, PLACES, CENTRE, *map(_layer, self.made_of["layers"])]
        about["sums"] = {name: sums_of(self.growing / name) for name in names}
        about["sum"] = _own_sum(about)
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
    positions = _positions(model)
    with still(model):
        hidden = hidden_states(model, torch.zeros(1, 1, dtype=torch.long))
    for layer in layers or ():
        if not isinstance(layer, int) or not 0 <= layer < len(hidden):
            raise ArgumentError(must("words", "layers", f"lie in 0..{len(hidden) - 1}", layer))
    chosen = sorted({0, *layers}) if layers is not None else list(range(len(hidden)))
    plain = _plain(tokenizer, positions)
    digest = hashlib.blake2b(digest_size=16)
    numbers: dict[str, int] = {}
    counts: list[int] = []
    sentences = characters = 0
    for encodings in _encoded(texts, plain, positions):
        for text, encoding in encodings:
            digest.update(text.encode() + b"\n")
            sentences, characters = sentences + 1, characters + len(text)
            for written, _, _ in _words(text, encoding):
                number = numbers.setdefault(written, len(numbers))
                if number == len(counts):
                    counts.append(0)
                counts[number] += 1
    if not numbers:
        raise ArgumentError(must("words", "texts", "hold a word", f"{sentences} texts without one"))
    made_of = {"texts": digest.hexdigest(), "model": _model_name(model, plain), "layers": chosen, "most": most}
    made_of |= {"positions": positions}
    return Plan(
        Path(os.path.abspath(path)), texts, model, plain, made_of, name, numbers, np.array(counts), sentences,
        characters, hidden[0].shape[-1],
    )  # fmt: skip


def _encoded(texts: Iterable[str], tokenizer: Tokenizer, positions: int) -> Iterator[list[tuple[str, Encoding]]]:
    """Give texts that are not blank with their tokens, a part at a time."""

    def checked() -> Iterator[str]:
        for text in texts:
            if not isinstance(text, str):
                raise KindError(must("words", "texts", "hold strings", shown(text)))
            yield text

    # A token is seldom longer than a word, so what is cut off here would not be read.
    held = (text[: LONGEST * positions].encode("utf-8", "replace").decode() for text in checked() if text.strip())
    while some := list(islice(held, PART)):
        yield list(zip(some, tokenizer.encode_batch(some), strict=True))


def _words(text: str, encoding: Encoding) -> Iterator[tuple[str, int, int]]:
    """Give the words of a text as they are compared, each with its first token and the one after its last."""
    spans, special = encoding.offsets, [bool(flag) for flag in encoding.special_tokens_mask]
    for start, stop in word_ranges(text, spans, special):
        written = text[spans[start][0] : spans[stop - 1][1]].strip()
        if not special[start] and len(written) <= LONGEST and any(one.isalnum() for one in written):
            yield written.casefold(), start, stop


def _parts(word: str) -> list[str]:
    """Split what is asked for as a text is: runs of letters of scripts with spaces, single characters of others."""
    found: list[str] = []
    last = " "
    for character in word:
        if joins(character) and joins(last):
            found[-1] += character
        elif character.isalnum():
            found.append(character)
        last = character
    return found


def _trimmed(text: str, start: int, stop: int) -> tuple[int, int]:
    """Leave out spaces that a tokenizer counts to a word."""
    written = text[start:stop]
    return start + len(written) - len(written.lstrip()), stop - len(written) + len(written.rstrip())


def _plain(tokenizer: Tokenizer, positions: int) -> Tokenizer:
    """Copy a tokenizer, to cut at the model's positions and to pad nothing."""
    copied = Tokenizer.from_str(tokenizer.to_str())
    copied.no_padding()
    copied.enable_truncation(positions)
    return copied


def _positions(model: nn.Module) -> int:
    """Tell how many tokens a model reads at once."""
    config = getattr(model, "config", None)
    found = [getattr(model, "positions", None)]
    found += [getattr(config, name, None) for name in ("max_position_embeddings", "n_positions")]
    return next((one for one in found if isinstance(one, int) and one > 0), 512)


def _model_name(model: nn.Module, tokenizer: Tokenizer) -> str:
    """Name a model by some of its weights, and its tokenizer: another has another name."""
    digest = hashlib.blake2b(tokenizer.to_str().encode(), digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        flat = tensor.detach().flatten()
        some = flat[:: max(1, math.ceil(flat.numel() / 64))].double().cpu().numpy()
        digest.update(f"{name} {list(tensor.shape)}".encode() + some.tobytes())
    return digest.hexdigest()


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


def _shift(tell: Tell, before: int, total: int, done: int) -> None:
    tell(before + done, total)


def _layer(layer: int) -> str:
    return f"layer-{layer}.bin"


def _spans(count: int) -> Iterator[tuple[int, int]]:
    """Go through vectors some at a time."""
    for start in range(0, count, 1 << 15):
        yield start, min(count, start + (1 << 15))


def _own_sum(about: Mapping[str, Any]) -> str:
    """Name what an index says of itself."""
    return sum_of(json.dumps({name: part for name, part in about.items() if name != "sum"}).encode())


def _about(path: Path) -> dict[str, Any]:
    """Read what an index is. Raises: FileError unless it is whole."""
    fix = "qkv words CORPUS --out INDEX makes one"
    try:
        if not path.is_dir():
            got = "a file" if path.exists() else "nothing"
            raise FileError(must("Words", str(path), "be an index", got, fix))
        about = json.loads((path / ABOUT).read_text(encoding="utf-8"))
        if about["format"] != FORMAT:
            raise ValueError(f"format {str(about['format'])[:40]!r}")
        words_, sentences, width, layers = (
            about["words"],
            about["sentences"],
            about["width"],
            about["made_of"]["layers"],
        )
        sizes = {TEXTS: about["bytes"], EDGES: 8 * sentences, PLACES: PLACE.itemsize * words_}
        sizes |= {CENTRE: 4 * width * len(layers)} | {_layer(layer): 2 * width * words_ for layer in layers}
        for name, size in sizes.items():
            if (there := (path / name).stat().st_size) != size:
                raise ValueError(f"{name} of {there} bytes, not {size}")
        if not isinstance(about["vocabulary"], list) or not isinstance(about["name"], str):
            raise ValueError("no vocabulary or name")
        if about["sum"] != _own_sum(about):
            raise ValueError(f"{ABOUT} is not as it was written")
        return about
    except FileError:
        raise
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        got = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise FileError(must("Words", str(path), "be an index that is whole", got, fix)) from error
