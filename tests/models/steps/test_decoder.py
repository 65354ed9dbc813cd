"""A decoder's steps by kernels equal steps by modules; what the kernels do not express is left to the modules."""

import pytest
import torch
from torch import nn

import qkv
from qkv.backends.threads import in_parallel
from qkv.models.layers import no_positions, post_norm, pre_norm
from qkv.models.norms import batch_norm, layer_norm, rms_norm
from qkv.models.steps.decoder import DecoderSteps, refuses
from qkv.models.transformer import Transformer, TransformerConfig
from qkv.text.batching import Sequences

SOURCE = Sequences.of([torch.tensor([2, 5, 3, 4]), torch.tensor([6])])
CONFIGS = {
    "a head a register": TransformerConfig(vocabulary=50, width=48, layers=2, heads=3, feed_forward=96),
    "odd widths": TransformerConfig(vocabulary=51, width=57, layers=3, heads=3, feed_forward=37),
    "one head": TransformerConfig(vocabulary=9, width=16, layers=1, heads=1, feed_forward=16),
}


def draw(config=CONFIGS["a head a register"], **choices):
    torch.manual_seed(0)
    positions = choices.pop("positions", None) or qkv.LearnedPositions(30, config.width)
    model = Transformer(config, positions=positions, **choices).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def steps(model, tokens, rows):
    """The logits of every step, the first of two tokens, with the rows reordered on the way."""
    state, found = model.start(SOURCE), []
    state.reorder(torch.tensor(rows))
    for at, step in enumerate(tokens[:, : len(rows)].split([2] + [1] * (tokens.shape[0] - 2), dim=0)):
        found.append(model.step(step.T, state))
        if at == 2:
            state.reorder(torch.arange(len(rows)).flip(0))
    return torch.stack(found), state


@pytest.mark.parametrize("placement", [pre_norm(), post_norm(), post_norm(layer_norm(epsilon=0.1))])
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("rows", [[0, 1], [0, 0, 0, 1, 1, 1], [1], [1] * 4, [0] * 7 + [1] * 7, [0] * 21 + [1] * 21])
def test_steps_equal_those_of_modules(rows, name, placement):
    model = draw(CONFIGS[name], placement=placement)
    tokens = torch.randint(0, CONFIGS[name].vocabulary, (20, 42), generator=torch.Generator().manual_seed(1))
    found, state = steps(model, tokens, rows)
    assert state.steps
    exact = model.double()
    wanted, state = steps(exact, tokens, rows)
    assert state.steps is False
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-4)


def test_many_rows_are_left_to_the_modules_and_come_back(monkeypatch):
    model, calls = draw(), []
    call = DecoderSteps.__call__
    monkeypatch.setattr(DecoderSteps, "__call__", lambda *given: calls.append(1) or call(*given))
    tokens = torch.randint(0, 50, (8, 80), generator=torch.Generator().manual_seed(1))
    state, found = model.start(SOURCE), []
    state.reorder(torch.tensor([0] * 40 + [1] * 40))
    for at, step in enumerate(tokens):
        if at == 4:
            assert not calls
            state.reorder(torch.tensor([0, 79]))
        found.append(model.step(step[: 80 if at < 4 else 2, None], state))
    assert len(calls) == 4
    for row, start in ((0, 0), (1, 79)):
        target = torch.cat((tokens[:4, start], tokens[4:, row]))
        alone = model(Sequences.of([SOURCE.split()[row]]), Sequences.of([target]))
        wanted = model.predict_tokens(alone)
        torch.testing.assert_close(torch.stack([each[row] for each in found[4:]]), wanted[4:], rtol=1e-4, atol=1e-4)


def test_threads_share_the_sources(monkeypatch):
    model = draw()
    tokens = torch.randint(0, 50, (8, 16), generator=torch.Generator().manual_seed(1))
    rows = [0] * 8 + [1] * 8
    alone, _ = steps(model, tokens, rows)
    monkeypatch.setattr("qkv.models.steps.SHARED", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    shared = []
    monkeypatch.setattr("qkv.models.steps.in_parallel", lambda *given: shared.append(given[1]) or in_parallel(*given))
    together, _ = steps(model, tokens, rows)
    assert set(shared) == {2, 3}
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


CHOICES = {
    "they compute in float32": lambda: draw().double(),
    "they know LayerNorm before or after each layer": lambda: draw(placement=post_norm(rms_norm())),
    "they know the softmax of scaled dot products": lambda: draw(select=qkv.sparsemax()),
    "they know positions at the input, and ReLU": lambda: draw(positions=qkv.rotary()),
    "heads or feed-forward layers are narrower than 16": lambda: draw(
        TransformerConfig(vocabulary=9, width=16, layers=1, heads=2, feed_forward=16)
    ),
    "they drop nothing": lambda: draw().train(),
}


def test_a_narrow_feed_forward_layer_is_refused():
    model = draw(TransformerConfig(vocabulary=9, width=16, layers=1, heads=1, feed_forward=15))
    reason = refuses(list(model.decoder), model.decoder_norm, model.embedding.weight)
    assert reason == "heads or feed-forward layers are narrower than 16"


@pytest.mark.parametrize("reason", CHOICES)
def test_what_is_refused(reason):
    model = CHOICES[reason]()
    assert refuses(list(model.decoder), model.decoder_norm, model.embedding.weight) == reason


def test_another_norm_at_the_end_is_refused():
    model = draw(placement=pre_norm())
    reason = "they end with LayerNorm, or with nothing"
    assert refuses(list(model.decoder), nn.RMSNorm(48), model.embedding.weight) == reason


@pytest.mark.parametrize(
    "choices",
    [
        {"positions": qkv.alibi(heads=3)},
        {"positions": qkv.rotary()},
        {"score": qkv.dot()},
        {"placement": pre_norm(batch_norm())},
    ],
)
def test_what_is_refused_is_left_to_the_modules(choices):
    # In float64: an unmeasured BatchNorm lets numbers grow, and float32's rounding with them.
    model = draw(**choices).double()
    tokens = torch.tensor([[3, 4], [5, 6], [7, 8]])
    found, state = steps(model, tokens, [0, 1])
    assert state.steps is False
    for row in range(2):
        alone = model(Sequences.of([SOURCE.split()[row]]), Sequences.of([tokens[:, row]]))
        torch.testing.assert_close(found[:, row], model.predict_tokens(alone)[1:])


def test_no_positions_are_no_hindrance():
    _, state = steps(draw(positions=no_positions()), torch.ones(4, 2, dtype=torch.long), [0, 1])
    assert state.steps
