"""Schedules: what the learning rate is multiplied by at a step. Pure functions, so that resuming needs the step alone.

    schedule = cosine(10_000, warm_up=500)
    rate = 3e-4 * schedule(step)

All warm up the same way: the factor rises by equal steps to 1, which it has at step `warm_up` − 1, the first being 0.
"""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from qkv.core.checks import check_rate, check_whole
from qkv.errors import ArgumentError, must


@runtime_checkable
class Schedule(Protocol):
    """What a schedule offers: the factor of a step, the first being 0."""

    def __call__(self, step: int) -> float:
        """Give the factor of a step."""


@dataclass(frozen=True)
class constant:
    """1 after the warm-up.

    Raises: KindError, ArgumentError if warm_up is not an integer of at least 0.
    """

    warm_up: int = 0

    def __post_init__(self) -> None:
        check_whole("constant", "warm_up", self.warm_up, 0)

    def __call__(self, step: int) -> float:
        return min((step + 1) / max(self.warm_up, 1), 1.0)


@dataclass(frozen=True)
class inverse_square_root:
    """min(t / w, √(w / t)) at step t, counted from 1, with a warm-up of w steps: the paper's, with a peak of 1.

    Paper: Vaswani et al. 2017, arXiv:1706.03762, section 5.3.
    Raises: KindError, ArgumentError if warm_up is not an integer of at least 1.
    """

    warm_up: int

    def __post_init__(self) -> None:
        check_whole("inverse_square_root", "warm_up", self.warm_up, 1)

    def __call__(self, step: int) -> float:
        place = step + 1
        return min(place / self.warm_up, math.sqrt(self.warm_up / place))


@dataclass(frozen=True)
class linear:
    """A straight line from 1, after the warm-up, to `last`, right after the last of `steps`.

    Raises: KindError, ArgumentError if warm_up does not lie in 0..steps, or last not in [0, 1].
    """

    steps: int
    warm_up: int = 0
    last: float = 0.0

    def __post_init__(self) -> None:
        _check("linear", self.steps, self.warm_up, self.last)

    def __call__(self, step: int) -> float:
        gone = _gone(step, self.steps, self.warm_up)
        return min((step + 1) / max(self.warm_up, 1), 1 - gone * (1 - self.last))


@dataclass(frozen=True)
class cosine:
    """Half a cosine from 1, after the warm-up, to `last`, right after the last of `steps`.

    Paper: Loshchilov and Hutter 2017, arXiv:1608.03983, without restarts.
    Raises: KindError, ArgumentError if warm_up does not lie in 0..steps, or last not in [0, 1].
    """

    steps: int
    warm_up: int = 0
    last: float = 0.0

    def __post_init__(self) -> None:
        _check("cosine", self.steps, self.warm_up, self.last)

    def __call__(self, step: int) -> float:
        gone = _gone(step, self.steps, self.warm_up)
        return min((step + 1) / max(self.warm_up, 1), self.last + (1 - self.last) * (1 + math.cos(math.pi * gone)) / 2)


def _gone(step: int, steps: int, warm_up: int) -> float:
    """Give the share of the decay that is gone: 0 up to the peak, 1 right after the last step."""
    peak = max(warm_up, 1) - 1
    return min(max(step - peak, 0) / (steps - peak), 1.0)


def _check(name: str, steps: int, warm_up: int, last: float) -> None:
    check_whole(name, "steps", steps, 1)
    check_whole(name, "warm_up", warm_up, 0)
    if warm_up > steps:
        raise ArgumentError(must(name, "warm_up", f"be at most the {steps} steps", warm_up))
    check_rate(name, "last", last)
