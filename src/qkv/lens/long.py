"""A long map as a file: some levels of its pyramid, baked into a page that is zoomed like a street map."""

import base64
import os
import zlib
from collections.abc import Sequence

from qkv.core.checks import check_whole
from qkv.core.map import AttentionMap
from qkv.errors import ArgumentError, ShapeError, must
from qkv.files import write_whole
from qkv.lens.page.build import LONGEST_TITLE, LONGEST_TOKEN, bundle, check_page, fill, part
from qkv.lens.pyramid import HEADER, SIDE, Pyramid, peak_of

LONG_PARTS = ("page", "tokens", "colour", "canvas", "glance", "long")
"""The parts of a long map's script."""


def baked_size(queries: int, keys: int, depth: int, *, function: str = "baked_size", argument: str = "depth") -> int:
    """Tell before any work how many bytes the tiles of `depth` levels, from the coarsest, take at most in a file.

    Errors name `function` and `argument`.

    Raises: KindError, ArgumentError for a depth below 1, or deeper than the map.
    """
    return sum(_most(rows, columns) for _, rows, columns in _tiles(queries, keys, depth, function, argument))


def write_map_page(
    path: str | os.PathLike[str],
    seen: AttentionMap,
    *,
    title: str,
    tokens: Sequence[str] = (),
    depth: int = 3,
    layer: int = 0,
    head: int = 0,
    language: str | None = None,
    overwrite: bool = False,
) -> int:
    """Write one head's map as a page with `depth` levels, from the coarsest; return its size in bytes.

    `tokens` label queries and keys alike; `layer` and `head` are what the page says it shows. It opens in a `language`
    ("en", "zh") or the browser's. `baked_size` tells the size before.

    Cost: O(queries·keys·dim) time once, and the page in memory.
    Raises: ShapeError, ArgumentError, KindError; FileError as write_page.
    """
    check_page(path, overwrite=overwrite)
    made = Pyramid(seen)
    wanted = list(_tiles(made.queries, made.keys, depth, "write_map_page"))
    if tokens and not len(tokens) == made.queries == made.keys:
        rule, got = "be one for each query and key", f"{len(tokens)} for {made.queries} × {made.keys}"
        raise ShapeError(must("write_map_page", "tokens", rule, got, "leave them out to number positions"))
    for _ in made.steps():
        pass
    tiles = {}
    for place, _, _ in wanted:
        deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
        content = deflate.compress(made.tile(*place).packed()) + deflate.flush()
        tiles["/".join(map(str, place))] = base64.b64encode(content).decode()
    data = {
        "title": title[:LONGEST_TITLE],
        "language": language,
        "tokens": [token[:LONGEST_TOKEN] for token in tokens] or None,
        "layer": layer,
        "head": head,
        "map": {"queries": made.queries, "keys": made.keys, "levels": made.levels, "peak": peak_of(seen), "read": 1},
        "finest": made.levels - depth,
        "tiles": tiles,
    }
    style = part("page.css") + part("long.css")
    page, _ = fill(part("long.html"), style, bundle(LONG_PARTS), data, title)
    content = page.encode("utf-8")
    write_whole("write_map_page", path, content, overwrite=True)
    return len(content)


def _tiles(queries: int, keys: int, depth: int, function: str, argument: str = "depth"):  # type: ignore[no-untyped-def]
    """Go through the tiles of so many levels: each one's place, and how many pixels it is high and wide."""
    check_whole(function, argument, depth, 1)
    levels = 1 + next(n for n in range(64) if max(queries, keys) <= SIDE << n)
    if depth > levels:
        raise ArgumentError(must(function, argument, f"be <= {levels}", depth, "all levels: every weight is there"))
    for level in range(levels - depth, levels):
        high, wide = -(-queries >> level), -(-keys >> level)
        for row in range(0, high, SIDE):
            for column in range(0, wide, SIDE):
                place = level, row // SIDE, column // SIDE
                yield place, min(SIDE, high - row), min(SIDE, wide - column)


def _most(rows: int, columns: int) -> int:
    """Bytes of a tile in base64 at the most: what deflates to nothing less is stored in blocks of 5 bytes more."""
    stored = HEADER.size + 4 * rows * columns
    stored += 5 * (stored // 16383 + 1)
    return 4 * (stored // 3 + 1)
