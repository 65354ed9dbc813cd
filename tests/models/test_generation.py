"""Generation: by hand on a model that is a table, and token for token with transformers on a tiny random GPT-2."""

import itertools
import math

import pytest
import torch

from qkv import errors
from qkv.models.bert import Bert, BertConfig
from qkv.models.generation import NO_TOKEN, beam_search, fill, generate, greedy, sample
from qkv.models.gpt import Gpt, GptConfig
from qkv.models.layouts.gpt import GptLayout

TOKENS = torch.randint(60, (3, 7), generator=torch.Generator().manual_seed(1))


class Table:
    """A model whose next token depends on the last alone: row i of a table of probabilities; counts its steps."""

    def __init__(self, rows):
        self.logits = torch.tensor(rows, dtype=torch.float64).log()
        self.steps = 0

    def step(self, tokens, state):
        self.steps += 1
        state.seen = tokens if state.seen is None else torch.cat((state.seen, tokens), 1)
        return self.logits[tokens[:, -1]]


class Seen:
    seen = None

    def reorder(self, rows):
        self.seen = self.seen[rows]


def one_by_one(model, tokens, **choices):
    return torch.stack(list(generate(model, Seen(), tokens, **choices)), 1)


CIRCLE = [[0.1, 0.8, 0.1], [0.1, 0.1, 0.8], [0.8, 0.1, 0.1]]


def test_greedy_takes_the_likeliest_and_feeds_it_back():
    got = one_by_one(Table(CIRCLE), torch.tensor([[2, 0], [0, 1]]), new=4)
    assert got.tolist() == [[1, 2, 0, 1], [2, 0, 1, 2]]


def test_a_row_stops_by_itself():
    model = Table(CIRCLE)
    got = one_by_one(model, torch.tensor([[0], [1], [2]]), new=9, stop=2)
    assert got.tolist() == [[1, 2, NO_TOKEN], [2, NO_TOKEN, NO_TOKEN], [0, 1, 2]]
    assert model.steps == 3
    assert one_by_one(Table(CIRCLE), torch.tensor([[0]]), new=9, stop=[2, 1]).tolist() == [[1]]


def test_tokens_come_one_at_a_time():
    model = Table(CIRCLE)
    coming = generate(model, Seen(), torch.tensor([[0]]), new=1000)
    assert model.steps == 0
    assert next(coming).tolist() == [1] and model.steps == 1
    assert torch.is_grad_enabled()


LOGITS = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()


@pytest.mark.parametrize(
    "choices, expected",
    [
        ({}, [0.5, 0.3, 0.15, 0.05]),
        ({"temperature": 0.5}, [0.25, 0.09, 0.0225, 0.0025]),
        ({"top_k": 2}, [5, 3, 0, 0]),
        ({"top_k": 9}, [0.5, 0.3, 0.15, 0.05]),
        ({"top_p": 0.5}, [1, 0, 0, 0]),
        ({"top_p": 0.51}, [5, 3, 0, 0]),
        ({"top_p": 1.0}, [0.5, 0.3, 0.15, 0.05]),
        ({"temperature": 0.5, "top_k": 3, "top_p": 0.9}, [0.25, 0.09, 0, 0]),
    ],
)
def test_what_is_drawn_from(choices, expected):
    expected = torch.tensor([expected], dtype=torch.float32)
    got = sample(**choices).probabilities(LOGITS)
    torch.testing.assert_close(got, expected / expected.sum())


def test_what_is_drawn_from_equals_transformers():
    transformers = pytest.importorskip("transformers", reason="transformers is an extra")
    logits = torch.randn(5, 60, generator=torch.Generator().manual_seed(0))
    theirs = transformers.TemperatureLogitsWarper(0.7)(None, logits)
    theirs = transformers.TopKLogitsWarper(20)(None, theirs)
    theirs = transformers.TopPLogitsWarper(0.8)(None, theirs).softmax(-1)
    torch.testing.assert_close(sample(temperature=0.7, top_k=20, top_p=0.8).probabilities(logits), theirs)


def test_a_seed_gives_the_same_tokens():
    def drawn(seed):
        generator = torch.Generator().manual_seed(seed)
        return one_by_one(Table(CIRCLE), torch.tensor([[0], [1]]), new=50, choose=sample(), generator=generator)

    assert torch.equal(drawn(0), drawn(0)) and not torch.equal(drawn(0), drawn(1))


