"""Recipes: the numbers of a training that `qkv train` gives, each of which its options change."""

from dataclasses import asdict, dataclass
from typing import Any

from qkv.core.checks import check_rate, check_whole
from qkv.errors import ArgumentError, must
from qkv.training.options import Options
from qkv.training.schedules import Schedule, constant, cosine, inverse_square_root, linear

SCHEDULES = ("cosine", "linear", "inverse_square_root", "constant")
"""What the command line calls the schedules."""


@dataclass(frozen=True)
class Recipe:
    """How large a model is, what it reads in a step, and how long it learns.

    `tokens` is the most that a batch holds, `positions` the most of a sequence. `vocabulary` is what a tokenizer is
    trained to, where one is trained.
    """

    width: int
    layers: int
    heads: int
    steps: int
    rate: float
    tokens: int = 4096
    positions: int = 256
    vocabulary: int = 4096
    dropout: float = 0.1
    warm_up: int = 50
    schedule: str = "cosine"
    weight_decay: float = 0.01
    second_beta: float = 0.98
    clip: float = 1.0
    every: int = 100
    """Steps between validations, each with a sample and a checkpoint."""

    def __post_init__(self) -> None:
        for name in ("width", "layers", "heads", "steps", "tokens", "positions", "vocabulary", "every"):
            check_whole("Recipe", name, getattr(self, name), 1)
        check_whole("Recipe", "warm_up", self.warm_up, 0)
        check_rate("Recipe", "dropout", self.dropout)
        if self.schedule not in SCHEDULES:
            raise ArgumentError(must("Recipe", "schedule", f"be one of {', '.join(SCHEDULES)}", self.schedule))

    def options(self, **others: Any) -> Options:
        """Give the loop's options."""
        return Options(
            steps=self.steps,
            rate=self.rate,
            schedule=self._schedule(),
            weight_decay=self.weight_decay,
            betas=(0.9, self.second_beta),
            clip=self.clip,
            validate_every=self.every,
            checkpoint_every=self.every,
            **others,
        )

    def record(self) -> dict[str, Any]:
        """Give the numbers as JSON can hold them."""
        return asdict(self)

    def _schedule(self) -> Schedule:
        warm_up = min(self.warm_up, max(0, self.steps - 1))
        if self.schedule == "constant":
            return constant(warm_up)
        if self.schedule == "inverse_square_root":
            return inverse_square_root(max(1, warm_up))
        falls = cosine if self.schedule == "cosine" else linear
        return falls(self.steps, warm_up=warm_up, last=0.1)
