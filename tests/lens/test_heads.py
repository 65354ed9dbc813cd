"""Heads are measured by their weights."""

import math

import pytest
import torch

import qkv
from qkv.errors import ArgumentError, ShapeError
from qkv.lens.heads import ORDERS, TELLING, Head, Text, habits, links, measure, ranked, telling
from qkv.lens.reading import Reading, read


def reading_of(weights, special=None):
    """A reading of one layer whose weights are given."""
    heads, count, _ = weights.shape
    still = torch.zeros(1, heads, count, 1)
    seen = qkv.attention_map(still, still, bias=weights.log()[None])
    special = special or [False] * count
    return Reading(
        "t", [str(at) for at in range(count)], [(0, 1)] * count, special, [], [torch.zeros(count, 1)], [seen]
    )


def test_habits_of_heads_checked_by_hand():
    count = 4
    itself, before = torch.eye(count), torch.eye(count).roll(-1, 1)
    after, even = torch.eye(count).roll(1, 1), torch.full((count, count), 0.25)
    reading = reading_of(torch.stack([itself, before, after, even]), [True, False, False, True])
    on_itself, on_before, on_after, broad = habits(reading)
    assert (on_itself.diagonal, on_itself.previous, on_itself.entropy) == pytest.approx((1, 0, 0), abs=1e-6)
    assert (on_before.previous, on_before.diagonal) == pytest.approx((1, 0), abs=1e-6)
    assert (on_after.following, on_after.previous) == pytest.approx((1, 0), abs=1e-6)
    assert (broad.entropy, broad.first, broad.separator) == pytest.approx((math.log(4), 0.25, 0.25), abs=1e-6)
    assert (on_itself.first, on_itself.separator) == pytest.approx((0.25, 0.25), abs=1e-6)


def test_the_telling_heads_are_found(model, tokenizer):
    heads = habits(read(model, tokenizer, "the cat click the mouse ."))
    assert len(heads) == 4
    assert set(telling(heads)) <= set(TELLING) and "most on the same word" in telling(heads)
    chosen = telling(heads)
    assert (chosen["most on the previous token"].layer, chosen["most on the previous token"].head) == (1, 1)
    assert chosen["sharpest"].entropy == min(head.entropy for head in heads)


def test_one_token_has_habits(model, tokenizer):
    weights = torch.ones(1, 1, 1)
    assert habits(reading_of(weights, [True])) == [Head(0, 0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0)]


@pytest.mark.parametrize(
    ("habit", "expected"),
    [
        ("sharpest", [(1, 2), (1, 1)]),
        ("most diagonal", [(1, 1), (3, 3)]),
        ("most on the previous token", [(3, 2), (1, 0)]),
        ("most on the next token", [(1, 2), (0, 1)]),
        ("most on the first token", [(2, 0), (3, 0)]),
        ("most on [SEP]", [(0, 3), (3, 3)]),
    ],
)
def test_links_are_those_of_the_habit(habit, expected):
    weights = torch.tensor([[[0, 0.3, 0.1, 0.6], [0.1, 0.2, 0.7, 0], [0.9, 0.1, 0, 0], [0.4, 0, 0.45, 0.15]]])
    reading = reading_of(weights, [True, False, False, True])
    found = links(reading, habits(reading)[0], habit, 2)
    assert [(query, key) for query, key, _ in found] == expected
    assert [weight for _, _, weight in found] == sorted((weight for _, _, weight in found), reverse=True)


def test_links_of_weight_0_are_none():
    reading = reading_of(torch.tensor([[[1.0, 0.0], [1.0, 0.0]]]), [True, False])
    assert links(reading, habits(reading)[0]) == []


def test_the_weight_on_other_occurrences_of_a_word(model, tokenizer):
    reading = read(model, tokenizer, "the cat The mouse")
    weights = reading.weights(0)
    # "the" at 1 and "The" at 3 are one word; no other token has another occurrence.
    expected = (weights[:, 1, 3] + weights[:, 3, 1]) / 2
    assert [head.same_word for head in habits(reading)[:2]] == pytest.approx(expected.tolist(), abs=1e-6)


