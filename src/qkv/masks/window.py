"""Sliding windows: a query sees the keys around its own position, every one or every few."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from qkv.core.card import Card
from qkv.core.checks import check_offset, check_offset_kind, check_whole, shown
from qkv.core.runs import Runs
from qkv.core.types import Grid
from qkv.errors import ArgumentError, must
from qkv.masks.algebra import IntervalMask, Mask, ends_of_blocks

# A dilated window of more steps than this is planned as one run, from its first key to its last.
_STEPS = 64


@dataclass(frozen=True, eq=False, repr=False)
class Window(IntervalMask):
    """The key at the query's position, some before and some after."""

    before: int
    after: int
    offset: int | Tensor | None = None

    @property
    def is_value(self) -> bool:  # type: ignore[override]
        return not isinstance(self.offset, Tensor)

    def check(self, grid: Grid) -> None:
        check_offset("window", self.offset, grid)

    def bounds(
        self, rows: Int[Tensor, " rows"], grid: Grid
    ) -> tuple[Int[Tensor, "*lead rows"], Int[Tensor, "*lead2 rows"]]:
        position = grid.positions(rows, self.offset)
        return position - self.before, position + (self.after + 1)

    def __repr__(self) -> str:
        return _call(self.before, self.after, 1, self.offset)


@dataclass(frozen=True, eq=False, repr=False)
class DilatedWindow(Mask):
    """The key at the query's position, and every `dilation`-th one for some steps before and after."""

    before: int
    after: int
    dilation: int
    offset: int | Tensor | None = None

    @property
    def is_value(self) -> bool:  # type: ignore[override]
        return not isinstance(self.offset, Tensor)

    def check(self, grid: Grid) -> None:
        check_offset("window", self.offset, grid)

    def tile(
        self, rows: Int[Tensor, " rows"], columns: Int[Tensor, " columns"], grid: Grid
    ) -> Bool[Tensor, "*lead rows columns"]:
        away = columns - grid.positions(rows, self.offset)[..., None]
        near = (away >= -self.before * self.dilation) & (away <= self.after * self.dilation)
        return near & (away % self.dilation == 0)

    def runs(self, block: int, grid: Grid) -> tuple[Runs, Runs]:
        first, last = (grid.positions(row, self.offset)[..., None] for row in ends_of_blocks(block, grid))
        back, ahead = self.before * self.dilation, self.after * self.dilation
        # Where the rows of a block are as many as a step is long, their keys leave no gap between two steps.
        if block >= self.dilation or self.before + self.after >= _STEPS:
            some = Runs.make(first - back, last + (ahead + 1), grid.keys)
        else:
            step = torch.arange(-back, ahead + 1, self.dilation, device=grid.device)
            some = Runs.make(first + step, last + step + 1, grid.keys)
        # Two neighbours share no key, so we claim none.
        nothing = torch.full_like(first, grid.keys)
        return some, Runs(nothing, nothing, grid.keys)

    def __repr__(self) -> str:
        return _call(self.before, self.after, self.dilation, self.offset)


def _call(before: int, after: int, dilation: int, offset: int | Tensor | None) -> str:
    given = [f"before={before}", f"after={after}"] if after else [f"{before + 1}"]
    if dilation > 1:
        given.append(f"dilation={dilation}")
    if offset is not None:
        given.append(f"offset={shown(offset)}")
    return f"window({', '.join(given)})"


def window(
    width: int | None = None,
    *,
    before: int | None = None,
    after: int | None = None,
    dilation: int = 1,
    offset: int | Int[Tensor, "*batch"] | None = None,
) -> Window | DilatedWindow:
    """Let a query see `before` keys before its own position, that key itself, and `after` keys after it.

    `window(4)` is `window(before=3, after=0)`: the width counts the query itself. One side given alone leaves the
    other 0. With a dilation the counts are steps: `window(4, dilation=2)` at position p sees p, p−2, p−4 and p−6.
    Query i stands at `keys - queries + i`, or at `offset + i`, as in `causal`.

    Paper: Beltagy et al. 2020, arXiv:2004.05150, section 3.1.
    Cost: O(queries·width) pairs.
    Raises: ArgumentError if neither or both of width and sides are given, or a count is too small; KindError if a
    count is no integer; ShapeError if the offset does not fit the batch.
    """
    if width is None and before is None and after is None:
        raise ArgumentError(
            must("window", "width", "be given, or before and after", None, "window(4), window(before=3)")
        )
    if width is not None and (before is not None or after is not None):
        fix = "window(4) is window(before=3, after=0)"
        raise ArgumentError(must("window", "width", "be given alone, without before and after", width, fix))
    if width is not None:
        check_whole("window", "width", width, 1, "width counts the query itself")
        before = width - 1
    before, after = 0 if before is None else before, 0 if after is None else after
    check_whole("window", "before", before, 0, "keys before the query's own")
    check_whole("window", "after", after, 0, "keys after the query's own")
    check_whole("window", "dilation", dilation, 1, "1 leaves no gaps")
    check_offset_kind("window", offset)
    if dilation == 1 or before == after == 0:
        return Window(before, after, offset)
    return DilatedWindow(before, after, dilation, offset)


CARDS = (
    Card(
        name="window",
        kind="mask",
        equation="p − w < j ≤ p,  p = i + keys − queries",
        paper="Beltagy et al. 2020, arXiv:2004.05150",
        cost="queries × width",
        build=lambda: window(3),
    ),
    Card(
        name="two-sided window",
        kind="mask",
        equation="p − before ≤ j ≤ p + after",
        paper="Beltagy et al. 2020, arXiv:2004.05150",
        cost="queries × (before + 1 + after)",
        build=lambda: window(before=2, after=1),
    ),
    Card(
        name="dilated window",
        kind="mask",
        equation="j = p − t · dilation,  0 ≤ t < w",
        paper="Beltagy et al. 2020, arXiv:2004.05150",
        cost="queries × width",
        build=lambda: window(2, dilation=2),
    ),
)
