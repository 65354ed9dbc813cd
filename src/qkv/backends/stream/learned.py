"""What a bias has learned: the tensors it holds, and their gradients, summed tile by tile."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from qkv.backends.stream.bands import Band, Cut
from qkv.backends.stream.tile import Tile
from qkv.core.types import Bias, Grid
from qkv.positions.dense import DenseBias


def learned(bias: Bias) -> tuple[Tensor, ...]:
    """List the tensors that a bias, and whatever it is made of, holds and that want a gradient, each once."""
    found: dict[int, Tensor] = {}

    def look(inside: object) -> None:
        if isinstance(inside, Tensor):
            if inside.requires_grad:
                found.setdefault(id(inside), inside)
        elif isinstance(inside, nn.Module | list | tuple | dict) or hasattr(inside, "tile"):
            held = inside if isinstance(inside, list | tuple | dict) else vars(inside)
            for one in held.values() if isinstance(held, dict) else held:
                look(one)

    look(bias)
    return tuple(found.values())


def four(tile: Tensor, grid: Grid) -> Tensor:
    """Bring a tile that broadcasts to [*batch, heads, rows, columns] to [batch or 1, heads or 1, rows, columns]."""
    lead = (1,) * (len(grid.batch) + 3 - tile.ndim) + tuple(tile.shape[:-2])
    batch = grid.batch if math.prod(lead[:-1]) > 1 else (1,) * len(grid.batch)
    shape = (lead[-1], *tile.shape[-2:])
    return tile.expand(*batch, *shape).reshape(math.prod(batch), *shape)


class _Dense:
    """The gradient of a bias spelled out goes to its place at once."""

    def __init__(self, tensor: Tensor, grid: Grid, dtype: torch.dtype) -> None:
        self.tensor = tensor
        self.whole = torch.zeros_like(four(tensor, grid), dtype=dtype, memory_format=torch.contiguous_format)
        self.spread = (*grid.batch, *self.whole.shape[1:]) if self.whole.shape[0] > 1 else self.whole.shape

    def add(self, tile: Tile, cut: Cut, slope: Float[Tensor, "heads rows columns"]) -> None:
        """Take the gradients of a tile's scores."""
        into = tile.place_in(self.whole)
        into.add_(slope.sum_to_size(into.shape))

    def settle(self, band: Band, cut: Cut) -> None:
        """Nothing is left."""

    def gradients(self) -> list[Tensor]:
        whole = self.whole.view(self.spread)
        shape = (1,) * (whole.ndim - self.tensor.ndim) + tuple(self.tensor.shape)
        while len(shape) > whole.ndim:
            whole = whole[None]
        return [whole.sum_to_size(shape).view(self.tensor.shape).to(self.tensor.dtype)]


class _Any:
    """Any other bias passes the gradient of a cut on by itself: its tile is made once more, by autograd."""

    def __init__(self, bias: Bias, held: Sequence[Tensor], grid: Grid, dtype: torch.dtype) -> None:
        self.bias, self.held, self.grid = bias, held, grid
        none = torch.zeros(0, dtype=torch.long)
        self.lead = four(bias.tile(none, none, grid), grid).shape[:2]
        self.dtype = dtype
        self.taken: Tensor | None = None
        self.found = [torch.zeros_like(tensor) for tensor in held]

    def add(self, tile: Tile, cut: Cut, slope: Float[Tensor, "heads rows columns"]) -> None:
        if self.taken is None:
            shape = (*self.lead, tile.band.stop - tile.band.start, cut.stop - cut.start)
            self.taken = torch.zeros(shape, dtype=self.dtype)
        into = tile.of(self.taken, cut)
        into.add_(slope.sum_to_size(into.shape))

    def settle(self, band: Band, cut: Cut) -> None:
        if self.taken is None:
            return
        rows, columns = band.places(cut)
        with torch.enable_grad():
            tile = four(self.bias.tile(rows, columns, self.grid), self.grid)
            passed = torch.autograd.grad(tile, self.held, self.taken.to(tile.dtype), allow_unused=True)
        for whole, part in zip(self.found, passed, strict=True):
            if part is not None:
                whole += part
        self.taken = None

    def gradients(self) -> list[Tensor]:
        return self.found


def make_learnt(
    bias: Bias | None, held: Sequence[Tensor], grid: Grid, dtype: torch.dtype, parts: int
) -> list[_Dense] | list[_Any]:
    """Make a place for the gradients of each part; parts of different queries may share one that tells them apart."""
    if not held or bias is None:
        return []
    if isinstance(bias, DenseBias):
        if bias.tensor.shape[-2] > 1:
            return [_Dense(bias.tensor, grid, dtype)] * parts
        return [_Dense(bias.tensor, grid, dtype) for _ in range(parts)]
    return [_Any(bias, held, grid, dtype) for _ in range(parts)]


def sum_learnt(parts: Sequence[_Dense | _Any]) -> list[Tensor]:
    """Add up what the parts have found, in order."""
    found = [part.gradients() for part in dict.fromkeys(parts)]
    return [sum(each[1:], start=each[0]) for each in zip(*found, strict=True)]
