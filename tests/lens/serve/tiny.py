"""A server of two tiny models, for tests: python tiny.py. Each word is a token; "long 3000" makes so many tokens."""

import itertools
import time

import torch

import qkv
from qkv.lens.reading import Reading
from qkv.lens.serve import guard, patience, serve


def reader(seed, layers=2, heads=3, dim=4):
    """A model of random vectors, one for each word and place."""

    def read(text):
        if text.startswith("slow"):
            time.sleep(0.4)
        while text.startswith("endless"):
            torch.ones(10).add(1)
        if text.startswith("fail"):
            raise RuntimeError("a model of others")
        if not text.strip():
            raise qkv.ArgumentError(f"read: text must hold something to read; got {text!r}")
        first, *rest = text.split()
        long = first == "long" and rest
        words = [f"w{i}" for i in range(int(rest[0]))] if long else text.split()
        maps = []
        for layer in range(layers):
            chance = torch.Generator().manual_seed(seed + 10 * layer)
            query, key = (torch.randn(1, heads, len(words), dim, generator=chance) for _ in range(2))
            pull = torch.tensor([sum(map(ord, word)) % 7 for word in words], dtype=torch.float32)
            maps.append(qkv.attention_map(2 * query, key + 0.1 * pull[:, None]))
        flags, stops = [False] * len(words), list(itertools.accumulate(len(word) + 1 for word in words))
        spans = [(stop - 1 - len(word), stop - 1) for word, stop in zip(words, stops, strict=True)]
        return Reading(text, words, spans, flags, [], [], maps)

    return read


MODELS = {"first": reader(0), "second": reader(5, layers=3, heads=2), "<b>&third": reader(9)}

if __name__ == "__main__":
    torch.set_num_threads(1)
    # A test should not wait for ten seconds.
    patience.HEAD_SECONDS = guard.BODY_SECONDS = 1.0
    serve(MODELS, ["the cat sat"], port=0, browser=False)
