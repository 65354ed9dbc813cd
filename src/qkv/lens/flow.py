"""Flow: what reaches a position through all layers, not through one."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from qkv.core.map import DENSE_BYTES, AttentionMap
from qkv.core.types import wide
from qkv.errors import ArgumentError, ShapeError, must
from qkv.lens.heads import tiles


@torch.no_grad()
def rollout(
    maps: Sequence[AttentionMap], *, limit: int = DENSE_BYTES
) -> Float[Tensor, "layers *batch positions positions"]:
    """Follow attention through the layers: Rₗ = (½ Āₗ + ½ I) Rₗ₋₁, with Āₗ the mean over the heads and R₋₁ = I.

    Row i of Rₗ says what share of each input token stands at position i after layer l, if attention moved vectors as
    they are and the residual connection were half of all. Rows of Āₗ are scaled to sum 1; one without any weight keeps
    what it has. That is a model of the model: it knows neither values nor norms, nor the feed-forward layers.

    Paper: Abnar and Zuidema 2020, arXiv:2005.00928, section 3.
    Cost: O(layers·positions³) time; what is returned, and tiles.
    Raises: ArgumentError without a map, or if it would take more than `limit` bytes; ShapeError unless the maps are
    those of layers that attend to themselves.
    """
    if not maps:
        raise ArgumentError(must("rollout", "maps", "hold a map for each layer", "none"))
    batch, count = maps[0].grid.batch, maps[0].grid.queries
    for layer, seen in enumerate(maps):
        if (*seen.grid.batch, seen.grid.queries, seen.grid.keys) != (*batch, count, count):
            rule = f"have {count} queries and as many keys, of the batch {list(batch)}"
            raise ShapeError(must("rollout", f"maps[{layer}]", rule, list(seen.shape)))
    dtype = wide(maps[0].query.dtype)
    shape = (len(maps), *batch, count, count)
    if (bytes_ := torch.Size(shape).numel() * dtype.itemsize) > limit:
        fix = f"rollout(limit={bytes_}), or a shorter text"
        raise ArgumentError(must("rollout", "the shares", f"fit in {limit:,} bytes", f"{bytes_:,}", fix))
    shares = torch.empty(shape, dtype=dtype, device=maps[0].grid.device)
    before = torch.eye(count, dtype=dtype, device=shares.device).expand(shares[0].shape)
    for after, seen in zip(shares, maps, strict=True):
        for rows, weights in tiles(seen):
            mean = weights.mean(-3)
            total = mean.sum(-1, keepdim=True)
            moved = (mean / torch.where(total == 0, 1, total)) @ before
            kept = before[..., rows, :]
            after[..., rows, :] = torch.where(total == 0, kept, (moved + kept) / 2)
        before = after
    return shares
