"""A word in context: how its vector differs from sentence to sentence, layer by layer."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from qkv.errors import ArgumentError, must
from qkv.lens.reading import Reading
from qkv.lens.subwords import IDEOGRAPHS


@dataclass(frozen=True)
class Place:
    """Where a word stands: the number of its reading, and its tokens."""

    reading: int
    tokens: tuple[int, ...]


def places(readings: Sequence[Reading], word: str) -> list[Place]:
    """Find a word in every text, in any case; a Chinese or Japanese word may stand inside a longer string.

    Raises: ArgumentError if no text holds it.
    """
    if not word.strip():
        raise ArgumentError(must("words", "word", "not be empty", repr(word)))
    # Scripts without spaces have no word boundaries to ask for.
    spaced = all(ord(one) < IDEOGRAPHS for one in word)
    pattern = re.compile(rf"(?<!\w){re.escape(word)}(?!\w)" if spaced else re.escape(word), re.IGNORECASE)
    found = []
    for number, reading in enumerate(readings):
        for match in pattern.finditer(reading.text):
            tokens = tuple(
                at
                for at, (start, stop) in enumerate(reading.spans)
                if not reading.special[at] and start < match.end() and stop > match.start()
            )
            if tokens:
                found.append(Place(number, tokens))
    if not found:
        raise ArgumentError(must("see", "--word", "stand in one of the texts", repr(word)))
    return found


def vectors(readings: Sequence[Reading], places: Sequence[Place], layer: int) -> Float[Tensor, "places width"]:
    """Give the word's vector at each place after a layer: the mean of its tokens' vectors."""
    return torch.stack([readings[place.reading].hidden[layer][list(place.tokens)].mean(0) for place in places])


def centre(readings: Sequence[Reading], layer: int) -> Float[Tensor, " width"]:
    """Give the mean vector of all tokens of all texts after a layer."""
    return torch.cat([reading.hidden[layer] for reading in readings]).mean(0)


def cosines(x: Float[Tensor, "places width"]) -> Float[Tensor, "places places"]:
    """Compare every two vectors by their cosine."""
    return torch.nn.functional.cosine_similarity(x[:, None], x[None, :], dim=-1)


@dataclass(frozen=True)
class Comparison:
    """The cosines of a word's vectors at its places, for each layer: as they are, and with the layer's mean taken off.

    Raw cosines are all high, because the vectors share a direction (Ethayarajh 2019, arXiv:1909.00512); centred, they
    show what sets the places apart. Row 0 is the layer before any attention: there, only the position differs.
    """

    places: list[Place]
    raw: Float[Tensor, "layers places places"]
    centred: Float[Tensor, "layers places places"]


def compare(readings: Sequence[Reading], word: str) -> Comparison:
    """Compare a word's vectors across the texts, layer by layer.

    Raises: ArgumentError if no text holds the word.
    """
    found = places(readings, word)
    raw, centred = [], []
    for layer in range(len(readings[0].hidden)):
        here = vectors(readings, found, layer)
        raw.append(cosines(here))
        centred.append(cosines(here - centre(readings, layer)))
    return Comparison(found, torch.stack(raw), torch.stack(centred))
