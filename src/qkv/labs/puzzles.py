"""Puzzles that labs share: rows of symbols to be copied, reversed, or recalled, as pairs for a translator.

Token 0 starts an answer; symbols count from 1.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from qkv.models.recurrent import Recurrent
from qkv.text.batching import Pairs, Sequences

START = 0


def draw_symbols(rows: int, length: int, symbols: int, chance: torch.Generator) -> Int[Tensor, "{rows} {length}"]:
    """Draw rows of symbols, any of them as likely as another."""
    return torch.randint(1, symbols + 1, (rows, length), generator=chance)


def copying(rows: Int[Tensor, "rows length"]) -> Pairs:
    """Ask for each row again."""
    return as_pairs(rows, rows)


def reversal(rows: Int[Tensor, "rows length"]) -> Pairs:
    """Ask for each row from its end to its beginning."""
    return as_pairs(rows, rows.flip(1))


def as_pairs(source: Int[Tensor, "rows keys"], answers: Int[Tensor, "rows steps"]) -> Pairs:
    """Make pairs of rows and their answers, each of which is as long as the others."""
    before = torch.cat((torch.full_like(answers[:, :1], START), answers[:, :-1]), dim=1)
    return Pairs(Sequences.of(source), Sequences.of(before), answers.flatten())


@torch.no_grad()
def answered(model: Recurrent, pairs: Pairs) -> Float[Tensor, "rows steps"]:
    """Say 1 where a model's likeliest symbol is right, the answer before it being given, and 0 elsewhere.

    A row of ones is also what the model answers when it reads its own symbols, the likeliest each time.
    """
    found = model.predict_tokens(model(pairs.source, pairs.target)).argmax(-1)
    return (found == pairs.targets).float().unflatten(0, (len(pairs.target), -1))
