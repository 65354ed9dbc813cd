"""The loss on validation data, over all ranks."""

from typing import Any

import torch
from torch import nn

from qkv.training.randomness import seed_for
from qkv.training.task import Batches


@torch.no_grad()
def validation_loss(model: nn.Module, batches: Batches, accelerator: Any, seed: int) -> float:
    """Average the losses of all batches over their targets; 0 if there are none. Every rank must call it."""
    total = torch.zeros(2, device=accelerator.device)
    for start in range(0, len(batches), accelerator.num_processes):
        place = start + accelerator.process_index
        seed_for(seed, place)
        # Sharded models need all ranks in every forward pass: one without a batch reads the last, for nothing.
        parts, count = model(batches[min(place, len(batches) - 1)].to(accelerator.device))
        loss = torch.stack(list(parts.values())).sum()
        if place < len(batches):
            total += torch.stack([loss.float(), torch.full_like(loss, count, dtype=torch.float32)])
    losses, targets = accelerator.reduce(total).tolist()
    return losses / max(targets, 1)
