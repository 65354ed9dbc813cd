"""Batches without padding: sequences one after another in a row, what each objective asks of them, and their order.

A batch is a function of (data, seed, step) alone. So any worker makes the same one, and to go on after a crash nothing
but the step is needed.
"""

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import ClassVar, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from qkv.core.checks import check_whole, readable
from qkv.errors import ArgumentError, ShapeError, must

_Moved = TypeVar("_Moved", bound="_Movable")


class _Movable:
    """A frozen dataclass of tensors, with numbers that are counted once, where reading them costs nothing."""

    counted: ClassVar[tuple[str, ...]] = ()

    def to(self: _Moved, device: torch.device | str, non_blocking: bool = False) -> _Moved:
        """Give the same on a device. What was counted on the CPU goes along, so that nobody waits for a GPU."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        moved = {
            name: part.to(device, non_blocking=non_blocking) for name, part in parts.items() if hasattr(part, "to")
        }
        other = replace(self, **moved)  # type: ignore[type-var]
        other.__dict__.update({name: getattr(self, name) for name in self.counted})
        return other


@dataclass(frozen=True, eq=False)
class Sequences(_Movable):
    """Several sequences one after another in one row.

    A model takes `tokens[None]` with `positions=positions[None]` and `mask=qkv.documents(lengths)`.

    Paper: Krell et al. 2021, arXiv:2107.02027, section 3.2.
    Raises: ShapeError if the lengths do not sum to the tokens.
    """

    tokens: Int[Tensor, " total"]
    lengths: Int[Tensor, " sequences"]
    counted = ("longest",)

    def __post_init__(self) -> None:
        if readable(self.lengths) and (total := int(self.lengths.sum())) != len(self.tokens):
            raise ShapeError(must("Sequences", "lengths", f"sum to the {len(self.tokens)} tokens", total))

    @classmethod
    def of(cls, sequences: Iterable[Int[Tensor, " _"]]) -> "Sequences":
        """Put sequences one after another."""
        rows = list(sequences)
        tokens = torch.cat(rows).long() if rows else torch.zeros(0, dtype=torch.long)
        return cls(tokens, torch.tensor([len(row) for row in rows], dtype=torch.long))

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Int[Tensor, " _"]:
        return self._split[index]

    @cached_property
    def positions(self) -> Int[Tensor, " total"]:
        """Each token's place in its own sequence, from 0."""
        starts = self.lengths.cumsum(0) - self.lengths
        places = torch.arange(len(self.tokens), device=self.tokens.device)
        return places - torch.repeat_interleave(starts, self.lengths, output_size=len(self.tokens))

    @cached_property
    def rows(self) -> Int[Tensor, " total"]:
        """Which sequence each token is of, from 0."""
        indices = torch.arange(len(self.lengths), device=self.tokens.device)
        return torch.repeat_interleave(indices, self.lengths, output_size=len(self.tokens))

    @cached_property
    def longest(self) -> int:
        return int(self.lengths.max()) if len(self.lengths) else 0

    def padded(self, fill: int = 0) -> tuple[Int[Tensor, "sequences longest"], Int[Tensor, " sequences"]]:
        """Give a row for each sequence, filled up to the longest, and the lengths: for models that read in rows."""
        return self.spread(self.tokens, fill), self.lengths

    def spread(self, values: Int[Tensor, " total"], fill: int = 0) -> Int[Tensor, "sequences longest"]:
        """Give what stands beside the tokens (targets, say) in the rows that `padded` gives."""
        padded = values.new_full((len(self), self.longest), fill)
        padded[self.rows, self.positions] = values
        return padded

    def split(self) -> tuple[Int[Tensor, " _"], ...]:
        """Give the sequences one by one."""
        return self._split

    @cached_property
    def _split(self) -> tuple[Tensor, ...]:
        return self.tokens.split(self.lengths.tolist())


@dataclass(frozen=True, eq=False)
class Masked(_Movable):
    """Words to fill in: `targets` are what stood at `places` of `sequences.tokens` before it was hidden.

    `segments` are 0 and 1 for the first and second part of a pair. `not_next` is BERT's second objective, 0 where the
    second part follows the first and 1 where it comes from elsewhere, as the classes in Hugging Face's layout.
    """

    sequences: Sequences
    segments: Int[Tensor, " total"] | None
    places: Int[Tensor, " masked"]
    targets: Int[Tensor, " masked"]
    not_next: Int[Tensor, " sequences"] | None = None

    @property
    def count(self) -> int:
        """The number of targets, over which the loss averages."""
        return len(self.targets)


