"""What full forms learn from: tables and rows of dates; and what a model that learned is asked for."""

from dataclasses import replace

import pytest
import torch
from tables import SAID, write_table

import qkv
from qkv import errors
from qkv.labs.lab import Progress
from qkv.labs.table import Table
from qkv.labs.translations import PARTS, Size, Translations, dates_in_rows
from qkv.text.tokenizer import END, START

SMALL = Size(width=32, layers=1, steps=2, tokens=512, warm_up=1, asked=60, rows=60, dates=3)


@pytest.fixture
def table(tmp_path):
    return Table.read(write_table(tmp_path / "numbers.tsv"))


def test_dates_in_rows():
    rows = list(dates_in_rows(7, 3))
    assert [len(target.split()) for _, target in rows] == [1, 2, 3, 1, 2, 3, 1]
    assert [len(source.split("; ")) for source, _ in rows] == [1, 2, 3, 1, 2, 3, 1]
    assert rows == list(dates_in_rows(7, 3))
    known = {day for _, target in dates_in_rows(60, 3) for day in target.split()}
    asked = {day for _, target in dates_in_rows(60, 3, held_out=True) for day in target.split()}
    assert known.isdisjoint(asked)


def test_a_table_in_tokens(table):
    made = Translations.of(replace(SMALL, table=table))
    assert len(made.asked[0]) == len(made.answers) <= SMALL.asked < len(made.known[0])
    lengths = made.asked[0].lengths.tolist()
    assert lengths == sorted(lengths)
    for source, target, answer in zip(made.asked[0].split(), made.asked[1].split(), made.answers, strict=True):
        number = made.tokenizer.decode(source.tolist())
        assert made.tokenizer.decode(target.tolist()) == answer == " ".join(SAID[int(digit)] for digit in number)
    again = Translations.of(replace(SMALL, table=table))
    assert again.answers == made.answers


def test_pairs_that_are_too_long_are_left_out(table):
    made = Translations.of(replace(SMALL, dates=1, longest=20))
    assert 0 < len(made.known[0]) < SMALL.rows
    assert max(int(side.lengths.max()) for side in (*made.known, *made.asked)) < 20
    with pytest.raises(
        errors.ArgumentError, match=r"^lab: dates must hold 40 held-out pairs of less than 10 tokens; got"
    ):
        Translations.of(replace(SMALL, longest=10))
    with pytest.raises(errors.ArgumentError, match=r"numbers.tsv must hold 40 held-out pairs of less than 2 tokens"):
        Translations.of(replace(SMALL, longest=2, table=table))


def test_training_teaches_and_the_loss_says_so(table):
    torch.manual_seed(0)
    size = replace(SMALL, steps=30, rate=1e-2, table=table)
    made = Translations.of(size)
    model = qkv.Recurrent(qkv.RecurrentConfig(made.vocabulary, 32))
    before = made.loss(model.eval())
    losses = made.train(model, size, seed=0, progress=Progress(), doing="it")
    assert len(losses) == 30 and not model.training
    assert made.loss(model) < before - 1
    said = made.said(model)
    assert len(said) == len(made.answers) and made.chrf(said) > 0.1


def test_the_loss_is_that_of_a_token(table):
    made = Translations.of(replace(SMALL, table=table))
    model = qkv.Recurrent(qkv.RecurrentConfig(made.vocabulary, 8)).eval()
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    assert made.loss(model) == pytest.approx(torch.tensor(float(made.vocabulary)).log().item())


def test_quality_by_length_is_that_of_each_part(table):
    made = Translations.of(replace(SMALL, table=table))
    count = len(made.answers)
    said = [answer if place < count // PARTS else "?" for place, answer in enumerate(made.answers)]
    good, lengths = made.by_length(said)
    assert good == [1, 0, 0, 0] and lengths == sorted(lengths)


def test_what_is_said_is_the_likeliest_token_each_time(table):
    made = Translations.of(replace(SMALL, table=table))
    vocabulary = made.tokenizer.get_vocab()

    class Parrot(torch.nn.Module):
        """Says each source again, to its end."""

        def start(self, source):
            return iter(source.padded(vocabulary[END])[0].T)

        def step(self, tokens, state):
            if tokens[0, 0] == vocabulary[START]:
                assert (tokens == vocabulary[START]).all()
            again = next(state, torch.full((len(tokens),), vocabulary[END]))
            return torch.nn.functional.one_hot(again, made.vocabulary).float()

    assert made.said(Parrot()) == [made.tokenizer.decode(source.tolist()) for source in made.asked[0].split()]
