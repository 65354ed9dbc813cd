"""Translations that full forms learn and are asked for: a user's pairs or rows of dates, and how good a model is at them.

translations = Translations.of(size)
translations.train(model, size, seed=0, progress=progress, doing="8 heads")
translations.loss(model), translations.chrf(translations.said(model))
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from statistics import mean
from typing import TypeAlias

import torch
from tokenizers import Tokenizer
from torch import Tensor

import qkv
from qkv.errors import ArgumentError, must
from qkv.labs.chrf import chrf
from qkv.labs.lab import Progress
from qkv.labs.running.fit import fit
from qkv.labs.table import LEAST, Table
from qkv.models.recurrent import Recurrent
from qkv.models.transformer import Transformer
from qkv.models.translation import Translator
from qkv.text.batches import PairBatches
from qkv.text.batching import Sequences, generator
from qkv.text.corpus import read_pairs
from qkv.text.dates import date_pairs
from qkv.text.tokenizer import END, START, characters, train_byte_bpe
from qkv.training.held_out import PairsPart

SPECIAL = ("[UNK]", START, END)
PARTS = 4
"""The pairs asked for fall into so many parts of like number by the length of the source."""

Model: TypeAlias = Transformer | Recurrent


@dataclass(frozen=True)
class Size:
    """How large the models are and how long they are trained; on a table, or on rows of up to so many dates."""

    width: int = 256
    layers: int = 3
    steps: int = 4000
    tokens: int = 4096
    rate: float = 1e-3
    warm_up: int = 400
    dropout: float = 0.1
    vocabulary: int = 8000
    longest: int = 200
    asked: int = 1000
    rows: int = 30_000
    dates: int = 6
    table: Table | None = None


def dates_in_rows(rows: int, most: int, *, held_out: bool = False) -> Iterator[tuple[str, str]]:
    """Give rows of 1 to `most` dates, each in a language and a form of its own, and the same in ISO form.

    A row that is held out has days that are held out, and no others.
    """
    pairs = date_pairs(rows * most, held_out=held_out)
    for row in range(rows):
        some = list(islice(pairs, 1 + row % most))
        yield "; ".join(pair.source for pair in some), " ".join(pair.target for pair in some)


@dataclass(frozen=True, eq=False)
class Translations:
    """Pairs in tokens: those to learn from; and those to be asked for, the shortest source first."""

    tokenizer: Tokenizer
    known: tuple[Sequences, Sequences]
    asked: tuple[Sequences, Sequences]
    answers: list[str]
    tokens: int
    device: torch.device

    @classmethod
    def of(cls, size: Size) -> "Translations":
        """Read the pairs and make their tokens. Pairs that are longer than `size.longest` are left out.

        Raises: FileError for what is no table; ArgumentError if too few pairs are short enough.
        """
        if size.table is None:
            known, asked = (
                list(dates_in_rows(rows, size.dates, held_out=held_out))
                for rows, held_out in ((size.rows, False), (size.asked, True))
            )
            tokenizer = characters((text for pair in known for text in pair), special=SPECIAL)
        else:
            pairs = read_pairs(size.table.path)
            known, asked = (list(PairsPart(pairs, held_out)) for held_out in (False, True))
            # A token more for every twenty pairs: a small table gives no large vocabulary, and could not teach one.
            vocabulary = min(size.vocabulary, 300 + len(known) // 20)
            tokenizer = train_byte_bpe((text for pair in known for text in pair), vocabulary, special=SPECIAL)
        chosen = torch.randperm(len(asked), generator=generator(0))[: size.asked].tolist()
        learned = _in_tokens(known, tokenizer, size.longest)
        wanted = _in_tokens([asked[place] for place in chosen], tokenizer, size.longest)
        if len(wanted) < LEAST or not learned:
            where = "dates" if size.table is None else str(size.table.path)
            rule = f"hold {LEAST} held-out pairs of less than {size.longest} tokens"
            raise ArgumentError(must("lab", where, rule, len(wanted)))
        wanted.sort(key=lambda pair: len(pair[0]))
        # Where it is fastest: on a GPU, if there is one.
        device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
        answers = [answer for *_, answer in wanted]
        return cls(tokenizer, _packed(learned), _packed(wanted), answers, size.tokens, device)

    @property
    def vocabulary(self) -> int:
        """How many tokens there are."""
        return self.tokenizer.get_vocab_size()

    def train(
        self, model: Model, size: Size, *, seed: int, warm_up: int | None = None, progress: Progress, doing: str
    ) -> list[float]:
        """Train a model where it computes fastest, its rate falling to 0 over the second half; give the losses."""
        model.to(self.device).train()
        batches = self._batches(self.known, seed)

        def loss(step: int) -> Tensor:
            pairs = batches[step].to(self.device)
            total, count = model.loss(pairs.source, pairs.target, pairs.targets)
            return total / count

        warm_up = size.warm_up if warm_up is None else warm_up
        losses = fit(
            model.parameters(), loss,
            steps=size.steps, rate=size.rate, warm_up=warm_up, cool_down=size.steps // 2, progress=progress, doing=doing,
        )  # fmt: skip
        model.eval()
        return losses

    @torch.no_grad()
    def loss(self, model: Model) -> float:
        """Give the mean loss of a token that is asked for, in nats."""
        total, count, batches = 0.0, 0, self._batches(self.asked, 0)
        for step in range(len(batches)):
            pairs = batches[step].to(self.device)
            some, targets = model.loss(pairs.source, pairs.target, pairs.targets)
            total, count = total + float(some), count + targets
        return total / count

    def said(self, model: Translator) -> list[str]:
        """Translate all that is asked for, the likeliest token each time; no longer than the longest answer."""
        start, end = map(self.tokenizer.get_vocab().__getitem__, (START, END))
        sources, said = self.asked[0].split(), list[str]()
        for first in range(0, len(sources), 100):
            some = Sequences.of(torch.cat((source, torch.tensor([end]))) for source in sources[first : first + 100])
            new = self.asked[1].longest + 1
            rows = qkv.translate(model, some.to(self.device), start=start, stop=end, beams=1, new=new)
            said += [self.tokenizer.decode(row.tolist()) for row in rows]
        return said

    def chrf(self, said: Sequence[str]) -> float:
        """Say how good translations are, from 0 to 1."""
        return chrf(said, self.answers)

    def by_length(self, said: Sequence[str]) -> tuple[list[float], list[float]]:
        """Say how good they are in each part, and how long its sources are, a mean in tokens."""
        edges = [len(said) * part // PARTS for part in range(PARTS + 1)]
        parts = [slice(first, last) for first, last in pairwise(edges)]
        lengths = self.asked[0].lengths.tolist()
        return [chrf(said[part], self.answers[part]) for part in parts], [float(mean(lengths[part])) for part in parts]

    def _batches(self, pairs: tuple[Sequences, Sequences], seed: int) -> PairBatches:
        start, end = map(self.tokenizer.get_vocab().__getitem__, (START, END))
        return PairBatches(*pairs, start=start, end=end, tokens=self.tokens, seed=seed)


_InTokens: TypeAlias = tuple[Tensor, Tensor, str]
"""Both sides of a pair in tokens, and the second as it is written."""


def _in_tokens(pairs: Sequence[tuple[str, str]], tokenizer: Tokenizer, longest: int) -> list[_InTokens]:
    """Give the pairs in tokens, but for those with a side that is too long with its end."""
    sides = (tokenizer.encode_batch(list(side)) for side in zip(*pairs, strict=True))
    return [
        (torch.tensor(source.ids), torch.tensor(target.ids), answer)
        for (_, answer), source, target in zip(pairs, *sides, strict=True)
        if max(len(source.ids), len(target.ids)) < longest
    ]


def _packed(pairs: list[_InTokens]) -> tuple[Sequences, Sequences]:
    return Sequences.of(source for source, *_ in pairs), Sequences.of(target for _, target, _ in pairs)
