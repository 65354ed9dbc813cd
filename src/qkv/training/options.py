"""Options: the numbers of a training, and which of them a resumed run may change."""

from dataclasses import asdict, dataclass, field
from typing import Any

from qkv.core.checks import check_number, check_rate, check_whole
from qkv.errors import ArgumentError, must
from qkv.training.schedules import Schedule, constant

PRECISIONS = ("float32", "bf16")


@dataclass(frozen=True)
class Options:
    """How a model is trained.

    A step reads `accumulate` micro-batches on every rank; with None one, or, in a run that goes on, as many as keep its
    steps as large as they were, whatever the number of ranks. The learning rate is `rate` times the schedule's factor.
    Gradients are clipped to the norm `clip`, unless it is None.

    Raises: KindError, ArgumentError for a number out of range.
    """

    steps: int
    rate: float
    schedule: Schedule = field(default_factory=constant)
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float | None = 1.0
    accumulate: int | None = None
    seed: int = 0
    precision: str = "float32"
    validate_every: int = 500
    checkpoint_every: int = 500
    keep: int = 2
    workers: int = 0
    tensorboard: bool = False
    watch_gradients: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "validate_every", "checkpoint_every", "keep"):
            check_whole("Options", name, getattr(self, name), 1)
        if self.accumulate is not None:
            check_whole("Options", "accumulate", self.accumulate, 1)
        for name in ("seed", "workers"):
            check_whole("Options", name, getattr(self, name), 0)
        check_number("Options", "rate", self.rate, "a finite number > 0", above=0.0)
        check_rate("Options", "weight_decay", self.weight_decay)
        for beta in self.betas:
            check_rate("Options", "betas", beta)
        if self.clip is not None:
            check_number("Options", "clip", self.clip, "a finite number > 0", above=0.0)
        if self.precision not in PRECISIONS:
            raise ArgumentError(must("Options", "precision", f"be one of {', '.join(PRECISIONS)}", self.precision))

    def record(self) -> dict[str, Any]:
        """Give the options as JSON can hold them."""
        return {**asdict(self), "schedule": repr(self.schedule), "betas": list(self.betas)}


MAY_CHANGE = {
    "steps", "accumulate", "validate_every", "checkpoint_every", "keep", "workers", "tensorboard", "watch_gradients",
}  # fmt: skip
"""What a resumed run may change. `accumulate` is for another number of ranks: their product is what the bits follow."""


def micro_batches_of(options: Options, ranks: int, before: int | None) -> int:
    """Say how many micro-batches each rank reads for a step, where all ranks had so many `before`.

    Raises: ArgumentError if nobody says how many, and those of before cannot be shared out.
    """
    if options.accumulate is not None or before is None:
        return options.accumulate or 1
    if before % ranks:
        rule, fix = f"share out the {before} micro-batches that a step of this run has", "or say --accumulate"
        raise ArgumentError(must("train", "the number of processes", rule, ranks, fix))
    return before // ranks


def check_same(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise ArgumentError if a run goes on with another kind, other options or other facts than it was begun with."""
    for part in ("kind", "options", "about"):
        was, is_now = before.get(part), now[part]
        if part == "options" and isinstance(was, dict):
            was, is_now = ({k: v for k, v in side.items() if k not in MAY_CHANGE} for side in (was, is_now))
        if was == is_now:
            continue
        if isinstance(was, dict) and isinstance(is_now, dict):
            part, was, is_now = next(
                (f"{part}.{name}", was.get(name), is_now.get(name))
                for name in sorted(was.keys() | is_now.keys())
                if was.get(name) != is_now.get(name)
            )
        raise ArgumentError(must("train", part, f"be the run's {was} when it is resumed", is_now))
