"""The bilinear score, Luong's "general": query and key may differ in width."""

import torch
from torch import Tensor, nn

from qkv.core.card import Card
from qkv.core.checks import check_dtype, check_whole, check_width
from qkv.core.types import DotPair


class Bilinear(nn.Module):
    """Score by qᵀ W k, W learned.

    Paper: Luong et al. 2015, arXiv:1508.04025, section 3.1 ("general").
    Cost: O(queries·keys·key + queries·query·key) time.
    Raises: KindError, ArgumentError if a width is not an integer of at least 1.
    """

    def __init__(self, query: int, key: int) -> None:
        super().__init__()
        check_whole("Bilinear", "query", query, 1)
        check_whole("Bilinear", "key", key, 1)
        self.weight = nn.Parameter(torch.empty(key, query))
        nn.init.xavier_uniform_(self.weight)

    def check(self, query: Tensor, key: Tensor) -> None:
        """Raise ShapeError or KindError unless the widths and the dtype are the weights'."""
        check_width("Bilinear", "query", query, self.weight.shape[1])
        check_width("Bilinear", "key", key, self.weight.shape[0])
        check_dtype("Bilinear", "query", query, self.weight)

    def pair(self, query_width: int, key_width: int) -> DotPair:
        """Meet by the dot product."""
        return DotPair(key_width)

    def prepare(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Bring the query to the key's width."""
        return nn.functional.linear(query, self.weight), key

    def extra_repr(self) -> str:
        return f"query={self.weight.shape[1]}, key={self.weight.shape[0]}"


CARDS = (
    Card(
        name="bilinear",
        kind="score",
        equation="qᵀ W k",
        paper="Luong et al. 2015, arXiv:1508.04025 (general)",
        cost="n·m·d_k + n·d_q·d_k multiply-adds",
        build=lambda: Bilinear(query=8, key=8),
    ),
)
