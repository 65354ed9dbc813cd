"""Recurrent translators: every attention with every decoder; by hand; packed, padded, one by one and step by step."""

import pytest
import torch
from copying import copying
from torch import nn

import qkv
from qkv import errors
from qkv.mechanisms.luong import GlobalAttention, InputFeeding, Luong
from qkv.models.looking import (
    AdditiveAttention,
    ConcatScore,
    CoverageAttention,
    LocalM,
    LocalP,
    LocationScore,
    LuongAttention,
    NoAttention,
    SampledAttention,
)
from qkv.models.recurrent import InputFed, LookThenStep, Recurrent, RecurrentConfig, StepThenLook
from qkv.text.batching import Sequences

ATTENTIONS = [
    NoAttention(),
    AdditiveAttention(),
    AdditiveAttention(hidden=5),
    LuongAttention(),
    LuongAttention(qkv.dot()),
    LuongAttention(ConcatScore(hidden=6)),
    LuongAttention(LocationScore(longest=9)),
    LocalM(reach=2),
    LocalP(reach=2),
    SampledAttention(),
    CoverageAttention(),
]
DECODERS = [LookThenStep, StepThenLook, InputFed]
every_attention = pytest.mark.parametrize("attention", ATTENTIONS, ids=str)
every_decoder = pytest.mark.parametrize("decoder", DECODERS)
every_cell = pytest.mark.parametrize("cell", [nn.GRU, nn.LSTM])


def sequences(*lengths, seed):
    numbers = torch.Generator().manual_seed(seed)
    return Sequences.of(torch.randint(1, 20, (length,), generator=numbers) for length in lengths)


SOURCE, TARGET = sequences(5, 2, 7, seed=0), sequences(4, 6, 2, seed=1)


def make(attention=None, decoder=LookThenStep, cell=nn.GRU, layers=2, **numbers):
    torch.manual_seed(0)
    config = RecurrentConfig(vocabulary=20, width=8, layers=layers, **numbers)
    return Recurrent(config, cell=cell, attention=attention, decoder=decoder).double().eval()


def one_by_one(model, source=SOURCE, target=TARGET):
    pairs = zip(source.split(), target.split(), strict=True)
    return torch.cat([model(Sequences.of([one]), Sequences.of([other])) for one, other in pairs])


def near(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=1e-13)


@every_attention
@every_decoder
@every_cell
def test_together_is_one_by_one_and_step_by_step(attention, decoder, cell):
    model = make(attention, decoder, cell)
    vectors = model(SOURCE, TARGET)
    assert vectors.shape == (12, 8)
    near(vectors, one_by_one(model))
    with torch.no_grad():
        state = model.start(SOURCE)
        for step in range(2):
            tokens = torch.stack([each[step] for each in TARGET.split()])
            logits = model.step(tokens[:, None], state)
            near(logits, torch.stack([model.predict_tokens(each[step]) for each in vectors.split([4, 6, 2])]))
        assert state.seen == 2


@every_attention
@every_decoder
def test_beams_are_rows_of_their_own(attention, decoder):
    model, target = make(attention, decoder), torch.tensor([[3, 4], [5, 6], [7, 8], [9, 10]])
    with torch.no_grad():
        state = model.start(Sequences.of(SOURCE.split()[:2]))
        state.reorder(torch.tensor([0, 0, 1, 1]))
        model.step(target[:, :1], state)
        # Rows 0 and 2 go on twice, then the sources change places.
        for rows in ([1, 1, 2, 2], [3, 2, 1]):
            state.reorder(torch.tensor(rows))
        logits = model.step(target[:3, 1:], state)
        for row, (source, first) in enumerate([(1, 2), (1, 2), (0, 1)]):
            tokens = torch.stack((target[first, 0], target[row, 1]))
            alone = model(Sequences.of([SOURCE.split()[source]]), Sequences.of([tokens]))
            near(logits[row], model.predict_tokens(alone[1]))


@every_attention
@every_decoder
def test_the_future_reaches_nothing(attention, decoder):
    model = make(attention, decoder)
    changed = TARGET.tokens.clone()
    changed[3] = (changed[3] + 1) % 20
    before, after = model(SOURCE, TARGET), model(SOURCE, Sequences(changed, TARGET.lengths))
    same = torch.arange(12) != 3
    assert torch.equal(before[same], after[same])
    assert not torch.equal(before[3], after[3])


@every_attention
@every_decoder
def test_gradients_reach_every_parameter(attention, decoder):
    model = make(attention, decoder).train()
    total, count = model.loss(SOURCE, TARGET, TARGET.tokens)
    assert count == 12
    total.backward()
    assert [name for name, each in model.named_parameters() if each.grad is None or not each.grad.any()] == []


