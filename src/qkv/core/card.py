"""A mechanism's card: what it is, and how to build a tiny one.

Each file of a mechanism ends with its cards. Contract tests, the docs table, the labs and the lens walk them; the
forward pass never reads one.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["score", "bias", "position", "mask", "selection", "mechanism"]


@dataclass(frozen=True)
class Card:
    """What a mechanism is, and how to build a tiny one.

    `build()` makes one that fits queries and keys of width 8, 2 heads, batch (2,), any lengths up to 16 positions
    (where a data mask needs lengths, they suit 5 queries and 7 keys).
    A mechanism's `build()` makes a module called as `module(query, memory, mask=...)` on [batch, positions, 8], whose
    first (or only) result is [batch, queries, 8].
    """

    name: str
    kind: Kind
    equation: str
    paper: str
    cost: str
    build: Callable[[], Any]


def cards() -> Iterator[Card]:
    """Import every module of qkv that ends with cards, and yield them in the order of the files' names."""
    for folder in ("scores", "positions", "masks", "selections", "mechanisms"):
        package = importlib.import_module(f"qkv.{folder}")
        for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda found: found.name):
            yield from getattr(importlib.import_module(f"{package.__name__}.{module.name}"), "CARDS", ())
