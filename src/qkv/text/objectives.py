"""What is asked of a text: its masked tokens and words, its masked spans. Masks of the input, not of attention.

BERT and SpanBERT corrupt the *input* and choose the *targets*; which pairs may attend is another matter (`qkv.masks`).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from torch import Tensor

from qkv.core.checks import check_rate, check_whole
from qkv.errors import ArgumentError, ShapeError, UnsupportedError, must
from qkv.text.batching import Masked, Sequences

SHARE = 0.15
"""How much of a text is chosen."""

MASKED, RANDOM = 0.8, 0.1
"""Of what is chosen, how much becomes [MASK] and how much any token; the rest stays."""

SPAN_RATE, LONGEST_SPAN = 0.2, 10
"""Spans are drawn from Geometric(0.2), truncated at 10 words and renormalised."""


@dataclass(frozen=True)
class Vocabulary:
    """What masking must know of a vocabulary: its size, its [MASK], and the tokens that are never chosen nor drawn."""

    size: int
    mask: int
    special: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_whole("Vocabulary", "size", self.size, 1)
        check_whole("Vocabulary", "mask", self.mask, 0)


def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    """Give what masking must know of a tokenizer's vocabulary.

    Raises: ArgumentError if it has no [MASK].
    """
    mask = tokenizer.token_to_id("[MASK]")
    if mask is None:
        raise ArgumentError(must("vocabulary_of", "tokenizer", "have the token [MASK]", "none"))
    added = tokenizer.get_added_tokens_decoder()
    size = 1 + max(tokenizer.get_vocab().values())
    return Vocabulary(size, mask, tuple(sorted(index for index, token in added.items() if token.special)))


def goes_on(tokenizer: Tokenizer) -> Bool[Tensor, " vocabulary"]:
    """Say of each token of a WordPiece vocabulary whether it goes on with the word before it: those that begin with ##.

    Raises: UnsupportedError for another kind of vocabulary.
    """
    if not isinstance(tokenizer.model, WordPiece):
        fix = "train_wordpiece makes one"
        kind = type(tokenizer.model).__name__
        raise UnsupportedError(must("goes_on", "tokenizer", "be a WordPiece tokenizer, to know whole words", kind, fix))
    names = tokenizer.get_vocab()
    found = torch.zeros(1 + max(names.values()), dtype=torch.bool)
    prefix = tokenizer.model.continuing_subword_prefix
    found[[index for name, index in names.items() if name.startswith(prefix) and name != prefix]] = True
    return found


def mask_tokens(
    sequences: Sequences,
    vocabulary: Vocabulary,
    chance: torch.Generator,
    *,
    inside: Bool[Tensor, " total"] | None = None,
    share: float = SHARE,
) -> Masked:
    """Choose tokens at random; of the chosen 80% become [MASK], 10% any token, 10% stay. Special tokens are left alone.

    `inside` marks tokens that go on with the word before them: whole words are then chosen, each with all its tokens.
    A word is chosen with probability `share`, so that this is the expected share of the tokens. A batch of which chance
    chose nothing has one word chosen.

    Paper: Devlin et al. 2019, arXiv:1810.04805, section 3.1; whole words: its repository, May 2019.
    Raises: ShapeError unless `inside` is as long as the tokens; KindError, ArgumentError unless share lies in [0, 1].
    """
    check_rate("mask_tokens", "share", share)
    words, plain = _words("mask_tokens", sequences, vocabulary, inside)
    count = int(words[-1]) + 1 if len(words) else 0
    picked = torch.rand(count, generator=chance) < share
    chosen = picked[words] & plain if count else plain
    if not chosen.any() and plain.any():
        some = words[plain]
        chosen = (words == some[int(torch.randint(len(some), (), generator=chance))]) & plain
    return _corrupt(sequences, vocabulary, chosen, torch.arange(len(words)), chance)


def mask_spans(
    sequences: Sequences,
    vocabulary: Vocabulary,
    chance: torch.Generator,
    *,
    inside: Bool[Tensor, " total"] | None = None,
    share: float = SHARE,
) -> Masked:
    """Choose spans of whole words until the share of each sequence is spent; a span is masked, replaced or kept whole.

    Lengths are drawn from Geometric(0.2) truncated at 10 words and renormalised: 3.797 words in the mean as drawn, and
    less as realised, since the budget cuts the last span (`span_lengths` tells the realised ones).

    Paper: Joshi et al. 2020, arXiv:1907.10529, section 3.1.
    Raises: as `mask_tokens`.
    """
    check_rate("mask_spans", "share", share)
    words, plain = _words("mask_spans", sequences, vocabulary, inside)
    span = torch.full((len(words),), -1)
    spans, start = 0, 0
    for length in sequences.lengths.tolist():
        stop = start + length
        spans = _choose_spans(span[start:stop], words[start:stop], plain[start:stop], share, spans, chance)
        start = stop
    return _corrupt(sequences, vocabulary, span >= 0, span.clamp(min=0), chance)


def _choose_spans(
    span: Int[Tensor, " length"],
    words: Int[Tensor, " length"],
    plain: Bool[Tensor, " length"],
    share: float,
    spans: int,
    chance: torch.Generator,
) -> int:
    """Number the spans of one sequence from `spans` on; give the next number."""
    if not plain.any():
        return spans
    budget = max(1, round(share * int(plain.sum())))
    first, last = int(words[0]), int(words[-1])
    free = torch.zeros(last - first + 1, dtype=torch.bool)
    free[words[plain] - first] = True
    size = torch.bincount(words - first, minlength=len(free))
    while budget > 0 and free.any():
        starts = free.nonzero()[:, 0]
        word = int(starts[int(torch.randint(len(starts), (), generator=chance))])
        taken = 0
        for _ in range(int(draw_span_lengths(1, chance))):
            # A span ends at what is taken, at a special token, and with the budget; its first word always fits.
            if word >= len(free) or not free[word] or (taken and int(size[word]) > budget):
                break
            span[words == word + first] = spans
            free[word], budget, taken = False, budget - int(size[word]), taken + 1
            word += 1
        spans += 1
    return spans


def draw_span_lengths(count: int, chance: torch.Generator) -> Int[Tensor, " {count}"]:
    """Draw lengths of spans, in words, from Geometric(0.2) truncated at 10 and renormalised."""
    return 1 + torch.multinomial(span_law(), count, replacement=True, generator=chance)


def span_law() -> Float[Tensor, " longest"]:
    """Give the probabilities of spans of 1 to 10 words: 0.2 · 0.8ⁿ⁻¹, renormalised."""
    law = SPAN_RATE * (1 - SPAN_RATE) ** torch.arange(LONGEST_SPAN, dtype=torch.float64)
    return law / law.sum()


def span_lengths(places: Int[Tensor, " masked"]) -> Int[Tensor, " runs"]:
    """Measure the runs of neighbouring places that were chosen, in tokens."""
    if not len(places):
        return places
    starts = torch.cat((torch.ones(1, dtype=torch.bool), places.diff() > 1)).nonzero()[:, 0]
    return torch.cat((starts, torch.tensor([len(places)]))).diff()


def _words(
    function: str, sequences: Sequences, vocabulary: Vocabulary, inside: Tensor | None
) -> tuple[Int[Tensor, " total"], Bool[Tensor, " total"]]:
    """Number the word that each token is of, and say which tokens may be chosen."""
    tokens = sequences.tokens
    plain = ~torch.isin(tokens, torch.tensor(vocabulary.special, dtype=tokens.dtype))
    if inside is None:
        return torch.arange(len(tokens)), plain
    if inside.shape != tokens.shape:
        raise ShapeError(must(function, "inside", f"have the tokens' shape {list(tokens.shape)}", list(inside.shape)))
    # No word goes on from a special token, nor over the start of a sequence.
    before = torch.cat((plain.new_zeros(min(1, len(plain))), plain[:-1]))
    begins = ~(inside & plain & before & (sequences.positions > 0))
    return begins.cumsum(0) - 1, plain


def _corrupt(
    sequences: Sequences,
    vocabulary: Vocabulary,
    chosen: Bool[Tensor, " total"],
    group: Int[Tensor, " total"],
    chance: torch.Generator,
) -> Masked:
    """Mask, replace or keep what is chosen, all of a group alike; a replaced token is drawn for itself."""
    places = chosen.nonzero()[:, 0]
    targets = sequences.tokens[places]
    fate = torch.rand(int(group.max()) + 1 if len(group) else 0, generator=chance)[group[places]]
    allowed = torch.ones(vocabulary.size, dtype=torch.bool)
    allowed[torch.tensor([vocabulary.mask, *vocabulary.special], dtype=torch.long)] = False
    others = allowed.nonzero()[:, 0]
    drawn = others[torch.randint(max(1, len(others)), places.shape, generator=chance)] if len(others) else targets
    tokens = sequences.tokens.clone()
    tokens[places] = torch.where(fate < MASKED, vocabulary.mask, torch.where(fate < MASKED + RANDOM, drawn, targets))
    return Masked(Sequences(tokens, sequences.lengths), None, places, targets)
