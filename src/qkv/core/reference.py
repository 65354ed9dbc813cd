"""The definition of attention: plain, dense, any dtype, any combination. Every faster path must equal it.

scores = pair(prepare(query, key)) + bias, −inf where the mask hides a pair
weights = select(scores)
output = weights @ value
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from qkv.core.call import Call, exact
from qkv.core.dropout import draw_seed, drop
from qkv.core.types import Grid, Pair, Summary, Tiles, wide


def attend(call: Call) -> tuple[Float[Tensor, "*batch heads queries value"], Summary]:
    """Attend by the definition; also return each row's summary.

    Cost: O(queries·keys) memory for each head, O(queries·keys·dim) time.
    """
    grid, rows, columns = call.grid, call.grid.rows(), call.grid.columns()
    bias = None if call.bias is None else call.bias.tile(rows, columns, grid)
    seen = visible(call.mask, bias, rows, columns, grid)
    query, key, value = hide(call.query, call.key, call.value, seen)
    query, key = call.score.prepare(query, key)
    pair = call.pair
    with exact(grid.device):
        scores = score_tile(pair, query, key, bias, seen)
        summary = call.select.summary(scores)
        weights = call.select.weights(scores, summary, columns)
        if call.dropout:
            weights = drop(weights, call.dropout, draw_seed(grid.device), rows, columns, grid)
        output = weigh(weights, spread_heads(value, call.group), seen)
    return output.to(call.value.dtype), summary


def visible(
    mask: Tiles | None, bias: Tensor | None, rows: Int[Tensor, " rows"], columns: Int[Tensor, " columns"], grid: Grid
) -> Bool[Tensor, "*lead rows columns"] | None:
    """Say which pairs of a tile may meet; None for all. A bias of −inf hides a pair as a mask does."""
    seen = None if mask is None else mask.tile(rows, columns, grid)
    if bias is None:
        return seen
    unhidden = bias != -torch.inf
    return unhidden if seen is None else seen & unhidden


def score_tile(
    pair: Pair, query: Tensor, key: Tensor, bias: Tensor | None, seen: Tensor | None
) -> Float[Tensor, "*batch heads rows columns"]:
    """Score a tile of prepared queries and keys: pair, then bias, then −inf where nothing may meet."""
    scores = pair.scores(query, spread_heads(key, query.shape[-3] // max(1, key.shape[-3])))
    if bias is not None:
        scores = scores + bias.to(scores.dtype)
    return scores if seen is None else torch.where(seen, scores, -torch.inf)


def spread_heads(x: Float[Tensor, "*batch heads positions dim"], group: int) -> Tensor:
    """Repeat each key head for the query heads that share it."""
    return x if group == 1 else x.repeat_interleave(group, dim=-3)


def hide(
    query: Tensor, key: Tensor, value: Tensor, seen: Bool[Tensor, "*lead queries keys"] | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Fill with zeros what takes no part: keys and values that no query sees, queries that see no key.

    A NaN there then reaches neither an output nor a gradient, which masking alone would not prevent: 0 · NaN is NaN.
    """
    if seen is None:
        return query, key, value
    return hide_rows(query, key, value, seen.any(-1), seen.any(-2))


def hide_rows(
    query: Tensor, key: Tensor, value: Tensor, sees: Bool[Tensor, "*lead queries"], shown: Bool[Tensor, "*lead2 keys"]
) -> tuple[Tensor, Tensor, Tensor]:
    """Fill with zeros the queries that see nothing and the keys and values that are shown to nobody."""
    shown = by_key_head(shown, query.shape[-3], key.shape[-3])[..., None]
    return (
        torch.where(sees[..., None], query, 0),
        torch.where(shown, key, 0),
        torch.where(shown, value, 0),
    )


def with_batch(flags: Bool[Tensor, "batch heads positions"], grid: Grid) -> Bool[Tensor, "*batch2 heads positions"]:
    """Give flags, whose batch and heads may be 1 where all are alike, the grid's own batch dimensions."""
    batch = grid.batch if flags.shape[0] > 1 else (1,) * len(grid.batch)
    return flags.reshape(*batch, *flags.shape[1:])


def by_key_head(shown: Bool[Tensor, "*lead keys"], heads: int, key_heads: int) -> Bool[Tensor, "*lead2 keys"]:
    """Join what the query heads of each key head are shown."""
    if shown.ndim < 2 or shown.shape[-2] == 1 or heads == key_heads:
        return shown
    return shown.unflatten(-2, (key_heads, heads // key_heads)).any(-2)


def weigh(
    weights: Float[Tensor, "*batch heads rows columns"],
    value: Float[Tensor, "*batch heads columns dim"],
    seen: Bool[Tensor, "*lead rows columns"] | None,
) -> Float[Tensor, "*batch heads rows dim"]:
    """Sum the values by their weights. A NaN or inf in a value reaches the queries that see it, and no other."""
    value = value.to(wide(value.dtype))
    if seen is None:
        return weights @ value
    bad = ~value.isfinite()
    output = weights @ torch.where(bad, 0, value)
    # What is not finite is summed apart, over the pairs that may meet: 0 · NaN would reach every row.
    meets = seen.to(value.dtype)
    up = meets @ (bad & ~(value < 0)).to(value.dtype)
    down = meets @ (bad & ~(value > 0)).to(value.dtype)
    return output + torch.where(up > 0, torch.inf, 0.0) - torch.where(down > 0, torch.inf, 0.0)
