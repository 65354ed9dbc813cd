"""GPT-2, from top to bottom: its numbers, the model, its loss, and what generation asks of it.

    tokens → token + position → block × layers → norm → hidden states → logits, by the token embedding transposed

Paper: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from qkv.core.checks import check_integers, check_number, check_rate, check_whole, readable
from qkv.core.types import Bias
from qkv.errors import ArgumentError, must
from qkv.masks.algebra import Mask
from qkv.masks.causal import causal
from qkv.mechanisms.cache import Cache, KeyValueCache, RaggedCache
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
    pre_norm,
    turning,
)
from qkv.models.norms import layer_norm
from qkv.models.pointwise import Dropout, Gelu
from qkv.models.steps import MOST_ROWS, Steps, refuses
from qkv.positions.embeddings import LearnedPositions


@dataclass(frozen=True)
class GptConfig:
    """The numbers of a GPT. By default those of GPT-2's smallest model.

    `end` is the token that ends a text, if there is one.

    Raises: KindError, ArgumentError for a number out of range, or heads that do not divide the width.
    """

    vocabulary: int = 50257
    width: int = 768
    layers: int = 12
    heads: int = 12
    feed_forward: int = 3072
    positions: int = 1024
    dropout: float = 0.1
    attention_dropout: float = 0.1
    embedding_dropout: float = 0.1
    epsilon: float = 1e-5
    tanh_gelu: bool = True
    end: int | None = None

    def __post_init__(self) -> None:
        for name in ("vocabulary", "width", "layers", "heads", "feed_forward", "positions"):
            check_whole("GptConfig", name, getattr(self, name), 1)
        if self.width % self.heads:
            raise ArgumentError(must("GptConfig", "heads", f"divide the width {self.width}", self.heads))
        for name in ("dropout", "attention_dropout", "embedding_dropout"):
            check_rate("GptConfig", name, getattr(self, name))
        check_number("GptConfig", "epsilon", self.epsilon, "a finite number > 0", above=0.0)
        if self.end is not None:
            check_whole("GptConfig", "end", self.end, 0, "the token that ends a text")


class Past:
    """What a Gpt keeps between steps: a cache for each layer."""

    def __init__(self, layers: int, lengths: Tensor | None) -> None:
        self.lengths = lengths
        self.caches: list[Cache] | list[RaggedCache] = []
        # None until the first step, False where the kernels do not express the model.
        self.steps: Steps | Literal[False] | None = None
        self._layers = layers

    def open(self, tokens: Int[Tensor, "rows new"]) -> tuple[Sequence[KeyValueCache], Tensor | None]:
        """Give the caches, and where each row's last token stands, if not at the end."""
        if self.caches or self.lengths is None:
            self.caches = self.caches or [Cache() for _ in range(self._layers)]
            return self.caches, None
        self.caches = [RaggedCache(self.lengths, tokens.shape[1]) for _ in range(self._layers)]
        return self.caches, self.lengths - 1

    def reorder(self, rows: Int[Tensor, " rows"]) -> None:
        """Let row i become what row `rows[i]` was."""
        for cache in self.caches:
            cache.reorder(rows)


