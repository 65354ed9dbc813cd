"""Scenes of handwritten digits, and the words that read them: pictures to describe, made from scikit-learn's digits.

A scene has one or two lines of digits at places of their own; it is read as people read, line by line.
"""

from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float, Int
from tokenizers import AddedToken, Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from torch import Tensor

from qkv.core.checks import check_whole
from qkv.errors import UnsupportedError, must
from qkv.text.batching import Pictures, generator
from qkv.text.pictures import END, PADDING, SPECIAL, described

WORDS = (*SPECIAL, *["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])
"""The words of a caption, by their token."""

SIZE = 8
"""A digit's height and width, in pixels."""

HEIGHT, WIDTH, LINES, LONGEST = 24, 40, 2, 3
"""A scene's height and width in pixels, its most lines, and the most digits of a line."""

HELD_OUT = 10
"""One written digit in so many is held out: scenes for validation show hands that were never seen."""


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture, 0 black to 1 white, the digits on it in the order of reading, and where each one's corner is."""

    image: Float[Tensor, "1 height width"]
    digits: tuple[int, ...]
    corners: tuple[tuple[int, int], ...]
    """Row and column of the upper left pixel."""

    @property
    def caption(self) -> str:
        """The digits in words."""
        return " ".join(WORDS[END + 1 + digit] for digit in self.digits)


def scene(number: int, *, seed: int = 0, held_out: bool = False) -> Scene:
    """Compose a scene: a function of the number and the seed alone.

    Raises: UnsupportedError if scikit-learn is not installed.
    """
    pictures, labels = _hands(held_out)
    # Drawn at once, which is several times as fast as one by one: enough for the largest scene.
    most = 1 + LINES * (2 + 3 * LONGEST)
    numbers = iter(torch.randint(2**40, (most,), generator=generator(seed, number, held_out)).tolist())

    def draw(count: int) -> int:
        return next(numbers) % count

    chosen, corners = [], []
    lines = 1 + draw(LINES)
    tall = HEIGHT // lines
    for line in range(lines):
        count = 1 + draw(LONGEST)
        # Each digit moves in a part of the line of its own, so that none touches another.
        wide = WIDTH // count
        base = line * tall + draw(tall - SIZE - 1)
        for place in range(count):
            chosen.append(draw(len(labels)))
            corners.append((base + draw(2), place * wide + draw(wide - SIZE + 1)))
    image = torch.zeros(1, HEIGHT, WIDTH)
    for hand, (row, column) in zip(pictures[chosen], corners, strict=True):
        image[0, row : row + SIZE, column : column + SIZE] = hand
    return Scene(image, tuple(labels[chosen].tolist()), tuple(corners))


class DigitScenes:
    """Batches of scenes with their captions: batch `step` is a function of the seed and the step alone.

    Raises: KindError, ArgumentError for a size that is no integer of at least 1; UnsupportedError if scikit-learn is
    not installed.
    """

    def __init__(self, batches: int, *, size: int = 64, seed: int = 0, held_out: bool = False) -> None:
        check_whole("DigitScenes", "batches", batches, 1)
        check_whole("DigitScenes", "size", size, 1, "scenes in a batch")
        _hands(held_out)
        self.batches, self.size, self.seed, self.held_out = batches, size, seed, held_out

    def __len__(self) -> int:
        return self.batches

    def scenes(self, step: int) -> list[Scene]:
        """Give the scenes of a batch."""
        numbers = range(step * self.size, (step + 1) * self.size)
        return [scene(number, seed=self.seed, held_out=self.held_out) for number in numbers]

    def __getitem__(self, step: int) -> Pictures:
        scenes = self.scenes(step)
        images = torch.stack([one.image for one in scenes])
        return described(images, [torch.tensor(tokens_of(one)) for one in scenes])


def tokenizer() -> Tokenizer:
    """Make the tokenizer of captions: a word is a token."""
    made = Tokenizer(WordLevel({word: token for token, word in enumerate(WORDS)}, unk_token=WORDS[PADDING]))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens([AddedToken(word, special=True) for word in WORDS[: END + 1]])
    return made


def tokens_of(one: Scene) -> list[int]:
    """Give the tokens of a scene's caption, without start and end."""
    return [END + 1 + digit for digit in one.digits]


@cache
def _hands(held_out: bool) -> tuple[Float[Tensor, "hands 8 8"], Int[Tensor, " hands"]]:
    """Give the written digits, from 0 to 1, and what they are."""
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        fix = "pip install scikit-learn"
        raise UnsupportedError(must("scene", "scikit-learn", "be installed", "no such package", fix)) from error
    found = load_digits()
    chosen = (torch.arange(len(found.target)) % HELD_OUT == 0) == held_out
    pictures = torch.from_numpy(found.images).float() / 16
    return pictures[chosen], torch.from_numpy(found.target)[chosen]
