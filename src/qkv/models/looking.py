"""What recurrent translators look into a source with: no attention, Bahdanau's, Luong's, local, hard, coverage.

Each is made by an object that a model is given, `Recurrent(config, attention=LuongAttention(qkv.dot()))`, and is told
queries and sources; what it gives is the same whatever the decoder asks when.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from qkv.core.checks import check_number
from qkv.core.types import Mask, Score
from qkv.masks.padding import padding
from qkv.mechanisms.bahdanau import Annotations, Bahdanau
from qkv.mechanisms.coverage import Coverage
from qkv.mechanisms.hard import Choice, HardAttention, MovingBaseline, reinforce
from qkv.mechanisms.local import LocalMonotonic, LocalPredictive
from qkv.mechanisms.luong import Contexts, GlobalAttention
from qkv.scores.additive import Concat
from qkv.scores.bilinear import Bilinear
from qkv.scores.location import Location


@dataclass(eq=False)
class Source:
    """Sources as the encoder leaves them, a row for each, and what an attention keeps of them."""

    memory: Float[Tensor, "rows keys width"]
    lengths: Int[Tensor, " rows"]
    last: Float[Tensor, "rows width"]
    number: Int[Tensor, " rows"]
    annotations: Annotations | None = None
    coverage: Float[Tensor, "rows keys"] | None = None

    @property
    def padded(self) -> bool:
        """Whether the memory may hold padding. A GPU is not waited for."""
        return self.lengths.is_cuda or bool((self.lengths < self.memory.shape[1]).any())

    @property
    def mask(self) -> Mask | None:
        """What is real of the memory; None if all of it is."""
        return padding(keys=self.lengths) if self.padded else None

    def reorder(self, rows: Int[Tensor, " rows"]) -> None:
        """Let row i become what row `rows[i]` was. Beams that stay on their source move nothing but their coverage."""
        if self.coverage is not None:
            self.coverage = self.coverage[rows]
        if torch.equal(number := self.number[rows], self.number):
            return
        self.memory, self.lengths, self.last, self.number = (
            self.memory[rows],
            self.lengths[rows],
            self.last[rows],
            number,
        )
        if self.annotations is not None:
            memory, key = self.annotations.memory[rows], self.annotations.key[rows]
            self.annotations = replace(self.annotations, memory=memory, key=key, mask=self.mask)


@dataclass(frozen=True, eq=False)
class Look:
    """What queries got of the memory: a context each; their weights if asked for; what hard attention chose; what
    coverage counts as read once more."""

    context: Float[Tensor, "rows queries width"]
    weights: Float[Tensor, "rows queries keys"] | None = None
    choice: Choice | None = None
    again: Float[Tensor, "rows queries"] | None = None


@dataclass(frozen=True, eq=False)
class CountedWords:
    """The words that a loss counts: word i stands at `places[i]` of row `rows[i]`; log p of each, without gradients."""

    rows: Int[Tensor, " words"]
    places: Int[Tensor, " words"]
    likelihoods: Callable[[], Float[Tensor, " words"]]


class Looking(nn.Module):
    """What makes the looks of a decoder: called with queries, the sources, the number of the first query's step, and
    whether weights are asked for."""

    fixed = False
    """Whether contexts are the same whatever the query."""

    taught = False
    """Whether a lesson of its own is added to the words' loss."""

    def lesson(self, look: Look, words: CountedWords) -> Float[Tensor, ""]:
        """Give what is added to the words' loss while training: by default nothing."""
        return look.context.new_zeros(())


class LastState(Looking):
    """No attention: every context is the encoder's last state, that of both directions."""

    fixed = True

    def forward(self, query: Float[Tensor, "rows queries width"], source: Source, first: int, see: bool) -> Look:
        """Look at nothing."""
        return Look(source.last[:, None].expand_as(query))


