"""A user's pairs, named by what they say: results of other pairs are other results."""

import hashlib
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

from qkv.errors import FileError, must
from qkv.text.corpus import read_pairs
from qkv.training.held_out import SHARE, PairsPart

LEAST = 40
"""Fewer pairs that nothing was learned from say too little."""


@dataclass(frozen=True)
class Table:
    """Where pairs lie, and a name for what they say."""

    # The same pairs elsewhere are the same experiment.
    path: Path = field(repr=False, compare=False)
    digest: str

    @classmethod
    def read(cls, path: str | PathLike[str]) -> "Table":
        """Read a table to its end: two columns with a tab between, or JSON, as `read_pairs` does.

        Raises: FileError, naming file and line, for what is none; FileError for one that is too small.
        """
        pairs, digest = read_pairs(path), hashlib.blake2b(digest_size=4)
        for pair in pairs:
            digest.update("\t".join((*pair, "\n")).encode())
        if (asked := sum(1 for _ in PairsPart(pairs, True))) < LEAST or not any(True for _ in PairsPart(pairs, False)):
            fix = f"a source in {SHARE} is held out: give some thousand pairs"
            raise FileError(must("lab", str(path), f"hold {LEAST} pairs to be held out", asked, fix))
        return cls(Path(path), digest.hexdigest())
