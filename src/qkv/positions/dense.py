"""A bias spelled out: any floating tensor, learned or not."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from qkv.core.card import Card
from qkv.core.checks import check_floats, check_spread
from qkv.core.types import Grid


@dataclass(frozen=True, eq=False)
class DenseBias:
    """A tensor of biases, broadcastable to [*batch, heads, queries, keys]."""

    tensor: Tensor

    def check(self, grid: Grid) -> None:
        """Raise ShapeError or KindError unless the tensor fits the grid."""
        check_spread("bias", "the tensor", self.tensor, grid)

    def tile(
        self, rows: Int[Tensor, " rows"], columns: Int[Tensor, " columns"], grid: Grid
    ) -> Float[Tensor, "*lead rows columns"]:
        """Answer for these queries and keys. Cost: O(rows·columns) for each leading index."""
        return take(self.tensor, rows, columns)

    def __repr__(self) -> str:
        return f"dense_bias({list(self.tensor.shape)})"


def take(tensor: Tensor, rows: Int[Tensor, " rows"], columns: Int[Tensor, " columns"]) -> Tensor:
    """Pick rows and columns of the last two dimensions; a dimension of 1 stands for all."""
    if tensor.shape[-2] != 1:
        tensor = tensor.index_select(-2, rows)
    if tensor.shape[-1] != 1:
        tensor = tensor.index_select(-1, columns)
    return tensor.expand(*tensor.shape[:-2], rows.shape[0], columns.shape[0])


def dense_bias(tensor: Float[Tensor, "*lead queries keys"]) -> DenseBias:
    """Add a tensor to the scores; dimensions of 1 spread out, and −inf masks a pair. Learned tensors get gradients.

    Cost: O(queries·keys) memory for each leading index.
    Raises: KindError unless it is a floating tensor.
    """
    check_floats("dense_bias", "tensor", tensor, "a boolean tensor goes to mask=")
    return DenseBias(tensor)


CARDS = (
    Card(
        name="dense bias",
        kind="bias",
        equation="s + Bᵢⱼ",
        paper="Shaw et al. 2018, arXiv:1803.02155 (learned); Raffel et al. 2020 (shared by layers)",
        cost="n·m memory",
        build=lambda: dense_bias(torch.linspace(-1, 1, 35).view(5, 7)),
    ),
)