def test_draws_have_their_probabilities():
    tokens = torch.zeros(20_000, 1, dtype=torch.long)
    got = one_by_one(Table(CIRCLE), tokens, new=1, choose=sample(top_k=2), generator=torch.Generator().manual_seed(0))
    # Of the two of 0.1 both are as likely as the second, so that three stay.
    share = got.flatten().bincount(minlength=3) / 20_000
    assert (share - torch.tensor([0.1, 0.8, 0.1])).abs().max() < 4 * math.sqrt(0.16 / 20_000)


# Beams


def every_way(table, first, new, stop, penalty):
    """Score all continuations of up to `new` tokens, by hand."""
    found = {}
    for way in itertools.product(range(len(table)), repeat=new):
        if stop in way:
            way = way[: way.index(stop) + 1]
        logs = [math.log(table[last][token]) for last, token in itertools.pairwise((first, *way))]
        found[way] = sum(logs) / len(way) ** penalty
    return sorted(found.items(), key=lambda item: -item[1])


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_enough_beams_find_the_best(penalty):
    table = torch.rand(6, 6, generator=torch.Generator().manual_seed(3)).softmax(-1).tolist()
    # Wide enough to keep all open continuations of two tokens apart from the stop.
    wide = [row + [1e-30] * 60 for row in table] + [[1 / 66] * 66] * 60
    got = beam_search(Table(wide), Seen(), torch.tensor([[2]]), new=3, stop=5, beams=30, length_penalty=penalty)
    expected = every_way(table, 2, 3, 5, penalty)[:3]
    for beam, (way, score) in enumerate(expected):
        length = int(got.lengths[0, beam])
        assert tuple(got.tokens[0, beam, :length].tolist()) == way
        assert (got.tokens[0, beam, length:] == NO_TOKEN).all()
        assert got.scores[0, beam].item() == pytest.approx(score, abs=1e-5)


def test_a_beam_beats_greed():
    # 0 → 1 is likely, but leads nowhere; 0 → 2 leads to a sure end.
    table = [[0.02, 0.51, 0.47, 0], [0.3, 0.3, 0.4, 0], [0, 0, 0, 1], [0.25, 0.25, 0.25, 0.25]]
    start = torch.tensor([[0]])
    assert one_by_one(Table(table), start, new=2).tolist() == [[1, 2]]
    assert beam_search(Table(table), Seen(), start, new=2, stop=3, beams=2).tokens[0, 0].tolist() == [2, 3]


def test_the_state_follows_its_beam():
    table = torch.rand(8, 8, generator=torch.Generator().manual_seed(0)).softmax(-1).tolist()
    state = Seen()
    got = beam_search(Table(table), state, torch.tensor([[0], [3]]), new=6, beams=3)
    # The last step took in all but the last token of what it found.
    kept = {tuple(row) for row in state.seen[:, 1:].tolist()}
    assert {tuple(row[:-1]) for row in got.tokens.flatten(0, 1).tolist()} <= kept


# Against transformers


@pytest.fixture(scope="module")
def pair():
    transformers = pytest.importorskip("transformers", reason="transformers is an extra")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=60, n_embd=16, n_layer=3, n_head=2, n_positions=64, initializer_range=0.4,
        bos_token_id=1, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    theirs = transformers.GPT2LMHeadModel(config).eval()
    ours = Gpt(GptConfig(60, 16, 3, 2, 64, 64)).eval()
    ours.load_state_dict(GptLayout().ours(GptLayout().plain("test", theirs.state_dict()), ours.state_dict()))
    return ours, theirs


def their_tokens(theirs, tokens, lengths=None, **choices):
    """Generate by transformers, whose prompts are padded on the left."""
    keep = torch.ones_like(tokens)
    if lengths is not None:
        shift = (tokens.shape[1] - lengths)[:, None]
        index = torch.arange(tokens.shape[1]) - shift
        tokens, keep = tokens.gather(1, index.clamp(min=0)), (index >= 0).long()
    return theirs.generate(tokens, attention_mask=keep, max_new_tokens=20, do_sample=False, **choices)


