"""Dropout of attention weights: a counter-based function of (seed, batch, head, query, key), the same on every path."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from qkv.core.types import Grid

_LOW = 0xFFFFFFFF


def mix(x: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """Scramble 32-bit numbers held in int64, one to one (the lowbias32 hash of Wellons' hash-prospector)."""
    x = (x ^ (x >> 16)) * 0x7FEB352D & _LOW
    x = (x ^ (x >> 15)) * 0x846CA68B & _LOW
    return x ^ (x >> 16)


def draw_seed(device: torch.device) -> Int[Tensor, ""]:
    """Draw the seed of one call from torch's generator of a device."""
    return torch.randint(1 << 62, (), device=device)


def keep(
    rate: float, seed: Int[Tensor, ""], rows: Int[Tensor, " rows"], columns: Int[Tensor, " columns"], grid: Grid
) -> Bool[Tensor, "*batch heads rows columns"]:
    """Say which pairs of a tile survive: each with probability 1 − rate, whatever tile it is asked in."""
    drawn = mix(mix(streams(seed, grid)[..., None] ^ rows)[..., None] ^ columns)
    return drawn >= threshold(rate)


def streams(seed: Int[Tensor, ""], grid: Grid) -> Int[Tensor, "*batch heads"]:
    """Give each batch row and head the 32 bits that its queries and keys are scrambled with."""
    stream = mix(mix(seed & _LOW) ^ (seed >> 32))
    batch = torch.arange(torch.Size(grid.batch).numel(), device=grid.device).view(*grid.batch, 1)
    return mix(mix(stream ^ batch) ^ torch.arange(grid.heads, device=grid.device))


def threshold(rate: float) -> int:
    """Give the number, of 2³², from which on a scrambled pair survives."""
    return round(rate * (1 << 32))


def drop(
    weights: Float[Tensor, "*lead rows columns"],
    rate: float,
    seed: Int[Tensor, ""],
    rows: Int[Tensor, " rows"],
    columns: Int[Tensor, " columns"],
    grid: Grid,
) -> Float[Tensor, "*batch heads rows columns"]:
    """Set dropped weights to 0 and scale the others by 1 / (1 − rate).

    Paper: Srivastava et al. 2014; counter-based numbers: Salmon et al. 2011.
    """
    kept = keep(rate, seed, rows, columns, grid)
    return torch.where(kept, weights / (1 - rate), 0) if rate < 1 else weights * 0
