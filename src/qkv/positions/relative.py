"""T5's relative bias: a learned number for each bucket of distances and each head."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from qkv.core.card import Card
from qkv.core.checks import check_device, check_offset, check_offset_kind, check_whole
from qkv.core.types import Grid
from qkv.errors import ArgumentError, KindError, ShapeError, must


class T5Relative(nn.Module):
    """Add a learned number for the bucket of the distance: exact when near, logarithmic up to `max_distance`.

    Half of the buckets serve keys after the query, unless `after=False` (decoders), which folds those into distance 0.

    Paper: Raffel et al. 2020 (T5), arXiv:1910.10683, section 2.1.
    Cost: O(heads·queries·keys) time; heads·buckets parameters.
    Raises: KindError, ArgumentError if a number is not an integer in range.
    """

    def __init__(
        self,
        heads: int,
        *,
        buckets: int = 32,
        max_distance: int = 128,
        after: bool = True,
        offset: int | Tensor | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(after, bool):
            raise KindError(must("T5Relative", "after", "be True or False", after))
        exact = 4 if after else 2
        check_whole("T5Relative", "heads", heads, 1)
        check_whole("T5Relative", "buckets", buckets, exact)
        check_whole("T5Relative", "max_distance", max_distance, 1)
        if buckets % exact:
            raise ArgumentError(must("T5Relative", "buckets", f"be a multiple of {exact}", buckets))
        if max_distance <= buckets // exact:
            rule = f"be > {buckets // exact}, the distances that have a bucket of their own"
            raise ArgumentError(must("T5Relative", "max_distance", rule, max_distance))
        check_offset_kind("T5Relative", offset)
        self.heads, self.max_distance, self.after, self.offset = heads, max_distance, after, offset
        self.weight = nn.Parameter(torch.empty(buckets, heads))
        nn.init.normal_(self.weight, std=heads**-0.5)

    def check(self, grid: Grid) -> None:
        """Raise ShapeError unless there is a bias for each head, KindError if they are elsewhere."""
        if grid.heads != self.heads:
            raise ShapeError(must("T5Relative", "heads", f"equal the query's {grid.heads}", self.heads))
        check_offset("T5Relative", self.offset, grid)
        check_device("T5Relative", "weight", self.weight, grid)

    def bucket(self, ahead: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        """Number the bucket of key position − query position."""
        buckets = self.weight.shape[0]
        first = torch.zeros_like(ahead)
        if self.after:
            buckets //= 2
            first = torch.where(ahead > 0, buckets, 0)
            distance = ahead.abs()
        else:
            distance = (-ahead).clamp(min=0)
        exact = buckets // 2
        scaled = (distance.clamp(min=1).float() / exact).log() / math.log(self.max_distance / exact)
        far = (exact + (scaled * (buckets - exact)).long()).clamp(max=buckets - 1)
        return first + torch.where(distance < exact, distance, far)

    def tile(
        self, rows: Int[Tensor, " rows"], columns: Int[Tensor, " columns"], grid: Grid
    ) -> Float[Tensor, "*lead rows columns"]:
        """Answer for these queries and keys. Cost: O(heads·rows·columns)."""
        ahead = columns - grid.positions(rows, self.offset)[..., None]
        if ahead.ndim > 2:
            # Offsets lead with [*batch, 1]; that 1 is the place of the heads.
            ahead = ahead.squeeze(-3)
        return self.weight[self.bucket(ahead)].movedim(-1, -3)

    def extra_repr(self) -> str:
        return f"heads={self.heads}, buckets={self.weight.shape[0]}, max_distance={self.max_distance}"


CARDS = (
    Card(
        name="T5 relative",
        kind="bias",
        equation="s + bₕ[bucket(j − i)]",
        paper="Raffel et al. 2020, arXiv:1910.10683",
        cost="n·m a head; heads·buckets parameters",
        build=lambda: T5Relative(heads=2, buckets=8, max_distance=16),
    ),
)
