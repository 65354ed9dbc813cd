"""Files that tell whether they are as they were written: each block has a sum, compared when it is first read.

A sum over a whole file would be paid for at once by whoever wants a few rows of it.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int
from numpy.typing import DTypeLike

from qkv.errors import FileError, must

BLOCK = 1 << 18
"""Bytes that have one sum."""


def sum_of(content: bytes | memoryview) -> str:
    """Name some bytes."""
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def sums_of(path: Path) -> list[str]:
    """Give the sums of a file's blocks. Cost: reading it."""
    with open(path, "rb") as file:
        return [sum_of(block) for block in iter(lambda: file.read(BLOCK), b"")]


class Blocks:
    """A file that is mapped as an array, `rows`; what is taken of it is compared with its sums before."""

    def __init__(self, path: Path, kind: DTypeLike, shape: tuple[int, ...], sums: Sequence[str]) -> None:
        self.path = path
        self.rows: np.ndarray = np.memmap(path, kind, "r", shape=shape)
        self._bytes = self.rows.reshape(-1).view(np.uint8)
        self._left = dict(enumerate(sums))

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: Int[np.ndarray, "..."]) -> np.ndarray:
        """Give some rows. Raises: FileError if what holds them is not as it was written."""
        self._check(rows.reshape(-1), rows.reshape(-1) + 1)
        return self.rows[rows]

    def span(self, start: int, stop: int) -> np.ndarray:
        """Give the rows from one to another. Raises: as `take`."""
        self._check(np.array([start]), np.array([stop]))
        return self.rows[start:stop]

    def _check(self, starts: Int[np.ndarray, " spans"], stops: Int[np.ndarray, " spans"]) -> None:
        size = self.rows.nbytes // len(self)
        firsts, lasts = starts * size // BLOCK, (stops * size - 1) // BLOCK
        touched = {
            block
            for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True)
            for block in range(first, last + 1)
        }
        for block in sorted(touched & self._left.keys()):
            content = self._bytes[block * BLOCK : (block + 1) * BLOCK]
            if sum_of(content.data) != self._left[block]:
                got = f"other bytes from {block * BLOCK:,} on in {self.path.name}"
                fix = "remove it; qkv words CORPUS --out INDEX makes another"
                raise FileError(must("WordIndex", str(self.path.parent), "be as it was written", got, fix))
            del self._left[block]