class SoftLook(Looking):
    """Contexts by global attention, or by a window that each query predicts."""

    def __init__(self, attention: Contexts) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, query: Float[Tensor, "rows queries width"], source: Source, first: int, see: bool) -> Look:
        """Give the contexts."""
        given = self.given(source, first)
        if not see:
            return Look(self.attention(query, source.memory, **given))
        context, seen = self.attention.with_map(query, source.memory, **given)
        return Look(context, seen.dense().squeeze(1))

    def given(self, source: Source, first: int) -> dict[str, Any]:
        """What the attention is told beside query and memory."""
        return {"mask": source.mask}


class MonotonicLook(SoftLook):
    """Contexts by a window that moves along with the steps."""

    def given(self, source: Source, first: int) -> dict[str, Any]:
        """What the attention is told beside query and memory."""
        return {"mask": source.mask, "position": first}


class AdditiveLook(Looking):
    """Contexts by Bahdanau's attention; U h is computed once for a source."""

    def __init__(self, attention: Bahdanau) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, query: Float[Tensor, "rows queries width"], source: Source, first: int, see: bool) -> Look:
        """Give the contexts."""
        if source.annotations is None:
            source.annotations = self.attention.read(source.memory, keys=source.lengths if source.padded else None)
        if not see:
            return Look(source.annotations(query))
        context, seen = source.annotations.with_map(query)
        return Look(context, seen.dense().squeeze(1))


class HardLook(Looking):
    """One place of the memory for each query: drawn while training, the likeliest after."""

    taught = True

    def __init__(self, attention: HardAttention, baseline: MovingBaseline, entropy: float) -> None:
        super().__init__()
        self.attention, self.baseline, self.entropy = attention, baseline, entropy

    def forward(self, query: Float[Tensor, "rows queries width"], source: Source, first: int, see: bool) -> Look:
        """Give the contexts, and what was chosen."""
        context, choice = self.attention(query, source.memory, mask=source.mask, sample=self.training)
        return Look(context, choice.map.dense().squeeze(1) if see else None, choice)

    def lesson(self, look: Look, words: CountedWords) -> Float[Tensor, ""]:
        """Give REINFORCE's loss, summed over the words; the baseline then learns from the sentences' rewards."""
        choice, found = cast(Choice, look.choice), words.likelihoods()
        counts = torch.bincount(words.rows, minlength=len(choice.index))
        rewards = found.new_zeros(len(counts)).index_add(0, words.rows, found) / counts.clamp(min=1)
        parts = {name: getattr(choice, name)[words.rows, words.places] for name in ("index", "log_prob", "entropy")}
        expected = self.baseline.value.clone()
        loss = reinforce(replace(choice, **parts), rewards[words.rows], expected, entropy=self.entropy)
        self.baseline.update(rewards[counts > 0])
        return loss * len(words.rows)


class CoverageLook(Looking):
    """Contexts by an attention that knows what was read before, and pays `weight` for reading it again."""

    taught = True

    def __init__(self, attention: Coverage, weight: float) -> None:
        super().__init__()
        self.attention, self.weight = attention, weight

    def forward(self, query: Float[Tensor, "rows queries width"], source: Source, first: int, see: bool) -> Look:
        """Give the contexts, and what they cost."""
        context, covered = self.attention(query, source.memory, mask=source.mask, coverage=source.coverage)
        source.coverage = covered.coverage
        return Look(context, covered.weights, again=covered.loss)

    def lesson(self, look: Look, words: CountedWords) -> Float[Tensor, ""]:
        """Give what the words read once more, summed."""
        return self.weight * cast(Tensor, look.again)[words.rows, words.places].sum()


Attention: TypeAlias = Callable[[int], Looking]
"""What makes the attention of a model of some width: one of those below, or any function that gives such a module."""

OfWidth: TypeAlias = Score | Callable[[int], Score]
"""A score, or what makes one of the width of query and key."""


@dataclass(frozen=True)
class GeneralScore:
    """Makes Luong's "general" score, qᵀ W k."""

    def __call__(self, width: int) -> Bilinear:
        """Make one."""
        return Bilinear(width, width)


