"""Train a captioner on scenes of handwritten digits: read them in order."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from qkv.mechanisms.hard import HardAttention
from qkv.models.captioner import SHRINK, Captioner, CaptionerConfig, Hard, Soft
from qkv.models.generation import generate
from qkv.models.pretrained import save_model
from qkv.text.batching import Pictures, Sequences
from qkv.text.digits import (
    END,
    HEIGHT,
    LINES,
    LONGEST,
    PADDING,
    SIZE,
    START,
    WIDTH,
    WORDS,
    DigitScenes,
    Scene,
    tokenizer,
    tokens_of,
)
from qkv.training.recipe import Recipe

PRESETS = {
    "quick": Recipe(width=128, layers=1, heads=1, steps=900, rate=2e-3, tokens=384, vocabulary=len(WORDS), dropout=0.0),
    "small": Recipe(width=256, layers=1, heads=1, steps=5000, rate=1e-3, tokens=640, vocabulary=len(WORDS)),
}

ATTENTIONS: dict[str, Soft | Hard] = {"soft": Soft(), "hard": Hard()}
"""What the command line calls the two."""


class CaptionTask:
    """Learn to say which digits a scene shows, in the order of reading.

    `start` is a captioner of the same size to go on from. Hard attention wants a soft one: before the digits are known,
    no draw is rewarded more than another.
    """

    kind = "caption"

    def __init__(
        self, recipe: Recipe, *, attention: str = "soft", seed: int = 0, start: Captioner | None = None
    ) -> None:
        half = recipe.width // 2
        config = CaptionerConfig(
            len(WORDS), HEIGHT, WIDTH, channels=half, embedding=half, hidden=recipe.width, attention_width=half,
            dropout=recipe.dropout, padding=PADDING,
            # Most of a scene is empty: to look everywhere equally often is not to read.
            double=0.0,
            # The rewards of whole captions drown the words' own gradient unless they are small.
            reward=0.1,
        )  # fmt: skip
        self.model = Captioner(config, ATTENTIONS[attention])
        if start is not None:
            self.model.load_state_dict(start.state_dict())
        size = max(1, recipe.tokens // (LINES * LONGEST))
        self.batches = DigitScenes(recipe.every, size=size, seed=seed)
        self.validation = DigitScenes(4, size=64, seed=seed, held_out=True)

    def loss(self, batch: Pictures) -> tuple[Tensor, int]:
        """Give the sum of the losses over a batch, and over how many words it is."""
        return self.model.loss(batch.images, batch.target, batch.targets)

    def tokens(self, batch: Pictures) -> int:
        """How many words a batch makes the model read."""
        return len(batch.target.tokens)

    def sample(self) -> str:
        """Tell how many of the held-out scenes are read without a mistake, and show one."""
        scenes = [scene for step in range(len(self.validation)) for scene in self.validation.scenes(step)]
        device = self.model.output.weight.device
        said = caption(self.model, torch.stack([scene.image for scene in scenes]).to(device))
        right = sum(one == list(scene.digits) for one, scene in zip(said, scenes, strict=True))
        shown = " ".join(WORDS[END + 1 + digit] for digit in said[0])
        looked = f"{on_digits(looks(self.model, scenes), scenes).mean():.0%} of the attention on the digit read"
        return f"{right} of {len(scenes)} scenes right, {looked}; “{scenes[0].caption}” read as “{shown}”"

    def save(self, folder: Path) -> None:
        """Write the model, for users."""
        save_model(self.model, folder, tokenizer=tokenizer())


def caption(model: Captioner, images: Tensor) -> list[list[int]]:
    """Read scenes: the digits of each, the likeliest word at each step."""
    first = torch.full((len(images), 1), START, device=images.device)
    with torch.no_grad():
        steps = generate(model, model.start(images), first, new=LINES * LONGEST + 1, stop=END)
        rows = torch.stack(list(steps), 1).tolist()
    return [[token - END - 1 for token in row if token > END] for row in rows]


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
