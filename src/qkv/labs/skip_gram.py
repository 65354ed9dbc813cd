"""word2vec: a vector for each word, such that words near each other in a text agree.

    log σ(cₒ·wᵢ) + Σₖ log σ(−cₖ·wᵢ), o near i, k drawn by frequency to the power of 3/4

Paper: Mikolov et al. 2013, arXiv:1310.4546.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from qkv.labs.lab import Progress
from qkv.labs.running.fit import fit


def words_of(text: str) -> list[str]:
    """Give the words of a text in lower case."""
    return re.findall(r"[a-z']+", text.lower())


def skip_gram(
    texts: Iterable[str],
    *,
    width: int,
    steps: int,
    seed: int,
    progress: Progress,
    window: int = 5,
    least: int = 5,
    batch: int = 2048,
    negatives: int = 5,
    rate: float = 5e-3,
) -> Mapping[str, Float[Tensor, " width"]]:
    """Train vectors of the words that stand in the texts at least so often."""
    read = [word for text in texts for word in words_of(text)]
    counts = Counter(read)
    known = sorted(word for word, count in counts.items() if count >= least)
    numbers = {word: number for number, word in enumerate(known)}
    text = torch.tensor([numbers[word] for word in read if word in numbers])
    drawn = torch.tensor([counts[word] for word in known]).double() ** 0.75
    chance = torch.Generator().manual_seed(seed)
    inner = nn.Parameter(torch.randn(len(known), width, generator=chance) * width**-0.5)
    outer = nn.Parameter(torch.zeros(len(known), width))

    def loss(step: int) -> Tensor:
        middle = torch.randint(window, len(text) - window, (batch,), generator=chance)
        away = torch.randint(1, window + 1, (batch,), generator=chance)
        side = 2 * torch.randint(2, (batch,), generator=chance) - 1
        others = torch.multinomial(drawn, batch * negatives, replacement=True, generator=chance).view(batch, -1)
        word = inner[text[middle]]
        near = (word * outer[text[middle + side * away]]).sum(-1)
        far = (outer[others] @ word[:, :, None])[:, :, 0]
        return -F.logsigmoid(near).mean() - F.logsigmoid(-far).sum(-1).mean()

    fit((inner, outer), loss, steps=steps, rate=rate, clip=None, progress=progress, doing="word2vec")
    return dict(zip(known, inner.detach(), strict=True))
