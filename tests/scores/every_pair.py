"""Scores of every pair, of qkv and by a double loop in plain Python."""

from collections.abc import Callable

import torch
from torch import Tensor

import qkv

QUERY, KEY = (torch.randn(1, 2, n, 3, generator=torch.Generator().manual_seed(n), dtype=torch.float64) for n in (4, 5))


def scores(score: object) -> Tensor:
    return qkv.attention_map(QUERY, KEY, score=score).scores()


def loop(meet: Callable[[list[float], list[float], int], float]) -> Tensor:
    heads = zip(QUERY[0].tolist(), KEY[0].tolist(), strict=True)
    every = [[[meet(q, k, j) for j, k in enumerate(keys)] for q in queries] for queries, keys in heads]
    return torch.tensor(every, dtype=torch.float64)[None]


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))
