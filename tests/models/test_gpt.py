"""GPT-2 by hand; packed and padded texts; any norm, positions, score and selection; steps equal the whole."""

import pytest
import torch
from torch.nn import functional as F

import qkv
from qkv import errors
from qkv.models.gpt import Gpt, GptConfig
from qkv.models.layers import no_positions, post_norm, pre_norm
from qkv.models.norms import batch_norm, rms_norm

CONFIG = GptConfig(vocabulary=50, width=12, layers=3, heads=2, feed_forward=20, positions=16)
TOKENS = torch.randint(50, (3, 9), generator=torch.Generator().manual_seed(1))
LENGTHS = torch.tensor([9, 5, 1])


def draw(config=CONFIG, *, dtype=torch.float64, **choices):
    torch.manual_seed(0)
    gpt = Gpt(config, **choices).to(dtype).eval()
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return gpt


CHOICES = {
    "the paper's": {},
    "post-norm": {"placement": post_norm()},
    "rms norm": {"placement": pre_norm(rms_norm())},
    "batch norm": {"placement": pre_norm(batch_norm())},
    "sinusoidal": {"positions": qkv.sinusoidal(12)},
    "rotary": {"positions": qkv.rotary()},
    "alibi": {"positions": qkv.alibi(2)},
    "t5": {"positions": qkv.T5Relative(2, after=False)},
    "no positions": {"positions": no_positions()},
    "additive": {"score": lambda: qkv.Additive(6, 6, 4)},
    "bilinear": {"score": lambda: qkv.Bilinear(6, 6)},
    "cosine": {"score": qkv.cosine(4.0)},
    "sparsemax": {"select": qkv.sparsemax()},
    "sigmoid": {"select": qkv.sigmoid()},
    "topk": {"select": qkv.topk(3)},
}