@pytest.mark.parametrize("lengths", [None, torch.tensor([7, 2, 4])])
def test_greedy_equals_transformers(pair, lengths):
    ours, theirs = pair
    expected = their_tokens(theirs, TOKENS, lengths, eos_token_id=None)[:, 7:]
    got = torch.stack(list(generate(ours, ours.start(lengths), TOKENS, new=20, choose=greedy())), 1)
    assert torch.equal(got, expected)


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("penalty", [-1.0, 0.0, 0.6, 1.0, 2.0])
@pytest.mark.parametrize("lengths", [None, torch.tensor([7, 2, 4])])
def test_beams_equal_transformers(pair, lengths, penalty, count):
    ours, theirs = pair
    # Tokens that greedy generation comes by, so that beams do end.
    seen = their_tokens(theirs, TOKENS, eos_token_id=None)[:, 7:]
    stop = seen[0, 3:12:4].tolist()[:count]
    expected = their_tokens(
        theirs, TOKENS, lengths, num_beams=4, length_penalty=penalty, num_return_sequences=4,
        eos_token_id=stop or None, return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    wanted = expected.sequences[:, 7:].view(3, 4, -1)
    got = beam_search(ours, ours.start(lengths), TOKENS, new=20, stop=stop, length_penalty=penalty)
    assert got.tokens.shape == wanted.shape
    assert count == 0 or penalty > 1 or (got.lengths < 20).any()
    # They fill up with the padding, 0, or with what they end by.
    assert torch.equal(got.tokens, torch.where(got.tokens == NO_TOKEN, NO_TOKEN, wanted))
    torch.testing.assert_close(got.scores, expected.sequences_scores.view(3, 4), rtol=1e-4, atol=1e-5)


# Masked words


def test_fill_names_the_likeliest_of_each_masked_place():
    torch.manual_seed(0)
    bert = Bert(BertConfig(60, 12, 1, 2, 20, 16)).double().eval()
    tokens = TOKENS.clone()
    tokens[TOKENS == 5] = 6
    tokens[0, 2] = tokens[2, 6] = 5
    got = fill(bert, tokens, 5, best=3)
    assert got.places.tolist() == [2, 20]
    expected = bert.predict_tokens(bert(tokens))[[0, 2], [2, 6]].softmax(-1).topk(3)
    assert torch.equal(got.tokens, expected.indices)
    torch.testing.assert_close(got.probabilities.double(), expected.values, rtol=0, atol=1e-6)


@pytest.mark.unhooked
@pytest.mark.parametrize(
    "make, kind, text",
    [
        (lambda: sample(temperature=0), errors.ArgumentError, "sample: temperature must be a finite number > 0; got 0"),
        (lambda: sample(top_k=0), errors.ArgumentError, "sample: top_k must be >= 1; got 0"),
        (lambda: sample(top_p=1.5), errors.ArgumentError, "sample: top_p must be a number in (0, 1]; got 1.5"),
        (lambda: sample(top_p=0), errors.ArgumentError, "sample: top_p must be a number in (0, 1]; got 0"),
        (
            lambda: generate(Table(CIRCLE), Seen(), torch.tensor([0]), new=1),
            errors.ShapeError,
            "generate: tokens must have the shape [rows, tokens]; got [1] (a row for each text, all of one length, or "
            "padded on the right and the lengths given to start())",
        ),
        (
            lambda: generate(Table(CIRCLE), Seen(), torch.tensor([[0]]), new=0),
            errors.ArgumentError,
            "generate: new must be >= 1; got 0 (how many tokens to add at most)",
        ),
        (
            lambda: generate(Table(CIRCLE), Seen(), torch.tensor([[0]]), new=1, stop=[-2]),
            errors.ArgumentError,
            "generate: stop must be >= 0; got -2 (a token, or several)",
        ),
        (
            lambda: generate(Table(CIRCLE), Seen(), torch.tensor([[0]]), new=1, choose="greedy"),
            errors.KindError,
            "generate: choose must be a choice; got greedy (such as qkv.greedy() or qkv.sample())",
        ),
        (
            lambda: beam_search(Table(CIRCLE), Seen(), torch.tensor([[0]]), new=1, beams=2),
            errors.ArgumentError,
            "beam_search: beams must be at most half of the vocabulary of 3; got 2",
        ),
        (
            lambda: beam_search(Table(CIRCLE), Seen(), torch.tensor([[0]]), new=1, length_penalty="1"),
            errors.KindError,
            "beam_search: length_penalty must be a finite number; got str",
        ),
        (
            lambda: fill(Bert(BertConfig(9, 4, 1, 1, 4, 4)), torch.tensor([[1, 2]]), 3),
            errors.ArgumentError,
            "fill: tokens must hold the masked token 3; got none",
        ),
    ],
)
def test_errors(make, kind, text):
    with pytest.raises(kind) as raised:
        make()
    assert str(raised.value) == text
