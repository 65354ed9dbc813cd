"""The Transformer of 2017, from top to bottom: its numbers, a layer of each kind, the two stacks, decoding.

    source tokens → embedding → encoder layer × layers → memory
    target tokens → embedding → decoder layer × layers, reading the memory → hidden states → the embedding, transposed

Sequences come packed, one after another on one row, so that no padding is computed; masks keep them apart.

Paper: Vaswani et al. 2017, arXiv:1706.03762.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from qkv.core.checks import check_rate, check_whole
from qkv.core.map import AttentionMap
from qkv.core.types import Bias
from qkv.errors import ArgumentError, must
from qkv.masks.algebra import Mask
from qkv.masks.causal import causal
from qkv.masks.documents import documents
from qkv.masks.padding import padding
from qkv.mechanisms.cache import Cache, KeyValueCache
from qkv.mechanisms.multihead import Memory, MultiHead
from qkv.models.cross_entropy import cross_entropy
from qkv.models.layers import (
    Block,
    FeedForward,
    MakesScore,
    MakesSelection,
    Placement,
    Positions,
    added,
    bias_of,
    check_positions,
    for_layer,
    post_norm,
    turning,
)
from qkv.models.pointwise import Dropout
from qkv.models.steps.decoder import MOST_ROWS, DecoderSteps, refuses
from qkv.models.translation import Packed, check_pairs, check_rows, check_sequences, check_targets, in_rows
from qkv.positions.rotary import Rotary
from qkv.positions.sinusoidal import sinusoidal


@dataclass(frozen=True)
class TransformerConfig:
    """The numbers of a Transformer; `layers` in each of its stacks. By default those of the paper's base model.

    Raises: KindError, ArgumentError for a number out of range, or heads that do not divide the width.
    """

    vocabulary: int = 37000
    width: int = 512
    layers: int = 6
    heads: int = 8
    feed_forward: int = 2048
    dropout: float = 0.1
    attention_dropout: float = 0.0
    smoothing: float = 0.1

    def __post_init__(self) -> None:
        for name in ("vocabulary", "width", "layers", "heads", "feed_forward"):
            check_whole("TransformerConfig", name, getattr(self, name), 1)
        if self.width % self.heads:
            raise ArgumentError(must("TransformerConfig", "heads", f"divide the width {self.width}", self.heads))
        for name in ("dropout", "attention_dropout", "smoothing"):
            check_rate("TransformerConfig", name, getattr(self, name))


class DecoderLayer(nn.Module):
    """Self-attention to what came before, attention to the memory, then a feed-forward layer."""

    def __init__(
        self,
        config: TransformerConfig,
        placement: Placement,
        *,
        positions: Rotary | None = None,
        score: MakesScore = None,
        select: MakesSelection = None,
    ) -> None:
        super().__init__()
        width, dropout = config.width, config.attention_dropout
        own, across = ({"score": for_layer(score), "select": for_layer(select)} for _ in range(2))
        self.attention = MultiHead(width, config.heads, dropout=dropout, positions=positions, **own)
        self.attention_residual = placement(width, config.dropout)
        # A place in the source is no distance from one in the target: here positions say nothing.
        self.cross = MultiHead(width, config.heads, dropout=dropout, **across)
        self.cross_residual = placement(width, config.dropout)
        self.feed_forward = FeedForward(width, config.feed_forward)
        self.feed_forward_residual = placement(width, config.dropout)

    def forward(
        self,
        x: Float[Tensor, "rows positions width"],
        memory: Float[Tensor, "sources keys width"] | Memory,
        *,
        mask: Mask | None,
        cross_mask: Mask,
        bias: Bias | None = None,
        cache: KeyValueCache | None = None,
    ) -> Float[Tensor, "rows positions width"]:
        """Let every position read its past, then the memory, then think for itself.

        Rows side by side may share a source: to its memory they are queries like any others.
        """
        sources = len(memory.key if isinstance(memory, Memory) else memory)

        def look(x: Tensor) -> Tensor:
            return self.cross(x.reshape(sources, -1, x.shape[-1]), memory, mask=cross_mask).view(x.shape)

        x = self.attention_residual(x, lambda x: self.attention(x, mask=mask, bias=bias, cache=cache))
        x = self.cross_residual(x, look)
        return self.feed_forward_residual(x, self.feed_forward)

    def with_map(
        self,
        x: Float[Tensor, "rows positions width"],
        memory: Float[Tensor, "rows keys width"],
        *,
        mask: Mask,
        cross_mask: Mask,
        bias: Bias | None = None,
    ) -> tuple[Float[Tensor, "rows positions width"], AttentionMap, AttentionMap]:
        """Do what a call does, and also return the maps of self-attention and of attention to the memory."""
        seen: list[AttentionMap] = []

        def attend(attention: MultiHead, **given: Any) -> Callable[[Tensor], Tensor]:
            def inner(x: Tensor) -> Tensor:
                read, found = attention.with_map(x, **given)
                seen.append(found)
                return read

            return inner

        x = self.attention_residual(x, attend(self.attention, mask=mask, bias=bias))
        x = self.cross_residual(x, attend(self.cross, memory=memory, mask=cross_mask))
        return self.feed_forward_residual(x, self.feed_forward), seen[0], seen[1]


@dataclass(frozen=True, eq=False)
class Maps:
    """One pass, to look at: the target's hidden states, and the attention of every layer of each kind.

    Rows and columns count along the packed rows; of a single pair they are simply its positions.
    """

    hidden: Float[Tensor, "target width"]
    encoder: tuple[AttentionMap, ...]
    decoder: tuple[AttentionMap, ...]
    cross: tuple[AttentionMap, ...]


class Transformer(nn.Module):
    """Encoder and decoder, with one embedding for source, target and output.

    The embedding is scaled by √width where it is read. `placement` says where a norm stands and which
    (`post_norm(layer_norm())` by default, as in the paper), `positions` where a token stands (sinusoidal by default),
    `score` and `select` how all attention is made; what has parameters is given as a function, called once a layer.

    Paper: Vaswani et al. 2017, arXiv:1706.03762; Press and Wolf 2017, arXiv:1608.05859 (one embedding).
    Cost: 28·width² parameters a pair of layers where feed_forward = 4·width.
    Raises: KindError if an option is not an object of its kind.
    """

    rows_of_kernels = MOST_ROWS
    """Rows up to which kernels take a step, past the modules; a lens, which looks at modules, has 0 here."""

    def __init__(
        self,
        config: TransformerConfig,
        *,
        placement: Placement | None = None,
        positions: Positions | None = None,
        score: MakesScore = None,
        select: MakesSelection = None,
    ) -> None:
        super().__init__()
        placement = post_norm() if placement is None else placement
        positions = sinusoidal(config.width) if positions is None else positions
        check_positions("Transformer", positions)
        self.config = config
        self.choices = {"placement": placement, "positions": positions, "score": score, "select": select}
        parts: dict[str, Any] = {"positions": turning(positions), "score": score, "select": select}
        self.embedding = nn.Embedding(config.vocabulary, config.width)
        self.positions = positions
        self.dropout = Dropout(config.dropout)
        self.encoder = nn.ModuleList(
            Block(
                config.width, config.heads, config.feed_forward, placement,
                dropout=config.dropout, attention_dropout=config.attention_dropout, **parts,
            )
            for _ in range(config.layers)
        )  # fmt: skip
        self.encoder_norm = placement.final(config.width)
        self.decoder = nn.ModuleList(DecoderLayer(config, placement, **parts) for _ in range(config.layers))
        self.decoder_norm = placement.final(config.width)
        self.apply(_draw)

    def forward(self, source: Packed, target: Packed) -> Float[Tensor, "target width"]:
        """Give the hidden states of the target's tokens, each of which has read the source and what came before it.

        Raises: KindError, ArgumentError, ShapeError for tokens that are no integers or lie beyond the vocabulary (read
        on the CPU), empty sequences, or targets that are not as many as the sources.
        """
        check_pairs("Transformer", source, target, self.config.vocabulary)
        memory, (x, given) = self._encode(source), self._target(source, target)
        for layer in self.decoder:
            x = layer(x, memory, **given)
        return self.decoder_norm(x)[0]

    def with_maps(self, source: Packed, target: Packed) -> Maps:
        """Do what a call does, and keep the map of every attention.

        Cost: that of a call, and O(layers·positions·width) memory.
        Raises: as a call.
        """
        check_pairs("Transformer", source, target, self.config.vocabulary)
        encoder, decoder = [], []
        x, given = self._source(source)
        for block in cast(Iterable[Block], self.encoder):
            x, seen = block.with_map(x, **given)
            encoder.append(seen)
        memory, (x, given) = self.encoder_norm(x), self._target(source, target)
        for layer in cast(Iterable[DecoderLayer], self.decoder):
            x, *both = layer.with_map(x, memory, **given)
            decoder.append(both)
        own, across = zip(*decoder, strict=True)
        return Maps(self.decoder_norm(x)[0], tuple(encoder), own, across)

    def predict_tokens(self, hidden: Float[Tensor, "*places width"]) -> Float[Tensor, "*places vocabulary"]:
        """Give the logits of the token after each place."""
        return F.linear(hidden, self.embedding.weight)

    def loss(self, source: Packed, target: Packed, targets: Int[Tensor, " target"]) -> tuple[Float[Tensor, ""], int]:
        """Sum the cross-entropies of the targets that are not negative, and count them.

        Labels are smoothed while training.

        Raises: as a call; ShapeError unless there is a target for each token of `target`.
        """
        check_targets("Transformer.loss", target, targets)
        smoothing = self.config.smoothing if self.training else 0.0
        total = cross_entropy(self(source, target), self.embedding.weight, targets, smoothing=smoothing)
        return total, int((targets >= 0).sum())

    def start(self, source: Packed) -> "Past":
        """Read sources once, to translate them step by step: the state that `step` takes, a row for each source.

        Raises: KindError, ArgumentError for sources that do not fit.
        """
        check_sequences("Transformer.start", "source", source, self.config.vocabulary)
        with torch.no_grad():
            memory = in_rows(source, self._encode(source)[0])
            read = [layer.cross.read(memory) for layer in cast(Iterable[DecoderLayer], self.decoder)]
            memories = [Memory(each.key.contiguous(), each.value.contiguous()) for each in read]
        return Past([Cache() for _ in memories], memories, source.lengths, len(memory))

    def step(self, tokens: Int[Tensor, "rows new"], state: "Past") -> Float[Tensor, "rows vocabulary"]:
        """Take new tokens of each row in, and give the logits of the next one.

        Cost: that of the decoder on the new tokens; the sources are not read again.
        Raises: KindError, ArgumentError, ShapeError for tokens that do not fit.
        """
        check_rows("Transformer.step", tokens, state.rows, self.config.vocabulary)
        with torch.no_grad():
            seen, layers = state.caches[0].seen, cast(Sequence[DecoderLayer], self.decoder)
            x = self._embed(tokens, torch.arange(seen, seen + tokens.shape[1], device=tokens.device))
            bias = bias_of(self.positions)
            if state.steps is None and seen:
                parts = list(layers), self.decoder_norm, self.embedding.weight
                state.steps = DecoderSteps(*parts) if bias is None and refuses(*parts) is None else False
            if state.steps and tokens.shape[1] == 1 and tokens.shape[0] <= self.rows_of_kernels:
                return state.steps(x[:, 0], state.caches, state.memories, state.lengths)
            # A single token stands at the end, and sees everything.
            mask, cross_mask = None if tokens.shape[1] == 1 else causal(), padding(keys=state.lengths)
            for layer, memory, cache in zip(layers, state.memories, state.caches, strict=True):
                x = layer(x, memory, mask=mask, cross_mask=cross_mask, bias=bias, cache=cache)
            return self.predict_tokens(self.decoder_norm(x[:, -1]))

    def _encode(self, source: Packed) -> Float[Tensor, "1 source width"]:
        x, given = self._source(source)
        for block in self.encoder:
            x = block(x, **given)
        return self.encoder_norm(x)

    def _source(self, source: Packed) -> tuple[Tensor, dict[str, Any]]:
        """Embed the source; give what every encoder layer is told."""
        x = self._embed(source.tokens[None], source.positions[None])
        return x, {"mask": documents(source.lengths), "bias": bias_of(self.positions)}

    def _target(self, source: Packed, target: Packed) -> tuple[Tensor, dict[str, Any]]:
        """Embed the target; give what every decoder layer is told."""
        mask = documents(target.lengths) & causal()
        cross_mask = documents(keys=source.lengths, queries=target.lengths)
        x = self._embed(target.tokens[None], target.positions[None])
        return x, {"mask": mask, "cross_mask": cross_mask, "bias": bias_of(self.positions)}

    def _embed(self, tokens: Tensor, places: Tensor) -> Tensor:
        x = self.embedding(tokens.long()) * math.sqrt(self.config.width)
        return self.dropout(added(self.positions, x, places))


@dataclass(eq=False)
class Past:
    """What a Transformer keeps while it translates: each layer's cache, and its keys and values of the sources.

    Rows that translate one source stand side by side and share its memory.
    """

    caches: list[Cache]
    memories: list[Memory]
    lengths: Int[Tensor, " sources"]
    rows: int
    steps: DecoderSteps | Literal[False] | None = None
    """None until the second step, False where the kernels do not express the model."""

    def reorder(self, rows: Int[Tensor, " rows"]) -> None:
        """Let row i become what row `rows[i]` was. Beams that stay on their source move nothing of it."""
        for cache in self.caches:
            cache.reorder(rows)
        sources = rows // (self.rows // len(self.lengths))
        picked, shares = sources.unique_consecutive(return_counts=True)
        # Sources with different numbers of rows are no grid; each row then has a memory of its own.
        picked = picked if bool((shares == shares[:1]).all()) else sources
        self.rows = len(rows)
        if not torch.equal(picked, torch.arange(len(self.lengths), device=rows.device)):
            self.lengths = self.lengths[picked]
            self.memories = [Memory(each.key[picked], each.value[picked]) for each in self.memories]


def _draw(module: nn.Module) -> None:
    """Draw matrices as Glorot and Bengio do, the embedding from N(0, 1/width); biases are 0."""
    if isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
