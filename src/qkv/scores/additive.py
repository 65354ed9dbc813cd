"""Additive scores: Bahdanau's, and Luong's concat, which is the same with one matrix for both."""

import torch
from torch import Tensor, nn

from qkv.core.card import Card
from qkv.core.checks import check_dtype, check_whole, check_width
from qkv.core.types import AdditivePair


class Additive(nn.Module):
    """Score by v · tanh(W q + U k), all three learned.

    Paper: Bahdanau et al. 2015, arXiv:1409.0473, appendix A.1.2.
    Cost: O(queries·keys·hidden) time.
    Raises: KindError, ArgumentError if a width is not an integer of at least 1.
    """

    def __init__(self, query: int, key: int, hidden: int) -> None:
        super().__init__()
        name = type(self).__name__
        check_whole(name, "query", query, 1)
        check_whole(name, "key", key, 1)
        check_whole(name, "hidden", hidden, 1)
        # One matrix [W, U] for the concatenation, as Luong writes it; Bahdanau's W and U are its parts.
        self.query_width = query
        self.weight = nn.Parameter(torch.empty(hidden, query + key))
        self.vector = nn.Parameter(torch.empty(hidden))
        nn.init.xavier_uniform_(self.weight)
        nn.init.normal_(self.vector, std=hidden**-0.5)

    def check(self, query: Tensor, key: Tensor) -> None:
        """Raise ShapeError or KindError unless the widths and the dtype are the weights'."""
        name = type(self).__name__
        check_width(name, "query", query, self.query_width)
        check_width(name, "key", key, self.weight.shape[1] - self.query_width)
        check_dtype(name, "query", query, self.weight)

    def pair(self, query_width: int, key_width: int) -> AdditivePair:
        """Meet by v · tanh(q + k)."""
        return AdditivePair(self.vector)

    def prepare(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Bring both to the hidden width."""
        for_query, for_key = self.weight.split([self.query_width, self.weight.shape[1] - self.query_width], dim=1)
        return nn.functional.linear(query, for_query), nn.functional.linear(key, for_key)

    def extra_repr(self) -> str:
        key = self.weight.shape[1] - self.query_width
        return f"query={self.query_width}, key={key}, hidden={self.weight.shape[0]}"


class Concat(Additive):
    """Score by v · tanh(W [q; k]).

    The matrix of the concatenation splits into one for the query and one for the key, so this is the additive score
    under Luong's name and equation.

    Paper: Luong et al. 2015, arXiv:1508.04025, section 3.1 ("concat").
    Cost: O(queries·keys·hidden) time.
    """


CARDS = (
    Card(
        name="additive",
        kind="score",
        equation="v · tanh(W q + U k)",
        paper="Bahdanau et al. 2015, arXiv:1409.0473",
        cost="n·m·hidden tanh",
        build=lambda: Additive(query=8, key=8, hidden=5),
    ),
    Card(
        name="concat",
        kind="score",
        equation="v · tanh(W [q; k])",
        paper="Luong et al. 2015, arXiv:1508.04025 (concat)",
        cost="n·m·hidden tanh",
        build=lambda: Concat(query=8, key=8, hidden=5),
    ),
)
