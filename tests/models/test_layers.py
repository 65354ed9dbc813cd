"""Where norms stand, the feed-forward layer by hand; positions act in the one place that is theirs."""

import pytest
import torch
from torch import nn

import qkv
from qkv import errors
from qkv.models.layers import (
    FeedForward,
    added,
    bias_of,
    check_positions,
    for_layer,
    no_positions,
    place,
    post_norm,
    pre_norm,
    turning,
)
from qkv.models.norms import batch_norm, rms_norm

X = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def double(make, *arguments):
    return make(*arguments).double()


def test_pre_norm():
    residual = double(pre_norm(), 4)
    torch.testing.assert_close(residual(X, torch.sin), X + torch.sin(nn.functional.layer_norm(X, (4,))))
    assert isinstance(pre_norm(rms_norm()).final(4), nn.RMSNorm)


def test_post_norm():
    residual = double(post_norm(), 4)
    torch.testing.assert_close(residual(X, torch.sin), nn.functional.layer_norm(X + torch.sin(X), (4,)))
    assert isinstance(post_norm().final(4), nn.Identity)


@pytest.mark.parametrize("placement", [pre_norm, post_norm])
def test_dropout_falls_on_what_is_added(placement):
    residual = double(placement(lambda width: nn.Identity()), 4, 1.0)
    assert torch.equal(residual(X, torch.sin), X)
    torch.testing.assert_close(residual.eval()(X, torch.sin), X + torch.sin(X))


def test_placements_are_values():
    assert pre_norm(rms_norm()) == pre_norm(rms_norm()) != post_norm(rms_norm())
    assert repr(pre_norm(batch_norm())) == "PreNorm(norm=BatchNorm(epsilon=1e-05, momentum=0.1))"


def test_feed_forward():
    layer = double(FeedForward, 4, 6)
    hidden = (X @ layer.expand.weight.T + layer.expand.bias).clamp(min=0)
    torch.testing.assert_close(layer(X), hidden @ layer.contract.weight.T + layer.contract.bias)
    bent = double(FeedForward, 4, 6, torch.sin, 1.0)
    assert torch.equal(bent(X), bent.contract.bias.expand(2, 3, 4))


KINDS = {
    "learned": lambda: qkv.LearnedPositions(9, 4),
    "sinusoidal": lambda: qkv.sinusoidal(4),
    "rotary": qkv.rotary,
    "alibi": lambda: qkv.alibi(2),
    "t5": lambda: qkv.T5Relative(2),
    "dense": lambda: qkv.dense_bias(torch.zeros(3, 3)),
    "none": no_positions,
}


@pytest.mark.parametrize("name", KINDS)
def test_positions_act_in_one_place(name):
    positions, places = KINDS[name](), torch.arange(3)
    check_positions("test", positions)
    x = X.float()
    acts = {
        "input": added(positions, x, places) is not x,
        "query and key": turning(positions) is positions,
        "scores": bias_of(positions) is positions,
    }
    expected = {"learned": "input", "sinusoidal": "input", "rotary": "query and key", "none": None}.get(name, "scores")
    assert [where for where, does in acts.items() if does] == [expected] * (expected is not None)


def test_added_positions():
    positions, places = qkv.sinusoidal(4), torch.tensor([[0, 1, 2], [5, 0, 1]])
    assert torch.equal(added(positions, X, places), X + positions(places).double())


@pytest.mark.parametrize("positions", [qkv.alibi(2), qkv.T5Relative(2, after=False)])
def test_a_bias_moves_with_a_cache(positions):
    query, key = torch.randn(2, 2, 2, 1, 4).unbind()
    offset = torch.tensor([3, 1])
    key = key.expand(2, 2, 5, 4)
    moved = qkv.attention_map(query, key, bias=bias_of(positions, offset), mask=qkv.causal(offset=offset))
    for row, at in enumerate(offset.tolist()):
        alone = qkv.attention_map(query[row], key[row, :, : at + 1], bias=positions)
        torch.testing.assert_close(moved.dense()[row, ..., : at + 1], alone.dense())
    assert positions.offset is None


def test_a_moved_bias_learns_as_the_whole():
    positions = qkv.T5Relative(2)
    moved = bias_of(positions, 1)
    assert moved.weight is positions.weight and moved.offset == 1


def test_places():
    tokens = torch.zeros(2, 3, dtype=torch.long)
    assert place("test", tokens, None, 8).tolist() == [0, 1, 2]
    assert place("test", tokens, None, 8, 4).tolist() == [4, 5, 6]
    assert place("test", tokens, None, 8, torch.tensor([4, 0])).tolist() == [[4, 5, 6], [0, 1, 2]]
    given = torch.tensor([[0, 1, 0], [0, 0, 1]])
    assert place("test", tokens, given, 8) is given


def test_a_score_for_each_layer():
    shared = qkv.Bilinear(4, 4)
    assert for_layer(shared) is shared and for_layer(None) is None and for_layer(qkv.softmax()) == qkv.softmax()
    make = lambda: qkv.Bilinear(4, 4)  # noqa: E731
    first, second = for_layer(make), for_layer(make)
    assert isinstance(first, qkv.Bilinear) and first is not second


@pytest.mark.unhooked
@pytest.mark.parametrize(
    "make, kind, text",
    [
        (lambda: FeedForward(0, 4), errors.ArgumentError, "FeedForward: width must be >= 1; got 0"),
        (lambda: FeedForward(4, 0), errors.ArgumentError, "FeedForward: hidden must be >= 1; got 0"),
        (
            lambda: FeedForward(4, 4, None, 2),
            errors.ArgumentError,
            "FeedForward: dropout must lie in [0, 1]; got 2",
        ),
        (
            lambda: check_positions("Gpt", "rotary"),
            errors.KindError,
            "Gpt: positions must be positions of qkv; got 'rotary' (such as qkv.rotary(), qkv.alibi(heads), "
            "qkv.sinusoidal(width) or qkv.LearnedPositions(count, width))",
        ),
        (
            lambda: bias_of(qkv.dense_bias(torch.zeros(2, 2)), 3),
            errors.KindError,
            "bias_of: positions must take an offset for each row, as prompts differ in length; got dense_bias([2, 2]) "
            "(alibi and T5Relative do)",
        ),
        (
            lambda: place("Gpt", torch.zeros(2, 3), [0], 8),
            errors.KindError,
            "Gpt: positions must be a tensor of integers; got list",
        ),
        (
            lambda: place("Gpt", torch.zeros(2, 3), torch.zeros(2, dtype=torch.long), 8),
            errors.ShapeError,
            "Gpt: positions must have the tokens' shape [2, 3]; got [2]",
        ),
        (
            lambda: place("Gpt", torch.zeros(2, 3), torch.tensor([0, 8, 1]), 8),
            errors.ArgumentError,
            "Gpt: positions must lie in 0..7; got 8",
        ),
        (
            lambda: place("Gpt", torch.zeros(2, 3), None, 2),
            errors.ShapeError,
            "Gpt: tokens must have the shape [*batch, positions], at most 2 positions; got [2, 3]",
        ),
        (
            lambda: place("Gpt", torch.zeros(2, 3), None, 8, torch.tensor([1, 6])),
            errors.ShapeError,
            "Gpt: tokens must have the shape [*batch, positions], at most 8 positions; got [2, 3] after 6",
        ),
    ],
)
def test_errors(make, kind, text):
    with pytest.raises(kind) as raised:
        make()
    assert str(raised.value) == text
