"""A GPT that writes one character after another: its loss on tiny Shakespeare's last twentieth.

    python -m examples.shakespeare input.txt [SEED…]

`input.txt` is that of https://github.com/karpathy/char-rnn. The loss is over the whole held-out part, in nats a
character, by the weights that were best on the batches measured while training.
"""

import shlex
import sys

import torch

from examples.runs import best_validation, keep, spread, train_seconds, trained
from qkv import load_model
from qkv.text.tokenizer import load_tokenizer
from qkv.training.prepared import HELD_OUT

OPTIONS = shlex.split(
    "--tokenizer characters --width 256 --layers 4 --heads 4 --positions 256 --tokens 2048 --dropout 0 "
    "--precision bf16 --rate 2e-3 --warm-up 100 --steps 2500 --every 250 --position-kind rotary"
)


@torch.no_grad()
def held_out_loss(run: str, data: str) -> float:
    """Average the loss over the last twentieth of the text, in windows as long as those of the training."""
    model, tokenizer = load_model(f"{run}/model").eval(), load_tokenizer(f"{run}/model")
    with open(data, encoding="utf-8") as file:
        tokens = torch.tensor(tokenizer.encode(file.read()).ids)
    tokens = tokens[-int(len(tokens) * HELD_OUT) :]
    length = model.config.positions
    windows = tokens[: (len(tokens) - 1) // length * length].unflatten(0, (-1, length))
    targets = tokens[1 : windows.numel() + 1].view_as(windows)
    losses = [model.loss(*pair)[0] for pair in zip(windows.split(16), targets.split(16), strict=True)]
    return float(sum(losses)) / targets.numel()


def main(data: str, seeds: list[int]) -> None:
    """Train and measure each seed."""
    runs = [trained(f"shakespeare-{seed}", "gpt", data, *OPTIONS, "--seed", str(seed)) for seed in seeds]
    losses = [held_out_loss(str(run), data) for run in runs]
    figures = {"loss": losses, "mean": spread(losses), "best while training": list(map(best_validation, runs))}
    keep("shakespeare", {"seeds": seeds, **figures, "seconds": list(map(train_seconds, runs))})


if __name__ == "__main__":
    main(sys.argv[1], [int(word) for word in sys.argv[2:]] or [0, 1, 2])
