"""One head: what the mechanisms on [*batch, positions, width] share, the head's axis and the pairs a mask shows."""

import torch
from jaxtyping import Bool
from torch import Tensor

from qkv.core.checks import check_dense, check_device, check_floats, check_whole
from qkv.core.types import Grid, Mask
from qkv.errors import KindError, ShapeError, must
from qkv.masks.dense import dense_mask


def check_widths(function: str, **widths: int) -> None:
    """Raise KindError or ArgumentError unless every width is an integer of at least 1."""
    for name, width in widths.items():
        check_whole(function, name, width, 1)


def with_head(function: str, **tensors: Tensor) -> list[Tensor]:
    """Check tensors [*batch, positions, width] against the first, and give each the axis of its one head.

    Errors name `function`, and the tensors as they are named here.
    """
    first = next(iter(tensors))
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise KindError(must(function, name, "be a tensor", type(tensor).__name__))
        check_dense(function, name, tensor)
        if tensor.ndim < 2:
            raise ShapeError(must(function, name, "have the shape [*batch, positions, width]", list(tensor.shape)))
        batch = tensors[first].shape[:-2]
        if tensor.shape[:-2] != batch:
            rule = f"have the batch {list(batch)} of the {first}"
            fix = f"{name} is {list(tensor.shape)}"
            raise ShapeError(must(function, name, rule, list(tensor.shape[:-2]), fix))
    return [tensor.unsqueeze(-3) for tensor in tensors.values()]


def check_row(function: str, argument: str, row: Tensor, memory: Tensor) -> None:
    """Raise KindError or ShapeError unless a row holds a number for each position of the memory."""
    check_floats(function, argument, row)
    check_device(function, argument, row, memory)
    if row.shape != memory.shape[:-1]:
        rule = f"have the memory's shape without its width, {list(memory.shape[:-1])}"
        raise ShapeError(must(function, argument, rule, list(row.shape)))


def pairs_seen(
    function: str, query: Tensor, memory: Tensor, mask: Mask | Tensor | None
) -> Bool[Tensor, "*batch queries keys"]:
    """Spell out which positions of the memory each query may see; without a mask, in no memory of its own."""
    *batch, queries, _ = query.shape
    grid = Grid(tuple(batch), 1, queries, memory.shape[-2], query.device)
    if mask is None:
        return torch.ones((), dtype=torch.bool, device=grid.device).expand(*batch, queries, grid.keys)
    if isinstance(mask, Tensor):
        mask = dense_mask(mask)
    if not hasattr(mask, "tile"):
        rule = "be a boolean tensor or a mask of qkv"
        raise KindError(must(function, "mask", rule, repr(mask), "such as qkv.causal()"))
    mask.check(grid)
    return mask.tile(grid.rows(), grid.columns(), grid).expand(*batch, 1, queries, grid.keys).squeeze(-3)
