"""Handwritten digits read in order, by soft and by hard attention: how many of 1,000 scenes come out exactly?

    python -m examples.digits [SEED…]

Hard attention begins with the weights that soft attention learned: before the digits are known, no glimpse is rewarded
more than another. The scenes show hands that no training saw, and are others than those of the validation.
"""

import sys

import torch

from examples.runs import keep, spread, train_seconds, trained
from qkv import load_model
from qkv.text.digits import scene
from qkv.training.tasks.caption import looks, on_digits, read_digits

COUNT = 1000


def read(run: str) -> tuple[float, float]:
    """Give the share of scenes read without a mistake, and how much of the attention was on the digit read."""
    model = load_model(f"{run}/model")
    scenes = [scene(number, seed=1000, held_out=True) for number in range(COUNT)]
    said = read_digits(model, torch.stack([one.image for one in scenes]))
    right = sum(row == list(one.digits) for row, one in zip(said, scenes, strict=True))
    return right / COUNT, float(on_digits(looks(model, scenes), scenes).mean())


def main(seeds: list[int]) -> None:
    """Train soft and then hard attention for each seed, and measure both."""
    figures: dict[str, object] = {"seeds": seeds}
    for attention in ("soft", "hard"):
        runs = []
        for seed in seeds:
            start = ["--start", f"runs/digits-soft-{seed}"] if attention == "hard" else []
            words = ["caption", "--attention", attention, *start, "--seed", str(seed)]
            runs.append(trained(f"digits-{attention}-{seed}", *words))
        shares, looked = zip(*(read(str(run)) for run in runs), strict=True)
        figures |= {f"{attention}: exact": shares, f"{attention}: mean": spread(shares)}
        figures |= {f"{attention}: attention on the digit": looked}
        figures |= {f"{attention}: seconds": list(map(train_seconds, runs))}
    keep("digits", figures)


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]] or [0, 1, 2])
