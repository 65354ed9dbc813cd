"""Sparsemax and entmax-1.5: soft weights, many of them exactly 0."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from qkv.core.card import Card
from qkv.core.types import Selection, Summary
from qkv.selections.soft import below


def _peak(scores: Float[Tensor, "*lead rows keys"]) -> Float[Tensor, "*lead rows"]:
    """Give each row's largest score: thresholds are found below it, so that large scores lose nothing by rounding."""
    return scores.detach().amax(-1) if scores.shape[-1] else scores.new_full(scores.shape[:-1], -torch.inf)


def _sorted(low: Tensor) -> tuple[Tensor, Tensor]:
    """Sort rows downwards; also say which entries are scores, not −inf, for which 0 then stands."""
    down = low.sort(dim=-1, descending=True).values
    here = down != -torch.inf
    return torch.where(here, down, 0), here


@dataclass(frozen=True)
class Sparsemax(Selection):
    """The point of the simplex nearest to the scores: max(score − τ, 0). The summary: the row's peak, and τ − peak."""

    def summary(self, scores: Float[Tensor, "*lead rows keys"]) -> Summary:
        peak = _peak(scores)
        down, here = _sorted(below(scores, peak))
        rank = torch.arange(1, down.shape[-1] + 1, device=down.device, dtype=down.dtype)
        support = here & ~(1 + rank * down <= down.cumsum(-1))
        return peak, (torch.where(support, down, 0).sum(-1) - 1) / support.sum(-1).clamp(min=1)

    def weights(self, scores: Tensor, summary: Summary, columns: Tensor) -> Tensor:
        peak, threshold = summary
        return torch.relu(below(scores, peak) - threshold[..., None])

    def __repr__(self) -> str:
        return "sparsemax()"


@dataclass(frozen=True)
class Entmax15(Selection):
    """max(score/2 − τ, 0)², summing to 1. The summary: the row's peak, and τ − peak/2."""

    def summary(self, scores: Float[Tensor, "*lead rows keys"]) -> Summary:
        peak = _peak(scores)
        halves = below(scores, peak) / 2
        if scores.shape[-1] == 0:
            return peak, torch.zeros_like(peak)
        with torch.no_grad():
            down, here = _sorted(halves)
            rank = torch.arange(1, down.shape[-1] + 1, device=down.device, dtype=down.dtype)
            mean = down.cumsum(-1) / rank
            spread = (down * down).cumsum(-1) - rank * mean * mean
            threshold = mean - ((1 - spread) / rank).clamp(min=0).sqrt()
            size = (here & (threshold <= down)).sum(-1, keepdim=True).clamp(min=1)
            threshold = threshold.gather(-1, size - 1).squeeze(-1)
        # Two Newton steps on Σ max(s − τ, 0)² = 1 from its root: they change nothing but rounding, and give τ its first
        # and second derivatives, which the closed form above has only where its square root is safe to differentiate.
        for _ in range(2):
            above = torch.relu(halves - threshold[..., None])
            slope = 2 * above.sum(-1)
            step = ((above * above).sum(-1) - 1) / torch.where(slope > 0, slope, 1)
            threshold = torch.where(peak != -torch.inf, threshold + step, 0)
        return peak, threshold

    def weights(self, scores: Tensor, summary: Summary, columns: Tensor) -> Tensor:
        peak, threshold = summary
        return torch.relu(below(scores, peak) / 2 - threshold[..., None]).square()

    def __repr__(self) -> str:
        return "entmax15()"


def sparsemax() -> Sparsemax:
    """Weigh keys by the point of the simplex nearest to the scores: low scores get exactly 0.

    Paper: Martins and Astudillo 2016, arXiv:1602.02068.
    Cost: O(queries·keys·log keys) time (a sort).
    """
    return Sparsemax()


def entmax15() -> Entmax15:
    """Weigh keys by the 1.5-entmax, half-way between softmax and sparsemax: low scores get exactly 0.

    Paper: Peters et al. 2019, arXiv:1905.05702; Correia et al. 2019, arXiv:1909.00015.
    Cost: O(queries·keys·log keys) time (a sort).
    """
    return Entmax15()


CARDS = (
    Card(
        name="sparsemax",
        kind="selection",
        equation="max(sⱼ − τ, 0)",
        paper="Martins and Astudillo 2016, arXiv:1602.02068",
        cost="a sort of each row",
        build=sparsemax,
    ),
    Card(
        name="entmax-1.5",
        kind="selection",
        equation="max(sⱼ/2 − τ, 0)²",
        paper="Peters et al. 2019, arXiv:1905.05702",
        cost="a sort of each row",
        build=entmax15,
    ),
)
