"""What a translator learns from and what it is measured on: pairs in two parts, the same ones each time."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

SHARE = 20
"""One source in so many is held out, with all its translations."""


def is_held_out(source: str) -> bool:
    """Say whether a source is held out, by what it says alone."""
    return int.from_bytes(_digest(source)[:4], "little") % SHARE == 0


@dataclass(frozen=True)
class PairsPart:
    """The pairs that are held out, or those that are not, read anew each time; each pair once.

    Which sources are held out follows from what they say. A pair is learned from only if neither of its sides is among
    those held out.

    Cost: reads the pairs twice; memory for a few bytes a sentence.
    """

    pairs: Iterable[tuple[str, str]]
    held_out: bool

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return (pair for _, pair in self.with_numbers())

    def with_numbers(self) -> Iterator[tuple[int, tuple[str, str]]]:
        """Give each pair with its number among all of them, from 0."""
        kept_back: set[bytes] = set()
        for pair in self.pairs:
            if is_held_out(pair[0]):
                kept_back.update(map(_digest, pair))
        seen: set[bytes] = set()
        for number, pair in enumerate(self.pairs):
            belongs = is_held_out(pair[0]) if self.held_out else kept_back.isdisjoint(map(_digest, pair))
            if belongs and (once := _digest("\t".join(pair))) not in seen:
                seen.add(once)
                yield number, pair


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.strip().encode("utf-8", "replace"), digest_size=12).digest()
