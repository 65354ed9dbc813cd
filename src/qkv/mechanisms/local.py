"""Luong's local attention: each query looks at a window of the memory, at its own place or at one that it predicts."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from qkv.attention import Attends
from qkv.core.card import Card
from qkv.core.checks import check_dtype, check_whole, check_width
from qkv.core.map import AttentionMap
from qkv.core.types import Mask, Score, Selection, Summary, wide
from qkv.masks.dense import dense_mask
from qkv.masks.window import window
from qkv.mechanisms.one_head import check_widths, pairs_seen, with_head
from qkv.scores.dot import dot
from qkv.selections.soft import exp_above, level


class LocalMonotonic(Attends, nn.Module):
    """Local-m: query t attends to the window [t − D, t + D] of the memory, as if alignment were monotonic: p_t = t.

    A window that reaches over an end is cut there; one without a single position that the mask shows gives 0.

    Paper: Luong et al. 2015, arXiv:1508.04025, section 3.2 ("local-m").
    Cost: O(queries·D) pairs.
    Raises: KindError, ArgumentError if `reach`, the paper's D, is not an integer of at least 0.
    """

    def __init__(self, score: Score, reach: int) -> None:
        super().__init__()
        check_whole("LocalMonotonic", "reach", reach, 0, "positions to each side")
        self.score, self.reach = score, reach

    def forward(
        self,
        query: Float[Tensor, "*batch queries query_width"],
        memory: Float[Tensor, "*batch keys memory_width"],
        *,
        mask: Mask | Bool[Tensor, "..."] | None = None,
        position: int | Int[Tensor, "*batch"] = 0,
    ) -> Float[Tensor, "*batch queries memory_width"]:
        """Give the contexts; the first query stands at `position`, the next at the one after, and so on.

        Raises: ShapeError, KindError for what does not fit.
        """
        one, states = with_head("LocalMonotonic", query=query, memory=memory)
        near = self._window(mask, position)
        return self.attend(one, states, states, score=self.score, mask=near).squeeze(-3)

    def with_map(
        self,
        query: Float[Tensor, "*batch queries query_width"],
        memory: Float[Tensor, "*batch keys memory_width"],
        *,
        mask: Mask | Bool[Tensor, "..."] | None = None,
        position: int | Int[Tensor, "*batch"] = 0,
    ) -> tuple[Float[Tensor, "*batch queries memory_width"], AttentionMap]:
        """Give the contexts and the map of the weights, which has one head."""
        one, states = with_head("LocalMonotonic", query=query, memory=memory)
        near = self._window(mask, position)
        context, seen = self.attend_with_map(one, states, states, score=self.score, mask=near)
        return context.squeeze(-3), seen

    def _window(self, mask: Mask | Tensor | None, position: int | Tensor) -> Mask:
        near = window(before=self.reach, after=self.reach, offset=position)
        if mask is None:
            return near
        return near & (dense_mask(mask) if isinstance(mask, Tensor) else mask)

    def extra_repr(self) -> str:
        return f"reach={self.reach}"


class LocalPredictive(Attends, nn.Module):
    """Local-p: each query predicts the place p_t of its window, and what lies off that place counts for less.

    p_t = S · sigmoid(v · tanh(W_p h_t)); a_t(s) = align(h_t, h̄_s) · exp(−(s − p_t)² / 2σ²), σ = D/2, for the positions
    s of [p_t − D, p_t + D], where align is the softmax over that window. The product is not normalised again.

    Positions count from 0. S and the first position are each batch row's own: what the mask shows of its memory.
    A window without a single position that the mask shows gives 0.

    Paper: Luong et al. 2015, arXiv:1508.04025, section 3.2 ("local-p"), equations 9 and 10.
    Cost: O(queries·keys) scores and memory.
    Raises: KindError, ArgumentError if `query`, `reach` (the paper's D) or `hidden` is not an integer of at least 1.
    """

    def __init__(self, query: int, score: Score, reach: int, *, hidden: int | None = None) -> None:
        super().__init__()
        hidden = query if hidden is None else hidden
        check_widths("LocalPredictive", query=query, hidden=hidden)
        check_whole("LocalPredictive", "reach", reach, 1, "positions to each side")
        self.score, self.reach = score, reach
        self.weight = nn.Parameter(torch.empty(hidden, query))
        self.vector = nn.Parameter(torch.empty(hidden))
        nn.init.xavier_uniform_(self.weight)
        nn.init.normal_(self.vector, std=hidden**-0.5)

    def forward(
        self,
        query: Float[Tensor, "*batch queries query_width"],
        memory: Float[Tensor, "*batch keys memory_width"],
        *,
        mask: Mask | Bool[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "*batch queries memory_width"]:
        """Give the contexts. Raises: ShapeError, KindError for what does not fit."""
        return self.with_map(query, memory, mask=mask)[0]

    def with_map(
        self,
        query: Float[Tensor, "*batch queries query_width"],
        memory: Float[Tensor, "*batch keys memory_width"],
        *,
        mask: Mask | Bool[Tensor, "..."] | None = None,
    ) -> tuple[Float[Tensor, "*batch queries memory_width"], AttentionMap]:
        """Give the contexts and the map of the weights a_t, which has one head."""
        one, states = with_head("LocalPredictive", query=query, memory=memory)
        check_width("LocalPredictive", "query", query, self.weight.shape[1])
        check_dtype("LocalPredictive", "query", query, self.weight)
        seen = pairs_seen("LocalPredictive", query, memory, mask)
        centre = self._centre(query, seen)
        columns = torch.arange(memory.shape[-2], device=memory.device)
        # Written so that a place that is NaN hides nothing: its row becomes NaN, not 0.
        far = (columns - centre.detach()[..., None]).abs() > self.reach
        context, found = self.attend_with_map(
            one,
            states,
            states,
            score=self.score,
            mask=dense_mask((seen & ~far).unsqueeze(-3)),
            select=_Gaussian(centre.unsqueeze(-2), self.reach / 2),
        )
        return context.squeeze(-3), found

    def predict(
        self,
        query: Float[Tensor, "*batch queries query_width"],
        memory: Float[Tensor, "*batch keys memory_width"],
        *,
        mask: Mask | Bool[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "*batch queries"]:
        """Predict the place p_t of each query's window."""
        with_head("LocalPredictive", query=query, memory=memory)
        check_width("LocalPredictive", "query", query, self.weight.shape[1])
        check_dtype("LocalPredictive", "query", query, self.weight)
        return self._centre(query, pairs_seen("LocalPredictive", query, memory, mask))

    def _centre(self, query: Tensor, seen: Tensor) -> Tensor:
        shown = seen.any(-2)
        before, behind = (_hidden_first(side)[..., None] for side in (shown, shown.flip(-1)))
        length = (shown.shape[-1] - before - behind).clamp(min=0)
        query = torch.where(seen.any(-1, keepdim=True), query, 0)
        hidden = torch.tanh(nn.functional.linear(query, self.weight))
        place = torch.sigmoid((hidden @ self.vector.to(hidden.dtype)).to(wide(hidden.dtype)))
        return before + length * place

    def extra_repr(self) -> str:
        return f"query={self.weight.shape[1]}, reach={self.reach}, hidden={self.weight.shape[0]}"


def _hidden_first(shown: Bool[Tensor, "*batch keys"]) -> Int[Tensor, "*batch"]:
    """Count the hidden positions before the first that is shown."""
    return (shown.cumsum(-1) == 0).sum(-1)


@dataclass(frozen=True, eq=False)
class _Gaussian(Selection):
    """Softmax times exp(−(j − centre)² / 2σ²). The summary: the row's logsumexp in two parts, and its own centre."""

    centre: Tensor
    deviation: float

    def summary(self, scores: Tensor) -> Summary:
        peak, rest = level(scores)
        return peak, rest, torch.arange(peak.numel(), device=peak.device).view(peak.shape)

    def refresh(self, scores: Tensor, summary: Summary) -> Summary:
        return *level(scores), summary[-1]

    def weights(self, scores: Tensor, summary: Summary, columns: Tensor) -> Tensor:
        peak, rest, own = summary
        away = columns - self.centre.reshape(-1)[own][..., None]
        return exp_above(scores, peak, rest) * torch.exp(-(away**2) / (2 * self.deviation**2))

    def __repr__(self) -> str:
        return f"gaussian(deviation={self.deviation:g})"


CARDS = (
    Card(
        name="local-m",
        kind="mechanism",
        equation="global attention over [t − D, t + D]",
        paper="Luong et al. 2015, arXiv:1508.04025 (local-m)",
        cost="queries × (2D + 1)",
        build=lambda: LocalMonotonic(dot(), reach=2),
    ),
    Card(
        name="local-p",
        kind="mechanism",
        equation="softmax(s) · exp(−(s − p)² / 2σ²) over [p − D, p + D],  p = S · sigmoid(v · tanh(W h))",
        paper="Luong et al. 2015, arXiv:1508.04025 (local-p)",
        cost="queries × (2D + 1), computed as n·m",
        build=lambda: LocalPredictive(8, dot(), reach=2),
    ),
)
