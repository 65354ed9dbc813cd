"""Train a captioner: on scenes of handwritten digits, read in order, or on pictures of a user's own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F

from qkv.errors import ArgumentError, must
from qkv.mechanisms.hard import HardAttention
from qkv.models.captioner import SHRINK, Captioner, CaptionerConfig, HardRegions, SoftRegions
from qkv.models.generation import generate
from qkv.models.pretrained import save_model
from qkv.text.batching import Pictures, Sequences
from qkv.text.digits import HEIGHT, LINES, LONGEST, SIZE, WIDTH, WORDS, DigitScenes, Scene, tokenizer, tokens_of
from qkv.text.pictures import END, PADDING, SPECIAL, START, PictureBatches
from qkv.training.prepared import PreparedPictures
from qkv.training.recipe import Recipe
from qkv.training.task import Batches
from qkv.training.tasks.first import First

VOCABULARY = 10_000
"""The most words of captions of a user's own, as in Xu et al. 2015."""

PRESETS = {
    "quick": Recipe(width=128, layers=1, heads=1, steps=900, rate=2e-3, tokens=384, vocabulary=VOCABULARY, dropout=0.0),
    "small": Recipe(width=256, layers=1, heads=1, steps=5000, rate=1e-3, tokens=640, vocabulary=VOCABULARY),
}

ATTENTIONS: dict[str, SoftRegions | HardRegions] = {"soft": SoftRegions(), "hard": HardRegions()}
"""What the command line calls the two."""


@runtime_checkable
class Album(Protocol):
    """Pictures with captions to learn from, and what a model makes of those that are held out."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Makes tokens of captions; the first are `SPECIAL`."""

    @property
    def height(self) -> int:
        """Of a picture, in pixels."""

    @property
    def width(self) -> int:
        """Of a picture, in pixels."""

    @property
    def double(self) -> float:
        """How much soft attention is pressed to look everywhere about once."""

    @property
    def batches(self) -> Batches:
        """What is learned from."""

    @property
    def validation(self) -> Batches:
        """What is held out."""

    def sample(self, model: Captioner) -> str:
        """Show what a model says of pictures that are held out."""


class CaptionTask:
    """Learn to say what a picture shows: which digits, in the order of reading, if no other pictures are given.

    `start` is a captioner of the same size to go on from. Hard attention wants a soft one: before the words are known,
    no draw is rewarded more than another.

    Raises: ArgumentError if `start` is of another size.
    """

    kind = "caption"

    def __init__(
        self,
        recipe: Recipe,
        album: Album | None = None,
        *,
        attention: str = "soft",
        seed: int = 0,
        start: Captioner | None = None,
    ) -> None:
        self.album: Album = album if album is not None else DigitAlbum(recipe, seed)
        album = self.album
        half = recipe.width // 2
        config = CaptionerConfig(
            album.tokenizer.get_vocab_size(), album.height, album.width, channels=half, embedding=half,
            hidden=recipe.width, attention_width=half, dropout=recipe.dropout, padding=PADDING, double=album.double,
            # The rewards of whole captions drown the words' own gradient unless they are small.
            reward=0.1,
        )  # fmt: skip
        self.model = Captioner(config, ATTENTIONS[attention])
        if start is not None:
            try:
                self.model.load_state_dict(start.state_dict())
            except RuntimeError as error:
                rule = f"be a captioner of this size, {config}"
                raise ArgumentError(must("CaptionTask", "start", rule, start.config)) from error
        # Soft attention that is pressed to look nowhere pays nothing.
        self.taught = attention == "hard" or album.double != 0
        self.batches, self.validation = album.batches, album.validation

    def loss(self, batch: Pictures) -> tuple[dict[str, Tensor], int]:
        """Give the sum of the losses over a batch, what teaches the attention, and over how many words it is."""
        words, lesson, count = self.model.losses(batch.images, batch.target, batch.targets)
        return {"loss": words, "attention_loss": lesson} if self.taught else {"loss": words}, count

    def tokens(self, batch: Pictures) -> int:
        """How many words a batch makes the model read."""
        return len(batch.target.tokens)

    def sample(self) -> str:
        """Show what the model says of pictures that are held out."""
        return self.album.sample(self.model)

    def save(self, folder: Path) -> None:
        """Write the model, for users."""
        save_model(self.model, folder, tokenizer=self.album.tokenizer)


