"""What a mask means, said once more in plain Python, pair by pair; and random grids and masks to compare it on."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

from qkv.core.runs import Runs
from qkv.core.types import Grid
from qkv.masks.algebra import Mask
from qkv.masks.blocks import bigbird, blocks
from qkv.masks.causal import causal
from qkv.masks.dense import dense_mask
from qkv.masks.documents import documents
from qkv.masks.padding import padding
from qkv.masks.prefix import prefix
from qkv.masks.window import window

# (batch row, head, query, key) -> may they meet?
Meets = Callable[[int, int, int, int], bool]


@dataclass(frozen=True)
class Case:
    """A mask, what it means (None: known by other tests), and whether its runs promise to be exact."""

    mask: Mask
    meets: Meets | None = None
    exact_some: bool = False
    exact_every: bool = False


def whole(mask: Mask, grid: Grid) -> Tensor:
    """Spell a mask out, broadcast to all of [*batch, heads, queries, keys]."""
    mask.check(grid)
    dense = mask.tile(grid.rows(), grid.columns(), grid)
    assert dense.dtype == torch.bool
    return dense.expand(*grid.batch, grid.heads, grid.queries, grid.keys)


def expected(meets: Meets, grid: Grid) -> Tensor:
    rows = torch.Size(grid.batch).numel()
    pairs = [
        [[[meets(b, h, i, j) for j in range(grid.keys)] for i in range(grid.queries)] for h in range(grid.heads)]
        for b in range(rows)
    ]
    shape = (*grid.batch, grid.heads, grid.queries, grid.keys)
    return torch.tensor(pairs, dtype=torch.bool).reshape(shape)


def by_block(dense: Tensor, block: int, every: bool) -> Tensor:
    """Say for each block of rows and each key whether some row, or every row, sees it."""
    parts = dense.split(block, dim=-2) if dense.shape[-2] else ()
    flags = [part.all(-2) if every else part.any(-2) for part in parts]
    empty = torch.zeros(*dense.shape[:-2], 0, dense.shape[-1], dtype=torch.bool)
    return torch.stack(flags, dim=-2) if flags else empty


def assert_well_formed(runs: Runs, grid: Grid, block: int) -> None:
    start, stop = runs.start, runs.stop
    assert start.shape == stop.shape and start.dtype == stop.dtype == torch.int64
    assert runs.keys == grid.keys
    blocks_, slots = start.shape[-2:]
    assert blocks_ == -(-grid.queries // block) and slots >= 1
    torch.broadcast_to(start, (*grid.batch, grid.heads, blocks_, slots))
    assert ((start >= 0) & (stop <= grid.keys) & (start <= stop)).all()
    empty = start >= stop
    assert (start[empty] == grid.keys).all() and (stop[empty] == grid.keys).all()
    assert not (empty[..., :-1] & ~empty[..., 1:]).any()
    assert ((start[..., 1:] > stop[..., :-1]) | empty[..., 1:]).all()


def assert_sound(case: Case, block: int, grid: Grid) -> None:
    """Check that a mask means what it should, tile by tile too, and that its runs never claim wrongly."""
    dense = whole(case.mask, grid)
    if case.meets is not None:
        assert torch.equal(dense, expected(case.meets, grid))
    rows, columns = grid.rows()[1::2].flip(0), grid.columns()[::3]
    tile = case.mask.tile(rows, columns, grid)
    assert tile.shape[-2:] == (len(rows), len(columns))
    assert torch.equal(tile.expand(*dense.shape[:-2], -1, -1), dense[..., rows, :][..., columns])
    some, every = case.mask.runs(block, grid)
    for runs in (some, every):
        assert_well_formed(runs, grid, block)
    any_row, all_rows = by_block(dense, block, every=False), by_block(dense, block, every=True)
    some_keys, every_keys = some.cover().expand(any_row.shape), every.cover().expand(all_rows.shape)
    assert not (any_row & ~some_keys).any(), "some must not leave out a key that a row sees"
    assert not (every_keys & ~all_rows).any(), "every must not claim a key that a row does not see"
    if case.exact_some:
        assert torch.equal(any_row, some_keys)
    if case.exact_every:
        assert torch.equal(all_rows, every_keys)


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    batch = draw(st.sampled_from([(), (1,), (2,), (2, 2)]))
    return Grid(batch, draw(st.integers(1, 2)), draw(st.integers(0, 10)), draw(st.integers(0, 12)))


@st.composite
def leaves(draw: st.DrawFn, grid: Grid) -> Case:
    """Draw one mask that fits a grid, and what it means."""
    rows = torch.Size(grid.batch).numel()

    def integers(low: int, high: int) -> list[int]:
        return draw(st.lists(st.integers(low, high), min_size=rows, max_size=rows))

    def shaped(values: list, *shape: int) -> Tensor:
        return torch.tensor(values).reshape((*grid.batch, *shape))

    def flags(*shape: int) -> Tensor:
        seed, density = draw(st.integers(0, 99)), draw(st.sampled_from([0.1, 0.5, 0.9, 1.0]))
        return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < density

    def positions() -> tuple[int | Tensor | None, list[int]]:
        kind = draw(st.sampled_from(["corner", "number", "tensor"]))
        if kind == "corner":
            return None, [grid.keys - grid.queries] * rows
        if kind == "number":
            offset = draw(st.integers(-4, 14))
            return offset, [offset] * rows
        offsets = integers(-4, 14)
        return shaped(offsets), offsets

    def is_causal() -> Case:
        offset, at = positions()
        return Case(causal(offset=offset), lambda b, h, i, j: j <= at[b] + i, True, True)

    def is_window() -> Case:
        offset, at = positions()
        before, after = draw(st.integers(0, 5)), draw(st.integers(0, 5))
        mask = window(before=before, after=after, offset=offset)
        return Case(mask, lambda b, h, i, j: -before <= j - at[b] - i <= after, True, True)

    def is_dilated() -> Case:
        offset, at = positions()
        before, after, dilation = draw(st.integers(0, 5)), draw(st.integers(0, 5)), draw(st.integers(2, 4))
        mask = window(before=before, after=after, dilation=dilation, offset=offset)
        steps = range(-before * dilation, after * dilation + 1, dilation)
        return Case(mask, lambda b, h, i, j: j - at[b] - i in steps)

    def is_prefix() -> Case:
        if draw(st.booleans()):
            length = draw(st.integers(0, 14))
            return Case(prefix(length), lambda b, h, i, j: j < length, True, True)
        lengths = integers(0, 14)
        return Case(prefix(shaped(lengths)), lambda b, h, i, j: j < lengths[b], True, True)

    def is_padding() -> Case:
        keys, queries, left = integers(0, grid.keys), integers(0, grid.queries), draw(st.booleans())
        sides = draw(st.sampled_from([("keys",), ("queries",), ("keys", "queries")]))
        given = {"keys": shaped(keys), "queries": shaped(queries)}

        def real(position: int, length: int, positions: int) -> bool:
            return position >= positions - length if left else position < length

        def meets(b: int, h: int, i: int, j: int) -> bool:
            key, query = real(j, keys[b], grid.keys), real(i, queries[b], grid.queries)
            return (key or "keys" not in sides) and (query or "queries" not in sides)

        mask = padding(**{side: given[side] for side in sides}, left=left)
        return Case(mask, meets, True, True)

    def is_kept() -> Case:
        keys, queries = flags(*grid.batch, grid.keys), flags(*grid.batch, grid.queries)
        key, query = keys.reshape(rows, -1).tolist(), queries.reshape(rows, -1).tolist()
        sides = draw(st.sampled_from([("keys",), ("queries",), ("keys", "queries")]))
        given = {"keys": keys, "queries": queries}

        def meets(b: int, h: int, i: int, j: int) -> bool:
            return (key[b][j] or "keys" not in sides) and (query[b][i] or "queries" not in sides)

        exact = "keys" not in sides
        return Case(padding(**{side: given[side] for side in sides}), meets, exact, exact)

    def packed(positions: int, count: int) -> list[list[int]]:
        edges = st.lists(st.integers(0, positions), min_size=count, max_size=count).map(sorted)
        every = draw(st.lists(edges, min_size=rows, max_size=rows))
        return [[stop - start for start, stop in zip([0, *ends], ends, strict=False)] for ends in every]

    def document(lengths: list[int], position: int) -> int | None:
        for index in range(len(lengths)):
            if 0 <= position - sum(lengths[:index]) < lengths[index]:
                return index
        return None

    def is_documents() -> Case:
        count = draw(st.integers(1, 4))
        keys, queries = packed(grid.keys, count), packed(grid.queries, count)
        cross, shared = draw(st.booleans()), draw(st.booleans())
        if shared:
            keys, queries = keys[:1] * rows, queries[:1] * rows
        corner = 0 if cross else grid.keys - grid.queries

        def meets(b: int, h: int, i: int, j: int) -> bool:
            mine = document((queries if cross else keys)[b], i + corner)
            return mine is not None and mine == document(keys[b], j)

        def tensor(lengths: list[list[int]]) -> Tensor:
            return torch.tensor(lengths[0]) if shared else shaped(lengths, count)

        mask = documents(keys=tensor(keys), queries=tensor(queries)) if cross else documents(tensor(keys))
        return Case(mask, meets)

    def is_blocks() -> Case:
        size = draw(st.integers(1, 4))
        lead = draw(st.sampled_from([(), (grid.heads,), (1,), (*grid.batch, grid.heads)]))
        extra = draw(st.integers(0, 1))
        layout = flags(*lead, -(-grid.queries // size) + extra, -(-grid.keys // size) + extra)
        flat = layout.expand(*grid.batch, grid.heads, -1, -1).reshape(rows, grid.heads, *layout.shape[-2:]).tolist()
        return Case(blocks(layout, size), lambda b, h, i, j: flat[b][h][i // size][j // size], True, True)

    def is_bigbird() -> Case:
        block, size = draw(st.integers(1, 3)), draw(st.sampled_from([1, 3]))
        drawn, wide, seed = draw(st.integers(0, 2)), draw(st.integers(0, 2)), draw(st.integers(0, 9))
        return Case(bigbird(block, window=size, global_blocks=wide, random=drawn, seed=seed), None, True, True)

    def is_dense() -> Case:
        full = (*grid.batch, grid.heads, grid.queries, grid.keys)
        ones = draw(st.lists(st.booleans(), min_size=len(full), max_size=len(full)))
        shape = [1 if one else size for one, size in zip(ones, full, strict=True)]
        tensor = flags(*shape[draw(st.integers(0, len(shape))) :])
        flat = tensor.expand(full).reshape(rows, *full[-3:]).tolist()
        return Case(dense_mask(tensor), lambda b, h, i, j: flat[b][h][i][j], True, True)

    kinds = (is_causal, is_window, is_dilated, is_prefix, is_padding, is_kept)
    return draw(st.sampled_from((*kinds, is_documents, is_blocks, is_bigbird, is_dense)))()


@st.composite
def trees(draw: st.DrawFn, grid: Grid, depth: int = 3) -> Mask:
    """Draw a mask made of masks."""
    kind = draw(st.sampled_from(["leaf", "and", "or", "not"])) if depth else "leaf"
    if kind == "leaf":
        return draw(leaves(grid)).mask
    left = draw(trees(grid, depth - 1))
    if kind == "not":
        return ~left
    right = draw(trees(grid, depth - 1))
    return left & right if kind == "and" else left | right
