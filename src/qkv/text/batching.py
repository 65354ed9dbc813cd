"""Batches without padding: sequences one after another in a row, and what each objective asks of them."""

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import ClassVar, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from qkv.core.checks import readable
from qkv.errors import ShapeError, must

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


@dataclass(frozen=True, eq=False)
class NextToken(_Movable):
    """Text to continue: for each token the one that follows, or −1 where there is none."""

    sequences: Sequences
    targets: Int[Tensor, " total"]
    counted = ("count",)

    @cached_property
    def count(self) -> int:
        """The number of targets, over which the loss averages."""
        return int((self.targets >= 0).sum())


@dataclass(frozen=True, eq=False)
class Pairs(_Movable):
    """Text to translate: sequence i of `target` says what sequence i of `source` says.

    `target` starts with the start token; `targets` are its tokens one step on, the last of each the end token.
    """

    source: Sequences
    target: Sequences
    targets: Int[Tensor, " total"]
    counted = ("count",)

    @cached_property
    def count(self) -> int:
        """The number of targets, over which the loss averages."""
        return int((self.targets >= 0).sum())


@dataclass(frozen=True, eq=False)
class Pictures(_Movable):
    """Pictures to describe: sequence i of `target` describes picture i, and is made as in `Pairs`."""

    images: Float[Tensor, "batch 1 height width"]
    target: Sequences
    targets: Int[Tensor, " total"]
    counted = ("count",)

    @cached_property
    def count(self) -> int:
        """The number of targets, over which the loss averages."""
        return int((self.targets >= 0).sum())