def test_a_causal_head_is_measured_over_the_keys_that_it_may_see():
    still = torch.zeros(1, 1, 3, 1)
    (head,) = measure(qkv.attention_map(still, still, mask=qkv.causal()))
    # Rows: [1], [1/2, 1/2], [1/3, 1/3, 1/3].
    assert head.diagonal == pytest.approx((1 + 1 / 2 + 1 / 3) / 3, abs=1e-6)
    assert head.first == pytest.approx((1 + 1 / 2 + 1 / 3) / 3, abs=1e-6)
    assert head.previous == pytest.approx((1 / 2 + 1 / 3) / 2, abs=1e-6)
    assert head.following == 0
    assert head.entropy == pytest.approx((math.log(2) + math.log(3)) / 3, abs=1e-6)
    # The first row may see one key, so that it is neither broad nor narrow.
    assert head.broad == pytest.approx(1, abs=1e-6)


def test_rows_of_padding_do_not_count():
    torch.manual_seed(0)
    query, key = torch.randn(2, 3, 5, 4).unbind(0), torch.randn(2, 3, 5, 4).unbind(0)
    whole = [qkv.attention_map(q[None, :, :3], k[None, :, :3]) for q, k in zip(query, key, strict=True)]
    expected = [[measure(seen, text) for seen in whole] for text in (None, words(3))]
    batch = torch.stack(query), torch.stack(key)
    lengths = torch.tensor([3, 3])
    seen = qkv.attention_map(*batch, mask=qkv.padding(keys=lengths))
    asked = torch.arange(5) < lengths[:, None]
    for text, parts in zip((None, words(5)), expected, strict=True):
        for found, one, other in zip(measure(seen, text, rows=asked), *parts, strict=True):
            for name in ORDERS:
                mean = (getattr(one, name) + getattr(other, name)) / 2
                assert getattr(found, name) == pytest.approx(mean, abs=1e-6), name
    # Queries hidden by the mask itself see no key, and need not be told.
    hidden = qkv.attention_map(*batch, mask=qkv.padding(keys=lengths, queries=lengths))
    assert measure(hidden) == measure(seen, rows=asked)


def words(count):
    word = torch.tensor([0, 1, 0, -1, -1])[:count]
    return Text(word, torch.arange(count), torch.tensor([False, True, False, False, False])[:count])


def test_a_long_map_is_measured_in_tiles(monkeypatch):
    torch.manual_seed(0)
    seen = qkv.attention_map(torch.randn(2, 2, 7, 4), torch.randn(2, 2, 7, 4), mask=qkv.causal())
    whole = measure(seen)
    monkeypatch.setattr("qkv.lens.heads.TILE_NUMBERS", 1)
    for one, other in zip(measure(seen), whole, strict=True):
        assert [getattr(one, name) for name in ORDERS] == pytest.approx([getattr(other, name) for name in ORDERS])


def test_heads_are_sorted_by_a_habit():
    few, many = Head(0, 0, 2.0, *[0.1] * 7), Head(0, 1, 1.0, *[0.2] * 7)
    assert ranked([few, many], "previous") == [many, few]
    assert ranked([few, many], "entropy") == [many, few]
    with pytest.raises(ArgumentError, match=r"^ranked: by must be one of entropy, .*, broad; got 'layer'$"):
        ranked([few, many], "layer")


def test_a_text_that_is_another_is_refused():
    seen = qkv.attention_map(torch.zeros(1, 1, 3, 1), torch.zeros(1, 1, 3, 1))
    with pytest.raises(ShapeError, match=r"^measure: text must have 3 tokens, as the map has keys; got 2$"):
        measure(seen, words(2))
    with pytest.raises(ShapeError, match=r"^measure: rows must have the shape \[1, 3\]; got \[3\]$"):
        measure(seen, rows=torch.ones(3, dtype=torch.bool))
