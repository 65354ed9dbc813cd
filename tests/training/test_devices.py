"""What accelerate is asked for; other launchers than ours are in test_ranks."""

import pytest
import torch
from tiny import TinyTask

from qkv.training.devices import Objective, accelerator_for, leave_group


@pytest.mark.parametrize("precision", ["float32", "bf16", "float32"])
def test_one_device_in_either_precision(precision):
    accelerator = accelerator_for(precision)
    assert accelerator.num_processes == 1 and accelerator.gradient_accumulation_steps == 1
    assert accelerator.mixed_precision == ("bf16" if precision == "bf16" else "no")


def test_an_objective_is_the_loss_of_its_task():
    task = TinyTask()
    task.model.eval()
    batch = task.batches[0]
    assert torch.equal(Objective(task)(batch)[0]["loss"], task.loss(batch)[0])
    assert dict(Objective(task).named_parameters()).keys() == {f"model.{n}" for n, _ in task.model.named_parameters()}


def test_the_group_is_left():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    leave_group()
    assert not torch.distributed.is_initialized()
    leave_group()
