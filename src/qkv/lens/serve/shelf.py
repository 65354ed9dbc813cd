"""The long maps that a server shows by tiles, kept within a bound."""

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from qkv.core.map import AttentionMap
from qkv.errors import ArgumentError, must
from qkv.lens.pyramid import Pyramid, Tile, peak_of, small

MAPS_BYTES = 1 << 30
PYRAMIDS_BYTES = 1 << 28

PATIENCE = 10.0
"""Seconds for which a map is read on after it was last looked at."""

Kept = TypeVar("Kept")


class Bounded(Generic[Kept]):
    """What was used last, in at most so many bytes; the newest stays however large it is."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._kept: OrderedDict[object, tuple[Kept, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, name: object) -> Kept | None:
        """Give what is kept under a name, which thereby becomes the newest."""
        if name not in self._kept:
            return None
        self._kept.move_to_end(name)
        return self._kept[name][0]

    def put(self, name: object, kept: Kept, size: int) -> None:
        """Keep something, and let go what was used longest ago."""
        self._kept[name] = kept, size
        self._kept.move_to_end(name)
        while len(self._kept) > 1 and sum(size for _, size in self._kept.values()) > self.limit:
            self._kept.popitem(last=False)


@dataclass(eq=False)
class _Opened:
    pyramid: Pyramid
    steps: Iterator[None]
    peak: float
    seen: float = 0.0


class Shelf:
    """Readings' maps by a name that cannot be guessed, and the pyramids of the heads that were looked at."""

    def __init__(self, maps: int = MAPS_BYTES, pyramids: int = PYRAMIDS_BYTES) -> None:
        self._maps: Bounded[Sequence[AttentionMap]] = Bounded(maps)
        self._pyramids: Bounded[_Opened] = Bounded(pyramids)
        self._latest: _Opened | None = None
        self._lock = threading.Lock()

    def keep(self, maps: Sequence[AttentionMap]) -> str:
        """Keep the maps of a reading and return their name."""
        name = secrets.token_urlsafe(12)
        size = sum(tensor.nbytes for one in maps for tensor in (one.query, one.key))
        with self._lock:
            self._maps.put(name, maps, size)
        return name

    def open(self, name: str, layer: int, head: int) -> tuple[Pyramid, float]:
        """Open a head: its pyramid, and where its shades end.

        Raises: ArgumentError if there is no such map, layer or head.
        """
        one = self._head(name, layer, head)
        with self._lock:
            opened = self._pyramids.get((name, layer, head))
        if opened is None:
            pyramid = Pyramid(one)
            opened = _Opened(pyramid, pyramid.steps(), peak_of(pyramid.seen))
            size = 8 * pyramid.shape(pyramid.base)[0] * pyramid.shape(pyramid.base)[1]
            with self._lock:
                self._pyramids.put((name, layer, head), opened, size)
        opened.seen = time.monotonic()
        self._latest = opened
        return opened.pyramid, opened.peak

    def small(self, name: str, layer: int, head: int) -> Tile:
        """Make a head's map small, without opening it.

        Raises: ArgumentError if there is no such map, layer or head.
        """
        return small(self._head(name, layer, head))

    def _head(self, name: str, layer: int, head: int) -> AttentionMap:
        with self._lock:
            maps = self._maps.get(name)
        if maps is None:
            raise ArgumentError(must("see", "the map", "be open", repr(name), "it was let go: read the text again"))
        for what, at, size in (("layer", layer, len(maps)), ("head", head, maps[0].grid.heads)):
            if not 0 <= at < size:
                raise ArgumentError(must("see", what, f"lie in 0..{size - 1}", at))
        one = maps[layer].head(head)
        return one.example(0) if one.grid.batch else one

    def step(self) -> bool:
        """Read on a little in the head that was looked at last; say whether there is more to do."""
        opened = self._latest
        if opened is None or opened.pyramid.done or time.monotonic() - opened.seen > PATIENCE:
            return False
        next(opened.steps, None)
        return True
