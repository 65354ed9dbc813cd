"""Puzzles that labs share: rows of symbols to be copied, reversed, or recalled, as pairs for a translator.

Token 0 starts an answer; symbols count from 1.
"""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from qkv.models.recurrent import Recurrent
from qkv.text.batching import Pairs, Sequences

START = 0


def draw_symbols(rows: int, length: int, symbols: int, chance: torch.Generator) -> Int[Tensor, "{rows} {length}"]:
    """Draw rows of symbols, any of them as likely as another."""
    return torch.randint(1, symbols + 1, (rows, length), generator=chance)


def copying(rows: Iterable[Int[Tensor, " _"]]) -> Pairs:
    """Ask for each row again."""
    rows = list(rows)
    return as_pairs(rows, rows)


def reversal(rows: Iterable[Int[Tensor, " _"]]) -> Pairs:
    """Ask for each row from its end to its beginning."""
    rows = list(rows)
    return as_pairs(rows, [row.flip(0) for row in rows])


def as_pairs(sources: Iterable[Int[Tensor, " _"]], answers: Sequence[Int[Tensor, " _"]]) -> Pairs:
    """Make pairs of rows and their answers, each of which is as long as it will."""
    start = torch.tensor([START])
    before = (torch.cat((start, answer[:-1])) for answer in answers)
    return Pairs(Sequences.of(sources), Sequences.of(before), torch.cat(list(answers)))


@torch.no_grad()
def answered(model: Recurrent, pairs: Pairs) -> Float[Tensor, "rows steps"]:
    """Say 1 where a model's likeliest symbol is right, the answer before it being given, and 0 elsewhere.

    The answers must be as long as one another.

    A row of ones is also what the model answers when it reads its own symbols, the likeliest each time.
    """
    found = model.predict_tokens(model(pairs.source, pairs.target)).argmax(-1)
    return (found == pairs.targets).float().unflatten(0, (len(pairs.target), -1))
