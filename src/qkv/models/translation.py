"""What the translators share: packed pairs of sequences going in, translations coming out.

translated = translate(model, Sequences.of([source]), start=1, stop=2, beams=4)
"""

from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from qkv.core.checks import check_indices, check_whole, readable
from qkv.errors import ArgumentError, ShapeError, must
from qkv.models.generation import NO_TOKEN, beam_search, generate


@runtime_checkable
class Packed(Protocol):
    """Several sequences one after another in one row, as the `Sequences` of qkv's text."""

    @property
    def tokens(self) -> Int[Tensor, " total"]:
        """All tokens, sequence by sequence."""
        ...

    @property
    def lengths(self) -> Int[Tensor, " sequences"]:
        """How many tokens each sequence has."""
        ...

    @property
    def positions(self) -> Int[Tensor, " total"]:
        """Each token's place in its own sequence, from 0."""
        ...

    @property
    def rows(self) -> Int[Tensor, " total"]:
        """Which sequence each token is of, from 0."""
        ...

    @property
    def longest(self) -> int:
        """The largest of the lengths."""
        ...


@runtime_checkable
class Translator(Protocol):
    """A model that reads sources, and then generates a row for each."""

    def start(self, source: Packed) -> Any:
        """Read the sources; give the state that steps go on from."""
        ...

    def step(self, tokens: Int[Tensor, "rows new"], state: Any) -> Float[Tensor, "rows vocabulary"]:
        """Take new tokens of each row in, and give the logits of the next one."""
        ...


def translate(
    model: Translator,
    source: Packed,
    *,
    start: int,
    stop: int,
    beams: int = 4,
    length_penalty: float = 1.0,
    new: int | None = None,
) -> list[Int[Tensor, " _"]]:
    """Give the best translation of each source that `beams` find, the likeliest word at each step if that is 1.

    Each begins after the token `start` and ends before the token `stop`, or with `new` tokens, by default twice the
    longest source and 20. Dropout rests, whatever the model's mode.

    Paper: Sutskever et al. 2014, arXiv:1409.3215; Wu et al. 2016, arXiv:1609.08144, section 7 (length).
    Cost: the sources are read once; then a step of the model on sources × beams rows for each token.
    Raises: as `generate` and `beam_search`, before anything is computed but the sources' reading.
    """
    check_whole("translate", "start", start, 0, "the token that begins a translation")
    check_whole("translate", "beams", beams, 1)
    new = 2 * source.longest + 20 if new is None else new
    first = torch.full((len(source.lengths), 1), start, device=source.tokens.device)
    training = isinstance(model, nn.Module) and model.training
    try:
        if training:
            model.eval()  # type: ignore[attr-defined]
        state = model.start(source)
        if beams == 1:
            rows = torch.stack(list(generate(model, state, first, new=new, stop=stop)), dim=1)
        else:
            found = beam_search(model, state, first, new=new, stop=stop, beams=beams, length_penalty=length_penalty)
            rows = found.tokens[:, 0]
    finally:
        if training:
            model.train()  # type: ignore[attr-defined]
    return [row[(row != NO_TOKEN) & (row != stop)] for row in rows]


def in_rows(sequences: Packed, values: Float[Tensor, "total width"]) -> Float[Tensor, "sequences longest width"]:
    """Give what belongs to the tokens in a row for each sequence, filled up with zeros to the longest."""
    rows = values.new_zeros(len(sequences.lengths), sequences.longest, values.shape[-1])
    return rows.index_put((sequences.rows, sequences.positions), values)


def check_sequences(function: str, argument: str, sequences: Packed, vocabulary: int) -> None:
    """Raise KindError, ArgumentError unless all tokens lie in the vocabulary and no sequence is empty."""
    check_indices(function, f"{argument}.tokens", sequences.tokens, vocabulary)
    lengths = sequences.lengths
    if readable(lengths) and (lengths < 1).any():
        raise ArgumentError(must(function, f"{argument}.lengths", "be >= 1", int(lengths.min()), "an empty sequence"))


def check_pairs(function: str, source: Packed, target: Packed, vocabulary: int) -> None:
    """Raise as `check_sequences`, and ShapeError unless there is a target for each source."""
    check_sequences(function, "source", source, vocabulary)
    check_sequences(function, "target", target, vocabulary)
    if len(source.lengths) != len(target.lengths):
        rule = f"have a sequence for each of the {len(source.lengths)} of the source"
        raise ShapeError(must(function, "target", rule, len(target.lengths)))


def check_targets(function: str, target: Packed, targets: Int[Tensor, " _"]) -> None:
    """Raise ShapeError unless there is a target for each token of the target sequences."""
    if targets.shape != target.tokens.shape:
        rule = f"have one for each of the {len(target.tokens)} tokens of the target"
        raise ShapeError(must(function, "targets", rule, list(targets.shape)))


def check_rows(function: str, tokens: Int[Tensor, "rows new"], rows: int, vocabulary: int) -> None:
    """Raise KindError, ArgumentError, ShapeError unless it is a row of tokens of the vocabulary for each row."""
    check_indices(function, "tokens", tokens, vocabulary)
    if tokens.ndim != 2 or tokens.shape[0] != rows or not tokens.shape[1]:
        raise ShapeError(must(function, "tokens", f"have the shape [{rows}, new], new >= 1", list(tokens.shape)))