def test_by_hand():
    gpt = draw(GptConfig(50, 12, 1, 2, 20, 16))
    block = gpt.layers[0]
    x = gpt.tokens.weight[TOKENS] + gpt.places.weight[:9]
    x = x + block.attention(block.attention_residual.norm(x), mask=qkv.causal())
    inner = F.gelu(block.feed_forward.expand(block.feed_forward_residual.norm(x)), approximate="tanh")
    expected = gpt.norm(x + block.feed_forward.contract(inner))
    torch.testing.assert_close(gpt(TOKENS), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(gpt.predict_tokens(expected), expected @ gpt.tokens.weight.T, rtol=0, atol=1e-12)


def test_a_new_model_is_drawn_as_gpt_2():
    torch.manual_seed(0)
    gpt = Gpt(GptConfig(500, 64, 8, 4, 256, 100))
    for name, parameter in gpt.named_parameters():
        if "norm.weight" in name:
            assert (parameter == 1).all(), name
        elif name.endswith("bias"):
            assert (parameter == 0).all(), name
        else:
            deep = name.endswith(("output.weight", "contract.weight"))
            assert abs(parameter.std() / (0.005 if deep else 0.02) - 1) < 0.1, name


@pytest.mark.parametrize("name", CHOICES)
def test_the_future_is_not_seen(name):
    gpt = draw(**CHOICES[name])
    changed = TOKENS.clone()
    changed[:, 6:] = (changed[:, 6:] + 1) % 50
    assert torch.equal(gpt(TOKENS)[:, :6], gpt(changed)[:, :6])
    assert not torch.equal(gpt(TOKENS)[:, 6:], gpt(changed)[:, 6:])


@pytest.mark.parametrize("name", CHOICES)
def test_packed_texts_are_as_alone(name):
    gpt = draw(**CHOICES[name])
    alone = [TOKENS[row, :length] for row, length in enumerate(LENGTHS.tolist())]
    positions = torch.cat([torch.arange(length) for length in LENGTHS])[None]
    packed = gpt(torch.cat(alone)[None], positions=positions, mask=qkv.documents(LENGTHS))
    expected = torch.cat([gpt(text[None])[0] for text in alone])
    torch.testing.assert_close(packed[0], expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", CHOICES)
def test_steps_give_what_the_whole_gives(name):
    gpt = draw(**CHOICES[name])
    whole = gpt.predict_tokens(gpt(TOKENS))
    state = gpt.start()
    torch.testing.assert_close(gpt.step(TOKENS[:, :4], state), whole[:, 3], rtol=0, atol=1e-10)
    for at in range(4, 9):
        torch.testing.assert_close(gpt.step(TOKENS[:, at : at + 1], state), whole[:, at], rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", CHOICES)
def test_rows_of_prompts_of_different_lengths(name):
    gpt = draw(**CHOICES[name])
    state = gpt.start(LENGTHS)
    got = [gpt.step(TOKENS, state)] + [gpt.step(TOKENS[:, at : at + 1], state) for at in range(3)]
    for row, length in enumerate(LENGTHS.tolist()):
        alone = gpt.start()
        expected = [gpt.step(TOKENS[row : row + 1, :length], alone)]
        expected += [gpt.step(TOKENS[row : row + 1, at : at + 1], alone) for at in range(3)]
        for ours, theirs in zip(got, expected, strict=True):
            torch.testing.assert_close(ours[row], theirs[0], rtol=0, atol=1e-10)


@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_rows_are_reordered(lengths):
    gpt, rows = draw(), torch.tensor([2, 0, 0, 1])
    state = gpt.start(lengths)
    gpt.step(TOKENS, state)
    state.reorder(rows)
    straight = gpt.start(None if lengths is None else lengths[rows])
    gpt.step(TOKENS[rows], straight)
    # Twice, as the second time the number of rows stays.
    for again in (torch.arange(4), torch.tensor([3, 3, 1, 0])):
        state.reorder(again)
        straight.reorder(again)
        new = TOKENS[:1, :4].T
        torch.testing.assert_close(gpt.step(new, state), gpt.step(new, straight), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", CHOICES)
def test_encode_keeps_what_a_call_computes(name):
    gpt = draw(**CHOICES[name])
    seen = gpt.encode(TOKENS)
    torch.testing.assert_close(seen.hidden[-1], gpt(TOKENS), rtol=0, atol=1e-12)
    assert len(seen.hidden) == 4 and len(seen.maps) == 3
    for weights in seen.maps:
        dense = weights.dense()
        assert dense.shape == (3, 2, 9, 9) and (dense.triu(1) == 0).all()


@pytest.mark.parametrize("name", CHOICES)
def test_it_learns(name):
    gpt = draw(dtype=torch.float32, **CHOICES[name]).train()
    loss, count = gpt.loss(TOKENS, TOKENS.roll(-1, -1))
    loss.backward()
    assert count == 27
    assert all(parameter.grad.isfinite().all() for parameter in gpt.parameters())


def test_a_score_with_parameters_is_each_layers_own():
    gpt = draw(**CHOICES["bilinear"])
    assert len({id(block.attention.score) for block in gpt.layers}) == 3


def test_the_loss_is_the_sum_of_cross_entropies():
    gpt = draw()
    targets = TOKENS.roll(-1, -1)
    targets[:, -1] = -1
    loss, count = gpt.loss(TOKENS, targets, mask=qkv.padding(keys=LENGTHS))
    logits = gpt.predict_tokens(gpt(TOKENS, mask=qkv.padding(keys=LENGTHS))).flatten(0, 1)
    expected = F.cross_entropy(logits, targets.flatten(), ignore_index=-1, reduction="sum")
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-10)
    assert count == 24


@pytest.mark.unhooked
@pytest.mark.parametrize(
    "make, kind, text",
    [
        (lambda: GptConfig(width=0), errors.ArgumentError, "GptConfig: width must be >= 1; got 0"),
        (lambda: GptConfig(heads=7), errors.ArgumentError, "GptConfig: heads must divide the width 768; got 7"),
        (lambda: GptConfig(dropout=2), errors.ArgumentError, "GptConfig: dropout must lie in [0, 1]; got 2"),
        (
            lambda: GptConfig(end=-1),
            errors.ArgumentError,
            "GptConfig: end must be >= 0; got -1 (the token that ends a text)",
        ),
        (
            lambda: Gpt(CONFIG, positions="rotary"),
            errors.KindError,
            "Gpt: positions must be positions of qkv; got 'rotary' (such as qkv.rotary(), qkv.alibi(heads), "
            "qkv.sinusoidal(width) or qkv.LearnedPositions(count, width))",
        ),
        (
            lambda: Gpt(CONFIG, placement=rms_norm()),
            errors.KindError,
            "Gpt: placement must say where a norm stands; got RMSNorm(epsilon=1e-06) (qkv.pre_norm(norm) or "
            "qkv.post_norm(norm))",
        ),
        (
            lambda: Gpt(CONFIG, select=qkv.causal()),
            errors.KindError,
            "MultiHead: select must be a selection of qkv; got causal() (a mask goes to mask=)",
        ),
        (
            lambda: draw()(TOKENS.float()),
            errors.KindError,
            "Gpt: tokens must be a tensor of integers; got torch.float32",
        ),
        (lambda: draw()(TOKENS + 42), errors.ArgumentError, "Gpt: tokens must lie in 0..49; got 91"),
        (
            lambda: draw()(torch.zeros(2, 17, dtype=torch.long)),
            errors.ShapeError,
            "Gpt: tokens must have the shape [*batch, positions], at most 16 positions; got [2, 17]",
        ),
        (
            lambda: draw()(TOKENS, positions=torch.full((9,), 16)),
            errors.ArgumentError,
            "Gpt: positions must lie in 0..15; got 16",
        ),
        (
            lambda: draw()(TOKENS, mask=TOKENS > 0),
            errors.KindError,
            "Gpt: mask must be a mask; got Tensor (qkv.padding(keys=...) of lengths, or of booleans where True = keep)",
        ),
        (
            lambda: draw()(TOKENS, caches=[qkv.Cache()]),
            errors.ArgumentError,
            "Gpt: caches must be 3, one for each layer; got 1 (such as [qkv.Cache() for _ in gpt.layers])",
        ),
        (
            lambda: draw().start(torch.tensor([3, 0])),
            errors.ArgumentError,
            "Gpt.start: lengths must be >= 1; got 0 (a prompt has a token)",
        ),
        (
            lambda: draw().start([3, 1]),
            errors.KindError,
            "Gpt.start: lengths must be a tensor of integers; got list",
        ),
    ],
)
def test_errors(make, kind, text):
    with pytest.raises(kind) as raised:
        make()
    assert str(raised.value) == text


def test_steps_beyond_the_positions_are_refused():
    gpt = draw()
    state = gpt.start()
    gpt.step(torch.zeros(1, 16, dtype=torch.long), state)
    with pytest.raises(errors.ShapeError, match=r"at most 16 positions; got \[1, 1\] after 16$"):
        gpt.step(torch.zeros(1, 1, dtype=torch.long), state)


@pytest.mark.compile
def test_compiles_in_one_graph():
    gpt = draw(dtype=torch.float32)
    compiled = torch.compile(gpt, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(TOKENS), gpt(TOKENS))
