"""The parts that attention is made of: a grid of pairs, and the four choices.

A *score* says how a query meets a key, a *bias* what position adds, a *mask* which pairs may meet, a *selection* how
scores become weights. Each is a small object that knows nothing of the others.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from qkv.core.settle import settle
from qkv.errors import UnsupportedError, must

if TYPE_CHECKING:
    from qkv.core.runs import Runs

# Everything of qkv imports this module before it computes.
settle()

MOST = 1 << 31
"""Integers that qkv is given (widths, steps, offsets) are smaller than this, so that their sums and products fit."""

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""The dtypes that qkv computes with, the commonest first."""

Summary: TypeAlias = tuple[Tensor, ...]
"""What a selection must know of a whole row: tensors [*batch, heads, rows], a handful of numbers a row."""


# Not frozen, nor is the pair below, only because that costs time: each call makes one.
@dataclass(unsafe_hash=True, slots=True)
class Grid:
    """The pairs of one call: batch × heads × queries × keys, on a device.

    Query i stands at position `keys - queries + i`, so the last query stands at the last key ("bottom-right").
    """

    batch: tuple[int, ...]
    heads: int
    queries: int
    keys: int
    device: torch.device = torch.device("cpu")

    def rows(self) -> Int[Tensor, " queries"]:
        """Index every query."""
        return torch.arange(self.queries, device=self.device)

    def columns(self) -> Int[Tensor, " keys"]:
        """Index every key."""
        return torch.arange(self.keys, device=self.device)

    def positions(self, rows: Int[Tensor, " rows"], offset: int | Tensor | None = None) -> Int[Tensor, "*lead rows"]:
        """Place rows among the keys: row i at `offset + i`; the default offset is `keys - queries`.

        An offset that is a tensor [*batch] places each batch row by itself; the answer then leads with [*batch, 1].
        """
        if offset is None:
            return rows + (self.keys - self.queries)
        if isinstance(offset, int):
            return rows + offset
        # Farther than any window reaches, and not so far that a sum overflows.
        return offset.to(self.device, torch.int64).clamp(-MOST * MOST, MOST * MOST)[..., None, None] + rows


def wide(dtype: torch.dtype) -> torch.dtype:
    """Give the dtype that scores and softmax are computed in: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


@dataclass(unsafe_hash=True, slots=True)
class DotPair:
    """A prepared query meets a prepared key by `scale · q·k`; `dim` is the width they meet at."""

    dim: int
    scale: float = 1.0

    held: ClassVar[int] = 1
    """Numbers held for each pair while scoring."""

    def scores(
        self, query: Float[Tensor, "*lead queries dim"], key: Float[Tensor, "*lead2 keys dim"]
    ) -> Float[Tensor, "*lead3 queries keys"]:
        """Score every pair. Cost: O(queries·keys·dim) time."""
        dtype = wide(query.dtype)
        return query.to(dtype) @ key.to(dtype).transpose(-2, -1) * self.scale


@dataclass(frozen=True, eq=False)
class AdditivePair:
    """A prepared query meets a prepared key by `v · tanh(q + k)`."""

    vector: Float[Tensor, " hidden"]

    @property
    def dim(self) -> int:
        """The width they meet at."""
        return self.vector.shape[0]

    @property
    def held(self) -> int:
        """Numbers held for each pair while scoring."""
        return max(1, self.dim)

    def scores(
        self, query: Float[Tensor, "*lead queries hidden"], key: Float[Tensor, "*lead2 keys hidden"]
    ) -> Float[Tensor, "*lead3 queries keys"]:
        """Score every pair. Cost: O(queries·keys·hidden) time and memory."""
        dtype = wide(query.dtype)
        met = torch.tanh(query.to(dtype).unsqueeze(-2) + key.to(dtype).unsqueeze(-3))
        return met @ self.vector.to(dtype)


@dataclass(frozen=True)
class CappedPair:
    """Another pair's score s, held softly within ±cap: `cap · tanh(s / cap)`."""

    inner: "Pair"
    cap: float

    @property
    def dim(self) -> int:
        """The width they meet at."""
        return self.inner.dim

    @property
    def held(self) -> int:
        """Numbers held for each pair while scoring."""
        return self.inner.held

    def scores(
        self, query: Float[Tensor, "*lead queries dim"], key: Float[Tensor, "*lead2 keys dim"]
    ) -> Float[Tensor, "*lead3 queries keys"]:
        """Score every pair. Cost: the inner pair's, and one tanh a pair."""
        return self.cap * torch.tanh(self.inner.scores(query, key) / self.cap)


Pair: TypeAlias = DotPair | AdditivePair | CappedPair


