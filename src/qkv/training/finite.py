"""Losses and gradients that are no numbers any more end a training before they reach its weights."""

import math

from torch import Tensor

from qkv.errors import TrainingError, must


def check_losses(losses: Tensor, step: int, position: int) -> None:
    """Raise TrainingError, naming step and batch, unless the losses [ranks, micro-batches] of a step are finite."""
    for rank, micro in (~losses.isfinite()).nonzero().tolist():
        batch = position + micro * len(losses) + rank
        raise _not_finite("loss", losses[rank, micro].item(), step, f"batch {batch}")


def check_norm(norm: float, step: int, batches: range) -> None:
    """Raise TrainingError, naming step and batches, unless the norm of a step's gradients is finite."""
    if not math.isfinite(norm):
        which = f"batch {batches[0]}" if len(batches) == 1 else f"batches {batches[0]} to {batches[-1]}"
        raise _not_finite("the gradients' norm", norm, step, which)


def check_validation(loss: float, step: int) -> None:
    """Raise TrainingError, naming the step, unless a validation loss is finite."""
    if not math.isfinite(loss):
        raise _not_finite("the validation loss", loss, step, "the validation data")


def _not_finite(what: str, got: float, step: int, where: str) -> TrainingError:
    fix = f"at step {step}, in {where}; the newest checkpoint is the last good one: a smaller rate may help"
    return TrainingError(must("train", what, "be finite", got, fix))
