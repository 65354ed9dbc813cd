"""Bahdanau's attention: a decoder's state looks for what it needs among the annotations of a source."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from qkv.attention import Attends
from qkv.core.card import Card
from qkv.core.checks import check_dtype, check_width
from qkv.core.map import AttentionMap
from qkv.core.types import AdditivePair, Mask
from qkv.masks.padding import padding
from qkv.mechanisms.one_head import check_widths, pairs_seen, with_head
from qkv.scores.additive import Additive


class Bahdanau(Attends, nn.Module):
    """The context c_i = Σⱼ α_ij h_j, where α_i is the softmax of e_ij = v · tanh(W s_{i−1} + U h_j).

    The query is the decoder's state before it makes word i, the memory the annotations h.

    Paper: Bahdanau et al. 2015, arXiv:1409.0473, equations 5 and 6, appendix A.1.2.
    Cost: O(queries·keys·hidden) time.
    Raises: KindError, ArgumentError if a width is not an integer of at least 1.
    """

    def __init__(self, query: int, memory: int, hidden: int) -> None:
        super().__init__()
        check_widths("Bahdanau", query=query, memory=memory, hidden=hidden)
        self.score = Additive(query, memory, hidden)

    def forward(
        self,
        query: Float[Tensor, "*batch queries query_width"],
        memory: Float[Tensor, "*batch keys memory_width"],
        *,
        mask: Mask | Bool[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "*batch queries memory_width"]:
        """Give the contexts; a state that sees no annotation gets exactly 0.

        Raises: ShapeError, KindError for what does not fit.
        """
        one, annotations = with_head("Bahdanau", query=query, memory=memory)
        return self.attend(one, annotations, annotations, score=self.score, mask=mask).squeeze(-3)

    def with_map(
        self,
        query: Float[Tensor, "*batch queries query_width"],
        memory: Float[Tensor, "*batch keys memory_width"],
        *,
        mask: Mask | Bool[Tensor, "..."] | None = None,
    ) -> tuple[Float[Tensor, "*batch queries memory_width"], AttentionMap]:
        """Give the contexts and the map of α, which has one head."""
        one, annotations = with_head("Bahdanau", query=query, memory=memory)
        context, seen = self.attend_with_map(one, annotations, annotations, score=self.score, mask=mask)
        return context.squeeze(-3), seen

    def read(
        self,
        memory: Float[Tensor, "*batch keys memory_width"],
        *,
        keys: Int[Tensor, "*batch"] | Bool[Tensor, "*batch keys"] | None = None,
    ) -> "Annotations":
        """Compute U h once, for all the states that are still to come; `keys` says what is padding, as `padding` does.

        Cost: O(keys·memory·hidden) time; each state then costs O(keys·hidden).
        """
        (annotations,) = with_head("Bahdanau.read", memory=memory)
        check_width("Bahdanau.read", "memory", memory, self.score.weight.shape[1] - self.score.query_width)
        check_dtype("Bahdanau.read", "memory", memory, self.score.weight)
        mask = None
        if keys is not None:
            mask = padding(keys=keys)
            real = pairs_seen("Bahdanau.read", memory[..., :1, :], memory, mask).any(-2)
            annotations = torch.where(real[..., None, :, None], annotations, 0)
        read = nn.functional.linear(annotations, self.score.weight[:, self.score.query_width :])
        return Annotations(annotations, read, mask, self)


@dataclass(frozen=True, eq=False)
class Annotations:
    """Annotations read once: h and U h, each with one head. Called with a state, they give its context."""

    memory: Float[Tensor, "*batch 1 keys memory_width"]
    key: Float[Tensor, "*batch 1 keys hidden"]
    mask: Mask | None
    attention: Bahdanau

    def __call__(self, query: Float[Tensor, "*batch queries query_width"]) -> Float[Tensor, "*batch queries width"]:
        """Give the contexts."""
        one, _ = with_head("Annotations", query=query, memory=self.memory.squeeze(-3))
        score = _OneSided(self.attention.score)
        return self.attention.attend(one, self.key, self.memory, score=score, mask=self.mask).squeeze(-3)

    def with_map(
        self, query: Float[Tensor, "*batch queries query_width"]
    ) -> tuple[Float[Tensor, "*batch queries width"], AttentionMap]:
        """Give the contexts and the map of α."""
        one, _ = with_head("Annotations", query=query, memory=self.memory.squeeze(-3))
        score = _OneSided(self.attention.score)
        context, seen = self.attention.attend_with_map(one, self.key, self.memory, score=score, mask=self.mask)
        return context.squeeze(-3), seen


@dataclass(frozen=True, eq=False)
class _OneSided:
    """The additive score for keys that are prepared already."""

    inner: Additive

    def check(self, query: Tensor, key: Tensor) -> None:
        check_width("Annotations", "query", query, self.inner.query_width)
        check_dtype("Annotations", "query", query, self.inner.weight)

    def pair(self, query_width: int, key_width: int) -> AdditivePair:
        return self.inner.pair(query_width, key_width)

    def prepare(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        return nn.functional.linear(query, self.inner.weight[:, : self.inner.query_width]), key


CARDS = (
    Card(
        name="Bahdanau",
        kind="mechanism",
        equation="c = Σⱼ softmax(v · tanh(W s + U h))ⱼ hⱼ",
        paper="Bahdanau et al. 2015, arXiv:1409.0473",
        cost="n·m·hidden tanh",
        build=lambda: Bahdanau(query=8, memory=8, hidden=5),
    ),
)
