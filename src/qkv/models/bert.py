"""BERT, from top to bottom: its numbers, the embeddings, the heads, the model.

    tokens → embeddings → block × layers → hidden states → pooler, masked-language head, next-sentence head, labels

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
from qkv.errors import ArgumentError, ShapeError, UnsupportedError, must
from qkv.masks.algebra import Mask
from qkv.models.cross_entropy import cross_entropy
from qkv.models.layers import (
    Block,
    Encoded,
    MakesScore,
    MakesSelection,
    Placement,
    Positions,
    added,
    bias_of,
    check_mask,
    check_placement,
    check_positions,
    check_tokens,
    draw,
    place,
    post_norm,
    turning,
)
from qkv.models.norms import layer_norm
from qkv.models.pointwise import Dropout
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

    def __init__(self, config: BertConfig, placement: Placement, positions: Positions) -> None:
        super().__init__()
        self.tokens = nn.Embedding(config.vocabulary, config.width)
        self.positions = positions
        self.segments = Segments(config.segments, config.width)
        self.norm = placement.norm(config.width)
        self.dropout = Dropout(config.dropout)

    def forward(
        self,
        tokens: Int[Tensor, "*batch positions"],
        segments: Int[Tensor, "*batch positions"],
        places: Int[Tensor, "*lead positions"],
    ) -> Float[Tensor, "*batch positions width"]:
        """Sum token, position and segment, and normalise."""
        x = added(self.positions, self.tokens(tokens), places) + self.segments(segments)
        return self.dropout(self.norm(x))


class MaskedHead(nn.Module):
    """The masked-language head: which token stands here? Its last matrix is the token embedding's own, transposed."""

    def __init__(self, config: BertConfig, placement: Placement) -> None:
        super().__init__()
        self.dense = nn.Linear(config.width, config.width)
        self.gelu = _gelu(config)
        self.norm = placement.norm(config.width)
        self.bias = nn.Parameter(torch.zeros(config.vocabulary))

    def forward(
        self, hidden: Float[Tensor, "*places width"], embedding: Float[Tensor, "vocabulary width"]
    ) -> Float[Tensor, "*places vocabulary"]:
        """Give the logits of every token."""
        return F.linear(self.bend(hidden), embedding, self.bias)

    def bend(self, hidden: Float[Tensor, "*places width"]) -> Float[Tensor, "*places width"]:
        """Turn hidden states into what the embedding is compared with."""
        return self.norm(self.gelu(self.dense(hidden)))


