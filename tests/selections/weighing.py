"""How a selection weighs whole rows."""

import torch
from torch import Tensor

import qkv


def weigh(select: qkv.Selection, scores: Tensor) -> Tensor:
    """Weigh rows [rows, keys] of one head."""
    scores = scores[None]
    return select.weights(scores, select.summary(scores), torch.arange(scores.shape[-1])).squeeze(0)