class Gpt(nn.Module):
    """GPT-2: a stack of blocks that see the past; the head is the token embedding, transposed.

    GPT-2's choices are the defaults: learned positions, LayerNorm before each layer and after the last, softmax of
    scaled dot products. `placement`, `positions`, `score` and `select` take others, a score or selection with
    parameters as a function that makes one for each layer.

    Paper: Radford et al. 2019, section 2.3.
    Cost: 12·width² parameters a layer where feed_forward = 4·width; positions²·width time a layer for the attention.
    Raises: KindError if an option is not an object of its kind.
    """

    rows_of_kernels = MOST_ROWS
    """Rows up to which kernels take a step, past the modules; a lens, which looks at modules, has 0 here."""

    def __init__(
        self,
        config: GptConfig,
        *,
        placement: Placement | None = None,
        positions: Positions | None = None,
        score: MakesScore = None,
        select: MakesSelection = None,
    ) -> None:
        super().__init__()
        self.config = config
        # Hugging Face's layout knows GPT-2's choices alone.
        self.is_the_papers = placement is positions is score is select is None
        placement = pre_norm(layer_norm(epsilon=config.epsilon)) if placement is None else placement
        positions = LearnedPositions(config.positions, config.width) if positions is None else positions
        check_placement("Gpt", placement)
        check_positions("Gpt", positions)
        self.choices = {"placement": placement, "positions": positions, "score": score, "select": select}
        self.tokens = nn.Embedding(config.vocabulary, config.width)
        self.places = positions
        self.dropout = Dropout(config.embedding_dropout)
        self.layers = nn.ModuleList(
            Block(
                config.width, config.heads, config.feed_forward, placement,
                activation=Gelu("tanh" if config.tanh_gelu else "none"),
                dropout=config.dropout, attention_dropout=config.attention_dropout,
                positions=turning(positions), score=score, select=select,
            )
            for _ in range(config.layers)
        )  # fmt: skip
        self.norm = placement.final(config.width)
        self.apply(draw)
        # Each layer adds to the residual stream twice; so the sum of all keeps its size.
        for block in cast(Iterable[Block], self.layers):
            for linear in (block.attention.output, block.feed_forward.contract):
                nn.init.normal_(linear.weight, std=0.02 / (2 * config.layers) ** 0.5)

    @property
    def positions(self) -> int:
        """How many tokens it can read at once."""
        return self.config.positions

    def forward(
        self,
        tokens: Int[Tensor, "*batch positions"],
        *,
        positions: Int[Tensor, "*lead positions"] | None = None,
        mask: Mask | None = None,
        caches: Sequence[KeyValueCache] | None = None,
    ) -> Float[Tensor, "*batch positions width"]:
        """Give the last layer's hidden states, normed: each token's, seeing itself and those before.

        `qkv.padding(keys=lengths)` hides padding. Texts packed on one row say where each token stands in its own, and
        keep to themselves by `qkv.documents(lengths)`. With caches, one for each layer, tokens follow what they hold.

        Raises: KindError, ShapeError, ArgumentError for tokens that are no integers, lie beyond the vocabulary (checked
        on the CPU) or are more than the positions, and for caches that are not one for each layer.
        """
        x, mask, bias = self._embed(tokens, positions, mask, caches)
        for block, cache in zip(self.layers, repeat(None) if caches is None else caches, strict=False):
            x = block(x, mask=mask, bias=bias, cache=cache)
        return self.norm(x)

    def encode(
        self,
        tokens: Int[Tensor, "*batch positions"],
        *,
        positions: Int[Tensor, "*lead positions"] | None = None,
        mask: Mask | None = None,
    ) -> Encoded:
        """Do what a call does, and keep every layer's hidden states and attention map.

        Cost: that of a call, and O(layers·positions·width) memory.
        Raises: as a call.
        """
        x, mask, bias = self._embed(tokens, positions, mask, None)
        hidden, maps = [x], []
        for block in cast(Iterable[Block], self.layers):
            x, seen = block.with_map(x, mask=mask, bias=bias)
            hidden.append(x)
            maps.append(seen)
        return Encoded((*hidden[:-1], self.norm(x)), tuple(maps))

    def predict_tokens(self, hidden: Float[Tensor, "*places width"]) -> Float[Tensor, "*places vocabulary"]:
        """Give the logits of the token after each place."""
        return F.linear(hidden, self.tokens.weight)

    def loss(
        self,
        tokens: Int[Tensor, "*batch positions"],
        targets: Int[Tensor, "*batch positions"],
        *,
        positions: Int[Tensor, "*lead positions"] | None = None,
        mask: Mask | None = None,
    ) -> tuple[Float[Tensor, ""], int]:
        """Sum the losses of the next tokens, and count them; a negative target is none.

        Cost: that of a call, and 6·tokens·vocabulary·width operations, in chunks.
        Raises: as a call, and as `cross_entropy`.
        """
        hidden = self(tokens, positions=positions, mask=mask).flatten(0, -2)
        return cross_entropy(hidden, self.tokens.weight, targets.flatten()), int((targets >= 0).sum())

    def start(self, lengths: Int[Tensor, " rows"] | None = None) -> "Past":
        """Begin to generate: the state that `step` takes. Prompts of different lengths are padded on the right.

        Raises: KindError, ArgumentError unless the lengths are a tensor of integers that lie in 1..the padded length.
        """
        if lengths is not None:
            check_integers("Gpt.start", "lengths", lengths)
            if readable(lengths) and (lengths < 1).any():
                raise ArgumentError(must("Gpt.start", "lengths", "be >= 1", int(lengths.min()), "a prompt has a token"))
        return Past(len(self.layers), lengths)

    def step(self, tokens: Int[Tensor, "rows new"], state: "Past") -> Float[Tensor, "rows vocabulary"]:
        """Take new tokens of each row in (first the prompts), and give the logits of the next one.

        Cost: that of a call on the new tokens, and O(past·width) a layer for their attention.
        Raises: as a call.
        """
        with torch.no_grad():
            caches, last = state.open(tokens)
            if state.steps is None and caches[0].seen:
                head, norm = self.tokens.weight, self.norm
                plain = bias_of(self.places) is None and refuses(list(self.layers), norm, head) is None
                state.steps = Steps(list(self.layers), cast(nn.LayerNorm, norm), head) if plain else False
            if state.steps and tokens.shape[1] == 1 and tokens.shape[0] <= self.rows_of_kernels:
                x, _, _ = self._embed(tokens, None, None, caches)
                return state.steps(x[:, 0], state.caches)
            hidden = self(tokens, caches=caches)
            hidden = hidden[:, -1] if last is None else hidden[torch.arange(tokens.shape[0]), last]
            return self.predict_tokens(hidden)

    def _embed(
        self, tokens: Tensor, positions: Tensor | None, mask: Mask | None, caches: Sequence[KeyValueCache] | None
    ) -> tuple[Tensor, Mask | None, Bias | None]:
        """Embed the tokens; give the mask and the bias of every layer."""
        check_tokens("Gpt", tokens, self.config.vocabulary)
        check_mask("Gpt", mask)
        if caches is not None and len(caches) != len(self.layers):
            fix = "such as [qkv.Cache() for _ in gpt.layers]"
            raise ArgumentError(must("Gpt", "caches", f"be {len(self.layers)}, one for each layer", len(caches), fix))
        first, offset = (caches[0].position, caches[0].offset) if caches else (0, None)
        places = place("Gpt", tokens, positions, self.config.positions, first)
        x = self.dropout(added(self.places, self.tokens(tokens.long()), places))
        if caches and offset is None and tokens.shape[-1] == 1:
            # It stands at the end, and sees everything.
            return x, mask, bias_of(self.places)
        past = causal(offset=offset)
        return x, past if mask is None else past & mask, bias_of(self.places, offset)
