"""Translating: greedy and by beams, the same for one source and for many, from any model that can start and step."""

import itertools

import pytest
import torch
from torch import nn

from qkv import errors
from qkv.models.generation import beam_search
from qkv.models.looking import AdditiveAttention, CoverageAttention, LocalM
from qkv.models.recurrent import InputFed, Recurrent, RecurrentConfig
from qkv.models.transformer import Transformer, TransformerConfig
from qkv.models.translation import in_rows, translate
from qkv.text.batching import Sequences

START, STOP = 1, 0
SOURCE = Sequences.of([torch.tensor([2, 5, 3, 4]), torch.tensor([6]), torch.tensor([3, 3, 7, 2, 5, 6])])


def transformer(**choices):
    torch.manual_seed(0)
    config = TransformerConfig(vocabulary=9, width=8, layers=2, heads=2, feed_forward=16)
    return Transformer(config, **choices).double()


def recurrent(attention=None, **choices):
    torch.manual_seed(0)
    return Recurrent(RecurrentConfig(vocabulary=9, width=8, dropout=0.3), attention=attention, **choices).double()


MODELS = {
    "Transformer": transformer,
    "Bahdanau": lambda: recurrent(AdditiveAttention()),
    "coverage": lambda: recurrent(CoverageAttention()),
    "local-m, LSTM, fed": lambda: recurrent(LocalM(2), cell=nn.LSTM, decoder=InputFed),
}
every_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


def same(found, wanted):
    assert [each.tolist() for each in found] == [each.tolist() for each in wanted]


@every_model
def test_one_beam_is_greedy(make):
    model = make().eval()
    found = translate(model, SOURCE, start=START, stop=STOP, beams=1, new=6)
    first = torch.full((3, 1), START)
    beams = beam_search(model, model.start(SOURCE), first, new=6, stop=STOP, beams=1)
    same(found, [row[(row != STOP) & (row >= 0)] for row in beams.tokens[:, 0]])
    assert any(len(each) for each in found)


@every_model
@pytest.mark.parametrize("beams", [1, 3])
def test_together_is_one_by_one(make, beams):
    model = make()
    given = {"start": START, "stop": STOP, "beams": beams, "new": 6}
    alone = [translate(model, Sequences.of([each]), **given)[0] for each in SOURCE.split()]
    same(translate(model, SOURCE, **given), alone)


@every_model
def test_beams_find_the_likeliest_of_what_they_keep(make):
    model = make().eval()
    (found, *_) = translate(model, SOURCE, start=START, stop=STOP, beams=4, new=2, length_penalty=0.0)
    source = Sequences.of(SOURCE.split()[:1])

    def likelihood(words):
        target = Sequences.of([torch.tensor([START, *words[:-1]])])
        logits = model.predict_tokens(model(source, target))
        return logits.log_softmax(-1)[range(len(words)), list(words)].sum().item()

    kept = sorted(range(9), key=lambda word: likelihood((word,)))[-4:]
    ended = [(word,) for word in kept if word == STOP]
    best = max([*ended, *itertools.product(set(kept) - {STOP}, range(9))], key=likelihood)
    assert found.tolist() == [word for word in best if word != STOP]


@every_model
def test_dropout_rests_and_the_mode_comes_back(make):
    model = make().train()
    once, again = (translate(model, SOURCE, start=START, stop=STOP, new=8) for _ in range(2))
    same(once, again)
    assert model.training and all(part.training for part in model.modules())
    model.eval()
    translate(model, SOURCE, start=START, stop=STOP, new=2)
    assert not model.training


def test_a_word_that_is_always_likeliest_fills_the_default_length():
    class Stubborn:
        def start(self, source):
            return None

        def step(self, tokens, state):
            return torch.eye(9)[torch.full((len(tokens),), 5)]

    found = translate(Stubborn(), SOURCE, start=START, stop=STOP, beams=1)
    assert [each.tolist() for each in found] == [[5] * (2 * 6 + 20)] * 3


def test_rows_by_hand():
    values = torch.arange(22.0).view(11, 2)
    rows = in_rows(SOURCE, values)
    assert rows.shape == (3, 6, 2)
    assert torch.equal(rows[1], torch.tensor([[8.0, 9.0]] + [[0.0, 0.0]] * 5))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"start": -1}, r"translate: start must be >= 0; got -1 \(the token that begins a translation\)"),
        ({"beams": 0}, "translate: beams must be >= 1; got 0"),
        ({"beams": 8}, "beam_search: beams must be at most half of the vocabulary of 9; got 8"),
        ({"new": 0}, "beam_search: new must be >= 1; got 0"),
        ({"start": 9}, r"Transformer.step: tokens must lie in 0..8; got 9"),
    ],
)
def test_errors(given, message):
    with pytest.raises(errors.ArgumentError, match=message):
        translate(transformer(), SOURCE, **{"start": START, "stop": STOP, **given})
