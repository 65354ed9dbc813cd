"""Dense masks: a boolean tensor says for every pair whether it may meet."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn import functional as F

from qkv.core.card import Card
from qkv.core.checks import check_dense, readable, shown
from qkv.core.runs import Runs
from qkv.core.types import Grid
from qkv.errors import KindError, ShapeError, must
from qkv.masks.algebra import Mask

# A dense mask is planned in at most so many cells of keys, which bounds the runs of a block by half of that.
_CELLS = 64


@dataclass(frozen=True, eq=False, repr=False)
class DenseMask(Mask):
    """The pairs that a boolean tensor marks."""

    tensor: Tensor
    is_value = False

    def check(self, grid: Grid) -> None:
        whole = [*grid.batch, grid.heads, grid.queries, grid.keys]
        pairs = zip(reversed(self.tensor.shape), reversed(whole), strict=False)
        if self.tensor.ndim > len(whole) or any(size not in (1, most) for size, most in pairs):
            rule = f"broadcast to [*batch, heads, queries, keys] = {whole}"
            raise ShapeError(must("dense_mask", "tensor", rule, list(self.tensor.shape)))

        if grid.device.type not in (self.tensor.device.type, "meta"):
            fix = "it is too large to be moved at each call"
            raise KindError(must("dense_mask", "tensor", f"be on {grid.device}", self.tensor.device, fix))

    def tile(
        self, rows: Int[Tensor, " rows"], columns: Int[Tensor, " columns"], grid: Grid
    ) -> Bool[Tensor, "*lead rows columns"]:
        picked = self._spread(grid).index_select(-2, rows)
        if columns.numel() and readable(columns):
            first, last = int(columns[0]), int(columns[-1])
            ascend = last - first + 1 == columns.numel()
            if ascend and torch.equal(columns, torch.arange(first, last + 1, device=columns.device)):
                # A view of the rows, which are a copy already.
                return picked[..., first : last + 1]
        return picked.gather(-1, columns.expand(*picked.shape[:-1], -1))

    def runs(self, block: int, grid: Grid) -> tuple[Runs, Runs]:
        tensor = self._spread(grid)
        rows, cell = -tensor.shape[-2] % block, max(1, -(-grid.keys // _CELLS))
        columns = -grid.keys % cell
        # Bytes reduce 20 times as fast as booleans; short blocks and cells fill up with what changes neither answer.
        some = every = tensor.view(torch.uint8)
        if rows or columns:
            some, every = (F.pad(some, (0, columns, 0, rows), value=neutral) for neutral in (0, 1))
        some = some.unflatten(-2, (-1, block)).amax(-2).unflatten(-1, (-1, cell)).amax(-1).bool()
        every = every.unflatten(-2, (-1, block)).amin(-2).unflatten(-1, (-1, cell)).amin(-1).bool()
        return Runs.of_flags(some, cell, grid.keys), Runs.of_flags(every, cell, grid.keys)

    def _spread(self, grid: Grid) -> Bool[Tensor, "*lead queries keys"]:
        tensor = self.tensor.to(grid.device)
        return tensor.expand(*tensor.shape[:-2], grid.queries, grid.keys)

    def __repr__(self) -> str:
        return f"dense_mask({shown(self.tensor)})"


def dense_mask(tensor: Bool[Tensor, "*pairs"]) -> DenseMask:
    """Let the pairs meet that a boolean tensor marks, broadcast to [*batch, heads, queries, keys]. True = may attend.

    Cost: the tensor's memory, one pass over it to plan, and every pair near a marked one.
    Raises: KindError if the tensor is not boolean or on another device; ShapeError if it does not broadcast.
    """
    if not isinstance(tensor, Tensor):
        got = type(tensor).__name__
        raise KindError(must("dense_mask", "tensor", "be a boolean tensor", got, "True = may attend"))
    if tensor.dtype != torch.bool:
        fix = "mask > 0 or mask.bool(), True = may attend; a float mask that is added is a bias"
        raise KindError(must("dense_mask", "tensor", "be boolean", tensor.dtype, fix))
    check_dense("dense_mask", "tensor", tensor)
    return DenseMask(tensor)


CARDS = (
    Card(
        name="dense mask",
        kind="mask",
        equation="mask at (i, j)",
        paper="",
        cost="every pair near a marked one",
        build=lambda: dense_mask(torch.arange(70).view(2, 5, 7) % 3 > 0),
    ),
)
