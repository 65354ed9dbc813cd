"""Masks, biases and soft caps as FlexAttention asks for them: a function of one pair, traced into its kernels.

What a function captures is tensors alone. So a window of another width, or documents of other lengths, need no other
kernel; only masks that are put together differently do.
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from qkv.core.types import Bias, CappedPair, Grid, Mask, Pair, wide
from qkv.masks.algebra import And, IntervalMask, Not, Or
from qkv.masks.blocks import BigBird, Blocks
from qkv.masks.dense import DenseMask
from qkv.masks.padding import KeptKeys, KeptQueries
from qkv.masks.window import DilatedWindow
from qkv.positions.alibi import Alibi, slopes
from qkv.positions.dense import DenseBias
from qkv.positions.relative import T5Relative

MaskMod: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(batch row, head, query, key) → whether they may meet."""

ScoreMod: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""(score, batch row, head, query, key) → the score capped and biased."""

_At: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def lead(tensor: Tensor, grid: Grid, trailing: int) -> Tensor:
    """Make two of the leading dimensions: batch rows, and heads; each is 1 where all are alike."""
    own = tensor.shape[: tensor.ndim - trailing]
    own = torch.Size((1,) * (len(grid.batch) + 1 - len(own))) + own
    batch = grid.batch if own[:-1].numel() > 1 else (1,) * len(grid.batch)
    rest = tensor.shape[tensor.ndim - trailing :]
    return tensor.expand(*batch, own[-1], *rest).reshape(-1, own[-1], *rest)


def mask_mod(mask: Mask, grid: Grid) -> MaskMod:
    """Give a mask as a function of one pair. Cost: O(queries + keys) memory; a mask spelled out keeps its tensor."""
    # An interval is looked for first: that of two intervals is an `And` as well.
    if isinstance(mask, IntervalMask):
        return _between(*mask.bounds(grid.rows(), grid), grid)
    if isinstance(mask, And | Or):
        return _joined(mask_mod(mask.left, grid), mask_mod(mask.right, grid), isinstance(mask, And))
    if isinstance(mask, Not):
        return _negated(mask_mod(mask.inner, grid))
    if isinstance(mask, DilatedWindow):
        return _dilated(mask, grid)
    if isinstance(mask, Blocks):
        return _laid_out(mask.layout.to(grid.device), grid.rows() // mask.size, grid.columns() // mask.size, grid)
    if isinstance(mask, BigBird):
        layout, origin = mask.layout(grid)
        rows = grid.positions(grid.rows()) // mask.block - origin
        return _laid_out(layout, rows, grid.columns() // mask.block, grid)
    if isinstance(mask, KeptKeys):
        return _spelled(mask.keep.to(grid.device)[..., None, None, :], grid)
    if isinstance(mask, KeptQueries):
        return _spelled(mask.keep.to(grid.device)[..., None, :, None], grid)
    return _spelled(mask.tensor if isinstance(mask, DenseMask) else mask.tile(grid.rows(), grid.columns(), grid), grid)


def _between(start: Tensor, stop: Tensor, grid: Grid) -> MaskMod:
    starts, stops = (
        lead(each.clamp(0, grid.keys).int(), grid, 1).contiguous() for each in torch.broadcast_tensors(start, stop)
    )
    own_batch, own_head = starts.shape[0] > 1, starts.shape[1] > 1

    def meets(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        row = (batch * own_batch, head * own_head, query)
        return (key >= starts[row]) & (key < stops[row])

    return meets


def _joined(left: MaskMod, right: MaskMod, both: bool) -> MaskMod:
    def meets(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        one, other = left(batch, head, query, key), right(batch, head, query, key)
        return one & other if both else one | other

    return meets


def _negated(inner: MaskMod) -> MaskMod:
    def meets(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return ~inner(batch, head, query, key)

    return meets


def _dilated(mask: DilatedWindow, grid: Grid) -> MaskMod:
    """Meet between the first and the last key of a window, where position and key leave the same remainder."""
    position = grid.positions(grid.rows(), mask.offset)
    back, ahead = mask.before * mask.dilation, mask.after * mask.dilation
    near = _between(position - back, position + (ahead + 1), grid)
    remainders = lead((position % mask.dilation).int(), grid, 1).contiguous()
    own_batch, of_key = remainders.shape[0] > 1, (grid.columns() % mask.dilation).int()

    def meets(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        on_step = remainders[batch * own_batch, head * 0, query] == of_key[key]
        return near(batch, head, query, key) & on_step

    return meets


def _laid_out(layout: Tensor, rows: Tensor, columns: Tensor, grid: Grid) -> MaskMod:
    table, row_of, column_of = lead(layout, grid, 2).contiguous(), rows.int(), columns.int()
    own_batch, own_head = table.shape[0] > 1, table.shape[1] > 1

    def meets(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return table[batch * own_batch, head * own_head, row_of[query], column_of[key]]

    return meets


def _spelled(tensor: Tensor, grid: Grid) -> _At:
    """Look a pair up in a tensor; its dimensions of 1 stand for all."""
    tensor = tensor.detach()
    table = lead(tensor.reshape((1,) * (2 - tensor.ndim) + tensor.shape), grid, 2).contiguous()
    own_batch, own_head, own_query, own_key = (size > 1 for size in table.shape)

    def at(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return table[batch * own_batch, head * own_head, query * own_query, key * own_key]

    return at


def score_mod(pair: Pair, bias: Bias | None, grid: Grid, dtype: torch.dtype) -> ScoreMod | None:
    """Give what happens to a scaled score, soft cap before bias; None where nothing does."""
    caps: list[Tensor] = []
    while isinstance(pair, CappedPair):
        caps.insert(0, torch.full((), pair.cap, dtype=wide(dtype), device=grid.device))
        pair = pair.inner
    added = None if bias is None else _bias_mod(bias, grid)
    if not caps and added is None:
        return None

    def modify(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        for cap in caps:
            score = cap * torch.tanh(score / cap)
        return score if added is None else score + added(batch, head, query, key)

    return modify


def _bias_mod(bias: Bias, grid: Grid) -> _At:
    if isinstance(bias, Alibi):
        return _alibi(bias, grid)
    if isinstance(bias, T5Relative):
        return _relative(bias, grid)
    assert isinstance(bias, DenseBias)
    return _spelled(bias.tensor, grid)


def _alibi(bias: Alibi, grid: Grid) -> _At:
    slope = torch.tensor(slopes(bias.heads), device=grid.device)
    positions = lead(grid.positions(grid.rows(), bias.offset).int(), grid, 1).contiguous()
    own_batch = positions.shape[0] > 1

    def at(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return -slope[head] * (positions[batch * own_batch, head * 0, query] - key).abs()

    return at


def _relative(bias: T5Relative, grid: Grid) -> _At:
    """Look the distance up in one row for each head, which is as long as queries and keys together."""
    # The last query meets the first key at index 0, the first query the last key at the end.
    last = grid.positions(grid.rows()[-1:], bias.offset)
    ahead = torch.arange(grid.queries + grid.keys - 1, device=grid.device) - last
    table = bias.weight.detach()[bias.bucket(ahead)].movedim(-1, -2)
    # Offsets lead with [*batch, 1]; that 1 is the place of the heads.
    table = lead(table.squeeze(-3) if table.ndim > 2 else table, grid, 1).contiguous()
    own_batch, before = table.shape[0] > 1, grid.rows().flip(0).int()

    def at(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return table[batch * own_batch, head, before[query] + key]

    return at
