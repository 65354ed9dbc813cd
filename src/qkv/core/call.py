"""One call of attention: what was asked for, checked, before any work."""

import contextlib
from dataclasses import dataclass, field

import torch
from torch import Tensor

from qkv.core.checks import autocasts, check_floats, check_rate
from qkv.core.types import FLOATS, Bias, Grid, Mask, Pair, Score, Selection
from qkv.errors import KindError, ShapeError, must


@dataclass(eq=False, slots=True)
class Call:
    """The inputs and choices of one call, checked against each other. Not frozen only because that costs time."""

    query: Tensor
    key: Tensor
    value: Tensor
    score: Score
    bias: Bias | None
    mask: Mask | None
    select: Selection
    dropout: float
    grid: Grid
    pair: Pair
    planned: object = field(default=None, init=False)
    """What a path planned when it was asked whether it is worth it, so that it need not plan again to run."""

    @property
    def group(self) -> int:
        """How many query heads share a key head."""
        return self.grid.heads // max(1, self.key.shape[-3])

    @property
    def needs_gradient(self) -> bool:
        """Whether query, key or value wants a gradient."""
        wants = self.query.requires_grad or self.key.requires_grad or self.value.requires_grad
        return wants and torch.is_grad_enabled()


def make_call(
    function: str,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    score: Score,
    bias: Bias | None,
    mask: Mask | None,
    select: Selection,
    dropout: float,
) -> Call:
    """Check everything that can be checked without work, and put it together. Errors name `function`."""
    check_rate(function, "dropout", dropout)
    if _alike(query, key, value):
        # The common case, told at once.
        if autocasts(query.device):
            query, key, value = cast_as_autocast(query, key, value)
    else:
        check_floating(function, query, key, value)
        query, key, value = cast_as_autocast(query, key, value)
        check_fit(function, query, key, value)
    shape, key_shape = query.shape, key.shape
    grid = Grid(tuple(shape[:-3]), shape[-3], shape[-2], key_shape[-2], query.device)
    score.check(query, key)
    if bias is not None:
        bias.check(grid)
    if mask is not None:
        mask.check(grid)
    select.check(grid)
    pair = score.pair(shape[-1], key_shape[-1])
    return Call(query, key, value, score, bias, mask, select, dropout, grid, pair)


def _alike(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Say whether these are dense floating tensors of one kind that fit together, each head with keys of its own."""
    return (
        isinstance(query, Tensor)
        and isinstance(key, Tensor)
        and isinstance(value, Tensor)
        and not (query.is_nested or key.is_nested or value.is_nested)
        and query.layout is key.layout is value.layout is torch.strided
        and query.dtype is key.dtype is value.dtype
        and query.dtype in FLOATS
        and query.device == key.device == value.device
        and query.ndim > 2
        and (query.shape == key.shape or query.shape[:-2] == key.shape[:-2])
        and (key.shape == value.shape or key.shape[:-1] == value.shape[:-1])
    )


def check_floating(function: str, query: Tensor, key: Tensor, value: Tensor) -> None:
    """Raise unless query, key and value are floating tensors with heads and positions."""
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        check_input(function, name, tensor)


def check_input(function: str, name: str, tensor: Tensor) -> None:
    """Raise unless it is a floating tensor with heads and positions."""
    if not isinstance(tensor, Tensor):
        raise KindError(must(function, name, "be a tensor", type(tensor).__name__))
    check_floats(function, name, tensor, f"{name}.float()")
    if tensor.ndim < 3:
        fix = f"one head: {name}.unsqueeze(-3)" if tensor.ndim == 2 else "positions and heads: view(1, 1, dim)"
        raise ShapeError(must(function, name, "have the shape [*batch, heads, positions, dim]", _list(tensor), fix))


def check_fit(function: str, query: Tensor, key: Tensor, value: Tensor) -> None:
    """Raise unless key and value fit the query and each other."""
    for name, tensor in (("key", key), ("value", value)):
        if tensor.device != query.device:
            raise KindError(must(function, name, f"be on the query's device {query.device}", tensor.device))
        if tensor.dtype != query.dtype:
            fix = f"{name}.to(query.dtype)"
            raise KindError(must(function, name, f"have the query's dtype {query.dtype}", tensor.dtype, fix))
        if tensor.shape[:-3] != query.shape[:-3]:
            rule = f"have the query's batch {list(query.shape[:-3])}"
            raise ShapeError(must(function, name, rule, list(tensor.shape[:-3]), f"{name} is {_list(tensor)}"))
    if key.shape[-3] != value.shape[-3]:
        rule = f"have the key's {key.shape[-3]} heads"
        raise ShapeError(must(function, "value", rule, value.shape[-3], f"value is {_list(value)}"))
    if key.shape[-2] != value.shape[-2]:
        rule = f"have the key's {key.shape[-2]} positions"
        raise ShapeError(must(function, "value", rule, value.shape[-2], f"value is {_list(value)}"))
    if key.shape[-3] != query.shape[-3] and (key.shape[-3] == 0 or query.shape[-3] % key.shape[-3]):
        rule = f"divide the query's {query.shape[-3]} heads"
        raise ShapeError(must(function, "the key's heads", rule, key.shape[-3], f"key is {_list(key)}"))


def cast_as_autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Cast as torch casts the inputs of its own attention: to autocast's dtype, float64 excepted."""
    if not autocasts(tensors[0].device):
        return tensors
    dtype = torch.get_autocast_dtype(tensors[0].device.type)
    return tuple(tensor if tensor.dtype == torch.float64 else tensor.to(dtype) for tensor in tensors)


def exact(device: torch.device) -> contextlib.AbstractContextManager:
    """Keep autocast from lowering the products within: scores and softmax are computed wide."""
    return torch.autocast(device.type, enabled=False) if autocasts(device) else _NOTHING


_NOTHING = contextlib.nullcontext()


def _list(tensor: Tensor) -> list[int]:
    return list(tensor.shape)
