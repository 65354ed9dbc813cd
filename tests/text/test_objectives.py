"""What is asked of a text, by its statistics and by hand."""

import pytest
import torch

from qkv import errors
from qkv.text.batching import Sequences
from qkv.text.objectives import (
    Vocabulary,
    draw_span_lengths,
    mask_spans,
    mask_tokens,
    span_law,
    span_lengths,
)

VOCABULARY = Vocabulary(size=1000, mask=4, special=(0, 1, 2, 3))


def chance(seed=0):
    return torch.Generator().manual_seed(seed)


def text(sequences=64, length=128, seed=0):
    """Sequences between [CLS], 2, and [SEP], 3."""
    tokens = torch.randint(5, 1000, (sequences, length), generator=chance(seed))
    tokens[:, 0], tokens[:, -1] = 2, 3
    return Sequences(tokens.flatten(), torch.full((sequences,), length))


def test_fifteen_percent_and_80_10_10():
    chosen = plain = masked = kept = 0
    for seed in range(100):
        given = text(seed=seed)
        made = mask_tokens(given, VOCABULARY, chance(seed))
        after = made.sequences.tokens[made.places]
        assert torch.equal(made.targets, given.tokens[made.places]) and (made.targets > 4).all()
        untouched = torch.ones(len(given.tokens), dtype=torch.bool)
        untouched[made.places] = False
        assert torch.equal(made.sequences.tokens[untouched], given.tokens[untouched])
        assert (after >= 4).all()
        chosen, plain = chosen + made.count, plain + int((given.tokens > 4).sum())
        masked, kept = masked + int((after == 4).sum()), kept + int((after == made.targets).sum())
    assert chosen >= 100_000
    assert abs(chosen / plain - 0.15) < 0.005
    assert abs(masked / chosen - 0.8) < 0.01
    # One random token in 995 is the one that stood there.
    assert abs(kept / chosen - 0.1 - 0.1 / 995) < 0.01


def test_whole_words_stay_together():
    given = text()
    inside = torch.rand(len(given.tokens), generator=chance(1)) < 0.4
    made = mask_tokens(given, VOCABULARY, chance(), inside=inside)
    chosen = torch.zeros(len(given.tokens), dtype=torch.bool)
    chosen[made.places] = True
    for at in range(1, len(chosen)):
        if inside[at] and given.positions[at] > 1 and given.tokens[at] > 4:
            assert chosen[at] == chosen[at - 1]
    assert abs(made.count / int((given.tokens > 4).sum()) - 0.15) < 0.02


@pytest.mark.parametrize("mask", [mask_tokens, mask_spans])
def test_the_same_chance_gives_the_same(mask):
    one, same, other = (mask(text(), VOCABULARY, chance(seed)) for seed in (1, 1, 2))
    assert torch.equal(one.sequences.tokens, same.sequences.tokens) and torch.equal(one.places, same.places)
    assert not torch.equal(one.sequences.tokens, other.sequences.tokens)


@pytest.mark.parametrize("mask", [mask_tokens, mask_spans])
def test_something_is_always_asked_where_something_can_be(mask):
    short = Sequences.of([torch.tensor([2, 7, 3])])
    assert all(mask(short, VOCABULARY, chance(seed)).places.tolist() == [1] for seed in range(20))
    none = Sequences.of([torch.tensor([2, 3])])
    assert mask(none, VOCABULARY, chance()).count == 0
    assert mask(Sequences.of([]), VOCABULARY, chance()).count == 0


def test_the_law_of_spans():
    law = span_law()
    torch.testing.assert_close(law.sum(), torch.tensor(1.0, dtype=torch.float64))
    mean = float((law * torch.arange(1, 11)).sum())
    assert abs(mean - 3.797) < 5e-4
    torch.testing.assert_close(law[1:] / law[:-1], torch.full((9,), 0.8, dtype=torch.float64))
    drawn = draw_span_lengths(200_000, chance())
    assert drawn.min() == 1 and drawn.max() == 10
    assert abs(drawn.double().mean() - 3.797) < 0.05


@pytest.mark.parametrize("length, most", [(64, 3.3), (512, 3.797)])
def test_spans_spend_the_budget_and_are_masked_as_one(length, most):
    given = text(40, length)
    made = mask_spans(given, VOCABULARY, chance())
    budget = 40 * round(0.15 * (length - 2))
    assert made.count == budget and (made.targets > 4).all()
    lengths = span_lengths(made.places)
    assert int(lengths.sum()) == budget and 2 < float(lengths.double().mean()) < most + 1
    # Nearly all neighbours share their fate: spans are masked, replaced or kept whole.
    after = made.sequences.tokens[made.places] == 4
    together = made.places.diff() == 1
    assert (after[1:] == after[:-1])[together].double().mean() > 0.9


def test_spans_are_of_whole_words():
    given = text(30, 100)
    inside = torch.rand(len(given.tokens), generator=chance(1)) < 0.3
    made = mask_spans(given, VOCABULARY, chance(), inside=inside)
    chosen = torch.zeros(len(given.tokens), dtype=torch.bool)
    chosen[made.places] = True
    for at in range(1, len(chosen)):
        if inside[at] and given.positions[at] > 1 and given.tokens[at] > 4:
            assert chosen[at] == chosen[at - 1]


def test_span_lengths_by_hand():
    assert span_lengths(torch.tensor([1, 2, 3, 7, 9, 10])).tolist() == [3, 1, 2]
    assert span_lengths(torch.tensor([], dtype=torch.long)).tolist() == []


def test_what_does_not_fit():
    with pytest.raises(errors.ShapeError, match=r"mask_tokens: inside must have the tokens' shape \[3\]; got \[2\]"):
        mask_tokens(Sequences.of([torch.tensor([2, 7, 3])]), VOCABULARY, chance(), inside=torch.tensor([True, False]))
    with pytest.raises(errors.ArgumentError, match=r"mask_spans: share must lie in \[0, 1\]; got 2"):
        mask_spans(text(), VOCABULARY, chance(), share=2.0)
