"""What a training holds in tensors, by name and whole, however many devices it is sharded over: weights, AdamW's state.

A name says which parameter a tensor belongs to, so a checkpoint does not depend on the number of ranks.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from qkv.folders import file_error
from qkv.training.task import Task


def adamw(model: nn.Module, weight_decay: float, betas: tuple[float, float]) -> Optimizer:
    """Make AdamW. Matrices decay; biases, norms and other vectors do not.

    Paper: Loshchilov and Hutter 2019, arXiv:1711.05101.
    """
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in learned if parameter.ndim >= 2], "weight_decay": weight_decay},
        {"params": [parameter for parameter in learned if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    return AdamW([group for group in groups if group["params"]], betas=betas, fused=True)


def weights_of(model: nn.Module, *, keep: bool = True) -> dict[str, Tensor]:
    """Give the weights on the CPU; a tied one once. Every rank must call it, those that do not keep get none."""
    tied = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    tied -= {name for name, _ in model.named_parameters()}
    return _gathered(((name, value) for name, value in model.state_dict().items() if name not in tied), keep)


def load_weights(model: nn.Module, weights: dict[str, Tensor], file: Path) -> None:
    """Load weights, read from a file, into a model that is not yet sharded.

    Raises: FileError, naming the file, if they are another model's: names, shapes or dtypes differ.
    """
    wanted = weights_of(model)
    problems = [f"unknown {name}" for name in weights if name not in wanted]
    problems += [f"missing {name}" for name in wanted if name not in weights]
    for name in wanted.keys() & weights.keys():
        ours, theirs = _said(wanted[name]), _said(weights[name])
        if ours != theirs:
            problems.append(f"{name} {theirs}, not {ours}")
    if problems:
        shown = "; ".join(sorted(problems)[:10]) + (f"; and {len(problems) - 10} more" if len(problems) > 10 else "")
        raise file_error("load_weights", file, "hold the weights of this model", shown)
    model.load_state_dict(weights, strict=False)


def optimizer_state(model: nn.Module, optimizer: Optimizer, *, keep: bool = True) -> dict[str, Tensor]:
    """Give the optimiser's tensors on the CPU, as `parameter/what`. Every rank must call it, as `weights_of`."""
    found = (
        (f"{name}/{what}", value)
        for name, parameter in model.named_parameters()
        for what, value in optimizer.state.get(parameter, {}).items()
    )
    return _gathered(found, keep)


def load_optimizer_state(model: nn.Module, optimizer: Optimizer, tensors: dict[str, Tensor], file: Path) -> None:
    """Load what `optimizer_state` gave, read from a file, into an optimiser; its parameters may be sharded.

    Raises: FileError, naming the file, if it is another model's.
    """
    parameters = dict(model.named_parameters())
    state: dict[nn.Parameter, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, _, what = key.rpartition("/")
        parameter = parameters.get(name)
        if parameter is None or value.shape not in (parameter.shape, torch.Size()):
            raise file_error("load_optimizer_state", file, "hold the state of this model", f"{key} {_said(value)}")
        state.setdefault(parameter, {})[what] = _placed(value, parameter)
    packed = optimizer.state_dict()
    places = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    packed["state"] = {place: state[parameter] for place, parameter in enumerate(places) if parameter in state}
    optimizer.load_state_dict(packed)


@contextmanager
def whole_model(task: Task, copy: nn.Module | None, accelerator: Any) -> Iterator[None]:
    """Let a task see its model whole on the main rank: if it is sharded, as the copy, with its weights of now."""
    sharded = task.model
    if accelerator.is_fsdp2:
        weights = weights_of(sharded, keep=copy is not None)
        if copy is not None:
            copy.load_state_dict(weights, strict=False)
            task.model = copy.eval()
    try:
        yield
    finally:
        task.model = sharded


def whole(tensor: Tensor) -> Tensor:
    """Give a tensor that is sharded over ranks as one; every rank must call it."""
    gather: Any = getattr(tensor, "full_tensor", None)
    return gather() if gather else tensor


def _gathered(tensors: Iterable[tuple[str, Tensor]], keep: bool) -> dict[str, Tensor]:
    kept = {}
    for name, tensor in tensors:
        value = whole(tensor.detach())
        if keep:
            kept[name] = value.cpu()
    return kept


def _placed(value: Tensor, like: Any) -> Tensor:
    """Shard a tensor as another is; a number, the steps taken, is the same on every rank."""
    if value.ndim == 0 or not hasattr(like, "placements"):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)


def _said(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
