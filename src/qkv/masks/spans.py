"""Spans: each query sees one interval of keys, told by two numbers a query. Most dense masks are that, spelled out."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn import functional as F

from qkv.core.checks import check_integers, shown
from qkv.core.runs import Runs
from qkv.core.types import Grid
from qkv.errors import ShapeError, must
from qkv.masks.algebra import Mask


@dataclass(frozen=True, eq=False, repr=False)
class Spans(Mask):
    """The keys from each query's start to before its stop; none where they meet or cross."""

    start: Tensor
    stop: Tensor
    is_value = False

    def check(self, grid: Grid) -> None:
        whole = [*grid.batch, grid.heads, grid.queries]
        for name, ends in (("start", self.start), ("stop", self.stop)):
            sizes = zip(reversed(ends.shape), reversed(whole), strict=False)
            # Rows do not spread out: each has a number of its own.
            spreads = all(size in (1, most) for size, most in sizes)
            if not 0 < ends.ndim <= len(whole) or not spreads or ends.shape[-1] != grid.queries:
                rule = f"spread out to [*batch, heads, queries] = {whole}"
                raise ShapeError(must("spans", name, rule, list(ends.shape)))

    def tile(
        self, rows: Int[Tensor, " rows"], columns: Int[Tensor, " columns"], grid: Grid
    ) -> Bool[Tensor, "*lead rows columns"]:
        start, stop = (ends.index_select(-1, rows)[..., None] for ends in (self.start, self.stop))
        return (columns >= start) & (columns < stop)

    def runs(self, block: int, grid: Grid) -> tuple[Runs, Runs]:
        start, stop = torch.broadcast_tensors(self.start.clamp(0, grid.keys), self.stop.clamp(0, grid.keys))
        # An empty row starts after all others and stops before them, so that it adds nothing and leaves nothing.
        empty = start >= stop
        start, stop = start.masked_fill(empty, grid.keys), stop.masked_fill(empty, 0)
        # A row that fills up the last block changes neither.
        short = (0, -grid.queries % block)
        first, late = (F.pad(start, short, value=end).unflatten(-1, (-1, block)) for end in (grid.keys, 0))
        last, early = (F.pad(stop, short, value=end).unflatten(-1, (-1, block)) for end in (0, grid.keys))
        return (
            Runs.make(first.amin(-1)[..., None], last.amax(-1)[..., None], grid.keys),
            Runs.make(late.amax(-1)[..., None], early.amin(-1)[..., None], grid.keys),
        )

    def __repr__(self) -> str:
        return f"spans({shown(self.start)}, {shown(self.stop)})"


def spans(start: Int[Tensor, "*lead queries"], stop: Int[Tensor, "*lead2 queries"]) -> Spans:
    """Let each query see the keys start ≤ j < stop; both broadcast to [*batch, heads, queries].

    Cost: the pairs between the first start and the last stop of neighbouring queries.
    Raises: KindError unless both are tensors of integers; ShapeError if they do not fit the queries.
    """
    check_integers("spans", "start", start)
    check_integers("spans", "stop", stop)
    return Spans(start, stop)


def spans_of(dense: Bool[Tensor, "*lead queries keys"]) -> Spans | None:
    """Tell a dense mask by its spans; None if some query sees keys on both sides of one that it does not see.

    Cost: a few passes over the mask; what remains is O(queries) for each leading index.
    """
    # What is only spread over a dimension is read once.
    steps = zip(dense.shape[:-2], dense.stride()[:-2], strict=True)
    dense = dense[tuple(slice(0, 1) if size > 1 and step == 0 else slice(None) for size, step in steps)]
    if not dense.shape[-1]:
        nothing = torch.zeros(dense.shape[:-1], dtype=torch.int64, device=dense.device)
        return Spans(nothing, nothing)
    bytes_ = dense.contiguous().view(torch.uint8)
    count, start = bytes_.sum(-1, dtype=torch.int64), bytes_.argmax(-1)
    rises = bytes_[..., 0] + (bytes_[..., 1:] > bytes_[..., :-1]).sum(-1)
    return Spans(start, start + count) if bool((rises <= 1).all()) else None
