"""Softmax: every key gets a share."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from qkv.core.card import Card
from qkv.core.types import Selection, Summary


def level(scores: Float[Tensor, "*lead rows keys"]) -> tuple[Float[Tensor, "*lead rows"], Float[Tensor, "*lead rows"]]:
    """Give the peak (largest score) of each row and log Σ exp(score − peak); −inf and 0 for a row without a key.

    Their sum is the logsumexp. Apart they keep what it would round away: next to 10,000 a float32 tells 0.001.
    """
    if scores.shape[-1] == 0:
        return scores.new_full(scores.shape[:-1], -torch.inf), scores.new_zeros(scores.shape[:-1])
    peak = scores.detach().amax(-1)
    # Not `peak > -inf`: a row that holds a NaN is alive, and becomes NaN.
    total = below(scores, peak).exp().sum(-1)
    return peak, torch.where(peak != -torch.inf, total, 1).log()


def below(scores: Float[Tensor, "*lead rows columns"], peak: Float[Tensor, "*lead2 rows"]) -> Tensor:
    """Give score − peak; a row without a key, whose peak is −inf, keeps its scores."""
    return scores - torch.where(peak != -torch.inf, peak, 0)[..., None]


def exp_above(
    scores: Float[Tensor, "*lead rows columns"], peak: Float[Tensor, "*lead2 rows"], rest: Float[Tensor, "*lead3 rows"]
) -> Float[Tensor, "*lead rows columns"]:
    """Give exp(score − peak − rest), 0 in a row without a key."""
    return (below(scores, peak) - rest[..., None]).exp()


@dataclass(frozen=True)
class Softmax(Selection):
    """exp(score), divided by the row's sum. The summary is the row's logsumexp, in two parts."""

    def summary(self, scores: Tensor) -> Summary:
        return level(scores)

    def weights(self, scores: Tensor, summary: Summary, columns: Tensor) -> Tensor:
        return exp_above(scores, *summary)

    def read(self, scores: Tensor, columns: Tensor) -> tuple[Tensor, Summary]:
        if scores.shape[-1] == 0:
            return super().read(scores, columns)
        peak = scores.detach().amax(-1)
        shares = below(scores, peak).exp()
        total = shares.sum(-1)
        total = torch.where(peak != -torch.inf, total, 1)
        weights = shares / total[..., None] if shares.requires_grad else shares.div_(total[..., None])
        return weights, (peak, total.log())

    def logsumexp(self, summary: Summary) -> Tensor:
        peak, rest = summary
        return peak + rest

    def __repr__(self) -> str:
        return "softmax()"


def softmax() -> Softmax:
    """Weigh every key by exp(score), divided by the row's sum ("soft" attention).

    Paper: Bahdanau et al. 2015, arXiv:1409.0473, equation 6.
    Cost: O(queries·keys) time.
    """
    return Softmax()


CARDS = (
    Card(
        name="softmax",
        kind="selection",
        equation="exp(sⱼ) / Σ exp(s)",
        paper="Bahdanau et al. 2015, arXiv:1409.0473",
        cost="one exp a pair",
        build=softmax,
    ),
)
