"""BERT, from top to bottom: its numbers, the embeddings, a block, the heads, the model.

    tokens → embeddings → block × layers → hidden states → pooler, masked-language head, next-sentence head

Paper: Devlin et al. 2019, arXiv:1810.04805.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from qkv.core.checks import check_indices, check_number, check_rate, check_whole
from qkv.core.map import AttentionMap
from qkv.errors import ArgumentError, KindError, ShapeError, UnsupportedError, must
from qkv.masks.algebra import Mask
from qkv.mechanisms.multihead import MultiHead
from qkv.positions.embeddings import LearnedPositions, Segments


@dataclass(frozen=True)
class BertConfig:
    """The numbers of a BERT. By default those of the paper's base model, uncased.

    Raises: KindError, ArgumentError for a number out of range, or heads that do not divide the width.
    """

    vocabulary: int = 30522
    width: int = 768
    layers: int = 12
    heads: int = 12
    feed_forward: int = 3072
    positions: int = 512
    segments: int = 2
    dropout: float = 0.1
    attention_dropout: float = 0.1
    epsilon: float = 1e-12
    tanh_gelu: bool = False
    padding: int = 0

    def __post_init__(self) -> None:
        for name in ("vocabulary", "width", "layers", "heads", "feed_forward", "positions", "segments"):
            check_whole("BertConfig", name, getattr(self, name), 1)
        if self.width % self.heads:
            raise ArgumentError(must("BertConfig", "heads", f"divide the width {self.width}", self.heads))
        check_rate("BertConfig", "dropout", self.dropout)
        check_rate("BertConfig", "attention_dropout", self.attention_dropout)
        check_number("BertConfig", "epsilon", self.epsilon, "a finite number > 0", above=0.0)
        check_whole("BertConfig", "padding", self.padding, 0, "the token that fills a batch up")


class Embeddings(nn.Module):
    """What a token is, where it stands and which sentence it is of: three vectors, summed and normalised."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.tokens = nn.Embedding(config.vocabulary, config.width)
        self.positions = LearnedPositions(config.positions, config.width)
        self.segments = Segments(config.segments, config.width)
        self.norm = nn.LayerNorm(config.width, config.epsilon)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, tokens: Int[Tensor, "*batch positions"], segments: Int[Tensor, "*batch positions"]
    ) -> Float[Tensor, "*batch positions width"]:
        """Sum token, position and segment, and normalise."""
        places = torch.arange(tokens.shape[-1], device=tokens.device)
        return self.dropout(self.norm(self.tokens(tokens) + self.positions(places) + self.segments(segments)))


class Block(nn.Module):
    """Attention, then a feed-forward layer; each is added to its input and the sum normalised (post-norm)."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.attention = MultiHead(config.width, config.heads, dropout=config.attention_dropout)
        self.attention_norm = nn.LayerNorm(config.width, config.epsilon)
        self.expand = nn.Linear(config.width, config.feed_forward)
        self.gelu = _gelu(config)
        self.contract = nn.Linear(config.feed_forward, config.width)
        self.feed_forward_norm = nn.LayerNorm(config.width, config.epsilon)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Float[Tensor, "*batch positions width"], mask: Mask | None = None
    ) -> Float[Tensor, "*batch positions width"]:
        """Let every position read the others, then think for itself."""
        return self._finish(x, self.attention(x, mask=mask))

    def with_map(
        self, x: Float[Tensor, "*batch positions width"], mask: Mask | None = None
    ) -> tuple[Float[Tensor, "*batch positions width"], AttentionMap]:
        """Do what a call does, and also return the map of the attention."""
        read, seen = self.attention.with_map(x, mask=mask)
        return self._finish(x, read), seen

    def _finish(self, x: Tensor, read: Tensor) -> Tensor:
        x = self.attention_norm(x + self.dropout(read))
        return self.feed_forward_norm(x + self.dropout(self.contract(self.gelu(self.expand(x)))))


class MaskedHead(nn.Module):
    """The masked-language head: which token stands here? Its last matrix is the token embedding's own, transposed."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.width, config.width)
        self.gelu = _gelu(config)
        self.norm = nn.LayerNorm(config.width, config.epsilon)
        self.bias = nn.Parameter(torch.zeros(config.vocabulary))

    def forward(
        self, hidden: Float[Tensor, "*places width"], embedding: Float[Tensor, "vocabulary width"]
    ) -> Float[Tensor, "*places vocabulary"]:
        """Give the logits of every token."""
        return F.linear(self.norm(self.gelu(self.dense(hidden))), embedding, self.bias)


@dataclass(frozen=True, eq=False)
class Encoded:
    """One pass, to look at: `hidden[i]` enters block i, `hidden[i + 1]` leaves it, and `maps[i]` is its attention."""

    hidden: tuple[Float[Tensor, "*batch positions width"], ...]
    maps: tuple[AttentionMap, ...]


