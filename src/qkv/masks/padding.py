"""Padding: positions that stand for nothing are hidden, keys from every query and, if asked, queries from every key."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn import functional as F

from qkv.core.card import Card
from qkv.core.checks import check_batch, check_dense, check_held, check_lengths, is_integer, shown
from qkv.core.runs import Runs
from qkv.core.types import Grid
from qkv.errors import ArgumentError, KindError, ShapeError, must
from qkv.masks.algebra import IntervalMask, Mask, ends_of_blocks


@dataclass(frozen=True, eq=False, repr=False)
class KeyLengths(IntervalMask):
    """The first keys of each batch row, or the last if the padding stands on the left."""

    lengths: Tensor
    left: bool = False
    is_value = False

    def check(self, grid: Grid) -> None:
        check_batch("padding", "keys", self.lengths, grid)
        check_lengths("padding", "keys", self.lengths, grid.keys, "keys")

    def bounds(
        self, rows: Int[Tensor, " rows"], grid: Grid
    ) -> tuple[Int[Tensor, "*lead rows"], Int[Tensor, "*lead2 rows"]]:
        zero = torch.zeros_like(rows)
        length = self.lengths.to(grid.device)[..., None, None] + zero
        return (grid.keys - length, zero + grid.keys) if self.left else (zero, length)

    def __repr__(self) -> str:
        return _call("keys", self.lengths, self.left)


@dataclass(frozen=True, eq=False, repr=False)
class QueryLengths(IntervalMask):
    """The first queries of each batch row, or the last if the padding stands on the left; the others see nothing."""

    lengths: Tensor
    left: bool = False
    is_value = False

    def check(self, grid: Grid) -> None:
        check_batch("padding", "queries", self.lengths, grid)
        check_lengths("padding", "queries", self.lengths, grid.queries, "queries")

    def bounds(
        self, rows: Int[Tensor, " rows"], grid: Grid
    ) -> tuple[Int[Tensor, "*lead rows"], Int[Tensor, "*lead2 rows"]]:
        zero, length = torch.zeros_like(rows), self.lengths.to(grid.device)[..., None, None]
        # A padded row sees the empty interval on the side where the bounds still never fall: before the rows
        # that see everything [0, 0), after them [keys, keys).
        if self.left:
            return zero, (rows >= grid.queries - length) * grid.keys
        return (rows >= length) * grid.keys, zero + grid.keys

    def __repr__(self) -> str:
        return _call("queries", self.lengths, self.left)


@dataclass(frozen=True, eq=False, repr=False)
class KeptKeys(Mask):
    """The keys that a tensor of flags keeps."""

    keep: Tensor
    is_value = False

    def check(self, grid: Grid) -> None:
        _check_keep("keys", self.keep, grid.keys, grid)

    def tile(
        self, rows: Int[Tensor, " rows"], columns: Int[Tensor, " columns"], grid: Grid
    ) -> Bool[Tensor, "*lead rows columns"]:
        kept = self.keep.to(grid.device)[..., columns][..., None, None, :]
        return kept.expand(*kept.shape[:-2], rows.shape[0], -1)

    def runs(self, block: int, grid: Grid) -> tuple[Runs, Runs]:
        keep, column = self.keep.to(grid.device), grid.columns()
        start = F.pad(torch.where(keep, column, grid.keys), (0, 1), value=grid.keys).amin(-1)
        stop = F.pad(torch.where(keep, column + 1, 0), (0, 1), value=0).amax(-1)
        whole = keep.sum(-1) == stop - start
        blocks = ends_of_blocks(block, grid)[0].shape[0]
        start, stop, whole = (
            each[..., None, None, None].expand(*each.shape, 1, blocks, 1) for each in (start, stop, whole)
        )
        return Runs.make(start, stop, grid.keys), Runs.make(start, torch.where(whole, stop, 0), grid.keys)

    def __repr__(self) -> str:
        return _call("keys", self.keep)


@dataclass(frozen=True, eq=False, repr=False)
class KeptQueries(Mask):
    """Every key for the queries that a tensor of flags keeps, none for the others."""

    keep: Tensor
    is_value = False

    def check(self, grid: Grid) -> None:
        _check_keep("queries", self.keep, grid.queries, grid)

    def tile(
        self, rows: Int[Tensor, " rows"], columns: Int[Tensor, " columns"], grid: Grid
    ) -> Bool[Tensor, "*lead rows columns"]:
        kept = self.keep.to(grid.device)[..., rows][..., None, :, None]
        return kept.expand(*kept.shape[:-1], columns.shape[0])

    def runs(self, block: int, grid: Grid) -> tuple[Runs, Runs]:
        first, last = ends_of_blocks(block, grid)
        before = F.pad(self.keep.to(grid.device).cumsum(-1), (1, 0))
        kept = (before[..., last + 1] - before[..., first])[..., None, :, None]
        nothing = torch.zeros_like(kept)
        some = Runs.make(nothing, (kept > 0) * grid.keys, grid.keys)
        return some, Runs.make(nothing, (kept == (last + 1 - first)[:, None]) * grid.keys, grid.keys)

    def __repr__(self) -> str:
        return _call("queries", self.keep)


def _call(argument: str, given: Tensor, left: bool = False) -> str:
    return f"padding({argument}={shown(given)}{', left=True' if left else ''})"


def _check_keep(argument: str, keep: Tensor, positions: int, grid: Grid) -> None:
    if tuple(keep.shape) != (*grid.batch, positions):
        rule = f"have the shape [*batch, {argument}] = {[*grid.batch, positions]}"
        fix = "True = keep"
        if not grid.batch:
            fix += f"; to draw a mask: picture({grid.queries}, {grid.keys}, batch={tuple(keep.shape[:-1])})"
        raise ShapeError(must("padding", argument, rule, list(keep.shape), fix))
    check_held("padding", argument, keep, grid)


def _one_side(argument: str, given: object, left: bool, lengths: type[Mask], kept: type[Mask]) -> Mask:
    if not isinstance(given, Tensor):
        got = type(given).__name__
        raise KindError(must("padding", argument, "be a tensor", got, "of lengths, or of booleans where True = keep"))
    check_dense("padding", argument, given)
    if is_integer(given):
        return lengths(given, left)  # type: ignore[call-arg]
    if given.dtype != torch.bool:
        rule, fix = "hold lengths or booleans", "integers count positions; True = keep"
        raise KindError(must("padding", argument, rule, given.dtype, fix))
    if left:
        fix = f"{argument} is a keep-tensor, which says itself where its padding stands"
        raise ArgumentError(must("padding", "left", "be False without lengths", left, fix))
    return kept(given)  # type: ignore[call-arg]


def padding(
    *,
    keys: Int[Tensor, "*batch"] | Bool[Tensor, "*batch keys"] | None = None,
    queries: Int[Tensor, "*batch"] | Bool[Tensor, "*batch queries"] | None = None,
    left: bool = False,
) -> Mask:
    """Hide padded keys from every query; with `queries`, let padded queries see nothing, so that their output is 0.

    Each is given by lengths, one for each batch row, or by a keep-tensor, one boolean for each position (True = keep).
    The first `length` positions of a row are real, or with `left=True` the last.

    Cost: the pairs of real keys (and of real queries).
    Raises: ArgumentError if neither is given, if `left` goes with a keep-tensor, or if a length is negative or beyond
    the positions; KindError if a tensor holds neither integers nor booleans; ShapeError if it does not fit the batch.
    """
    if keys is None and queries is None:
        fix = "padding(keys=lengths), padding(keys=lengths, queries=lengths)"
        raise ArgumentError(must("padding", "keys or queries", "be given", None, fix))
    sides: list[Mask] = []
    if keys is not None:
        sides.append(_one_side("keys", keys, left, KeyLengths, KeptKeys))
    if queries is not None:
        sides.append(_one_side("queries", queries, left, QueryLengths, KeptQueries))
    return sides[0] & sides[1] if len(sides) == 2 else sides[0]


CARDS = (
    Card(
        name="key padding",
        kind="mask",
        equation="j < length of the batch row",
        paper="",
        cost="queries × real keys",
        build=lambda: padding(keys=torch.tensor([4, 7])),
    ),
    Card(
        name="key and query padding",
        kind="mask",
        equation="i < real queries and j < real keys",
        paper="",
        cost="real queries × real keys",
        build=lambda: padding(keys=torch.tensor([4, 7]), queries=torch.tensor([5, 2])),
    ),
    Card(
        name="left padding",
        kind="mask",
        equation="j ≥ keys − length of the batch row",
        paper="",
        cost="queries × real keys",
        build=lambda: padding(keys=torch.tensor([4, 7]), left=True),
    ),
    Card(
        name="key padding by flags",
        kind="mask",
        equation="keep of the batch row at j",
        paper="",
        cost="queries × keys between the first and the last kept",
        build=lambda: padding(keys=torch.arange(7) < torch.tensor([[4], [7]])),
    ),
    Card(
        name="key and query padding by flags",
        kind="mask",
        equation="keep at i and keep at j",
        paper="",
        cost="real queries × real keys",
        build=lambda: padding(
            keys=torch.arange(7) >= torch.tensor([[2], [0]]), queries=torch.arange(5) >= torch.tensor([[3], [0]])
        ),
    ),
)
