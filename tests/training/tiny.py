"""A tiny task with all that matters: embeddings, dropout, a norm, a buffer, batches whose targets vary in number."""

import math
import time
from dataclasses import dataclass

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F


@dataclass
class Rows:
    tokens: torch.Tensor
    targets: torch.Tensor

    def to(self, device):
        return Rows(self.tokens.to(device), self.targets.to(device))


class Numbers:
    """Batch i: tokens and what they become, drawn from a generator seeded with i; the number of rows varies."""

    def __init__(self, count=7, seed=0, bad=None, pause=0.0):
        self.count, self.seed, self.bad, self.pause = count, seed, bad, pause

    def __len__(self):
        return self.count

    def __getitem__(self, number):
        if self.pause:
            time.sleep(self.pause)
        generator = torch.Generator().manual_seed(self.seed * 10_007 + number)
        tokens = torch.randint(11, (3 + number % 4,), generator=generator)
        return Rows(tokens, (tokens * 3 + 1) % 11 if number != self.bad else torch.full_like(tokens, -1))


class Tiny(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.tokens = nn.Embedding(11, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(0.2)
        self.out = nn.Linear(width, 11)
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    def forward(self, tokens):
        if self.training:
            self.seen += len(tokens)
        return self.out(self.dropout(self.norm(self.tokens(tokens))))


class TinyTask:
    kind = "tiny"

    def __init__(self, width=8, bad=None, pause=0.0, validation=3, seed=0):
        torch.manual_seed(seed)
        self.model = Tiny(width)
        self.batches, self.validation = Numbers(bad=bad, pause=pause), Numbers(validation, seed=1)

    def loss(self, batch):
        # A batch whose targets are −1 is the one that goes wrong.
        wrong = math.nan if (batch.targets < 0).any() else 1.0
        loss = F.cross_entropy(self.model(batch.tokens), batch.targets.clamp(min=0), reduction="sum")
        return loss * wrong, len(batch.targets)

    def tokens(self, batch):
        return len(batch.tokens)

    def sample(self):
        with torch.no_grad():
            return "5 → " + str(self.model(torch.tensor([5])).argmax().item())

    def save(self, folder):
        save_file(self.model.state_dict(), folder / "model.safetensors")
