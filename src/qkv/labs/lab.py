"""What a lab is: a question, what the article says, and an experiment with thresholds that were fixed beforehand.

A lab's file holds these and nothing else; seeds, timing, keeping results, tables and pages are the runner's and the
report's. `measure(seed, size, progress)` gives the figures of one seed as JSON can hold them: numbers, which the tables
show and the thresholds judge, and lists, which the plot draws.
"""

import math
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from importlib import import_module
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from qkv.labs.table import Table

Figures = dict[str, Any]
"""What one seed measured."""

Means = Mapping[str, float]
"""The means over the seeds, of the figures that are numbers."""

# An integer is a number too, for those who check.
Number = int | float

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Both:
    """A text in both languages."""

    en: str
    zh: str


class Verdict(Enum):
    """What becomes of the article's claim."""

    HOLDS = Both("holds", "成立")
    WITHIN_LIMITS = Both("holds within limits", "有条件成立")
    FAILS = Both("does not hold", "不成立")
    DISPUTED = Both("disputed", "有争议")
    OPEN = Both("did not come out", "未得出结果")


@dataclass(frozen=True)
class Threshold:
    """What a figure must reach for the experiment to have come out, and why just that.

    The mean over the seeds is judged; with `every`, each seed. With `spread` it may exceed `most` by σ, the seeds'
    standard deviation: what chance alone may do.
    """

    figure: str
    least: Number | None
    most: Number | None
    why: Both
    every: bool = False
    spread: bool = False

    def met(self, results: Sequence[Figures]) -> bool:
        """Say whether the seeds reach it. A figure that is missing or not finite does not."""
        values = [float(result.get(self.figure, "nan")) for result in results]
        judged = values if self.every else [mean(values)]
        least = -float("inf") if self.least is None else self.least
        most = float("inf") if self.most is None else self.most
        if not all(map(math.isfinite, values)):
            return False
        most += stdev(values) if self.spread and len(values) > 1 else 0.0
        return all(least <= value <= most for value in judged)

    @property
    def rule(self) -> str:
        """Write the rule: ≥ 0.08."""
        if self.least == self.most:
            return f"= {written(self.most or 0.0)}"
        if self.least is not None and self.most is not None:
            return f"{written(self.least)} … {written(self.most)}"
        if self.least is not None:
            return f"≥ {written(self.least)}"
        return f"≤ {written(self.most or 0.0)}{' + σ' if self.spread else ''}"


def at_least(figure: str, least: Number, why: Both, *, every: bool = False) -> Threshold:
    """Ask that a figure is not below a number."""
    return Threshold(figure, least, None, why, every)


def at_most(figure: str, most: Number, why: Both, *, every: bool = False, spread: bool = False) -> Threshold:
    """Ask that a figure is not above a number; with `spread`, not by more than the seeds differ."""
    return Threshold(figure, None, most, why, every, spread)


def between(figure: str, least: Number, most: Number, why: Both, *, every: bool = False) -> Threshold:
    """Ask that a figure lies between two numbers."""
    return Threshold(figure, least, most, why, every)


@dataclass(frozen=True)
class Claim:
    """One thing that the article says, what is so, and how the means decide whether it holds.

    `mistake` marks what belongs on the page of the article's mistakes.
    """

    says: Both
    truth: Both
    holds: Callable[[Means], bool]
    mistake: bool = False


@dataclass(frozen=True)
class Lab:
    """A question and its experiment.

    `rows` are the numbers of the questions it answers. `labels` names each figure that is a number, with its unit.
    `headline` is filled with the means: the one line of the index. `quick` and `full` are what `measure` takes as its
    size, and `form` says which it takes; `full` is None where the full form is another experiment, a paper's own, that
    `labs/papers` holds. `seconds` is about what a seed of the quick form takes. A lab that measures time has the machine
    `alone`. `dispute` says over what the literature disagrees, where the measurements do not settle it.
    """

    name: str
    rows: tuple[str, ...]
    question: Both
    answer: Both
    follow_up: Both
    trap: Both
    claims: tuple[Claim, ...]
    papers: tuple[str, ...]
    thresholds: tuple[Threshold, ...]
    labels: Mapping[str, Both]
    headline: Both
    quick: Any
    measure: Callable[[int, Any, "Progress"], Figures]
    plot: Callable[["Figure", Sequence[Figures], Callable[[Both], str]], None]
    caption: Both
    seconds: float
    full: Any = None
    form: str = "quick"
    alone: bool = False
    dispute: Both | None = None

    @property
    def source(self) -> Path:
        """The file that holds it."""
        return Path(str(import_module(self.measure.__module__).__file__))

    @property
    def size(self) -> Any:
        """What `measure` takes."""
        return getattr(self, self.form)

    @property
    def takes_pairs(self) -> bool:
        """Whether it can learn from a user's pairs."""
        return hasattr(self.size, "table")

    @property
    def table(self) -> "Table | None":
        """The user's pairs that it learns from, if it does."""
        return self.size.table if self.takes_pairs else None

    @property
    def takes_chinese(self) -> bool:
        """Whether it can measure a user's Chinese model beside its own."""
        return hasattr(self.size, "chinese")

    @property
    def given(self) -> Path | None:
        """What a user gave it, if anything: a table of pairs, or a Chinese model's folder."""
        return self.table.path if self.table else self.size.chinese if self.takes_chinese else None

    @property
    def key(self) -> str:
        """What tells its results from others: its name, its form, and the pairs' name."""
        return f"{self.name}.{self.form}" + (f"-{self.table.digest}" if self.table else "")

    @property
    def options(self) -> str:
        """What `qkv lab` is told for this form: nothing, `--full`, or `--full --data PATH`."""
        data = f" --data {shlex.quote(str(self.table.path))}" if self.table else ""
        return ("" if self.form == "quick" else " --full") + data

    def verdict(self, results: Sequence[Figures]) -> Verdict:
        """Give the verdict on the claims: open unless every threshold is met."""
        if not results or not self.came_out(results):
            return Verdict.OPEN
        held = [claim.holds(means(results)) for claim in self.claims]
        if all(held):
            return Verdict.HOLDS
        if not any(held):
            return Verdict.FAILS
        return Verdict.WITHIN_LIMITS if self.dispute is None else Verdict.DISPUTED

    def came_out(self, results: Sequence[Figures]) -> bool:
        """Say whether every threshold is met, and every figure is a number that a claim can be judged by."""
        finite = all(math.isfinite(float(result.get(name, "nan"))) for result in results for name in self.labels)
        return finite and all(threshold.met(results) for threshold in self.thresholds)


class Progress:
    """Tells what a lab is doing; by itself it says nothing."""

    def over(self, items: Iterable[_Item], doing: str) -> Iterator[_Item]:
        """Give the items one by one, and tell after each how far it is."""
        whole = len(items) if isinstance(items, Sequence) else None
        for done, item in enumerate(items):
            self.tell(doing, done, whole)
            yield item

    def tell(self, doing: str, done: int = 0, whole: int | None = None) -> None:
        """Tell what is being done, and how much of how much."""


def written(value: Number) -> str:
    """Write a number for readers: four digits, or all of a large whole one."""
    if float(value).is_integer() and abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}".replace("-", "−")


def means(results: Sequence[Figures]) -> dict[str, float]:
    """Average the figures that are numbers over the seeds."""
    names = [name for name, value in results[0].items() if isinstance(value, int | float)] if results else []
    shared = [name for name in names if all(isinstance(result.get(name), int | float) for result in results)]
    return {name: mean(float(result[name]) for result in results) for name in shared}
