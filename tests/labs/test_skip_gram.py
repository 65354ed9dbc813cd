"""word2vec on a made-up language: words that stand in the same company come to lie together."""

import torch
from torch.nn import functional as F

from qkv.labs.lab import Progress
from qkv.labs.skip_gram import skip_gram, words_of


def test_words_of_a_text():
    assert words_of("It's 3 Mice, not one MOUSE.") == ["it's", "mice", "not", "one", "mouse"]


def test_words_of_one_company_lie_together():
    texts = ["cat dog purr bark fur paw " * 100, "disk code byte chip bus ram " * 100, "rare"]
    vectors = skip_gram(texts, width=8, steps=300, seed=0, progress=Progress(), batch=256, rate=2e-2)
    assert "rare" not in vectors
    near = F.cosine_similarity(vectors["cat"], vectors["fur"], dim=0)
    assert near > 0.5 > F.cosine_similarity(vectors["cat"], vectors["byte"], dim=0)


def test_the_same_seed_gives_the_same_vectors():
    texts = ["a b c d e f g h " * 20]
    first, again, other = (skip_gram(texts, width=4, steps=2, seed=seed, progress=Progress()) for seed in (0, 0, 1))
    assert torch.equal(first["a"], again["a"]) and not torch.equal(first["a"], other["a"])
