"""What every mask can do, and how masks combine: `&`, `|`, `~`."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from qkv.core.checks import readable
from qkv.core.runs import Runs
from qkv.core.types import Grid
from qkv.errors import KindError, must

MANY = 1 << 16
"""Pairs of a tile from which NumPy's comparisons are worth their start."""


class Mask(ABC):
    """Which pairs may meet. True = may attend.

    Masks of numbers alone are equal when their numbers are; a mask that holds a tensor equals only itself.
    """

    is_value: bool = True

    def check(self, grid: Grid) -> None:
        """Raise what does not fit this grid, before any work."""

    @abstractmethod
    def tile(
        self, rows: Int[Tensor, " rows"], columns: Int[Tensor, " columns"], grid: Grid
    ) -> Bool[Tensor, "*lead rows columns"]:
        """Answer for these queries and keys, broadcastable to [*batch, heads, rows, columns]."""

    @abstractmethod
    def runs(self, block: int, grid: Grid) -> tuple[Runs, Runs]:
        """Answer for all blocks of `block` queries at once: the key runs that some row may see, and that every row may.

        The first may claim too many keys and the second too few, never the other way.
        """

    def dense(
        self,
        queries: int,
        keys: int,
        *,
        batch: tuple[int, ...] = (),
        heads: int = 1,
        device: torch.device | str = "cpu",
    ) -> Bool[Tensor, "*lead queries keys"]:
        """Spell the mask out, broadcastable to [*batch, heads, queries, keys]. Cost: O(queries·keys) memory."""
        grid = Grid(batch, heads, queries, keys, torch.device(device))
        self.check(grid)
        return self.tile(grid.rows(), grid.columns(), grid)

    def picture(self, queries: int, keys: int, *, batch: tuple[int, ...] = (), heads: int = 1) -> str:
        """Draw the mask of the first batch row and head: a line for each query, ■ where it sees the key, else ·."""
        seen = self.dense(queries, keys, batch=batch, heads=heads)
        while seen.ndim > 2:
            seen = seen[0]
        return "\n".join(" ".join("■" if pair else "·" for pair in row) for row in seen.tolist())

    def __and__(self, other: object) -> "Mask":
        return self if other is self else And(self, _mask("&", other))

    def __or__(self, other: object) -> "Mask":
        return self if other is self else Or(self, _mask("|", other))

    def __rand__(self, other: object) -> "Mask":
        return _mask("&", other) & self

    def __ror__(self, other: object) -> "Mask":
        return _mask("|", other) | self

    def __invert__(self) -> "Mask":
        return self.complement()

    def complement(self) -> "Mask":
        """Let the other pairs meet: `~mask`, by a name that torch.compile can trace."""
        return Not(self)

    def __bool__(self) -> bool:
        # `causal() and window(4)` would quietly be the second alone.
        fix = "combine masks with & | ~, not with and, or, not"
        raise KindError(must("mask", "a mask", "not be used as True or False", self, fix))

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        same = type(self) is type(other) and self.is_value and other.is_value
        return same and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), *vars(self).values())) if self.is_value else id(self)


def _mask(operator: str, other: object) -> Mask:
    if not isinstance(other, Mask):
        fix = "wrap a boolean tensor: qkv.dense_mask(tensor)"
        raise KindError(must(operator, "the other side", "be a mask", type(other).__name__, fix))
    return other


class IntervalMask(Mask):
    """A mask whose rows each see one interval of keys, neither end of which falls from a row to the next.

    So the first and the last row of a block tell what the block sees, and two such masks meet in a third.
    """

    @abstractmethod
    def bounds(
        self, rows: Int[Tensor, " rows"], grid: Grid
    ) -> tuple[Int[Tensor, "*lead rows"], Int[Tensor, "*lead2 rows"]]:
        """Give the first key that each row sees, and the first after them; nothing is seen where they meet or cross."""

    def tile(
        self, rows: Int[Tensor, " rows"], columns: Int[Tensor, " columns"], grid: Grid
    ) -> Bool[Tensor, "*lead rows columns"]:
        start, stop = self.bounds(rows, grid)
        if readable(columns, start, stop) and rows.shape[0] * columns.shape[0] >= MANY:
            # NumPy compares short integers some seven times as fast as torch does long ones.
            ends = (end.clamp(0, grid.keys).int().numpy()[..., None] for end in (start, stop))
            first, after, place = *ends, columns.int().numpy()
            return torch.from_numpy((place >= first) & (place < after))
        return (columns >= start[..., None]) & (columns < stop[..., None])

    def runs(self, block: int, grid: Grid) -> tuple[Runs, Runs]:
        first, last = ends_of_blocks(block, grid)
        start, stop = self.bounds(torch.cat((first, last)), grid)
        (first_start, last_start), (first_stop, last_stop) = start.chunk(2, dim=-1), stop.chunk(2, dim=-1)
        some = Runs.make(first_start[..., None], last_stop[..., None], grid.keys)
        return some, Runs.make(last_start[..., None], first_stop[..., None], grid.keys)

    def __and__(self, other: object) -> Mask:
        meets = isinstance(other, IntervalMask) and other is not self
        return IntervalAnd(self, other) if meets else super().__and__(other)  # type: ignore[arg-type]


