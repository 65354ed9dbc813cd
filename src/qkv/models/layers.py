"""What the models share: where a norm stands, the feed-forward layer, a block, positions wherever they act.

    Gpt(config, placement=pre_norm(rms_norm()), positions=rotary(), select=topk(8))

A model is given objects, never the names of objects.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from qkv.core.checks import check_indices, check_rate, check_whole, readable, shown
from qkv.core.map import AttentionMap
from qkv.core.types import Bias, Score, Selection
from qkv.errors import KindError, ShapeError, must
from qkv.masks.algebra import Mask
from qkv.mechanisms.cache import KeyValueCache
from qkv.mechanisms.multihead import MultiHead
from qkv.models.norms import Norm, layer_norm
from qkv.models.pointwise import Dropout
from qkv.positions.alibi import Alibi
from qkv.positions.relative import T5Relative
from qkv.positions.rotary import Rotary

# Where a norm stands

Inner: TypeAlias = Callable[[Tensor], Tensor]
"""What a residual connection goes around: attention, or a feed-forward layer."""


class _Residual(nn.Module):
    def __init__(self, norm: nn.Module, dropout: float) -> None:
        super().__init__()
        self.norm = norm
        self.dropout = Dropout(dropout)


class PreResidual(_Residual):
    """x + dropout(inner(norm(x)))."""

    def forward(self, x: Float[Tensor, "*batch width"], inner: Inner) -> Float[Tensor, "*batch width"]:
        """Add what the inner layer makes of the normed input."""
        return x + self.dropout(inner(self.norm(x)))


class PostResidual(_Residual):
    """norm(x + dropout(inner(x)))."""

    def forward(self, x: Float[Tensor, "*batch width"], inner: Inner) -> Float[Tensor, "*batch width"]:
        """Add what the inner layer makes of the input, and norm the sum."""
        return self.norm(x + self.dropout(inner(x)))


@dataclass(frozen=True)
class PreNorm:
    """Makes residual connections with the norm before the inner layer; a stack of them ends with one more norm."""

    norm: Norm

    def __call__(self, width: int, dropout: float = 0.0) -> PreResidual:
        """Make a residual connection: a module called with x and the inner layer."""
        return PreResidual(self.norm(width), dropout)

    def final(self, width: int) -> nn.Module:
        """Make what stands after the last layer: a norm."""
        return self.norm(width)


@dataclass(frozen=True)
class PostNorm:
    """Makes residual connections with the norm after the sum."""

    norm: Norm

    def __call__(self, width: int, dropout: float = 0.0) -> PostResidual:
        """Make a residual connection: a module called with x and the inner layer."""
        return PostResidual(self.norm(width), dropout)

    def final(self, width: int) -> nn.Module:
        """Make what stands after the last layer: nothing, as its output is normed."""
        return nn.Identity()


Placement: TypeAlias = PreNorm | PostNorm


def pre_norm(norm: Norm | None = None) -> PreNorm:
    """Norm what enters a layer (`layer_norm()` by default): x + dropout(inner(norm(x))).

    Paper: Xiong et al. 2020, arXiv:2002.04745; Radford et al. 2019 (GPT-2).
    """
    return PreNorm(layer_norm() if norm is None else norm)


def post_norm(norm: Norm | None = None) -> PostNorm:
    """Norm what leaves a layer, added to its input (`layer_norm()` by default): norm(x + dropout(inner(x))).

    Paper: Vaswani et al. 2017, arXiv:1706.03762, section 3.1.
    """
    return PostNorm(layer_norm() if norm is None else norm)


def check_placement(function: str, placement: object) -> None:
    """Raise KindError unless it makes residual connections and says what ends a stack of them."""
    if isinstance(placement, type) or not callable(placement) or not hasattr(placement, "final"):
        fix = "qkv.pre_norm(norm) or qkv.post_norm(norm)"
        raise KindError(must(function, "placement", "say where a norm stands", shown(placement), fix))


# The feed-forward layer


class FeedForward(nn.Module):
    """W₂ dropout(activation(W₁ x + b₁)) + b₂, at each position by itself.

    Paper: Vaswani et al. 2017, arXiv:1706.03762, section 3.3.
    Cost: 4·width·hidden operations a position.
    Raises: KindError, ArgumentError unless width and hidden are integers of at least 1, and dropout lies in [0, 1].
    """

    def __init__(
        self, width: int, hidden: int, activation: Callable[[Tensor], Tensor] | None = None, dropout: float = 0.0
    ) -> None:
        super().__init__()
        check_whole("FeedForward", "width", width, 1)
        check_whole("FeedForward", "hidden", hidden, 1)
        check_rate("FeedForward", "dropout", dropout)
        self.expand = nn.Linear(width, hidden)
        self.activation = nn.ReLU() if activation is None else activation
        self.dropout = Dropout(dropout)
        self.contract = nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """Widen, bend, narrow."""
        return self.contract(self.dropout(self.activation(self.expand(x))))


# Positions


@dataclass(frozen=True)
class NoPositions:
    """Tells a token nothing of where it stands: a set of tokens, but for what a mask tells."""


def no_positions() -> NoPositions:
    """Take no positions at all; a causal mask alone tells some order.

    Paper: Kazemnejad et al. 2023, arXiv:2305.19466.
    """
    return NoPositions()


AddedPositions: TypeAlias = Callable[[Tensor], Tensor]
"""Learned or sinusoidal positions: called with numbers [*batch, positions], they give vectors of the width."""

Positions: TypeAlias = Rotary | Bias | AddedPositions | NoPositions
"""Any positions of qkv. Each acts in one place: on the input (`added`), on query and key (`turning`), or on the scores
(`bias_of`); a model asks all three, and the two others answer that there is nothing to do."""


def check_positions(function: str, positions: object) -> None:
    """Raise KindError unless it is one of the kinds of positions."""
    if isinstance(positions, type) or not (
        isinstance(positions, NoPositions) or hasattr(positions, "tile") or callable(positions)
    ):
        fix = "such as qkv.rotary(), qkv.alibi(heads), qkv.sinusoidal(width) or qkv.LearnedPositions(count, width)"
        raise KindError(must(function, "positions", "be positions of qkv", shown(positions), fix))


def added(
    positions: Positions, x: Float[Tensor, "*batch positions width"], places: Int[Tensor, "*lead positions"]
) -> Float[Tensor, "*batch positions width"]:
    """Add to the input what learned or sinusoidal positions give for its places; others add nothing."""
    if isinstance(positions, Rotary | NoPositions) or hasattr(positions, "tile"):
        return x
    return x + positions(places).to(x.dtype)


def turning(positions: Positions) -> Rotary | None:
    """Give what turns query and key: rotary positions, or None. They see distances, so a packed row needs no places."""
    return positions if isinstance(positions, Rotary) else None


def bias_of(positions: Positions, offset: int | Tensor | None = None) -> Bias | None:
    """Give what is added to the scores: ALiBi or T5's bias, or None. The offset is where a cache's rows stand.

    Like rotary positions they see distances, so that a packed row needs no places.
    """
    if not hasattr(positions, "tile"):
        return None
    if offset is None:
        return positions  # type: ignore[return-value]
    if isinstance(positions, T5Relative):
        # The same weights, seen from elsewhere.
        moved = copy.copy(positions)
        moved.offset = offset
        return moved
    if isinstance(positions, Alibi):
        return replace(positions, offset=offset)
    rule = "take an offset for each row, as prompts differ in length"
    raise KindError(must("bias_of", "positions", rule, positions, "alibi and T5Relative do"))


def place(
    function: str,
    tokens: Int[Tensor, "*batch positions"],
    positions: Int[Tensor, "..."] | None,
    most: int,
    first: int | Tensor = 0,
) -> Int[Tensor, "..."]:
    """Say where tokens stand: as told, or one after another from `first` (a number, or one for each row) on.

    Raises: KindError unless `positions` are integers; ShapeError unless they are as many as the tokens; both and
    ArgumentError for more than `most` positions.
    """
    count = tokens.shape[-1]
    if positions is None:
        last = first if isinstance(first, int) else int(first.max()) if first.numel() and readable(first) else 0
        if last + count > most:
            rule = f"have the shape [*batch, positions], at most {most} positions"
            got = f"{list(tokens.shape)}" + (f" after {last}" if last else "")
            raise ShapeError(must(function, "tokens", rule, got))
        steps = torch.arange(count, device=tokens.device)
        return steps + (first if isinstance(first, int) else first.to(tokens.device)[..., None])
    check_indices(function, "positions", positions, most)
    fits = zip(positions.shape[::-1], tokens.shape[::-1], strict=False)
    if not 0 < positions.ndim <= tokens.ndim or any(have not in (1, want) for have, want in fits):
        rule = f"have the tokens' shape {list(tokens.shape)}"
        raise ShapeError(must(function, "positions", rule, list(positions.shape)))
    return positions


# A block, and what a stack of them gives

MakesScore: TypeAlias = Score | Callable[[], Score] | None
MakesSelection: TypeAlias = Selection | Callable[[], Selection] | None


def for_layer(part: Any) -> Any:
    """Give a score or a selection as it is; what has parameters is given as a function, called once for each layer."""
    made = part is None or isinstance(part, type) or hasattr(part, "prepare") or hasattr(part, "summary")
    return part if made or not callable(part) else part()


class Block(nn.Module):
    """Attention, then a feed-forward layer, each with a residual connection around it."""

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        placement: Placement,
        *,
        activation: Callable[[Tensor], Tensor] | None = None,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        positions: Rotary | None = None,
        score: MakesScore = None,
        select: MakesSelection = None,
    ) -> None:
        super().__init__()
        choices = {"score": for_layer(score), "select": for_layer(select), "positions": positions}
        self.attention = MultiHead(width, heads, dropout=attention_dropout, **choices)
        self.attention_residual = placement(width, dropout)
        self.feed_forward = FeedForward(width, hidden, activation)
        self.feed_forward_residual = placement(width, dropout)

    def forward(
        self,
        x: Float[Tensor, "*batch positions width"],
        *,
        mask: Mask | None = None,
        bias: Bias | None = None,
        cache: KeyValueCache | None = None,
    ) -> Float[Tensor, "*batch positions width"]:
        """Let every position read the others, then think for itself."""
        x = self.attention_residual(x, lambda x: self.attention(x, mask=mask, bias=bias, cache=cache))
        return self.feed_forward_residual(x, self.feed_forward)

    def with_map(
        self,
        x: Float[Tensor, "*batch positions width"],
        *,
        mask: Mask | None = None,
        bias: Bias | None = None,
        cache: KeyValueCache | None = None,
    ) -> tuple[Float[Tensor, "*batch positions width"], AttentionMap]:
        """Do what a call does, and also return the map of the attention."""
        seen: list[AttentionMap] = []

        def attend(x: Tensor) -> Tensor:
            read, found = self.attention.with_map(x, mask=mask, bias=bias, cache=cache)
            seen.append(found)
            return read

        x = self.attention_residual(x, attend)
        return self.feed_forward_residual(x, self.feed_forward), seen[0]


@dataclass(frozen=True, eq=False)
class Encoded:
    """One pass, to look at: `hidden[i]` enters block i, whose attention is `maps[i]`; the last is what a call gives."""

    hidden: tuple[Float[Tensor, "*batch positions width"], ...]
    maps: tuple[AttentionMap, ...]


def draw(module: nn.Module) -> None:
    """Draw matrices from N(0, 0.02), as BERT's and GPT's code does; biases are 0 and norms 1."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def check_tokens(function: str, tokens: object, vocabulary: int) -> None:
    """Raise unless it is a tensor of integers of the vocabulary, with at least the dimension of positions."""
    check_indices(function, "tokens", tokens, vocabulary)  # type: ignore[arg-type]
    if tokens.ndim == 0:  # type: ignore[attr-defined]
        raise ShapeError(must(function, "tokens", "have the shape [*batch, positions]", []))


def check_mask(function: str, mask: object) -> None:
    """Raise KindError unless it is None or a mask of qkv."""
    if mask is not None and not isinstance(mask, Mask):
        fix = "qkv.padding(keys=...) of lengths, or of booleans where True = keep"
        raise KindError(must(function, "mask", "be a mask", type(mask).__name__, fix))
