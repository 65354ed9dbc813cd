"""Views of what models read: their features make their scores."""

import numpy as np
import pytest
import torch

import qkv
from qkv.lens.views import features, text_view, translation_views, words_of


@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_features_sum_to_the_scores(key_heads):
    query, key = torch.randn(1, 4, 5, 6), torch.randn(1, key_heads, 7, 6)
    seen = qkv.attention_map(query, key, score=qkv.scaled_dot(0.3), mask=qkv.causal())
    parts = features(seen)
    assert parts is not None
    products = np.einsum("hqd,hkd->hqk", *parts)
    scores = seen.scores()[0].numpy()
    shown = np.isfinite(scores)
    np.testing.assert_allclose(products[shown], scores[shown], rtol=1e-5, atol=1e-5)


def test_other_scores_have_no_features():
    x = torch.randn(1, 2, 5, 6)
    seen = qkv.attention_map(x, x, score=qkv.soft_cap(qkv.scaled_dot(), 2.0))
    assert features(seen) is None
    assert list(text_view("text", list("abcde"), [seen]).features) == [None]


def test_the_views_of_a_translation_are_one_group():
    def of(queries, keys):
        return [qkv.attention_map(torch.randn(1, 2, queries, 4), torch.randn(1, 2, keys, 4))]

    views = translation_views(
        "t", ["a", "b"], list("xyz"), list("yz."), encoder=of(2, 2), cross=of(3, 2), decoder=of(3, 3)
    )
    assert [(view.part, view.group, view.shape) for view in views] == [
        ("cross", "t", (3, 2)),
        ("encoder", "t", (2, 2)),
        ("decoder", "t", (3, 3)),
    ]


def test_words_of_tokens_that_spell_a_text():
    assert words_of(["un", "believ", "able", " mice", ",", " 鼠", "标", "</s>"]) == [
        *[(0, 3), (3, 4), (4, 5), (5, 6), (6, 7), (7, 8)],
    ]
    assert words_of(list("a cat")) == [(0, 1), (1, 2), (2, 5)]
    assert words_of(["▁un", "able", "▁mice"]) == [(0, 2), (2, 3)]
