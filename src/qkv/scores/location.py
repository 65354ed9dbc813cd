"""Luong's location score: the query alone says where to look."""

import torch
from torch import Tensor, nn

from qkv.core.card import Card
from qkv.core.checks import check_dtype, check_whole, check_width
from qkv.core.types import DotPair
from qkv.errors import ShapeError, must


class Location(nn.Module):
    """Score key j by (W q)ⱼ: row j of a learned matrix meets the query, whatever the key holds.

    Paper: Luong et al. 2015, arXiv:1508.04025, section 3.1 ("location").
    Cost: O(queries·keys·query) time.
    Raises: KindError, ArgumentError if a size is not an integer of at least 1.
    """

    def __init__(self, query: int, keys: int) -> None:
        super().__init__()
        check_whole("Location", "query", query, 1)
        check_whole("Location", "keys", keys, 1, "the longest source")
        self.weight = nn.Parameter(torch.empty(keys, query))
        nn.init.xavier_uniform_(self.weight)

    def check(self, query: Tensor, key: Tensor) -> None:
        """Raise unless the query fits the weights and there is a row for every key."""
        check_width("Location", "query", query, self.weight.shape[1])
        check_dtype("Location", "query", query, self.weight)
        most = self.weight.shape[0]
        if key.shape[-2] > most:
            fix = f"Location(query={self.weight.shape[1]}, keys={key.shape[-2]})"
            raise ShapeError(must("Location", "keys", f"be at most {most}", key.shape[-2], fix))

    def pair(self, query_width: int, key_width: int) -> DotPair:
        """Meet by the dot product."""
        return DotPair(query_width)

    def prepare(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Put a row of the matrix in each key's place."""
        rows = self.weight[: key.shape[-2]].to(query.dtype)
        return query, rows.expand(*key.shape[:-2], *rows.shape)

    def extra_repr(self) -> str:
        return f"query={self.weight.shape[1]}, keys={self.weight.shape[0]}"


CARDS = (
    Card(
        name="location",
        kind="score",
        equation="(W q)ⱼ",
        paper="Luong et al. 2015, arXiv:1508.04025 (location)",
        cost="n·m·d_q multiply-adds",
        build=lambda: Location(query=8, keys=16),
    ),
)
