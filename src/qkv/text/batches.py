"""A corpus as batches: masked words, next tokens, and pairs.

    batches = NextTokenBatches(file, length=256, tokens=4096)
    loader = DataLoader(batches, batch_size=None, sampler=range(step, steps), num_workers=2)

`len(batches)` are the batches of an epoch; `batches[step]`, of any step, is a function of (corpus, seed, step) alone.
"""

from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from qkv.core.checks import check_whole
from qkv.errors import ArgumentError, must
from qkv.text.batching import Buckets, Masked, NextToken, Pairs, Sequences, generator
from qkv.text.objectives import Vocabulary, mask_tokens
from qkv.text.tokens import TokenFile


@runtime_checkable
class Documents(Protocol):
    """Documents in numbers: those of a `TokenFile`, or `Sequences` in memory."""

    @property
    def lengths(self) -> Int[Tensor, " documents"]:
        """How many tokens each has."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Int[Tensor, " length"]: ...


@runtime_checkable
class Objective(Protocol):
    """Which tokens are hidden: `mask_tokens` or `mask_spans`."""

    def __call__(
        self,
        sequences: Sequences,
        vocabulary: Vocabulary,
        chance: torch.Generator,
        *,
        inside: Bool[Tensor, " total"] | None = None,
    ) -> Masked: ...


class NextTokenBatches:
    """Windows of `length` tokens over a whole corpus, at another shift and in another order each epoch.

    Documents that share a window are sequences of their own. The last token of one asks for the start of the next, if
    the file's documents begin with one, and otherwise for nothing. The corpus is read as a ring: an epoch is each token
    once, but for less than a window.

    Raises: ArgumentError if the corpus is smaller than a window and its last target, or the budget than a window.
    """

    def __init__(self, file: TokenFile, *, length: int, tokens: int, seed: int = 0) -> None:
        check_whole("NextTokenBatches", "length", length, 1, "tokens of a window")
        check_whole("NextTokenBatches", "tokens", tokens, length, "a batch holds a window at least")
        self.total = len(file.tokens)
        if self.total <= length:
            rule, fix = f"hold at least {length + 1} tokens", "give more text, or a smaller length"
            raise ArgumentError(must("NextTokenBatches", "file", rule, self.total, fix))
        self.file, self.length, self.seed = file, length, seed
        self.windows, self.together = self.total // length, tokens // length
        self._epoch: tuple[int, int, Tensor] | None = None

    def __len__(self) -> int:
        return -(-self.windows // self.together)

    def __getitem__(self, step: int) -> NextToken:
        epoch, place = divmod(step, len(self))
        if self._epoch is None or self._epoch[0] != epoch:
            chance = generator(self.seed, epoch)
            shift = int(torch.randint(self.total, (), generator=chance))
            self._epoch = epoch, shift, torch.randperm(self.windows, generator=chance)
        _, shift, order = self._epoch
        chosen = order[place * self.together : (place + 1) * self.together].tolist()
        parts = [part for window in chosen for part in self._parts((shift + window * self.length) % self.total)]
        tokens, targets, lengths = (torch.cat(each) for each in zip(*parts, strict=True))
        return NextToken(Sequences(tokens, lengths), targets)

    def _parts(self, start: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Give the tokens, targets and lengths of a window: in two parts if it goes on at the corpus' beginning."""
        stop = start + self.length
        if stop <= self.total:
            return [self._part(start, stop)]
        return [self._part(start, self.total), self._part(0, stop - self.total)]

    def _part(self, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
        edges = self.file.edges
        some = edges[np.searchsorted(edges, start, "right") : np.searchsorted(edges, stop, "right")]
        some = np.unique(some).astype(np.int64)
        tokens = self.file.part(start, stop)
        following = self.file.part(stop, stop + 1) if stop < self.total else self.file.part(0, 1)
        targets = torch.cat((tokens[1:], following))
        ends = torch.from_numpy(some - start - 1)
        if (start_token := self.file.start) is None:
            targets[ends] = -1
        else:
            targets[ends[targets[ends] != start_token]] = -1
        bounds = np.concatenate(([start], some[some < stop], [stop]))
        return tokens, targets, torch.from_numpy(np.diff(bounds))


class MaskedBatches:
    """Pieces of documents between [CLS] and [SEP], some of their tokens hidden.

    A document is cut into pieces of like length. `inside` says of each token of the vocabulary whether it goes on with
    the word before it (`objectives.goes_on`): whole words are then hidden. With `next_sentence` a piece is cut in two,
    and for half of them the second part comes from elsewhere, of another document if there is one.

    Paper: Devlin et al. 2019, arXiv:1810.04805, section 3.1 and appendix A.2.
    Raises: ArgumentError if nothing is long enough, or the budget of tokens is smaller than `length`.
    """

    def __init__(
        self,
        file: Documents,
        vocabulary: Vocabulary,
        *,
        cls: int,
        sep: int,
        length: int,
        tokens: int,
        objective: Objective = mask_tokens,
        inside: Bool[Tensor, " vocabulary"] | None = None,
        next_sentence: bool = False,
        seed: int = 0,
    ) -> None:
        special, least = (3, 2) if next_sentence else (2, 1)
        check_whole("MaskedBatches", "length", length, special + least, "tokens of a sequence, with [CLS] and [SEP]")
        check_whole("MaskedBatches", "tokens", tokens, length, "a batch holds a sequence at least")
        self.file, self.vocabulary, self.objective, self.inside = file, vocabulary, objective, inside
        self.cls, self.sep, self.next_sentence, self.seed = cls, sep, next_sentence, seed
        lengths = file.lengths
        counts = -(-lengths // (length - special))
        self.document = torch.repeat_interleave(torch.arange(len(lengths)), counts)
        whole, pieces = lengths[self.document], counts[self.document]
        index = torch.arange(len(self.document)) - (counts.cumsum(0) - counts)[self.document]
        self.first, self.last = whole * index // pieces, whole * (index + 1) // pieces
        enough = self.last - self.first >= least
        self.document, self.first, self.last = self.document[enough], self.first[enough], self.last[enough]
        if not len(self.document):
            what = "a document of at least 2 tokens" if next_sentence else "a token"
            raise ArgumentError(must("MaskedBatches", "file", f"hold {what}", "none", "give more text"))
        self.buckets = Buckets(self.last - self.first + special, tokens=tokens, seed=seed)

    def __len__(self) -> int:
        return len(self.buckets)

    def __getitem__(self, step: int) -> Masked:
        # Other random numbers than those of the buckets' order, which has the seed and the epoch.
        chance = generator(self.seed, step, 1)
        chosen = self.buckets[step].tolist()
        made = [self._pair(piece, chance) if self.next_sentence else self._single(piece) for piece in chosen]
        sequences, segments, not_next = zip(*made, strict=True)
        packed = Sequences.of(sequences)
        inside = None if self.inside is None else self.inside[packed.tokens]
        masked = self.objective(packed, self.vocabulary, chance, inside=inside)
        if not self.next_sentence:
            return masked
        return Masked(masked.sequences, torch.cat(segments), masked.places, masked.targets, torch.tensor(not_next))

    def _piece(self, piece: int) -> Int[Tensor, " length"]:
        return self.file[int(self.document[piece])][int(self.first[piece]) : int(self.last[piece])]

    def _single(self, piece: int) -> tuple[Tensor, Tensor, int]:
        text = self._piece(piece)
        tokens = torch.cat((torch.tensor([self.cls]), text, torch.tensor([self.sep])))
        return tokens, torch.zeros_like(tokens), 0

    def _pair(self, piece: int, chance: torch.Generator) -> tuple[Tensor, Tensor, int]:
        text = self._piece(piece)
        cut = 1 + int(torch.randint(len(text) - 1, (), generator=chance))
        one, other = text[:cut], text[cut:]
        not_next = int(torch.rand((), generator=chance) < 0.5)
        if not_next:
            other = self._piece(self._elsewhere(piece, chance))[: len(other)]
        tokens = torch.cat((torch.tensor([self.cls]), one, torch.tensor([self.sep]), other, torch.tensor([self.sep])))
        return tokens, (torch.arange(len(tokens)) >= cut + 2).long(), not_next

    def _elsewhere(self, piece: int, chance: torch.Generator) -> int:
        """Draw a piece of another document; if there is no other, any piece."""
        start, stop = torch.searchsorted(self.document, self.document[piece] + torch.arange(2)).tolist()
        others = len(self.document) - (stop - start)
        if not others:
            return int(torch.randint(len(self.document), (), generator=chance))
        drawn = int(torch.randint(others, (), generator=chance))
        return drawn if drawn < start else drawn + stop - start


class PairBatches:
    """Pairs of like length: the source and the end token; the target between the start token and the end token.

    Raises: ArgumentError if the sides differ in number, there is no pair, a pair is longer than `longest`, the model's
    positions, or than the budget of tokens.
    """

    def __init__(
        self,
        source: Documents,
        target: Documents,
        *,
        start: int,
        end: int,
        tokens: int,
        sequences: int | None = None,
        longest: int | None = None,
        seed: int = 0,
    ) -> None:
        if len(source) != len(target):
            got = f"{len(source)} and {len(target)}"
            raise ArgumentError(must("PairBatches", "source", "have as many sequences as target", got))
        lengths = torch.maximum(source.lengths, target.lengths) + 1
        if longest is not None and len(lengths) and (most := int(lengths.max())) > longest:
            fix = f"pair {int(lengths.argmax())}, with its end: leave it out, or give the model more positions"
            raise ArgumentError(must("PairBatches", "source and target", f"have at most {longest} tokens", most, fix))
        self.source, self.target, self.start, self.end = source, target, start, end
        self.buckets = Buckets(lengths, tokens=tokens, sequences=sequences, seed=seed)

    def __len__(self) -> int:
        return len(self.buckets)

    def __getitem__(self, step: int) -> Pairs:
        start, end = torch.tensor([self.start]), torch.tensor([self.end])
        chosen = self.buckets[step].tolist()
        targets = [self.target[pair] for pair in chosen]
        return Pairs(
            source=Sequences.of(torch.cat((self.source[pair], end)) for pair in chosen),
            target=Sequences.of(torch.cat((start, target)) for target in targets),
            targets=torch.cat([torch.cat((target, end)) for target in targets]),
        )
