"""Hard selection: one key takes all, the gradient passes straight through the softmax."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from qkv.core.card import Card
from qkv.core.types import Selection, Summary
from qkv.errors import KindError, must
from qkv.selections.soft import exp_above, level


@dataclass(frozen=True)
class Hard(Selection):
    """One key takes weight 1. The summary: the row's logsumexp, in two parts, and the key chosen."""

    sample: bool = False

    @property
    def by_chance(self) -> bool:  # type: ignore[override]
        return self.sample

    def summary(self, scores: Float[Tensor, "*lead rows keys"]) -> Summary:
        peak, rest = level(scores)
        if scores.shape[-1] == 0:
            return peak, rest, torch.zeros_like(rest, dtype=torch.long)
        heard = scores.detach()
        if self.sample:
            # The largest of score + Gumbel noise is a draw from the softmax.
            heard = heard - torch.empty_like(heard).exponential_().log()
        return peak, rest, heard.argmax(-1)

    def read(self, scores: Tensor, columns: Tensor) -> tuple[Tensor, Summary]:
        peak, rest, chosen = self.summary(scores)
        summary = peak, rest, columns[chosen] if columns.numel() else chosen
        return self.weights(scores, summary, columns), summary

    def refresh(self, scores: Tensor, summary: Summary) -> Summary:
        return *level(scores), summary[-1]

    def weights(self, scores: Tensor, summary: Summary, columns: Tensor) -> Tensor:
        peak, rest, chosen = summary
        soft = exp_above(scores, peak, rest)
        one = (columns == chosen[..., None]) & (scores > -torch.inf)
        return one + (soft - soft.detach())

    def __repr__(self) -> str:
        return f"hard(sample={self.sample})"


def hard(*, sample: bool = False) -> Hard:
    """Give all weight to the best key, or to one drawn from the softmax; backward as if it were the softmax.

    For REINFORCE, with the choice's log-probability and entropy, use `qkv.HardAttention`.

    Paper: Bengio et al. 2013, arXiv:1308.3432 (straight-through); Xu et al. 2015, arXiv:1502.03044 (hard attention).
    Cost: O(queries·keys) time.
    Raises: KindError if sample is not a bool.
    """
    if not isinstance(sample, bool):
        raise KindError(must("hard", "sample", "be True or False", sample))
    return Hard(sample)


CARDS = (
    Card(
        name="hard",
        kind="selection",
        equation="1 at argmax s, or at j ~ softmax(s)",
        paper="Xu et al. 2015, arXiv:1502.03044",
        cost="one exp a pair",
        build=hard,
    ),
)
