"""Coverage: attention that knows what it has attended to before."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from qkv.attention import call_of
from qkv.core.call import exact
from qkv.core.card import Card
from qkv.core.reference import hide, weigh
from qkv.core.types import Mask, wide
from qkv.mechanisms.one_head import check_row, check_widths, pairs_seen, with_head
from qkv.scores.additive import Additive
from qkv.selections.soft import exp_above, level


@dataclass(frozen=True, eq=False)
class Covered:
    """What the queries attended to.

    weights: a^t, a row for each query. loss: Σᵢ min(a_i^t, c_i^t), what each query attended to once more. coverage:
    Σ a^t up to the last query, which the next call goes on from.
    """

    weights: Float[Tensor, "*batch queries keys"]
    loss: Float[Tensor, "*batch queries"]
    coverage: Float[Tensor, "*batch keys"]


class Coverage(nn.Module):
    """Additive attention that is told the coverage c^t = Σ a^t' of the queries before.

    e_i^t = v · tanh(W_h h_i + W_s s_t + w_c c_i^t + b), a^t = softmax(e^t). A query waits for the ones before it.

    Paper: See et al. 2017, arXiv:1704.04368, equations 10 to 12 (and 1 to 3).
    Cost: O(queries·keys·hidden) time and, while training, memory; one step a query.
    Raises: KindError, ArgumentError if a width is not an integer of at least 1.
    """

    def __init__(self, query: int, memory: int, hidden: int) -> None:
        super().__init__()
        check_widths("Coverage", query=query, memory=memory, hidden=hidden)
        self.score = Additive(query, memory, hidden)
        self.weight = nn.Parameter(torch.empty(hidden))
        self.bias = nn.Parameter(torch.zeros(hidden))
        nn.init.normal_(self.weight, std=hidden**-0.5)

    def forward(
        self,
        query: Float[Tensor, "*batch queries query_width"],
        memory: Float[Tensor, "*batch keys memory_width"],
        *,
        mask: Mask | Bool[Tensor, "..."] | None = None,
        coverage: Float[Tensor, "*batch keys"] | None = None,
    ) -> tuple[Float[Tensor, "*batch queries memory_width"], Covered]:
        """Give the contexts, and what was covered, starting from `coverage` or from nothing.

        One query at a time, each with the coverage that the call before gave, is the same. A query that sees nothing
        gets exactly 0 and covers nothing.

        Raises: ShapeError, KindError for what does not fit.
        """
        one, states = with_head("Coverage", query=query, memory=memory)
        call = call_of("Coverage", one, states, states, self.score, None, mask, None, 0.0)
        dtype = wide(call.query.dtype)
        if coverage is None:
            coverage = memory.new_zeros(*memory.shape[:-1], dtype=dtype)
        else:
            check_row("Coverage", "coverage", coverage, memory)
        seen = pairs_seen("Coverage", query, memory, mask)
        queries, keys, values = hide(call.query, call.key, call.value, seen.unsqueeze(-3))
        queries, keys = (side.squeeze(-3) for side in self.score.prepare(queries, keys))
        pair = self.score.pair(query.shape[-1], memory.shape[-1])
        with exact(memory.device):
            queries, keys = queries.to(dtype), keys.to(dtype) + self.bias.to(dtype)
            weights = [coverage.new_zeros(*query.shape[:-2], 0, memory.shape[-2])]
            loss = [coverage.new_zeros(*query.shape[:-2], 0)]
            for step in range(query.shape[-2]):
                row = slice(step, step + 1)
                covered = coverage[..., None] * self.weight.to(dtype)
                scores = pair.scores(queries[..., row, :], keys + covered)
                scores = torch.where(seen[..., row, :], scores, -torch.inf)
                weights.append(exp_above(scores, *level(scores)))
                given = weights[-1].squeeze(-2)
                loss.append(torch.minimum(given, coverage).sum(-1, keepdim=True))
                coverage = coverage + given
            rows = torch.cat(weights, dim=-2)
            context = weigh(rows.unsqueeze(-3), values, seen.unsqueeze(-3)).squeeze(-3)
        return context.to(call.value.dtype), Covered(rows, torch.cat(loss, dim=-1), coverage)


CARDS = (
    Card(
        name="coverage",
        kind="mechanism",
        equation="softmax(v · tanh(W_h h + W_s s + w_c c + b)),  c = Σ of the rows before",
        paper="See et al. 2017, arXiv:1704.04368",
        cost="n·m·hidden tanh, n steps",
        build=lambda: Coverage(query=8, memory=8, hidden=5),
    ),
)
