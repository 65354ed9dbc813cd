"""Train a captioner on scenes of handwritten digits: read them in order."""

from pathlib import Path

import torch
from torch import Tensor

from qkv.models.captioner import Captioner, CaptionerConfig, Hard, Soft
from qkv.models.generation import generate
from qkv.models.pretrained import save_model
from qkv.text.batching import Pictures
from qkv.text.digits import END, HEIGHT, LINES, LONGEST, PADDING, START, WIDTH, WORDS, DigitScenes, tokenizer
from qkv.training.recipe import Recipe

PRESETS = {
    "quick": Recipe(width=128, layers=1, heads=1, steps=1000, rate=2e-3, tokens=320, vocabulary=len(WORDS)),
    "small": Recipe(width=256, layers=1, heads=1, steps=5000, rate=1e-3, tokens=640, vocabulary=len(WORDS)),
}

ATTENTIONS: dict[str, Soft | Hard] = {"soft": Soft(), "hard": Hard()}
"""What the command line calls the two."""


class CaptionTask:
    """Learn to say which digits a scene shows, in the order of reading."""

    kind = "caption"

    def __init__(self, recipe: Recipe, *, attention: str = "soft", seed: int = 0) -> None:
        half = recipe.width // 2
        config = CaptionerConfig(
            len(WORDS), HEIGHT, WIDTH, channels=half, embedding=half, hidden=recipe.width, attention_width=half,
            dropout=recipe.dropout, padding=PADDING,
        )  # fmt: skip
        self.model = Captioner(config, ATTENTIONS[attention])
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
        scenes = self.validation.scenes(0)
        device = self.model.output.weight.device
        said = caption(self.model, torch.stack([scene.image for scene in scenes]).to(device))
        right = sum(one == list(scene.digits) for one, scene in zip(said, scenes, strict=True))
        shown = " ".join(WORDS[END + 1 + digit] for digit in said[0])
        return f"{right} of {len(scenes)} scenes right; “{scenes[0].caption}” read as “{shown}”"

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
