"""A soft cap around any score."""

from torch import Tensor, nn

from qkv.core.card import Card
from qkv.core.checks import check_number, check_part
from qkv.core.types import CappedPair, Score
from qkv.errors import KindError, must
from qkv.scores.dot import scaled_dot


class SoftCap(nn.Module):
    """Another score, held softly within ±cap. A module, so that a learned score within is found by its parent."""

    def __init__(self, score: Score, cap: float) -> None:
        super().__init__()
        self.score = score
        self.cap = cap

    def check(self, query: Tensor, key: Tensor) -> None:
        """Ask the score within."""
        self.score.check(query, key)

    def pair(self, query_width: int, key_width: int) -> CappedPair:
        """Cap the pair within."""
        return CappedPair(self.score.pair(query_width, key_width), self.cap)

    def prepare(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Ask the score within."""
        return self.score.prepare(query, key)

    def __repr__(self) -> str:
        return f"soft_cap({self.score}, {self.cap:g})"


def soft_cap(score: Score, cap: float) -> SoftCap:
    """Hold a score s within ±cap: cap · tanh(s / cap), before bias and mask.

    Paper: Gemma Team 2024 (Gemma 2), arXiv:2408.00118, section 2.
    Cost: one tanh a pair more.
    Raises: KindError if the score is none; KindError, ArgumentError if the cap is not a finite number > 0.
    """
    if score is None:
        raise KindError(must("soft_cap", "score", "be a score of qkv", None, "such as qkv.scaled_dot()"))
    check_part("soft_cap", "score", score)
    check_number("soft_cap", "cap", cap, "a finite number > 0", above=0.0)
    return SoftCap(score, float(cap))


CARDS = (
    Card(
        name="soft cap",
        kind="score",
        equation="c · tanh(s / c)",
        paper="Gemma Team 2024, arXiv:2408.00118",
        cost="one tanh a pair",
        build=lambda: soft_cap(scaled_dot(), 2.0),
    ),
)