class Bert(nn.Module):
    """BERT: a stack of blocks that see both ways, and the heads it was trained with.

    The paper's choices are the defaults: learned positions, LayerNorm after each sum, softmax of scaled dot products.
    `placement`, `positions`, `score` and `select` take others, a score or selection with parameters as a function that
    makes one for each layer. `pooler`, `masked` and `next_sentence` are None in a model that was loaded without them;
    `labels` (of texts) and `token_labels` are None until they are added.

    Paper: Devlin et al. 2019, arXiv:1810.04805.
    Cost: 12·width² parameters a layer where feed_forward = 4·width; positions²·width time a layer for the attention.
    Raises: KindError if an option is not an object of its kind.
    """

    def __init__(
        self,
        config: BertConfig,
        *,
        placement: Placement | None = None,
        positions: Positions | None = None,
        score: MakesScore = None,
        select: MakesSelection = None,
    ) -> None:
        super().__init__()
        self.config = config
        # Hugging Face's layout knows the paper's choices alone.
        self.is_the_papers = placement is positions is score is select is None
        placement = post_norm(layer_norm(epsilon=config.epsilon)) if placement is None else placement
        positions = LearnedPositions(config.positions, config.width) if positions is None else positions
        check_placement("Bert", placement)
        check_positions("Bert", positions)
        self.choices = {"placement": placement, "positions": positions, "score": score, "select": select}
        self.embeddings = Embeddings(config, placement, positions)
        self.layers = nn.ModuleList(
            Block(
                config.width, config.heads, config.feed_forward, placement,
                activation=_gelu(config), dropout=config.dropout, attention_dropout=config.attention_dropout,
                positions=turning(positions), score=score, select=select,
            )
            for _ in range(config.layers)
        )  # fmt: skip
        self.norm = placement.final(config.width)
        self.pooler: nn.Linear | None = nn.Linear(config.width, config.width)
        self.masked: MaskedHead | None = MaskedHead(config, placement)
        self.next_sentence: nn.Linear | None = nn.Linear(config.width, 2)
        self.labels: nn.Linear | None = None
        self.token_labels: nn.Linear | None = None
        self.dropout = Dropout(config.dropout)
        self.apply(draw)

    @property
    def positions(self) -> int:
        """How many tokens it can read at once."""
        return self.config.positions

    def forward(
        self,
        tokens: Int[Tensor, "*batch positions"],
        segments: Int[Tensor, "*batch positions"] | None = None,
        *,
        positions: Int[Tensor, "*lead positions"] | None = None,
        mask: Mask | None = None,
    ) -> Float[Tensor, "*batch positions width"]:
        """Give the last layer's hidden states. Segments are 0 by default; `qkv.padding(keys=lengths)` hides padding.

        Texts packed on one row say where each token stands in its own, and keep to themselves by
        `qkv.documents(lengths)`.

        Raises: KindError, ShapeError, ArgumentError for tokens or segments that are no integers, do not fit each other,
        lie beyond their tables (checked on the CPU) or are more than the positions.
        """
        x = self._embed(tokens, segments, positions, mask)
        bias = bias_of(self.embeddings.positions)
        for block in self.layers:
            x = block(x, mask=mask, bias=bias)
        return self.norm(x)

    def encode(
        self,
        tokens: Int[Tensor, "*batch positions"],
        segments: Int[Tensor, "*batch positions"] | None = None,
        *,
        positions: Int[Tensor, "*lead positions"] | None = None,
        mask: Mask | None = None,
    ) -> Encoded:
        """Do what a call does, and keep every layer's hidden states and attention map.

        Cost: that of a call, and O(layers·positions·width) memory.
        Raises: as a call.
        """
        hidden, maps = [self._embed(tokens, segments, positions, mask)], []
        bias = bias_of(self.embeddings.positions)
        for block in cast(Iterable[Block], self.layers):
            x, seen = block.with_map(hidden[-1], mask=mask, bias=bias)
            hidden.append(x)
            maps.append(seen)
        return Encoded((*hidden[:-1], self.norm(hidden[-1])), tuple(maps))

    # What its heads say

    def pool(
        self, hidden: Float[Tensor, "*batch positions width"], first: Int[Tensor, " texts"] | None = None
    ) -> Float[Tensor, "*texts width"]:
        """Sum a text up by its first token's hidden state: tanh(W h₀ + b). `first` finds it among all, in packed rows.

        Raises: UnsupportedError if the model has no pooler.
        """
        pooler = self._head("pool", "pooler")
        return pooler(hidden[..., 0, :] if first is None else hidden.flatten(0, -2)[first]).tanh()

    def predict_tokens(self, hidden: Float[Tensor, "*places width"]) -> Float[Tensor, "*places vocabulary"]:
        """Give the logits of the token at each place.

        Raises: UnsupportedError if the model has no masked-language head.
        """
        return self._head("predict_tokens", "masked")(hidden, self.embeddings.tokens.weight)

    def predict_next(
        self, hidden: Float[Tensor, "*batch positions width"], first: Int[Tensor, " texts"] | None = None
    ) -> Float[Tensor, "*texts 2"]:
        """Give the logits of: the second sentence follows the first; it is any other.

        Raises: UnsupportedError if the model has no pooler or no next-sentence head.
        """
        head = self._head("predict_next", "next_sentence")
        return head(self.pool(hidden, first))

    def predict_label(
        self, hidden: Float[Tensor, "*batch positions width"], first: Int[Tensor, " texts"] | None = None
    ) -> Float[Tensor, "*texts labels"]:
        """Give the logits of each text's label.

        Raises: UnsupportedError if the model has no pooler or no labels (`add_labels`).
        """
        head = self._head("predict_label", "labels")
        return head(self.dropout(self.pool(hidden, first)))

    def predict_token_labels(self, hidden: Float[Tensor, "*places width"]) -> Float[Tensor, "*places labels"]:
        """Give the logits of each token's label.

        Raises: UnsupportedError if the model has no labels of tokens (`add_labels`).
        """
        return self._head("predict_token_labels", "token_labels")(self.dropout(hidden))

    def add_labels(self, count: int, *, of_tokens: bool = False) -> None:
        """Add a head that labels texts, or tokens, drawn anew. The heads of pretraining go, as there is one task now.

        Raises: KindError, ArgumentError unless the count is an integer of at least 1; UnsupportedError for labels of
        texts in a model without a pooler.
        """
        check_whole("Bert.add_labels", "count", count, 1)
        if not of_tokens:
            self._head("add_labels", "pooler")
        head = nn.Linear(self.config.width, count).to(self.embeddings.tokens.weight)
        head.apply(draw)
        self.masked = self.next_sentence = None
        self.labels, self.token_labels = (None, head) if of_tokens else (head, None)
        if of_tokens:
            self.pooler = None

    # What it learns by: sums of losses, and how many they are of

    def loss(
        self,
        tokens: Int[Tensor, "*batch positions"],
        places: Int[Tensor, " masked"],
        targets: Int[Tensor, " masked"],
        segments: Int[Tensor, "*batch positions"] | None = None,
        *,
        positions: Int[Tensor, "*lead positions"] | None = None,
        mask: Mask | None = None,
    ) -> tuple[Float[Tensor, ""], int]:
        """Sum the masked-language losses, of the masked places alone: they count through all tokens, row after row.

        Cost: that of a call, and 6·masked·vocabulary·width operations, in chunks.
        Raises: as a call, and as `cross_entropy`; UnsupportedError if the model has no masked-language head.
        """
        self._head("loss", "masked")
        return self.loss_of_masked(self(tokens, segments, positions=positions, mask=mask), places, targets)

    def loss_of_masked(
        self,
        hidden: Float[Tensor, "*batch positions width"],
        places: Int[Tensor, " masked"],
        targets: Int[Tensor, " masked"],
    ) -> tuple[Float[Tensor, ""], int]:
        """Sum the masked-language losses of hidden states.

        Raises: as `loss`.
        """
        head = cast(MaskedHead, self._head("loss_of_masked", "masked"))
        flat = hidden.flatten(0, -2)
        check_indices("Bert.loss_of_masked", "places", places, flat.shape[0])
        return _total(head.bend(flat[places]), self.embeddings.tokens.weight, targets, head.bias)

    def loss_of_next(
        self,
        hidden: Float[Tensor, "*batch positions width"],
        targets: Int[Tensor, "*texts"],
        first: Int[Tensor, " texts"] | None = None,
    ) -> tuple[Float[Tensor, ""], int]:
        """Sum the next-sentence losses: 0 where the second sentence follows, 1 where it is any other.

        Raises: as `predict_next`, and as `cross_entropy`.
        """
        head = cast(nn.Linear, self._head("loss_of_next", "next_sentence"))
        return _total(self.pool(hidden, first), head.weight, targets, head.bias)

    def loss_of_label(
        self,
        hidden: Float[Tensor, "*batch positions width"],
        targets: Int[Tensor, "*texts"],
        first: Int[Tensor, " texts"] | None = None,
    ) -> tuple[Float[Tensor, ""], int]:
        """Sum the losses of the texts' labels.

        Raises: as `predict_label`, and as `cross_entropy`.
        """
        head = cast(nn.Linear, self._head("loss_of_label", "labels"))
        return _total(self.dropout(self.pool(hidden, first)), head.weight, targets, head.bias)

    def loss_of_token_labels(
        self, hidden: Float[Tensor, "*places width"], targets: Int[Tensor, "*places"]
    ) -> tuple[Float[Tensor, ""], int]:
        """Sum the losses of the tokens' labels; a negative target is none.

        Raises: as `predict_token_labels`, and as `cross_entropy`.
        """
        head = cast(nn.Linear, self._head("loss_of_token_labels", "token_labels"))
        return _total(self.dropout(hidden), head.weight, targets, head.bias)

    def _head(self, function: str, name: str) -> nn.Module:
        head = getattr(self, name)
        if head is None:
            raise UnsupportedError(must(f"Bert.{function}", "the model", f"have its head {name!r}", None))
        return head

    def _embed(self, tokens: Tensor, segments: Tensor | None, positions: Tensor | None, mask: Mask | None) -> Tensor:
        check_tokens("Bert", tokens, self.config.vocabulary)
        places = place("Bert", tokens, positions, self.config.positions)
        if segments is None:
            segments = torch.zeros_like(tokens)
        check_indices("Bert", "segments", segments, self.config.segments)
        if segments.shape != tokens.shape:
            rule = f"have the tokens' shape {list(tokens.shape)}"
            raise ShapeError(must("Bert", "segments", rule, list(segments.shape)))
        check_mask("Bert", mask)
        return self.embeddings(tokens.long(), segments, places)


def _total(x: Tensor, weight: Tensor, targets: Tensor, bias: Tensor) -> tuple[Tensor, int]:
    return cross_entropy(x.flatten(0, -2), weight, targets.flatten(), bias), int((targets >= 0).sum())


def _gelu(config: BertConfig) -> nn.GELU:
    """x·Φ(x), by the error function as in the paper's code, or by tanh as some later models have it."""
    return nn.GELU("tanh" if config.tanh_gelu else "none")
