"""Steps by kernels equal steps by modules and the whole; what the kernels do not express is left to the modules."""

import pytest
import torch
from torch import nn

import qkv
from qkv.models.gpt import Gpt, GptConfig
from qkv.models.layers import post_norm, pre_norm
from qkv.models.norms import rms_norm
from qkv.models.steps import refuses

LENGTHS = torch.tensor([9, 5, 1])
CONFIGS = {
    "a head a register": GptConfig(100, 48, 3, 3, 192, 40),
    "odd widths, exact GELU": GptConfig(101, 57, 2, 3, 37, 40, tanh_gelu=False),
    "one head": GptConfig(9, 16, 1, 1, 16, 40),
}


def draw(config=CONFIGS["a head a register"], **choices):
    torch.manual_seed(0)
    gpt = Gpt(config, **choices).eval()
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return gpt


def tokens_of(gpt, rows=3, count=20):
    return torch.randint(gpt.config.vocabulary, (rows, count), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("rows", [1, 3, 8])
def test_steps_equal_the_whole(rows, name):
    gpt = draw(CONFIGS[name])
    tokens, exact = tokens_of(gpt, rows), draw(CONFIGS[name]).double()
    whole = exact.predict_tokens(exact(tokens))
    plain = gpt.predict_tokens(gpt(tokens))
    budget = 4 * (plain.double() - whole).abs().max()
    state = gpt.start()
    gpt.step(tokens[:, :4], state)
    for at in range(4, 20):
        got = gpt.step(tokens[:, at : at + 1], state)
        assert (got.double() - whole[:, at]).abs().max() <= budget
    assert state.steps


def test_rows_of_prompts_of_different_lengths_and_reordered():
    gpt = draw()
    tokens = tokens_of(gpt, count=9)
    state = gpt.start(LENGTHS)
    gpt.step(tokens, state)
    rows = torch.tensor([2, 0, 0, 1])
    state.reorder(rows)
    after = tokens_of(gpt, 4, 6)
    got = [gpt.step(after[:, at : at + 1], state) for at in range(6)]
    assert state.steps
    for row, was in enumerate(rows.tolist()):
        text = torch.cat((tokens[was, : LENGTHS[was]], after[row]))[None]
        expected = gpt.predict_tokens(gpt(text))[0, -6:]
        torch.testing.assert_close(torch.stack([step[row] for step in got]), expected, rtol=0, atol=1e-5)


def test_many_rows_and_chunks_are_left_to_the_modules_and_come_back():
    gpt = draw()
    tokens = tokens_of(gpt, 9)
    state = gpt.start()
    gpt.step(tokens[:, :4], state)
    whole = gpt.predict_tokens(gpt(tokens))
    for first, last in ((4, 5), (5, 8), (8, 9)):
        got = gpt.step(tokens[:, first:last], state)
        torch.testing.assert_close(got, whole[:, last - 1], rtol=0, atol=1e-5)
    state.reorder(torch.arange(8))
    torch.testing.assert_close(gpt.step(tokens[:8, 9:10], state), whole[:8, 9], rtol=0, atol=1e-5)


def test_threads_share_the_rows(monkeypatch):
    gpt = draw()
    tokens = tokens_of(gpt)

    def steps():
        state = gpt.start()
        gpt.step(tokens[:, :4], state)
        return torch.stack([gpt.step(tokens[:, at : at + 1], state) for at in range(4, 8)])

    alone = steps()
    monkeypatch.setattr("qkv.models.steps.SHARED", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    torch.testing.assert_close(steps(), alone, rtol=0, atol=1e-5)


def without(module, name):
    setattr(module, name, None)
    return module


@pytest.mark.parametrize(
    "make, reason",
    [
        (lambda: draw(), None),
        (lambda: draw().double(), "they compute in float32"),
        (lambda: draw().train(), "they drop nothing"),
        (lambda: draw(placement=post_norm()), "they know LayerNorm before each layer"),
        (lambda: draw(placement=pre_norm(rms_norm())), "they know LayerNorm before each layer"),
        (lambda: draw(score=qkv.cosine()), "they know the softmax of scaled dot products"),
        (lambda: draw(select=qkv.topk(3)), "they know the softmax of scaled dot products"),
        (lambda: draw(positions=qkv.rotary()), "they know positions at the input, and GELU"),
        (lambda: draw(GptConfig(9, 16, 1, 2, 16, 40)), "heads are narrower than 16"),
        (lambda: draw().to("meta"), "they read memory itself, on the CPU"),
    ],
)
def test_what_is_refused(make, reason):
    gpt = make()
    assert refuses(list(gpt.layers), gpt.norm, gpt.tokens.weight) == reason


def test_another_norm_at_the_end_is_refused():
    gpt = draw()
    assert refuses(list(gpt.layers), nn.Identity(), gpt.tokens.weight) == "they end with LayerNorm"


@pytest.mark.parametrize("positions", [qkv.alibi(3), qkv.T5Relative(3, after=False)])
def test_a_bias_is_left_to_the_modules(positions):
    gpt = draw(positions=positions)
    state, tokens = gpt.start(), tokens_of(gpt)
    gpt.step(tokens[:, :4], state)
    got = gpt.step(tokens[:, 4:5], state)
    assert state.steps is False
    torch.testing.assert_close(got, gpt.predict_tokens(gpt(tokens))[:, 4], rtol=0, atol=1e-5)