def dot_of(pair: Pair) -> tuple[DotPair, float] | None:
    """Give the dot product that scores pairs and its cap (0 for none), if it is one."""
    pair, cap = (pair.inner, pair.cap) if isinstance(pair, CappedPair) else (pair, 0.0)
    return (pair, cap) if isinstance(pair, DotPair) else None


@runtime_checkable
class Score(Protocol):
    """How a query meets a key: prepare both once, then meet them pairwise."""

    def pair(self, query_width: int, key_width: int) -> Pair:
        """Tell how the prepared ones meet."""
        ...

    def check(self, query: Tensor, key: Tensor) -> None:
        """Raise what is wrong with these widths and dtypes, before any work."""
        ...

    def prepare(
        self, query: Float[Tensor, "*batch heads queries width"], key: Float[Tensor, "*batch key_heads keys width2"]
    ) -> tuple[Float[Tensor, "*batch heads queries dim"], Float[Tensor, "#*batch #key_heads keys dim"]]:
        """Turn query and key into what the pair meets."""
        ...


@runtime_checkable
class Tiles(Protocol):
    """What answers for any tile of the pairs: a bias, a mask, or a narrower view of one."""

    def tile(self, rows: Int[Tensor, " rows"], columns: Int[Tensor, " columns"], grid: Grid) -> Tensor:
        """Answer for these queries and keys, broadcastable to [*batch, heads, rows, columns]."""
        ...


@runtime_checkable
class Bias(Protocol):
    """What is added to a score because of where the pair stands."""

    def check(self, grid: Grid) -> None:
        """Raise what does not fit this grid, before any work."""
        ...

    def tile(
        self, rows: Int[Tensor, " rows"], columns: Int[Tensor, " columns"], grid: Grid
    ) -> Float[Tensor, "*lead rows columns"]:
        """Answer for these queries and keys, broadcastable to [*batch, heads, rows, columns]. −inf masks a pair."""
        ...


@runtime_checkable
class Mask(Protocol):
    """Which pairs may meet. True = may attend."""

    def __hash__(self) -> int:
        """Tell masks of numbers apart by their numbers, others by identity."""
        ...

    @property
    def is_value(self) -> bool:
        """Whether the mask holds numbers alone, no tensor: then it is hashable and its plan may be kept."""
        ...

    def check(self, grid: Grid) -> None:
        """Raise what does not fit this grid, before any work."""
        ...

    def tile(
        self, rows: Int[Tensor, " rows"], columns: Int[Tensor, " columns"], grid: Grid
    ) -> Bool[Tensor, "*lead rows columns"]:
        """Answer for these queries and keys, broadcastable to [*batch, heads, rows, columns]."""
        ...

    def runs(self, block: int, grid: Grid) -> tuple["Runs", "Runs"]:
        """Answer for all blocks of `block` queries at once: the key runs that some row may see, and that every row may.

        The first may claim too many keys and the second too few, never the other way.
        """
        ...


class Selection(ABC):
    """How a row of scores becomes weights. A score of −inf (a masked pair) gets weight exactly 0."""

    by_chance: bool = False
    """Whether a summary is drawn by chance, so that reading the same row twice may differ."""

    keeps: ClassVar[bool] = True
    """Whether a summary also serves scores computed again, whose last bits may differ."""

    def check(self, grid: Grid) -> None:
        """Raise what does not fit this grid, before any work."""

    @abstractmethod
    def summary(self, scores: Float[Tensor, "*lead rows keys"]) -> Summary:
        """Read whole rows: a few numbers a row, from which each weight follows by itself."""

    def refresh(self, scores: Float[Tensor, "*lead rows keys"], summary: Summary) -> Summary:
        """Summarise the same rows again, differentiably; a choice made by chance stays as it was."""
        return self.summary(scores)

    @abstractmethod
    def weights(
        self, scores: Float[Tensor, "*lead rows columns"], summary: Summary, columns: Int[Tensor, " columns"]
    ) -> Float[Tensor, "*lead rows columns"]:
        """Give the weights of a tile: elementwise, given the summary of its rows and the keys its columns stand for."""

    def read(
        self, scores: Float[Tensor, "*lead rows keys"], columns: Int[Tensor, " keys"]
    ) -> tuple[Float[Tensor, "*lead rows keys"], Summary]:
        """Summarise rows whose other keys are all hidden and weigh them: `weights` of `summary`, or the same faster.

        A summary that names a key by its place among the scores is to name it by its column.
        """
        summary = self.summary(scores)
        return self.weights(scores, summary, columns), summary

    def logsumexp(self, summary: Summary) -> Float[Tensor, "*lead rows"]:
        """Give log Σ exp(score) of the rows, where the weights are exp(score − that); else raise UnsupportedError."""
        raise UnsupportedError(must("logsumexp", "select", "be softmax()", self, "only its parts merge"))

    def head(self, head: int) -> "Selection":
        """Narrow to one head, for a selection that holds something for each."""
        return self
