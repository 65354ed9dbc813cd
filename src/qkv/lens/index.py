"""Words in context, of a corpus: every word's vectors at each layer, kept on the disk and read where they lie.

    words = qkv.words("corpus.words", texts, model, tokenizer)
    words.nearest(read(model, tokenizer, "The mouse is wireless."), "mouse")

An index is a folder of a few files; `indexing.py` makes one.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import DTypeLike
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from qkv.core.checks import check_whole
from qkv.errors import ArgumentError, FileError, must
from qkv.lens.blocks import Blocks, sum_of
from qkv.lens.reading import Reading
from qkv.lens.running import positions_of
from qkv.lens.sentences import plain
from qkv.lens.subwords import joins
from qkv.lens.words import places, vectors

FORMAT = "qkv words 2"
ABOUT = "words.json"
TEXTS, EDGES, PLACES, CENTRE = "texts.bin", "edges.bin", "places.bin", "centre.bin"

PLACE = np.dtype([(name, "<i4") for name in ("sentence", "start", "stop", "token", "tokens", "word")])
"""A word in a sentence: which, its characters, its first token and how many, and its number in the vocabulary."""


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


class WordIndex:
    """An index that is whole. `layers` are those kept: 0 enters the first, i leaves layer i − 1.

    What it was written with is compared with what is there: most of it here, vectors and texts as they are read.

    Cost: reading all but the vectors and texts, once.
    Raises: FileError unless the folder holds an index that is whole.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)
        self.about = about = about_of(self.path)
        self.layers: tuple[int, ...] = tuple(about["made_of"]["layers"])
        count, width = about["words"], about["width"]
        self.vocabulary = {word: number for number, word in enumerate(about["vocabulary"])}

        def opened(name: str, kind: DTypeLike, *shape: int) -> Blocks:
            return Blocks(self.path / name, kind, shape, about["sums"][name])

        self.places: np.ndarray = opened(PLACES, PLACE, count).span(0, count)
        self._edges = opened(EDGES, np.int64, about["sentences"]).span(0, about["sentences"])
        self._texts = opened(TEXTS, np.uint8, about["bytes"])
        self._vectors = {layer: opened(layer_file(layer), np.float16, count, width) for layer in self.layers}
        centre = np.array(opened(CENTRE, np.float32, len(self.layers), width).span(0, len(self.layers)))
        self._centre = dict(zip(self.layers, torch.from_numpy(centre), strict=True))

    def __len__(self) -> int:
        return len(self.places)

    def __repr__(self) -> str:
        sentences = self.about["sentences"]
        return f"WordIndex({len(self):,} words of {sentences:,} sentences, layers {', '.join(map(str, self.layers))})"

    def check(self, model: nn.Module, tokenizer: Tokenizer) -> None:
        """Raise FileError if the index was made with another model or tokenizer: their vectors cannot be compared."""
        if model_name(model, plain(tokenizer, positions_of(model))) != self.about["made_of"]["model"]:
            fix = "load the model that made it, or make another index"
            rule = f"be of this model; it was made with {self.about['name'] or 'another'}"
            raise FileError(must("WordIndex.check", str(self.path), rule, "another model or tokenizer", fix))

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
        check_whole("WordIndex.nearest", "count", count, 1)
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
                for some in (self._vectors[layer].span(*span) for span in spans(len(self)))
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


def model_name(model: nn.Module, tokenizer: Tokenizer) -> str:
    """Name a model by some of its weights, and its tokenizer: another has another name."""
    digest = hashlib.blake2b(tokenizer.to_str().encode(), digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        flat = tensor.detach().flatten()
        some = flat[:: max(1, math.ceil(flat.numel() / 64))].double().cpu().numpy()
        digest.update(f"{name} {list(tensor.shape)}".encode() + some.tobytes())
    return digest.hexdigest()


def layer_file(layer: int) -> str:
    """Name the file of a layer's vectors."""
    return f"layer-{layer}.bin"


def spans(count: int) -> Iterator[tuple[int, int]]:
    """Go through vectors some at a time."""
    for start in range(0, count, 1 << 15):
        yield start, min(count, start + (1 << 15))


def own_sum(about: Mapping[str, Any]) -> str:
    """Name what an index says of itself."""
    return sum_of(json.dumps({name: part for name, part in about.items() if name != "sum"}).encode())


def about_of(path: Path) -> dict[str, Any]:
    """Read what an index is. Raises: FileError unless it is whole."""
    fix = "qkv words CORPUS --out INDEX makes one"
    try:
        if not path.is_dir():
            got = "a file" if path.exists() else "nothing"
            raise FileError(must("WordIndex", str(path), "be an index", got, fix))
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
        sizes |= {CENTRE: 4 * width * len(layers)} | {layer_file(layer): 2 * width * words_ for layer in layers}
        for name, size in sizes.items():
            if (there := (path / name).stat().st_size) != size:
                raise ValueError(f"{name} of {there} bytes, not {size}")
        if not isinstance(about["vocabulary"], list) or not isinstance(about["name"], str):
            raise ValueError("no vocabulary or name")
        if about["sum"] != own_sum(about):
            raise ValueError(f"{ABOUT} is not as it was written")
        return about
    except FileError:
        raise
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        got = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise FileError(must("WordIndex", str(path), "be an index that is whole", got, fix)) from error