@every_attention
def test_alignment_rows_are_weights_of_the_own_source(attention):
    for decoder in DECODERS:
        model = make(attention, decoder)
        if attention == NoAttention():
            with pytest.raises(errors.UnsupportedError, match="the model must have an attention; got NoAttention"):
                model.with_alignment(SOURCE, TARGET)
            continue
        vectors, weights = model.with_alignment(SOURCE, TARGET)
        near(vectors, model(SOURCE, TARGET))
        assert weights.shape == (3, 6, 7)
        for row, (keys, queries) in enumerate(zip([5, 2, 7], [4, 6, 2], strict=True)):
            assert weights[row, :, keys:].eq(0).all()
            sums = weights[row, :queries].sum(-1)
            # Local-m's window can leave a short source behind, and local-p's weights are less than a softmax's.
            if not isinstance(attention, LocalM | LocalP):
                near(sums, torch.ones_like(sums))


def test_bahdanau_by_hand():
    model = make(AdditiveAttention(hidden=5), layers=1)
    source, target = torch.tensor([3, 1, 4]), torch.tensor([2, 7])
    embed = lambda tokens: model.embedding.weight[tokens] * 8**0.5  # noqa: E731
    states, last = model.encoder.cell(embed(source)[None])
    memory, state = states[0], last.transpose(0, 1).reshape(8)
    score, cell, found = model.decoder.attention.attention.score, model.decoder.cell, []
    weights = [cell.weight_ih_l0, cell.weight_hh_l0, cell.bias_ih_l0, cell.bias_hh_l0]
    for word in embed(target):
        energies = torch.stack([score.vector @ torch.tanh(score.weight @ torch.cat((state, h))) for h in memory])
        context = energies.softmax(0) @ memory
        state = torch.gru_cell(torch.cat((word, context))[None], state[None], *weights)[0]
        found.append(torch.tanh(model.decoder.join.weight @ torch.cat((context, state))))
    near(model(Sequences.of([source]), Sequences.of([target])), torch.stack(found))


def test_a_mask_is_there_for_padding_alone():
    one, other = torch.tensor([1, 2]), torch.tensor([3])
    assert make().start(Sequences.of([one, one])).source.mask is None
    assert make().start(Sequences.of([one, other])).source.mask is not None


def test_without_attention_every_step_gets_the_last_state():
    model = make(NoAttention(), layers=1)
    state = model.start(SOURCE)
    assert torch.equal(state.source.last, state.cell[0][-1])
    # The forward half is what the forward cell holds after the last word, the backward half after the first.
    near(state.source.last[1, :4], state.source.memory[1, 1, :4])
    near(state.source.last[1, 4:], state.source.memory[1, 0, 4:])


def test_input_fed_is_the_mechanism():
    model = make(LuongAttention(), InputFed, nn.LSTM, layers=1)
    cell = nn.LSTMCell(16, 8).double()
    for name, weight in cell.named_parameters():
        weight.data = getattr(model.decoder.cell, f"{name}_l0").data
    luong = Luong(8, 8, GlobalAttention(model.decoder.attention.attention.score)).double()
    luong.weight.data = model.decoder.join.weight.data
    fed, state = InputFeeding(cell, luong), model.start(Sequences.of(SOURCE.split()[:1]))
    words = model.embedding(TARGET.split()[0])[None] * 8**0.5
    start = type(fed.start(words))(tuple(part[0] for part in state.cell), torch.zeros(1, 8).double())
    near(fed(words, state.source.memory, state=start)[0], model.decoder(words, state)[0])


def test_attentions_differ_by_their_own_parameters_alone():
    count = lambda model: sum(each.numel() for each in model.parameters())  # noqa: E731
    for decoder in DECODERS:
        none, additive = make(NoAttention(), decoder), make(AdditiveAttention(), decoder)
        assert count(additive) - count(none) == 8 * 16 + 8
        assert count(make(LuongAttention(), decoder)) - count(none) == 64
        assert set(none.state_dict()) < set(additive.state_dict())


def test_loss_counts_what_has_a_target():
    model = make(smoothing=0.1)
    targets = TARGET.tokens.clone()
    targets[5:] = -1
    total, count = model.loss(SOURCE, TARGET, targets)
    given = {"target": targets, "ignore_index": -1, "reduction": "sum"}
    logits = model.predict_tokens(model(SOURCE, TARGET))
    # No smoothing outside of training: the loss is then a log-likelihood.
    near(total, nn.functional.cross_entropy(logits, **given))
    assert count == 5
    near(
        model.train().loss(SOURCE, TARGET, targets)[0],
        nn.functional.cross_entropy(logits, **given, label_smoothing=0.1),
    )