def ends_of_blocks(block: int, grid: Grid) -> tuple[Int[Tensor, " blocks"], Int[Tensor, " blocks"]]:
    """Give the first and the last row of each block of `block` queries; the last block may be short."""
    first = torch.arange(0, grid.queries, block, device=grid.device)
    return first, (first + (block - 1)).clamp(max=grid.queries - 1)


class _Pair(Mask):
    """Two masks combined."""

    left: Mask
    right: Mask

    @property
    def is_value(self) -> bool:  # type: ignore[override]
        return self.left.is_value and self.right.is_value

    def check(self, grid: Grid) -> None:
        self.left.check(grid)
        self.right.check(grid)


@dataclass(frozen=True, eq=False, repr=False)
class And(_Pair):
    """Pairs that both masks let meet."""

    left: Mask
    right: Mask

    def tile(self, rows: Tensor, columns: Tensor, grid: Grid) -> Tensor:
        return self.left.tile(rows, columns, grid) & self.right.tile(rows, columns, grid)

    def runs(self, block: int, grid: Grid) -> tuple[Runs, Runs]:
        some, every = self.left.runs(block, grid)
        some_right, every_right = self.right.runs(block, grid)
        return some & some_right, every & every_right

    def __repr__(self) -> str:
        return f"({self.left} & {self.right})"


class IntervalAnd(IntervalMask, And):
    """Pairs that two interval masks let meet: an interval again, from the later start to the earlier stop."""

    left: IntervalMask
    right: IntervalMask

    def bounds(
        self, rows: Int[Tensor, " rows"], grid: Grid
    ) -> tuple[Int[Tensor, "*lead rows"], Int[Tensor, "*lead2 rows"]]:
        start, stop = self.left.bounds(rows, grid)
        start_right, stop_right = self.right.bounds(rows, grid)
        return torch.maximum(start, start_right), torch.minimum(stop, stop_right)


@dataclass(frozen=True, eq=False, repr=False)
class Or(_Pair):
    """Pairs that either mask lets meet."""

    left: Mask
    right: Mask

    def tile(self, rows: Tensor, columns: Tensor, grid: Grid) -> Tensor:
        return self.left.tile(rows, columns, grid) | self.right.tile(rows, columns, grid)

    def runs(self, block: int, grid: Grid) -> tuple[Runs, Runs]:
        some, every = self.left.runs(block, grid)
        some_right, every_right = self.right.runs(block, grid)
        return some | some_right, every | every_right

    def __repr__(self) -> str:
        return f"({self.left} | {self.right})"


@dataclass(frozen=True, eq=False, repr=False)
class Not(Mask):
    """Pairs that a mask does not let meet.

    torch.compile cannot trace `~` on an object: inside a compiled function write `mask.complement()`, or make `~mask`
    outside.
    """

    inner: Mask

    @property
    def is_value(self) -> bool:  # type: ignore[override]
        return self.inner.is_value

    def check(self, grid: Grid) -> None:
        self.inner.check(grid)

    def tile(self, rows: Tensor, columns: Tensor, grid: Grid) -> Tensor:
        return ~self.inner.tile(rows, columns, grid)

    def runs(self, block: int, grid: Grid) -> tuple[Runs, Runs]:
        some, every = self.inner.runs(block, grid)
        return every.complement(), some.complement()

    def __repr__(self) -> str:
        return f"~{self.inner}"
