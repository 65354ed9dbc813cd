"""Top-k: softmax over the k best keys of each row."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from qkv.core.card import Card
from qkv.core.checks import check_whole
from qkv.core.types import Selection, Summary
from qkv.selections.soft import exp_above, level


@dataclass(frozen=True)
class TopK(Selection):
    """Softmax over the k best. The summary: the k-th score, the last key let in at that score, their logsumexp."""

    # A score computed again may miss the k-th by its last bit.
    keeps = False

    k: int

    def summary(self, scores: Float[Tensor, "*lead rows keys"]) -> Summary:
        k = min(self.k, scores.shape[-1])
        if k == 0:
            empty = scores.new_full(scores.shape[:-1], -torch.inf)
            return empty, torch.zeros_like(empty, dtype=torch.long), empty, torch.zeros_like(empty)
        # A stable sort leaves equal scores in the order of their keys, so a tie goes to the lower key.
        down = scores.sort(dim=-1, descending=True, stable=True)
        best, place = down.values[..., :k], down.indices[..., :k]
        least = best[..., -1].detach()
        last = torch.where(best == least[..., None], place, -1).amax(-1)
        return least, last, *level(best)

    def read(self, scores: Tensor, columns: Tensor) -> tuple[Tensor, Summary]:
        least, last, *rest = self.summary(scores)
        summary = least, columns[last] if columns.numel() else last, *rest
        return self.weights(scores, summary, columns), summary

    def weights(self, scores: Tensor, summary: Summary, columns: Tensor) -> Tensor:
        least, last, peak, rest = summary
        least, last = least[..., None], last[..., None]
        chosen = (scores > least) | ((scores == least) & (columns <= last))
        return exp_above(torch.where(chosen, scores, -torch.inf), peak, rest)

    def __repr__(self) -> str:
        return f"topk({self.k})"


def topk(k: int) -> TopK:
    """Weigh the k best keys of each row by softmax, the others by exactly 0; a tie goes to the lower key.

    Paper: Gupta et al. 2021, arXiv:2106.06899.
    Cost: O(queries·keys·log keys) time (a sort).
    Raises: KindError, ArgumentError if k is not an integer of at least 1.
    """
    check_whole("topk", "k", k, 1)
    return TopK(k)


CARDS = (
    Card(
        name="top-k",
        kind="selection",
        equation="softmax over the k best",
        paper="Gupta et al. 2021, arXiv:2106.06899",
        cost="a sort of each row",
        build=lambda: topk(3),
    ),
)
