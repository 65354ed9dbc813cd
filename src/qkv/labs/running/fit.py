"""The training that labs share: Adam on batches that are drawn anew each step."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.nn import Parameter

from qkv.labs.lab import Progress


def fit(
    parameters: Iterable[Parameter],
    loss: Callable[[int], Tensor],
    *,
    steps: int,
    rate: float,
    warm_up: int = 0,
    cool_down: int = 0,
    clip: float | None = 1.0,
    progress: Progress,
    doing: str,
) -> list[float]:
    """Descend on `loss(step)` with Adam; give the losses.

    The rate rises over the first `warm_up` steps, stays, and falls towards zero over the last `cool_down`.
    """
    chosen = list(parameters)
    optimizer = torch.optim.Adam(chosen, rate)
    losses = []
    for step in progress.over(range(steps), doing):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / max(1, warm_up), (steps - step) / max(1, cool_down))
        value = loss(step)
        optimizer.zero_grad()
        value.backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(chosen, clip)
        optimizer.step()
        losses.append(float(value.detach()))
    return losses
