"""Norms, their placements, the feed-forward layer by hand; positions act in the one place that is theirs."""

import pytest
import torch
from budget import assert_within
from torch import nn

import qkv
from qkv import errors
from qkv.models.layers import (
    MANY,
    Dropout,
    FeedForward,
    Gelu,
    added,
    batch_norm,
    bias_of,
    check_positions,
    for_layer,
    layer_norm,
    no_positions,
    place,
    post_norm,
    pre_norm,
    rms_norm,
    turning,
)

X = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def double(make, *arguments):
    return make(*arguments).double()


def test_layer_norm():
    expected = (X - X.mean(-1, keepdim=True)) / (X.var(-1, keepdim=True, correction=0) + 0.1).sqrt()
    torch.testing.assert_close(double(layer_norm(epsilon=0.1), 4)(X), expected)


def test_rms_norm():
    expected = X / (X.square().mean(-1, keepdim=True) + 0.1).sqrt()
    torch.testing.assert_close(double(rms_norm(epsilon=0.1), 4)(X), expected)


def test_batch_norm_is_over_all_tokens():
    norm = double(batch_norm(epsilon=0.1, momentum=1.0), 4)
    tokens = X.flatten(0, 1)
    expected = (X - tokens.mean(0)) / (tokens.var(0, correction=0) + 0.1).sqrt()
    torch.testing.assert_close(norm(X), expected)
    # What it has seen is what it norms by afterwards (torch keeps the unbiased variance).
    expected = (X - tokens.mean(0)) / (tokens.var(0) + 0.1).sqrt()
    torch.testing.assert_close(norm.eval()(X), expected)


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


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(), (3,), (100, 1001)])
def test_dropout_drops_its_share_and_keeps_the_mean(shape, rate):
    torch.manual_seed(0)
    x = torch.ones(shape, dtype=torch.float64, requires_grad=True)
    dropped = Dropout(rate)(x)
    dropped.sum().backward()
    assert torch.equal(x.grad, dropped.detach())
    kept = 1 / (1 - rate)
    assert set(dropped.flatten().tolist()) <= {0.0, kept}
    if x.numel() > 1000:
        assert abs((dropped == 0).double().mean() - rate) < 4 * (rate * (1 - rate) / x.numel()) ** 0.5
        # Neighbours know nothing of one another.
        four = (dropped.detach().flatten()[:100_000] == 0).double().view(-1, 4)
        assert (torch.corrcoef(four.T) - torch.eye(4)).abs().max() < 5 / 25_000**0.5


def test_dropout_is_seeded_and_off_at_rest():
    torch.manual_seed(0)
    first = Dropout(0.5)(X)
    torch.manual_seed(0)
    assert torch.equal(first, Dropout(0.5)(X)) and not torch.equal(first, Dropout(0.5)(X))
    assert Dropout(0.5).eval()(X) is X and torch.equal(Dropout(0.0)(X), X) and (Dropout(1.0)(X) == 0).all()


def test_dropout_of_half_precision_and_strided_tensors():
    x = torch.ones(50, 40, dtype=torch.bfloat16).T
    got = Dropout(0.5)(x)
    assert got.dtype == torch.bfloat16 and got.shape == (40, 50) and set(got.flatten().tolist()) == {0.0, 2.0}


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_dropout_and_gelu_on_any_number_of_threads(threads):
    x, before, got = torch.randn(90_001), torch.get_num_threads(), []
    for count in (1, threads):
        torch.set_num_threads(count)
        try:
            torch.manual_seed(0)
            got.append((Dropout(0.3)(x), Gelu("tanh")(x)))
        finally:
            torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*got, strict=True))


def test_dropout_is_differentiable_again_and_again():
    x = X.clone().requires_grad_()

    def dropped(x):
        torch.manual_seed(0)
        return Dropout(0.5)(x) ** 3

    assert torch.autograd.gradcheck(dropped, x) and torch.autograd.gradgradcheck(dropped, x)


@pytest.mark.parametrize("numbers", [MANY - 1, MANY, 3 * MANY + 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("approximate", ["tanh", "none"])
def test_gelu_is_torchs(approximate, dtype, numbers):
    x = (3 * torch.randn(2, numbers, generator=torch.Generator().manual_seed(0))).to(dtype).T.requires_grad_()
    above, results = torch.linspace(-1, 1, 2, dtype=dtype).expand(numbers, 2), []
    for module, given in ((Gelu, x), (nn.GELU, x), (nn.GELU, x.detach().double().requires_grad_())):
        out = module(approximate)(given)
        (first,) = torch.autograd.grad(out, given, above.to(given.dtype), retain_graph=True)
        (again,) = torch.autograd.grad(out, given, above.to(given.dtype), create_graph=True)
        (second,) = torch.autograd.grad(again.sum(), given)
        results.append((out, first, second))
    for ours, plain, exact in zip(*results, strict=True):
        if dtype == torch.float32:
            assert_within(ours, exact, plain)
        else:
            assert torch.equal(ours, plain)


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
        (lambda: layer_norm(epsilon=0), errors.ArgumentError, "layer_norm: epsilon must be a finite number > 0; got 0"),
        (lambda: rms_norm(epsilon="1"), errors.KindError, "rms_norm: epsilon must be a finite number > 0; got str"),
        (
            lambda: batch_norm(epsilon=-1),
            errors.ArgumentError,
            "batch_norm: epsilon must be a finite number > 0; got -1",
        ),
        (lambda: batch_norm(momentum=2), errors.ArgumentError, "batch_norm: momentum must lie in [0, 1]; got 2"),
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
            "bias_of: positions must know offsets, as rows stand apart; got dense_bias([2, 2]) (ALiBi's and T5's do)",
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
