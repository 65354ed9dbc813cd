"""Learned embeddings of where a token stands: its position, and its segment."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from qkv.core.card import Card
from qkv.core.checks import check_indices, check_whole


class _Table(nn.Module):
    """A learned vector for each of a few numbers."""

    what: str

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        check_whole(type(self).__name__, self.what, rows, 1)
        check_whole(type(self).__name__, "width", width, 1)
        self.weight = nn.Parameter(torch.empty(rows, width))
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, numbers: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape width"]:
        """Look the vectors up. Raises: KindError unless integers; ArgumentError beyond the table (read on the CPU)."""
        check_indices(type(self).__name__, self.what, numbers, self.weight.shape[0])
        return nn.functional.embedding(numbers.long(), self.weight)

    def extra_repr(self) -> str:
        return f"{self.what}={self.weight.shape[0]}, width={self.weight.shape[1]}"


class LearnedPositions(_Table):
    """A learned vector for each position, added to the token embeddings.

    Paper: Gehring et al. 2017, arXiv:1705.03122; Devlin et al. 2019 (BERT), arXiv:1810.04805.
    Cost: positions·width parameters.
    Raises: KindError, ArgumentError if a size is not an integer of at least 1.
    """

    what = "positions"


class Segments(_Table):
    """A learned vector for each segment (sentence A or B), added to the token embeddings.

    Paper: Devlin et al. 2019 (BERT), arXiv:1810.04805, section 3.
    Cost: segments·width parameters.
    Raises: KindError, ArgumentError if a size is not an integer of at least 1.
    """

    what = "segments"


CARDS = (
    Card(
        name="learned positions",
        kind="position",
        equation="x + P[i]",
        paper="Gehring et al. 2017, arXiv:1705.03122",
        cost="positions·d parameters",
        build=lambda: LearnedPositions(16, 8),
    ),
    Card(
        name="segments",
        kind="position",
        equation="x + S[segment]",
        paper="Devlin et al. 2019, arXiv:1810.04805",
        cost="segments·d parameters",
        build=lambda: Segments(2, 8),
    ),
)