class PictureAlbum:
    """Pictures of a user's own, as `prepare_pictures` gives them.

    Raises: ArgumentError if a caption is longer than the recipe's positions, or if the tokenizer does not begin with a
    captioner's special tokens.
    """

    double = 1.0

    def __init__(self, recipe: Recipe, prepared: PreparedPictures, seed: int = 0) -> None:
        lengths, rows = prepared.captions.lengths, torch.arange(len(prepared.held_out))
        if (most := int(lengths.max()) + 1) > recipe.positions:
            rule, fix = (
                f"have at most {recipe.positions} tokens",
                f"{prepared.places[int(lengths.argmax())]}, with its end",
            )
            raise ArgumentError(must("train caption", "captions", rule, most, f"{fix}; or give --positions"))
        if any(prepared.tokenizer.token_to_id(name) != token for token, name in enumerate(SPECIAL)):
            rule = f"begin with {', '.join(SPECIAL)}"
            raise ArgumentError(must("train caption", "--tokenizer", rule, prepared.tokenizer.id_to_token(0)))
        self.tokenizer, (_, self.height, self.width) = prepared.tokenizer, prepared.pixels.shape
        self.captions, self.held_out = prepared.captions, rows[prepared.held_out]
        size = max(1, recipe.tokens // most)
        self.batches, whole = (
            PictureBatches(prepared.pixels, prepared.captions, some, size=size, seed=seed)
            for some in (rows[~prepared.held_out], self.held_out)
        )
        self.validation = First(whole)
        self.whole = whole

    def sample(self, model: Captioner) -> str:
        """Say what a model makes of some pictures that are held out, and what was written of them."""
        rows = self.held_out[:32].tolist()
        if not rows:
            return ""
        images = self.whole.images(rows).to(model.output.weight.device)
        longest = int(self.captions.lengths.max()) + 1
        said = [self.tokenizer.decode(row) for row in caption(model, images, longest)]
        written = [self.tokenizer.decode(self.captions[row].tolist()) for row in rows]
        right = sum(one == other for one, other in zip(said, written, strict=True))
        shown = "; ".join(f"“{other}” described as “{one}”" for one, other in zip(said[:2], written, strict=False))
        return f"{right} of {len(rows)} held-out pictures described word for word: {shown}"


class DigitAlbum:
    """Scenes of handwritten digits, read in order."""

    height, width = HEIGHT, WIDTH
    double = 0.0
    """Most of a scene is empty: to look everywhere equally often is not to read."""

    def __init__(self, recipe: Recipe, seed: int = 0) -> None:
        self.tokenizer = tokenizer()
        size = max(1, recipe.tokens // (LINES * LONGEST))
        self.batches = DigitScenes(recipe.every, size=size, seed=seed)
        self.validation = DigitScenes(4, size=64, seed=seed, held_out=True)

    def sample(self, model: Captioner) -> str:
        """Tell how many of the held-out scenes are read without a mistake, and show one."""
        scenes = [scene for step in range(len(self.validation)) for scene in self.validation.scenes(step)]
        said = read_digits(model, torch.stack([scene.image for scene in scenes]).to(model.output.weight.device))
        right = sum(one == list(scene.digits) for one, scene in zip(said, scenes, strict=True))
        shown = " ".join(WORDS[END + 1 + digit] for digit in said[0])
        looked = f"{on_digits(looks(model, scenes), scenes).mean():.0%} of the attention on the digit read"
        return f"{right} of {len(scenes)} scenes right, {looked}; “{scenes[0].caption}” read as “{shown}”"


def caption(model: Captioner, images: Float[Tensor, "batch 1 height width"], longest: int) -> list[list[int]]:
    """Describe pictures: the tokens of each, the likeliest at each step, at most `longest` with the end's."""
    first = torch.full((len(images), 1), START, device=images.device)
    with torch.no_grad():
        steps = generate(model, model.start(images), first, new=longest, stop=END)
        rows = torch.stack(list(steps), 1).tolist()
    return [[token for token in row if token > END] for row in rows]


def read_digits(model: Captioner, images: Float[Tensor, "batch 1 height width"]) -> list[list[int]]:
    """Read scenes: the digits of each."""
    said = caption(model, images, LINES * LONGEST + 1)
    return [[token - END - 1 for token in row] for row in said]


@torch.no_grad()
def looks(model: Captioner, scenes: Sequence[Scene]) -> Float[Tensor, "scenes words rows columns"]:
    """Give where a model looks as it reads, each word before being the right one; the weights, or the hard choice."""
    device = model.output.weight.device
    images = torch.stack([scene.image for scene in scenes]).to(device)
    tokens, _ = Sequences.of(torch.tensor([START, *tokens_of(scene)]) for scene in scenes).padded(PADDING)
    _, weights = model(images, tokens.to(device))
    if isinstance(model.attention, HardAttention):
        weights = F.one_hot(weights.argmax(-1), weights.shape[-1]).to(weights)
    return weights.unflatten(-1, model.config.grid)


def on_digits(
    maps: Float[Tensor, "scenes words rows columns"], scenes: Sequence[Scene], *, margin: int = 1
) -> Float[Tensor, " digits"]:
    """Give how much of each word's attention lies on the digit it says: on its square and `margin` cells around it."""
    shares = []
    for scene, seen in zip(scenes, maps, strict=True):
        for place, corner in zip(seen, scene.corners, strict=False):
            down, across = (
                slice(max(0, first // SHRINK - margin), (first + SIZE - 1) // SHRINK + 1 + margin) for first in corner
            )
            shares.append(place[down, across].sum())
    return torch.stack(shares)
