"""Recurrent translators, from top to bottom: the numbers, the encoder, the decoders, the model.

    source tokens → embedding → GRU or LSTM in both directions → memory
    target tokens → embedding → decoder, looking into the memory → vectors → the embedding, transposed

An attention (looking.py) makes a context of the memory, a decoder says when: `LookThenStep` before the cell steps
(Bahdanau), `StepThenLook` after (Luong), `InputFed` after, with the result fed into the next step. Any goes with any,
and all else is shared, so that two models differ by what is compared:

    Recurrent(config, attention=AdditiveAttention())                              # Bahdanau's RNNsearch
    Recurrent(config, attention=NoAttention())                                    # Cho's RNNenc
    Recurrent(config, cell=nn.LSTM, attention=LuongAttention(), decoder=InputFed)

Paper: Cho et al. 2014, arXiv:1406.1078; Sutskever et al. 2014, arXiv:1409.3215; Bahdanau et al. 2015, arXiv:1409.0473;
Luong et al. 2015, arXiv:1508.04025.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from qkv.core.checks import check_rate, check_whole, shown
from qkv.errors import ArgumentError, KindError, UnsupportedError, must
from qkv.models.cross_entropy import LOGITS, cross_entropy
from qkv.models.looking import AdditiveAttention, Attention, CountedWords, Look, Looking, Source
from qkv.models.pointwise import Dropout
from qkv.models.translation import Packed, check_pairs, check_rows, check_sequences, check_targets, in_rows


@dataclass(frozen=True)
class RecurrentConfig:
    """The numbers of a recurrent translator; `layers` in encoder and decoder each. By default about RNNsearch's.

    Raises: KindError, ArgumentError for a number out of range, or an odd width (half of it goes in each direction).
    """

    vocabulary: int = 30000
    width: int = 1000
    layers: int = 1
    dropout: float = 0.0
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        for name in ("vocabulary", "width", "layers"):
            check_whole("RecurrentConfig", name, getattr(self, name), 1)
        if self.width % 2:
            fix = "half of it reads the source in each direction"
            raise ArgumentError(must("RecurrentConfig", "width", "be even", self.width, fix))
        check_rate("RecurrentConfig", "dropout", self.dropout)
        check_rate("RecurrentConfig", "smoothing", self.smoothing)


# Encoder and decoders

Cell: TypeAlias = type[nn.GRU] | type[nn.LSTM]


class Encoder(nn.Module):
    """Reads a source forwards and backwards; each direction makes half of the memory's width."""

    def __init__(self, config: RecurrentConfig, cell: Cell) -> None:
        super().__init__()
        self.cell = _cell(cell, config, config.width, config.width // 2, bidirectional=True)

    def forward(
        self, words: Float[Tensor, "rows keys width"], lengths: Int[Tensor, " rows"]
    ) -> tuple[Float[Tensor, "rows keys width"], tuple[Float[Tensor, "layers rows width"], ...]]:
        """Give the memory, zeros in its padding, and the last state of every layer, that of both directions."""
        packed = pack_padded_sequence(words, lengths.cpu(), batch_first=True, enforce_sorted=False)
        read, last = self.cell(packed)
        memory, _ = pad_packed_sequence(read, batch_first=True, total_length=words.shape[1])
        both = (part.unflatten(0, (-1, 2)).transpose(1, 2).flatten(-2) for part in _parts(last))
        return memory, tuple(both)


@dataclass(eq=False)
class Past:
    """What a Recurrent keeps while it translates: sources, the cell's state (h, or h and c), the last vector made."""

    source: Source
    cell: tuple[Float[Tensor, "layers rows width"], ...]
    vector: Float[Tensor, "rows width"]
    seen: int = 0

    @property
    def top(self) -> Float[Tensor, "rows 1 width"]:
        """The state of the last layer, as a query."""
        return self.cell[0][-1][:, None]

    def reorder(self, rows: Int[Tensor, " rows"]) -> None:
        """Let row i become what row `rows[i]` was."""
        self.source.reorder(rows)
        self.cell = tuple(part[:, rows] for part in self.cell)
        self.vector = self.vector[rows]


class Decoder(nn.Module):
    """What the decoders share: the cell, the attention, and the vector tanh(W [c; s]) of context and state."""

    fed = 0
    """How many vectors the cell reads beside a word."""

    def __init__(self, config: RecurrentConfig, cell: Cell, attention: Looking) -> None:
        super().__init__()
        self.cell = _cell(cell, config, (1 + self.fed) * config.width, config.width)
        self.attention = attention
        self.join = nn.Linear(2 * config.width, config.width, bias=False)

    def advance(self, inputs: Float[Tensor, "rows steps inputs"], state: Past) -> Float[Tensor, "rows steps width"]:
        """Let the cell read inputs; give its states."""
        held = state.cell if len(state.cell) > 1 else state.cell[0]
        states, after = self.cell(inputs, held)
        state.cell = _parts(after)
        return states

    def vectors(self, context: Tensor, states: Tensor) -> Float[Tensor, "rows steps width"]:
        """Make what words are predicted from."""
        return self.join(torch.cat((context, states), dim=-1)).tanh()


class LookThenStep(Decoder):
    """c_t = look(s_{t−1}); s_t = cell([x_t; c_t], s_{t−1}). A context that does not depend on states is given at once.

    Paper: Bahdanau et al. 2015, arXiv:1409.0473, section 3.1.
    Cost: one cell and one look a step, one step after the other.
    """

    fed = 1

    def forward(
        self, words: Float[Tensor, "rows steps width"], state: Past, see: bool = False
    ) -> tuple[Float[Tensor, "rows steps width"], Look]:
        """Give the vector of every step, teacher forced, and what was seen; the state goes on from the last."""
        if self.attention.fixed:
            look = self.attention(words, state.source, state.seen, see)
            states = self.advance(torch.cat((words, look.context), dim=-1), state)
        else:
            looks, made = [], []
            for step, word in enumerate(words.split(1, dim=1)):
                looks.append(self.attention(state.top, state.source, state.seen + step, see))
                made.append(self.advance(torch.cat((word, looks[-1].context), dim=-1), state))
            look, states = _together(looks), torch.cat(made, dim=1)
        state.seen += words.shape[1]
        return self.vectors(look.context, states), look


class StepThenLook(Decoder):
    """s_t = cell(x_t, s_{t−1}); c_t = look(s_t). The cell runs over all steps, and all of them look at once.

    Paper: Luong et al. 2015, arXiv:1508.04025, section 3.
    """

    def forward(
        self, words: Float[Tensor, "rows steps width"], state: Past, see: bool = False
    ) -> tuple[Float[Tensor, "rows steps width"], Look]:
        """Give the vector of every step, teacher forced, and what was seen; the state goes on from the last."""
        states = self.advance(words, state)
        look = self.attention(states, state.source, state.seen, see)
        state.seen += words.shape[1]
        return self.vectors(look.context, states), look


class InputFed(Decoder):
    """s_t = cell([x_t; h̃_{t−1}], s_{t−1}); h̃_t = tanh(W [look(s_t); s_t]), h̃_0 = 0.

    Paper: Luong et al. 2015, arXiv:1508.04025, section 3.3.
    Cost: one cell and one look a step, one step after the other.
    """

    fed = 1

    def forward(
        self, words: Float[Tensor, "rows steps width"], state: Past, see: bool = False
    ) -> tuple[Float[Tensor, "rows steps width"], Look]:
        """Give the vector of every step, teacher forced, and what was seen; the state goes on from the last."""
        looks, vectors = [], []
        for step, word in enumerate(words.split(1, dim=1)):
            states = self.advance(torch.cat((word, state.vector[:, None]), dim=-1), state)
            looks.append(self.attention(states, state.source, state.seen + step, see))
            vectors.append(self.vectors(looks[-1].context, states))
            state.vector = vectors[-1][:, 0]
        state.seen += words.shape[1]
        return torch.cat(vectors, dim=1), _together(looks)


def _cell(cell: Cell, config: RecurrentConfig, inputs: int, width: int, bidirectional: bool = False) -> nn.RNNBase:
    dropout = config.dropout if config.layers > 1 else 0.0
    return cell(inputs, width, config.layers, batch_first=True, dropout=dropout, bidirectional=bidirectional)


def _parts(state: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Give h, or h and c."""
    return (state,) if isinstance(state, Tensor) else state


def _together(looks: Sequence[Look]) -> Look:
    """Put the looks of steps one after another."""

    def joined(parts: Sequence[Any]) -> Any:
        return None if parts[0] is None else torch.cat(tuple(parts), dim=1)

    choices = [look.choice for look in looks if look.choice is not None]
    choice = None
    if choices:
        parts = {name: joined([getattr(each, name) for each in choices]) for name in ("index", "log_prob", "entropy")}
        choice = replace(choices[-1], **parts)
    names = ("context", "weights", "again")
    return Look(choice=choice, **{name: joined([getattr(look, name) for look in looks]) for name in names})


# The model


class Recurrent(nn.Module):
    """A recurrent encoder and decoder, with one embedding for source, target and output, scaled by √width where read.

    The decoder starts from the encoder's last state. `cell` is torch's GRU or LSTM.

    Paper: Bahdanau et al. 2015, arXiv:1409.0473; Press and Wolf 2017, arXiv:1608.05859 (one embedding).
    Raises: KindError if an option is not an object of its kind.
    """

    def __init__(
        self,
        config: RecurrentConfig,
        *,
        cell: Cell = nn.GRU,
        attention: Attention | None = None,
        decoder: type[Decoder] = LookThenStep,
    ) -> None:
        super().__init__()
        attention = AdditiveAttention() if attention is None else attention
        if cell not in (nn.GRU, nn.LSTM):
            raise KindError(must("Recurrent", "cell", "be torch.nn.GRU or torch.nn.LSTM", shown(cell)))
        if isinstance(attention, type | nn.Module) or not callable(attention):
            raise KindError(must("Recurrent", "attention", "make an attention", shown(attention), "such as LocalP(5)"))
        if decoder not in (LookThenStep, StepThenLook, InputFed):
            rule = "be LookThenStep, StepThenLook or InputFed"
            raise KindError(must("Recurrent", "decoder", rule, shown(decoder)))
        self.config = config
        self.choices = {"cell": cell, "attention": attention, "decoder": decoder}
        self.embedding = nn.Embedding(config.vocabulary, config.width)
        nn.init.normal_(self.embedding.weight, std=config.width**-0.5)
        self.dropout = Dropout(config.dropout)
        self.encoder = Encoder(config, cell)
        self.decoder = decoder(config, cell, attention(config.width))
        self.bias = nn.Parameter(torch.zeros(config.vocabulary))

    def forward(self, source: Packed, target: Packed) -> Float[Tensor, "target width"]:
        """Give the vectors of the target's tokens, each made of the source and what came before it.

        Raises: KindError, ArgumentError, ShapeError for tokens that are no integers or lie beyond the vocabulary (read
        on the CPU), empty sequences, or targets that are not as many as the sources.
        """
        return self._decode(source, target)[0]

    def with_alignment(
        self, source: Packed, target: Packed
    ) -> tuple[Float[Tensor, "total width"], Float[Tensor, "sequences target source"]]:
        """Do what a call does, and also give the weights with which each target token looked at each source token.

        Raises: as a call; UnsupportedError without an attention.
        """
        if self.decoder.attention.fixed:
            raise UnsupportedError(must("Recurrent.with_alignment", "the model", "have an attention", "NoAttention()"))
        vectors, look = self._decode(source, target, see=True)
        return vectors, look.weights  # type: ignore[return-value]

    def predict_tokens(self, vectors: Float[Tensor, "*places width"]) -> Float[Tensor, "*places vocabulary"]:
        """Give the logits of the token after each place."""
        return F.linear(vectors, self.embedding.weight, self.bias)

    def loss(self, source: Packed, target: Packed, targets: Int[Tensor, " target"]) -> tuple[Float[Tensor, ""], int]:
        """Sum the cross-entropies of the targets that are not negative, and count them.

        While training labels are smoothed, and what hard attention or coverage learns from is added.

        Raises: as a call; ShapeError unless there is a target for each token of `target`.
        """
        words, lesson, count = self.losses(source, target, targets)
        return words + lesson, count

    def losses(
        self, source: Packed, target: Packed, targets: Int[Tensor, " target"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""], int]:
        """Give the two parts of `loss` apart, and the count: the words' losses, and what teaches the attention.

        Raises: as `loss`.
        """
        check_targets("Recurrent.loss", target, targets)
        vectors, look = self._decode(source, target)
        smoothing = self.config.smoothing if self.training else 0.0
        total = cross_entropy(vectors, self.embedding.weight, targets, self.bias, smoothing=smoothing)
        counted, lesson = targets >= 0, total.new_zeros(())
        if self.training:
            likelihoods = partial(self._likelihoods, vectors[counted], targets[counted])
            words = CountedWords(target.rows[counted], target.positions[counted], likelihoods)
            lesson = self.decoder.attention.lesson(look, words)
        return total, lesson, int(counted.sum())

    def start(self, source: Packed) -> Past:
        """Read sources once, to translate them step by step: the state that `step` takes, a row for each source.

        Raises: KindError, ArgumentError for sources that do not fit.
        """
        check_sequences("Recurrent.start", "source", source, self.config.vocabulary)
        with torch.no_grad():
            return self._start(source)

    def step(self, tokens: Int[Tensor, "rows new"], state: Past) -> Float[Tensor, "rows vocabulary"]:
        """Take new tokens of each row in, and give the logits of the next one.

        Cost: that of the decoder on the new tokens; the sources are not read again.
        Raises: KindError, ArgumentError, ShapeError for tokens that do not fit.
        """
        check_rows("Recurrent.step", tokens, len(state.vector), self.config.vocabulary)
        with torch.no_grad():
            vectors, _ = self.decoder(self._embed(tokens), state)
            return self.predict_tokens(self.dropout(vectors[:, -1]))

    def _start(self, source: Packed) -> Past:
        memory, cell = self.encoder(in_rows(source, self._embed(source.tokens)), source.lengths)
        last = cell[0][-1]
        number = torch.arange(len(last), device=last.device)
        return Past(Source(memory, source.lengths, last, number), cell, torch.zeros_like(last))

    def _decode(self, source: Packed, target: Packed, see: bool = False) -> tuple[Tensor, Look]:
        check_pairs("Recurrent", source, target, self.config.vocabulary)
        # What stands behind the end of a target is computed and left: it reaches nothing that comes before.
        words = in_rows(target, self._embed(target.tokens))
        vectors, look = self.decoder(words, self._start(source), see)
        return self.dropout(vectors[target.rows, target.positions]), look

    def _embed(self, tokens: Tensor) -> Tensor:
        return self.dropout(self.embedding(tokens.long()) * math.sqrt(self.config.width))

    @torch.no_grad()
    def _likelihoods(self, vectors: Tensor, targets: Tensor) -> Float[Tensor, " places"]:
        """Give log p of each target, in chunks as the loss is made."""
        chunk = max(1, LOGITS // self.config.vocabulary)
        logits = map(self.predict_tokens, vectors.split(chunk))
        losses = map(partial(F.cross_entropy, reduction="none"), logits, targets.split(chunk))
        return -torch.cat(list(losses))