def test_hard_attention_learns_from_rewards_and_keeps_a_baseline():
    model = make(SampledAttention(entropy=0.5)).train()
    torch.manual_seed(1)
    words = nn.functional.cross_entropy(model.predict_tokens(model(SOURCE, TARGET)), TARGET.tokens, reduction="none")
    rewards = torch.stack([-each.mean() for each in words.split([4, 6, 2])])
    torch.manual_seed(1)
    _, look = model._decode(SOURCE, TARGET)
    chosen = [getattr(look.choice, name)[TARGET.rows, TARGET.positions] for name in ("log_prob", "entropy")]
    expected = words.sum() - (rewards[TARGET.rows] * chosen[0]).sum() - 0.5 * chosen[1].sum()
    torch.manual_seed(1)
    total, _ = model.loss(SOURCE, TARGET, TARGET.tokens)
    near(total, expected)
    near(model.decoder.attention.baseline.value, 0.1 * rewards.mean())
    assert model.eval().loss(SOURCE, TARGET, TARGET.tokens)[0] == model.loss(SOURCE, TARGET, TARGET.tokens)[0]


def test_coverage_pays_for_what_is_read_again():
    light, heavy = (make(CoverageAttention(weight=weight)).train() for weight in (0.0, 2.0))
    (less, _), (more, _) = (model.loss(SOURCE, TARGET, TARGET.tokens) for model in (light, heavy))
    weights = heavy.with_alignment(SOURCE, TARGET)[1]
    before = weights.cumsum(1) - weights
    again = torch.minimum(weights, before).sum(-1)[TARGET.rows, TARGET.positions]
    near(more - less, 2 * again.sum())
    words, lesson, _ = heavy.losses(SOURCE, TARGET, TARGET.tokens)
    near(torch.stack((words, lesson)), torch.stack((less, 2 * again.sum())))
    assert heavy.eval().losses(SOURCE, TARGET, TARGET.tokens)[1] == 0


def test_dropout_acts_while_training():
    model = make(dropout=0.5).train()
    assert not torch.equal(model(SOURCE, TARGET), model(SOURCE, TARGET))
    model.eval()
    assert torch.equal(model(SOURCE, TARGET), model(SOURCE, TARGET))


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: RecurrentConfig(width=7), errors.ArgumentError, "RecurrentConfig: width must be even; got 7"),
        (lambda: RecurrentConfig(layers=0), errors.ArgumentError, "RecurrentConfig: layers must be >= 1; got 0"),
        (lambda: RecurrentConfig(dropout=2.0), errors.ArgumentError, r"RecurrentConfig: dropout must lie in \[0, 1\]"),
        (lambda: make()(SOURCE, sequences(1, seed=0)), errors.ShapeError, "target must have a sequence for each of"),
        (
            lambda: make()(Sequences(torch.tensor([20]), torch.tensor([1])), sequences(1, seed=0)),
            errors.ArgumentError,
            r"Recurrent: source.tokens must lie in 0..19; got 20",
        ),
        (
            lambda: make().start(Sequences(torch.tensor([1]), torch.tensor([1, 0]))),
            errors.ArgumentError,
            r"Recurrent.start: source.lengths must be >= 1; got 0 \(an empty sequence\)",
        ),
        (
            lambda: make().loss(SOURCE, TARGET, TARGET.tokens[1:]),
            errors.ShapeError,
            "Recurrent.loss: targets must have one for each of the 12 tokens of the target; got \\[11\\]",
        ),
        (
            lambda: make().step(torch.tensor([[20]] * 3), make().start(SOURCE)),
            errors.ArgumentError,
            "Recurrent.step: tokens must lie in 0..19; got 20",
        ),
        (
            lambda: make(SampledAttention(entropy=float("inf"))),
            errors.ArgumentError,
            "SampledAttention: entropy must be a finite number",
        ),
        (
            lambda: make(CoverageAttention(weight=float("nan"))),
            errors.ArgumentError,
            "CoverageAttention: weight must be a finite number",
        ),
        (
            lambda: make(LuongAttention(LocationScore(longest=6)))(SOURCE, TARGET),
            errors.ShapeError,
            "Location: keys must be at most 6; got 7",
        ),
    ],
)
def test_errors(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


@pytest.mark.unhooked
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"cell": nn.RNN}, "Recurrent: cell must be torch.nn.GRU or torch.nn.LSTM; got"),
        ({"attention": AdditiveAttention}, r"Recurrent: attention must make an attention; got .*such as LocalP\(5\)"),
        ({"attention": nn.Identity()}, "Recurrent: attention must make an attention; got"),
        ({"decoder": "fed"}, "Recurrent: decoder must be LookThenStep, StepThenLook or InputFed; got 'fed'"),
    ],
)
def test_choices_that_are_none(given, message):
    with pytest.raises(errors.KindError, match=message):
        make(**given)


@pytest.mark.slow
def test_bahdanau_learns_to_copy():
    torch.manual_seed(0)
    model = Recurrent(RecurrentConfig(vocabulary=7, width=32))
    assert copying(model, steps=300, rate=1e-2) >= 0.95