@dataclass(frozen=True)
class ConcatScore:
    """Makes Luong's "concat" score, v · tanh(W [q; k]); as wide inside as the query unless told."""

    hidden: int | None = None

    def __call__(self, width: int) -> Concat:
        """Make one."""
        return Concat(width, width, width if self.hidden is None else self.hidden)


@dataclass(frozen=True)
class LocationScore:
    """Makes Luong's "location" score for sources of at most so many tokens."""

    longest: int

    def __call__(self, width: int) -> Location:
        """Make one."""
        return Location(width, self.longest)


@dataclass(frozen=True)
class NoAttention:
    """No attention: the encoder's last state is all that a decoder gets.

    Paper: Cho et al. 2014, arXiv:1406.1078; Sutskever et al. 2014, arXiv:1409.3215.
    """

    def __call__(self, width: int) -> LastState:
        """Make it."""
        return LastState()


@dataclass(frozen=True)
class AdditiveAttention:
    """Bahdanau's attention; as wide inside as the model unless told.

    Paper: Bahdanau et al. 2015, arXiv:1409.0473.
    """

    hidden: int | None = None

    def __call__(self, width: int) -> AdditiveLook:
        """Make it."""
        return AdditiveLook(Bahdanau(width, width, width if self.hidden is None else self.hidden))


@dataclass(frozen=True)
class LuongAttention:
    """Global attention by a score: `dot()`, `GeneralScore()`, `ConcatScore()`, `LocationScore(longest)` or any other.

    Paper: Luong et al. 2015, arXiv:1508.04025, section 3.1.
    """

    score: OfWidth = GeneralScore()

    def __call__(self, width: int) -> SoftLook:
        """Make it."""
        return SoftLook(GlobalAttention(_score(self.score, width)))


@dataclass(frozen=True)
class LocalM:
    """Attention to a window that moves along, `reach` to each side of the step.

    Paper: Luong et al. 2015, arXiv:1508.04025, section 3.2 ("local-m").
    """

    reach: int = 10
    score: OfWidth = GeneralScore()

    def __call__(self, width: int) -> MonotonicLook:
        """Make it."""
        return MonotonicLook(LocalMonotonic(_score(self.score, width), self.reach))


@dataclass(frozen=True)
class LocalP:
    """Attention to a window of `reach` to each side of a place that the state predicts.

    Paper: Luong et al. 2015, arXiv:1508.04025, section 3.2 ("local-p").
    """

    reach: int = 10
    score: OfWidth = GeneralScore()

    def __call__(self, width: int) -> SoftLook:
        """Make it."""
        return SoftLook(LocalPredictive(width, _score(self.score, width), self.reach))


@dataclass(frozen=True)
class SampledAttention:
    """One place a step, learned by REINFORCE: the reward is a sentence's mean log-likelihood, less a moving baseline.

    Paper: Xu et al. 2015, arXiv:1502.03044, section 4.1.
    """

    score: OfWidth = GeneralScore()
    entropy: float = 0.01
    decay: float = 0.9

    def __call__(self, width: int) -> HardLook:
        """Make it."""
        check_number("SampledAttention", "entropy", self.entropy, "a finite number")
        return HardLook(HardAttention(_score(self.score, width)), MovingBaseline(self.decay), self.entropy)


@dataclass(frozen=True)
class CoverageAttention:
    """Additive attention with coverage; `weight` is that of its loss beside the words'.

    Paper: See et al. 2017, arXiv:1704.04368.
    """

    hidden: int | None = None
    weight: float = 1.0

    def __call__(self, width: int) -> CoverageLook:
        """Make it."""
        check_number("CoverageAttention", "weight", self.weight, "a finite number")
        return CoverageLook(Coverage(width, width, width if self.hidden is None else self.hidden), self.weight)


def _score(score: OfWidth, width: int) -> Score:
    return score if hasattr(score, "prepare") else score(width)  # type: ignore[return-value]
