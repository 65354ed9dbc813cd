"""A tile of scores, and what belongs to it of everything else."""

from dataclasses import dataclass

from jaxtyping import Float, Shaped
from torch import Tensor

from qkv.backends.stream.bands import Band, Cut


@dataclass(frozen=True, eq=False)
class Tile:
    """Scores of some heads of one batch row: a band's queries × some keys."""

    scores: Float[Tensor, "heads rows columns"]
    bend: Float[Tensor, "heads rows columns"] | None
    """The cap's derivative."""
    batch: int
    head: int
    band: Band
    start: int
    stop: int
    all_heads: int
    first: bool

    @property
    def place(self) -> tuple[int, int, int]:
        """Where it begins, of all lanes, queries and keys."""
        return self.batch * self.all_heads + self.head, self.band.start, self.start

    def rows(self, x: Float[Tensor, "batch heads queries dim"]) -> Float[Tensor, "some rows dim"]:
        """See what belongs to its queries."""
        return x[self.batch, self.head : self.head + self.scores.shape[0], self.band.start : self.band.stop]

    def keys(self, x: Float[Tensor, "batch heads keys dim"]) -> Float[Tensor, "some columns dim"]:
        """See what belongs to its keys."""
        return x[self.batch, self.head : self.head + self.scores.shape[0], self.start : self.stop]

    def place_in(self, whole: Float[Tensor, "batch heads queries keys"]) -> Tensor:
        """See its part of all pairs; dimensions of 1 stand for all."""
        at: list[int | slice] = [self.batch if whole.shape[0] > 1 else 0]
        ends = (self.head, self.head + self.scores.shape[0]), (self.band.start, self.band.stop), (self.start, self.stop)
        for size, (start, stop) in zip(whole.shape[1:], ends, strict=True):
            at.append(slice(start, stop) if size > 1 else slice(0, 1))
        return whole[tuple(at)]

    def of(self, shared: Shaped[Tensor, "batch heads rows columns"], cut: Cut) -> Tensor:
        """See its part of what is shared in a cut; dimensions of 1 stand for all."""
        batch = self.batch if shared.shape[0] > 1 else 0
        heads = slice(self.head, self.head + self.scores.shape[0]) if shared.shape[1] > 1 else slice(0, 1)
        return shared[batch, heads, :, self.start - cut.start : self.stop - cut.start]
