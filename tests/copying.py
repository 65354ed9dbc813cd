"""A task that a translator learns in seconds: to say again what it reads."""

import torch
from torch import nn

from qkv.text.batching import Sequences


def copying(model: nn.Module, steps: int, rate: float, seed: int = 0) -> float:
    """Train a model to copy 5 symbols; give how many of unseen sequences it copies whole, word by word."""
    numbers = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(model.parameters(), lr=rate)

    def batch(count):
        tokens = torch.randint(2, 7, (count, 5), generator=numbers)
        target = torch.cat((torch.ones(count, 1, dtype=torch.long), tokens), dim=1)
        end = torch.zeros(count, 1, dtype=torch.long)
        pack = lambda rows: Sequences.of(rows.unbind())  # noqa: E731
        return pack(tokens), pack(target), torch.cat((tokens, end), dim=1).flatten(), tokens

    model.train()
    for _ in range(steps):
        source, target, targets, _ = batch(32)
        total, count = model.loss(source, target, targets)
        optimiser.zero_grad()
        (total / count).backward()
        optimiser.step()
    model.eval()
    source, _, _, wanted = batch(200)
    with torch.no_grad():
        state, word, words = model.start(source), torch.ones(200, 1, dtype=torch.long), []
        for _ in range(5):
            word = model.step(word, state).argmax(-1, keepdim=True)
            words.append(word)
    return (torch.cat(words, 1) == wanted).all(1).float().mean().item()