class _Targeted(_Movable):
    """A batch with a target for each token, or −1 where there is none."""

    targets: Int[Tensor, " total"]
    counted = ("count",)

    @cached_property
    def count(self) -> int:
        """The number of targets, over which the loss averages."""
        return int((self.targets >= 0).sum())


@dataclass(frozen=True, eq=False)
class NextToken(_Targeted):
    """Text to continue: for each token the one that follows, or −1 where there is none."""

    sequences: Sequences
    targets: Int[Tensor, " total"]


@dataclass(frozen=True, eq=False)
class Pairs(_Targeted):
    """Text to translate: sequence i of `target` says what sequence i of `source` says.

    `target` starts with the start token; `targets` are its tokens one step on, the last of each the end token.
    """

    source: Sequences
    target: Sequences
    targets: Int[Tensor, " total"]


@dataclass(frozen=True, eq=False)
class Pictures(_Targeted):
    """Pictures to describe: sequence i of `target` describes picture i, and is made as in `Pairs`."""

    images: Float[Tensor, "batch 1 height width"]
    target: Sequences
    targets: Int[Tensor, " total"]


def generator(seed: int, *place: int) -> torch.Generator:
    """Give random numbers that are a function of a seed and a place: a step, an epoch, an index."""
    digest = hashlib.blake2b(repr((seed, *place)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


class Buckets:
    """Say which sequences stand in each batch: those of like length together, in an order of its own each epoch.

    `buckets[step]` are their indices, a function of (lengths, seed, step) alone; step may go beyond `len(buckets)`, the
    batches of an epoch. A batch holds at most `tokens` tokens, even if it were padded, and at most `sequences`
    sequences. A bucket holds lengths that differ by a tenth.

    Cost: O(n log n) for n sequences, once an epoch.
    Raises: ArgumentError if there is no sequence, one is empty, or one is longer than the budget of tokens.
    """

    def __init__(
        self, lengths: Int[Tensor, " all"], *, tokens: int, sequences: int | None = None, seed: int = 0
    ) -> None:
        check_whole("Buckets", "tokens", tokens, 1, "the most that a batch may hold")
        if sequences is not None:
            check_whole("Buckets", "sequences", sequences, 1, "the most that a batch may hold")
        if not len(lengths):
            raise ArgumentError(must("Buckets", "lengths", "hold a sequence", "none"))
        if (least := int(lengths.min())) < 1:
            raise ArgumentError(must("Buckets", "lengths", "be >= 1", least, f"sequence {int(lengths.argmin())}"))
        if (most := int(lengths.max())) > tokens:
            fix = f"sequence {int(lengths.argmax())} fits no batch: cut it, or allow more tokens"
            raise ArgumentError(must("Buckets", "lengths", f"be at most tokens = {tokens}", most, fix))
        self.lengths, self.tokens, self.seed = lengths, tokens, seed
        self.bucket = (lengths.double().log() / math.log(1.1)).ceil().long()
        self.edges = self._cut(len(lengths) if sequences is None else sequences)
        self._epoch: tuple[int, Tensor, Tensor] | None = None

    def _cut(self, sequences: int) -> list[int]:
        """Cut the sequences, ordered by bucket, into batches: good for any order inside the buckets."""
        bounds = self.lengths.new_zeros(int(self.bucket.max()) + 1)
        bounds = bounds.scatter_reduce(0, self.bucket, self.lengths, "amax")[self.bucket.sort().values]
        edges = [0]
        while (start := edges[-1]) < len(bounds):
            some = bounds[start : start + min(sequences, self.tokens // int(bounds[start]))]
            sizes = torch.arange(1, len(some) + 1) * some
            edges.append(start + int((sizes <= self.tokens).sum()))
        return edges

    def __len__(self) -> int:
        return len(self.edges) - 1

    def __getitem__(self, step: int) -> Int[Tensor, " chosen"]:
        epoch, place = divmod(step, len(self))
        if self._epoch is None or self._epoch[0] != epoch:
            chance = generator(self.seed, epoch)
            order = torch.randperm(len(self.lengths), generator=chance)
            order = order[self.bucket[order].argsort(stable=True)]
            self._epoch = epoch, order, torch.randperm(len(self), generator=chance)
        _, order, batches = self._epoch
        batch = int(batches[place])
        return order[self.edges[batch] : self.edges[batch + 1]]
