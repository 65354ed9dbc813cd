"""Softmax: every key gets a share."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from qkv.core.card import Card
from qkv.core.types import Selection, Summary


def logsumexp(scores: Float[Tensor, "*lead rows keys"]) -> Float[Tensor, "*lead rows"]:
    """Give log Σ exp(score) of each row, −inf for a row without a key, with finite gradients there."""
    if scores.shape[-1] == 0:
        return scores.new_full(scores.shape[:-1], -torch.inf)
    largest = scores.detach().amax(-1)
    alive = largest > -torch.inf
    largest = torch.where(alive, largest, 0)
    total = (scores - largest[..., None]).exp().sum(-1)
    return torch.where(alive, torch.where(alive, total, 1).log() + largest, -torch.inf)


def exp_above(
    scores: Float[Tensor, "*lead rows columns"], level: Float[Tensor, "*lead2 rows"]
) -> Float[Tensor, "*lead rows columns"]:
    """Give exp(score − level), 0 where the level is −inf (a row without a key)."""
    return (scores - torch.where(level > -torch.inf, level, 0)[..., None]).exp()


@dataclass(frozen=True)
class Softmax(Selection):
    """exp(score), divided by the row's sum. The summary is the row's logsumexp."""

    def summary(self, scores: Tensor) -> Summary:
        return (logsumexp(scores),)

    def weights(self, scores: Tensor, summary: Summary, columns: Tensor) -> Tensor:
        return exp_above(scores, summary[0])

    def logsumexp(self, summary: Summary) -> Tensor:
        return summary[0]

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
