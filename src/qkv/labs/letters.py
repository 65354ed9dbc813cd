"""Real text for small models: the docstrings of the running Python's library, a byte a token, in windows."""

from collections.abc import Iterator

import torch
from jaxtyping import Int
from torch import Tensor

from qkv.text import stdlib

SYMBOLS = 256
"""The vocabulary: bytes."""


def letters(count: int, *, held_out: bool = False) -> Int[Tensor, " {count}"]:
    """Give the first bytes of the docstrings; with `held_out`, of the files that are held out."""
    found = bytearray()
    for text in stdlib.prose(held_out=held_out):
        found += text.encode()
        if len(found) >= count:
            break
    return torch.frombuffer(found[:count], dtype=torch.uint8).long()


def windows(
    text: Int[Tensor, " letters"], length: int, batch: int, chance: torch.Generator
) -> tuple[Int[Tensor, "{batch} {length}"], Int[Tensor, "{batch} {length}"]]:
    """Draw windows of a text: the letters, and for each the one that follows."""
    starts = torch.randint(len(text) - length, (batch, 1), generator=chance)
    drawn = text[starts + torch.arange(length + 1)]
    return drawn[:, :-1], drawn[:, 1:]


def every_window(
    text: Int[Tensor, " letters"], length: int, batch: int
) -> Iterator[tuple[Int[Tensor, "{batch} {length}"], Int[Tensor, "{batch} {length}"]]]:
    """Give a text in windows one after another, as many whole batches as it holds, and what follows each letter."""
    count = (len(text) - 1) // (length * batch) * length * batch
    shape = (-1, batch, length)
    yield from zip(text[:count].view(shape), text[1 : count + 1].view(shape), strict=True)
