"""The devices a model trains on, as accelerate finds them."""

from typing import Any

import torch
from torch import Tensor, nn

from qkv.errors import UnsupportedError, must
from qkv.training.task import Task


def accelerator_for(precision: str) -> Any:
    """Give accelerate's Accelerator for what the process was launched as: one device, DDP or FSDP2.

    Raises: UnsupportedError if it was launched as something else.
    """
    from accelerate import Accelerator  # type: ignore[import-untyped]
    from accelerate.state import AcceleratorState  # type: ignore[import-untyped]
    from accelerate.utils import (  # type: ignore[import-untyped]
        DistributedDataParallelKwargs,
        DistributedType,
        GradientAccumulationPlugin,
    )

    mixed = {"float32": "no", "bf16": "bf16"}[precision]
    # Its state is the process's, with one precision for all trainings.
    if AcceleratorState._shared_state.get("_mixed_precision", mixed) != mixed:
        AcceleratorState._reset_state()
    accelerator = Accelerator(
        # Several ranks on CPUs are seen only if it is told; launched so, it would take each for the only one.
        cpu=not torch.accelerator.is_available(),
        mixed_precision=mixed,
        # The plugin, as a number would give way to the launcher's: we weigh micro-batches by their targets.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        # A head that a task does not train has no gradient.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    kind = accelerator.distributed_type
    if kind in (DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM, DistributedType.XLA) or (
        kind == DistributedType.FSDP and not accelerator.is_fsdp2
    ):
        rule = "be launched for one device, DDP or FSDP2"
        raise UnsupportedError(must("train", "accelerate", rule, kind.value, "--use_fsdp --fsdp_version 2"))
    return accelerator


def leave_group() -> None:
    """Leave the other ranks, before the interpreter ends: a thread of theirs that outlives it aborts the process."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


class Objective(nn.Module):
    """A task's losses by name, "loss" first, as a module: what DDP and FSDP2 wrap."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.model = task.model
        self._task = task

    def forward(self, batch: Any) -> tuple[dict[str, Tensor], int]:
        loss, count = self._task.loss(batch)
        return loss if isinstance(loss, dict) else {"loss": loss}, count