class Bert(nn.Module):
    """BERT: a stack of blocks that see both ways, and the two heads it was trained with.

    `pooler`, `masked` and `next_sentence` are None in a model that was loaded without them.

    Paper: Devlin et al. 2019, arXiv:1810.04805.
    Cost: 12·width² parameters a layer where feed_forward = 4·width; positions²·width time a layer for the attention.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.pooler: nn.Linear | None = nn.Linear(config.width, config.width)
        self.masked: MaskedHead | None = MaskedHead(config)
        self.next_sentence: nn.Linear | None = nn.Linear(config.width, 2)
        self.apply(_initialise)

    @property
    def positions(self) -> int:
        """How many tokens it can read at once."""
        return self.config.positions

    def forward(
        self,
        tokens: Int[Tensor, "*batch positions"],
        segments: Int[Tensor, "*batch positions"] | None = None,
        *,
        mask: Mask | None = None,
    ) -> Float[Tensor, "*batch positions width"]:
        """Give the last layer's hidden states. Segments are 0 by default; `qkv.padding(keys=lengths)` hides padding.

        Raises: KindError, ShapeError, ArgumentError for tokens or segments that are no integers, do not fit each other,
        lie beyond their tables (checked on the CPU) or are more than the positions.
        """
        x = self._embed(tokens, segments, mask)
        for block in self.layers:
            x = block(x, mask)
        return x

    def encode(
        self,
        tokens: Int[Tensor, "*batch positions"],
        segments: Int[Tensor, "*batch positions"] | None = None,
        *,
        mask: Mask | None = None,
    ) -> Encoded:
        """Do what a call does, and keep every layer's hidden states and attention map.

        Cost: that of a call, and O(layers·positions·width) memory.
        Raises: as a call.
        """
        hidden, maps = [self._embed(tokens, segments, mask)], []
        for block in cast(Iterable[Block], self.layers):
            x, seen = block.with_map(hidden[-1], mask)
            hidden.append(x)
            maps.append(seen)
        return Encoded(tuple(hidden), tuple(maps))

    def pool(self, hidden: Float[Tensor, "*batch positions width"]) -> Float[Tensor, "*batch width"]:
        """Sum a text up by its first token's hidden state: tanh(W h₀ + b).

        Raises: UnsupportedError if the model has no pooler.
        """
        return self._head("pool", "pooler")(hidden[..., 0, :]).tanh()

    def predict_tokens(self, hidden: Float[Tensor, "*places width"]) -> Float[Tensor, "*places vocabulary"]:
        """Give the logits of the token at each place; training wants those of the masked places alone.

        Raises: UnsupportedError if the model has no masked-language head.
        """
        return self._head("predict_tokens", "masked")(hidden, self.embeddings.tokens.weight)

    def predict_next(self, hidden: Float[Tensor, "*batch positions width"]) -> Float[Tensor, "*batch 2"]:
        """Give the logits of: the second sentence follows the first; it is any other.

        Raises: UnsupportedError if the model has no pooler or no next-sentence head.
        """
        head = self._head("predict_next", "next_sentence")
        return head(self.pool(hidden))

    def _head(self, function: str, name: str) -> nn.Module:
        head = getattr(self, name)
        if head is None:
            raise UnsupportedError(must(f"Bert.{function}", "the model", f"have its head {name!r}", None))
        return head

    def _embed(self, tokens: Tensor, segments: Tensor | None, mask: Mask | None) -> Tensor:
        check_indices("Bert", "tokens", tokens, self.config.vocabulary)
        if tokens.ndim == 0 or tokens.shape[-1] > self.config.positions:
            rule = f"have the shape [*batch, positions], at most {self.config.positions} positions"
            raise ShapeError(must("Bert", "tokens", rule, list(tokens.shape)))
        if segments is None:
            segments = torch.zeros_like(tokens)
        check_indices("Bert", "segments", segments, self.config.segments)
        if segments.shape != tokens.shape:
            rule = f"have the tokens' shape {list(tokens.shape)}"
            raise ShapeError(must("Bert", "segments", rule, list(segments.shape)))
        if mask is not None and not isinstance(mask, Mask):
            fix = "qkv.padding(keys=...) of lengths, or of booleans where True = keep"
            raise KindError(must("Bert", "mask", "be a mask", type(mask).__name__, fix))
        return self.embeddings(tokens.long(), segments)


def _gelu(config: BertConfig) -> nn.GELU:
    """x·Φ(x), by the error function as in the paper's code, or by tanh as some later models have it."""
    return nn.GELU("tanh" if config.tanh_gelu else "none")


def _initialise(module: nn.Module) -> None:
    """Draw matrices from N(0, 0.02), as the paper's code does; biases are 0 and norms 1."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
