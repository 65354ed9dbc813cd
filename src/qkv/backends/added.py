"""What a mask adds to scores, and what of it is alive: booleans on the CPU, taken by their bytes."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_WHOLE = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""The integers that are as long as a number of so many bytes."""


def added(seen: Bool[Tensor, "*pairs"], dtype: torch.dtype) -> Float[Tensor, "*pairs"]:
    """Give 0 where a pair may meet and −inf where not: the bits of −inf, or none.

    `torch.where`, which SDPA takes for a boolean mask, is some ten times as slow.
    """
    whole = _WHOLE[dtype.itemsize]
    hidden = int(torch.tensor(-torch.inf, dtype=dtype, device="cpu").view(whole))
    return (~seen).view(torch.int8).neg().to(whole).bitwise_and_(hidden).view(dtype)


def any_of(seen: Bool[Tensor, "*pairs"], dim: int) -> Bool[Tensor, "*lines"]:
    """Say of each line whether any pair of it may meet: bytes reduce 20 times as fast as booleans."""
    return seen.view(torch.uint8).amax(dim).bool() if seen.shape[dim] else seen.any(dim)
