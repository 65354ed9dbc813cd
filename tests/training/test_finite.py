"""What is no number is refused with its step and its batch."""

import math

import pytest
import torch

from qkv.errors import TrainingError
from qkv.training.finite import check_losses, check_norm, check_validation

END = "; the newest checkpoint is the last good one: a smaller rate may help)"


def text_of(call, *arguments):
    with pytest.raises(TrainingError) as refused:
        call(*arguments)
    return str(refused.value)


def test_a_loss_is_traced_to_its_batch():
    check_losses(torch.ones(2, 3), 5, 60)
    losses = torch.ones(2, 3)
    losses[1, 2] = math.inf
    # Rank 1 of 2 reads batch 60 + 2 · 2 + 1 as its third.
    text = text_of(check_losses, losses, 5, 60)
    assert text == "train: loss must be finite; got inf (at step 5, in batch 65" + END


def test_gradients_and_validation():
    check_norm(3.0, 1, range(4))
    check_validation(0.0, 1)
    text = "train: the gradients' norm must be finite; got nan (at step 2, in "
    assert text_of(check_norm, math.nan, 2, range(4, 8)) == text + "batches 4 to 7" + END
    assert text_of(check_norm, math.nan, 2, range(4, 5)) == text + "batch 4" + END
    expected = "train: the validation loss must be finite; got inf (at step 3, in the validation data" + END
    assert text_of(check_validation, math.inf, 3) == expected


def test_a_caller_catches_what_python_would_raise():
    assert issubclass(TrainingError, RuntimeError)
