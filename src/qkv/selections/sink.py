"""Softmax with a sink: a learned logit that takes weight and gives nothing."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from qkv.core.card import Card
from qkv.core.checks import check_device, check_floats, check_values
from qkv.core.types import Grid, Selection, Summary
from qkv.errors import ShapeError, must
from qkv.selections.soft import exp_above, level


class Sink(nn.Module, Selection):
    """Softmax whose sum also counts exp(sink). The summary is the logsumexp of the row and its sink, in two parts."""

    logits: Tensor

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        # A plain tensor is a buffer, so that `.to(device)` of whatever holds the sink takes it along.
        if isinstance(logits, nn.Parameter):
            self.logits = logits
        else:
            self.register_buffer("logits", logits, persistent=False)

    def check(self, grid: Grid) -> None:
        """Raise ShapeError unless there is one sink, or one for each head; KindError if they are elsewhere."""
        if self.logits.ndim == 1 and self.logits.shape[0] not in (1, grid.heads):
            rule = f"hold one number, or one for each of the {grid.heads} heads"
            raise ShapeError(must("sink", "logits", rule, list(self.logits.shape)))
        check_device("sink", "logits", self.logits, grid)

    def summary(self, scores: Tensor) -> Summary:
        peak, rest = level(scores)
        alive = peak != -torch.inf
        sink = self.logits.to(scores.dtype).reshape(-1, 1) - torch.where(alive, peak, 0)
        return peak, torch.where(alive, torch.logaddexp(rest, sink), 0)

    def weights(self, scores: Tensor, summary: Summary, columns: Tensor) -> Tensor:
        return exp_above(scores, *summary)

    def head(self, head: int) -> "Sink":
        return self if self.logits.numel() == 1 else Sink(self.logits[head])

    def extra_repr(self) -> str:
        return f"logits={list(self.logits.shape)}"


def sink(logits: Float[Tensor, "*heads"]) -> Sink:
    """Let a row keep weight to itself: exp(score) / (Σ exp(score) + exp(sink)), one sink for all heads or one for each.

    Paper: Xiao et al. 2023, arXiv:2309.17453; a learned logit a head: Miller 2023 ("Attention is off by one").
    Cost: O(queries·keys) time.
    Raises: KindError, ShapeError, ArgumentError unless the logits are a finite floating tensor [] or [heads].
    """
    check_floats("sink", "logits", logits, "torch.zeros(heads)")
    if logits.ndim > 1:
        raise ShapeError(must("sink", "logits", "have the shape [] or [heads]", list(logits.shape)))
    check_values("sink", "logits", logits, "finite")
    return Sink(logits)


CARDS = (
    Card(
        name="softmax with a sink",
        kind="selection",
        equation="exp(sⱼ) / (Σ exp(s) + exp(sink))",
        paper="Xiao et al. 2023, arXiv:2309.17453",
        cost="one exp a pair",
        build=lambda: sink(torch.tensor([0.5, -0.5])),
    ),
)
