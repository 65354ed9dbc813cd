"""Runs of keys: for every block of queries, sorted disjoint intervals of keys, and their algebra, vectorised."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn import functional as F

# Up to so many meetings of runs are tried one by one; beyond, `&` goes by complements, whose cost is the sum of slots.
_MEETINGS = 32


@dataclass(frozen=True, eq=False)
class Runs:
    """Intervals [start, stop) of keys, `slots` for each block of queries: sorted, disjoint, not touching.

    Slots that hold nothing are last and read [keys, keys). `|`, `&` and `~` answer for all blocks at once.
    """

    start: Int[Tensor, "*lead blocks slots"]
    stop: Int[Tensor, "*lead blocks slots"]
    keys: int

    @classmethod
    def make(cls, start: Tensor, stop: Tensor, keys: int) -> "Runs":
        """Build runs from intervals in any order, overlapping, empty or reaching past the keys."""
        start, stop = torch.broadcast_tensors(start.clamp(0, keys), stop.clamp(0, keys))
        empty = start >= stop
        start, stop = start.masked_fill(empty, keys), stop.masked_fill(empty, keys)
        if start.shape[-1] < 2:
            return cls(start, stop, keys)
        # Of sorted starts and stops, a start beyond the stop before it finds every interval ended: a run begins there.
        start, stop = start.sort(dim=-1).values, stop.sort(dim=-1).values
        within = start[..., 1:] <= stop[..., :-1]
        start[..., 1:].masked_fill_(within, keys)
        stop[..., :-1].masked_fill_(within, keys)
        return cls(start.sort(dim=-1).values, stop.sort(dim=-1).values, keys)

    @classmethod
    def of_flags(
        cls, flags: Bool[Tensor, "*lead blocks cells"], cell: int, keys: int, most: int | None = None
    ) -> "Runs":
        """Build runs from one flag for every `cell` keys; `most`, where it is known, bounds the runs of a block."""
        before = F.pad(flags[..., :-1], (1, 0), value=False)
        slots = max(1, (flags.shape[-1] + 1) // 2)
        if most is not None:
            slots = min(slots, max(1, most))
        slot = ((flags & ~before).cumsum(-1) - 1).clamp(min=0)
        at = torch.arange(flags.shape[-1], device=flags.device) * cell
        empty = torch.full((*flags.shape[:-1], slots), keys, device=flags.device)
        start = empty.scatter_reduce(-1, slot, torch.where(flags, at, keys), "amin")
        stop = torch.zeros_like(empty).scatter_reduce(-1, slot, torch.where(flags, at + cell, 0), "amax")
        return cls(start, stop.clamp(max=keys).masked_fill(start >= keys, keys), keys)

    def cover(self) -> Bool[Tensor, "*lead blocks keys"]:
        """Spell the runs out, one flag a key."""
        keys = torch.arange(self.keys, device=self.start.device)
        return ((keys >= self.start[..., None]) & (keys < self.stop[..., None])).any(dim=-2)

    def count(self) -> Int[Tensor, "*lead blocks"]:
        """Count the keys of each block."""
        return (self.stop - self.start).sum(dim=-1)

    def shown(self) -> Bool[Tensor, "*lead keys"]:
        """Say which keys some block has. Cost: O(blocks·slots + keys)."""
        change = torch.zeros((*self.start.shape[:-2], self.keys + 1), dtype=torch.int64, device=self.start.device)
        for ends, step in ((self.start, 1), (self.stop, -1)):
            ends = ends.flatten(-2)
            change.scatter_add_(-1, ends, torch.full_like(ends, step))
        return change.cumsum(-1)[..., :-1] > 0

    def __invert__(self) -> "Runs":
        return self.complement()

    def complement(self) -> "Runs":
        """Give the keys outside: `~runs`, by a name that torch.compile can trace."""
        start = F.pad(self.stop, (1, 0), value=0)
        stop = F.pad(self.start, (0, 1), value=self.keys)
        # What lies between sorted runs is sorted; only the interval before a run at key 0 is empty and out of order.
        at_zero = self.start[..., :1] == 0
        start = torch.where(at_zero, F.pad(start[..., 1:], (0, 1), value=self.keys), start)
        stop = torch.where(at_zero, F.pad(stop[..., 1:], (0, 1), value=self.keys), stop)
        return Runs(start, stop, self.keys)

    def __or__(self, other: "Runs") -> "Runs":
        lead = torch.broadcast_shapes(self.start.shape[:-1], other.start.shape[:-1])
        sides = [(side.start.expand(*lead, -1), side.stop.expand(*lead, -1)) for side in (self, other)]
        start, stop = (torch.cat(parts, dim=-1) for parts in zip(*sides, strict=True))
        return Runs.make(start, stop, self.keys)

    def __and__(self, other: "Runs") -> "Runs":
        slots = max(1, self.start.shape[-1] + other.start.shape[-1] - 1)
        if self.start.shape[-1] * other.start.shape[-1] <= _MEETINGS:
            start = torch.maximum(self.start[..., :, None], other.start[..., None, :]).flatten(-2)
            stop = torch.minimum(self.stop[..., :, None], other.stop[..., None, :]).flatten(-2)
            met = Runs.make(start, stop, self.keys)
        else:
            met = (self.complement() | other.complement()).complement()
        # Two sorted lists of runs meet at most `slots` times.
        return Runs(met.start[..., :slots], met.stop[..., :slots], self.keys)
