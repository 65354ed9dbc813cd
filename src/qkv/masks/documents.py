"""Packed documents: several sequences on one row, each of which sees itself alone."""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional as F

from qkv.core.card import Card
from qkv.core.checks import check_dense, check_held, is_integer, readable, shown
from qkv.core.types import Grid
from qkv.errors import ArgumentError, KindError, ShapeError, must
from qkv.masks.algebra import IntervalMask


@dataclass(frozen=True, eq=False, repr=False)
class Documents(IntervalMask):
    """The keys of the query's own document."""

    keys: Tensor
    queries: Tensor | None = None
    is_value = False

    def check(self, grid: Grid) -> None:
        _check_packed("keys" if self.queries is not None else "lengths", self.keys, grid.keys, "keys", grid)
        if self.queries is not None:
            _check_packed("queries", self.queries, grid.queries, "queries", grid)

    def bounds(
        self, rows: Int[Tensor, " rows"], grid: Grid
    ) -> tuple[Int[Tensor, "*lead rows"], Int[Tensor, "*lead2 rows"]]:
        edges = _edges(self.keys.to(grid.device))
        if self.queries is None:
            place, place_edges = grid.positions(rows), edges
        else:
            place, place_edges = rows, _edges(self.queries.to(grid.device))
        # How many edges lie at or before a place: 0 before the first document, one more for each that it has reached.
        inner = place_edges[..., 1:-1].contiguous()
        index = torch.searchsorted(inner, place.expand(*inner.shape[:-1], -1).contiguous(), right=True)
        start, stop = edges.gather(-1, index), edges.gather(-1, index + 1)
        return (start, stop) if edges.ndim == 1 else (start.unsqueeze(-2), stop.unsqueeze(-2))

    def __repr__(self) -> str:
        if self.queries is None:
            return f"documents({shown(self.keys)})"
        return f"documents(keys={shown(self.keys)}, queries={shown(self.queries)})"


def _edges(lengths: Int[Tensor, "*batch documents"]) -> Int[Tensor, "*batch edges"]:
    """Give where documents begin and end, with an empty document before the first and after the last."""
    ends = F.pad(lengths.cumsum(-1), (2, 0))
    return torch.cat((ends, ends[..., -1:]), dim=-1)


def _check_packed(argument: str, lengths: Tensor, most: int, what: str, grid: Grid) -> None:
    if lengths.ndim > 1 and lengths.shape[:-1] != grid.batch:
        rule, fix = "have the shape [documents] or [*batch, documents]", f"the batch is {list(grid.batch)}"
        raise ShapeError(must("documents", argument, rule, list(lengths.shape), fix))
    check_held("documents", argument, lengths, grid)
    if readable(lengths) and lengths.numel():
        if (least := int(lengths.min())) < 0:
            raise ArgumentError(must("documents", argument, "be >= 0", least))
        # One length that is too much is told first: a sum of such may overflow.
        if (longest := int(lengths.max())) > most or (longest := int(lengths.sum(-1).max())) > most:
            raise ArgumentError(
                must("documents", argument, f"sum to at most {most}", longest, f"there are {most} {what}")
            )


def _check_kind(argument: str, lengths: object) -> None:
    if not isinstance(lengths, Tensor):
        fix = "one length for each document"
        raise KindError(must("documents", argument, "be a tensor of integers", type(lengths).__name__, fix))
    if not is_integer(lengths):
        raise KindError(must("documents", argument, "hold integers", lengths.dtype, "one length for each document"))
    check_dense("documents", argument, lengths)
    if lengths.ndim == 0:
        rule = "have the shape [documents] or [*batch, documents]"
        raise ShapeError(must("documents", argument, rule, [], "one length for each document"))


def documents(
    lengths: Int[Tensor, "*batch documents"] | None = None,
    *,
    keys: Int[Tensor, "*batch documents"] | None = None,
    queries: Int[Tensor, "*batch documents"] | None = None,
) -> Documents:
    """Let documents packed one after another on a row see themselves alone; what follows the last sees nothing.

    With `lengths`, queries and keys are the same documents and query i stands at `keys - queries + i`. With `keys` and
    `queries`, each is packed by its own lengths from its first position, as in cross-attention of packed rows.

    Paper: Krell et al. 2021, arXiv:2107.02027, section 3.2.
    Cost: the sum over documents of queries·keys pairs.
    Raises: ArgumentError if neither or only half is given, or if lengths are negative or sum to more than there is;
    KindError if they are no integers; ShapeError if they do not fit the batch or one another.
    """
    if (lengths is None) == (keys is None) or (keys is None) != (queries is None):
        given = [
            name for name, each in (("lengths", lengths), ("keys", keys), ("queries", queries)) if each is not None
        ]
        rule, got = "be given alone, or keys and queries together", " and ".join(given) or None
        raise ArgumentError(must("documents", "lengths", rule, got))
    if lengths is not None:
        _check_kind("lengths", lengths)
        return Documents(lengths)
    _check_kind("keys", keys)
    _check_kind("queries", queries)
    if keys.shape != queries.shape:  # type: ignore[union-attr]
        rule, got = "have as many documents as queries", f"{list(keys.shape)} and {list(queries.shape)}"  # type: ignore[union-attr]
        raise ShapeError(must("documents", "keys", rule, got))
    return Documents(keys, queries)  # type: ignore[arg-type]


CARDS = (
    Card(
        name="documents",
        kind="mask",
        equation="document(i + keys − queries) = document(j)",
        paper="Krell et al. 2021, arXiv:2107.02027",
        cost="sum over documents of length²",
        build=lambda: documents(torch.tensor([[3, 4], [2, 4]])),
    ),
    Card(
        name="documents of two packings",
        kind="mask",
        equation="document of query i = document of key j",
        paper="Krell et al. 2021, arXiv:2107.02027",
        cost="sum over documents of queries × keys",
        build=lambda: documents(keys=torch.tensor([[3, 4], [2, 4]]), queries=torch.tensor([[4, 1], [2, 2]])),
    ),
)
