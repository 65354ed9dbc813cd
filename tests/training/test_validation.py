"""The loss on validation data, on one rank; several are in test_ranks."""

import pytest
import torch
from tiny import Numbers, TinyTask
from torch.nn import functional as F

from qkv.training.devices import Objective, accelerator_for
from qkv.training.validation import validation_loss


def test_it_is_the_sum_of_losses_over_the_sum_of_targets():
    task = TinyTask()
    task.model.eval()
    batches = [task.validation[number] for number in range(3)]
    tokens, targets = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("tokens", "targets"))
    assert len({len(batch.targets) for batch in batches}) > 1
    expected = F.cross_entropy(task.model(tokens), targets).item()
    found = validation_loss(Objective(task), task.validation, accelerator_for("float32"), seed=0)
    assert found == pytest.approx(expected, rel=1e-6)


def test_chance_is_the_same_each_time_and_nothing_is_learned():
    task = TinyTask()
    task.model.train()
    before = {name: tensor.clone() for name, tensor in task.model.named_parameters()}
    given = (Objective(task), task.validation, accelerator_for("float32"))
    assert validation_loss(*given, seed=3) == validation_loss(*given, seed=3) != validation_loss(*given, seed=4)
    assert all(torch.equal(tensor, before[name]) for name, tensor in task.model.named_parameters())
    assert all(tensor.grad is None for tensor in task.model.parameters())


def test_no_batches_are_no_loss():
    task = TinyTask()
    assert validation_loss(Objective(task), Numbers(0), accelerator_for("float32"), seed=0) == 0
