"""Dates in 13 languages to ISO form, by additive attention: how many of 1,000 come out exactly?

    python -m examples.dates [SEED…]

The days are those that no training saw; the dates written of them are others than those of the validation.
"""

import sys

import torch

from examples.runs import keep, spread, train_seconds, trained
from qkv import load_model, load_tokenizer, translate
from qkv.text.batching import Sequences
from qkv.text.dates import date_pairs
from qkv.text.tokenizer import END, START

COUNT = 1000


def exact(run: str) -> float:
    """Give the share of dates that are translated without a mistake."""
    model, tokenizer = load_model(f"{run}/model"), load_tokenizer(f"{run}/model")
    start, end = tokenizer.token_to_id(START), tokenizer.token_to_id(END)
    pairs = list(date_pairs(COUNT, seed=1, held_out=True))
    sources = Sequences.of(torch.tensor([*tokenizer.encode(pair.source).ids, end]) for pair in pairs)
    made = translate(model, sources, start=start, stop=end, beams=1)
    right = [tokenizer.decode(row.tolist()) == pair.target for row, pair in zip(made, pairs, strict=True)]
    return sum(right) / COUNT


def main(seeds: list[int]) -> None:
    """Train and measure each seed."""
    runs = [trained(f"dates-{seed}", "translate", "--attention", "additive", "--seed", str(seed)) for seed in seeds]
    shares = [exact(str(run)) for run in runs]
    keep("dates", {"seeds": seeds, "exact": shares, "mean": spread(shares), "seconds": list(map(train_seconds, runs))})


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]] or [0, 1, 2])
