"""Cross-entropy in chunks: PyTorch's own numbers and gradients, and never a tensor of places × vocabulary."""

import math

import pytest
import torch
from budget import assert_gradients_within, assert_within
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from qkv import errors
from qkv.models.cross_entropy import MANY, cross_entropy


def draw(places=7, width=5, vocabulary=11, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    hidden, weight, bias = (
        torch.randn(*shape, dtype=dtype, generator=generator).requires_grad_()
        for shape in ((places, width), (vocabulary, width), (vocabulary,))
    )
    targets = torch.randint(vocabulary, (places,), generator=generator)
    targets[1::3] = -1
    return hidden, weight, targets, bias


def plain(hidden, weight, targets, bias, smoothing=0.0):
    logits = F.linear(hidden, weight, bias)
    return F.cross_entropy(logits, targets, ignore_index=-1, reduction="sum", label_smoothing=smoothing)


def test_by_hand():
    hidden, weight = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    got = cross_entropy(hidden, weight, torch.tensor([0, 2]))
    expected = math.log(math.e + 2) - 1 + math.log(math.e**2 + 2)
    torch.testing.assert_close(got, torch.tensor(expected))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("chunk", [1, 3, 7, 100, None])
@pytest.mark.parametrize("biased", [True, False])
def test_equals_pytorch(biased, chunk, smoothing):
    hidden, weight, targets, bias = draw()
    learned = [hidden, weight] + [bias] * biased
    bias = bias if biased else None
    ours = cross_entropy(hidden, weight, targets, bias, smoothing=smoothing, chunk=chunk)
    theirs = plain(hidden, weight, targets, bias, smoothing)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    # The factor shows that a gradient from above is passed on.
    for got, wanted in zip(
        torch.autograd.grad(ours * 3, learned), torch.autograd.grad(theirs * 3, learned), strict=True
    ):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_many_logits_within_the_budget(threads, smoothing):
    drawn, before = draw(places=70, width=8, vocabulary=MANY // 50, dtype=torch.float32), torch.get_num_threads()
    wide = [x.detach().double().requires_grad_() if x.is_floating_point() else x for x in drawn]
    torch.set_num_threads(threads)
    try:
        ours = cross_entropy(*drawn, smoothing=smoothing)
        found = torch.autograd.grad(ours, (drawn[0], drawn[1], drawn[3]))
    finally:
        torch.set_num_threads(before)
    (right, exact), (rough, similar) = (
        (loss, torch.autograd.grad(loss, (some[0], some[1], some[3])))
        for some in (wide, drawn)
        for loss in [plain(*some, smoothing)]
    )
    assert_within(ours[None], right[None], rough[None])
    assert_gradients_within(found, exact, similar)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_gradcheck(smoothing):
    hidden, weight, targets, bias = draw()
    assert torch.autograd.gradcheck(
        lambda *x: cross_entropy(*x[:2], targets, x[2], smoothing=smoothing, chunk=2), (hidden, weight, bias)
    )


def test_the_gradient_can_be_taken_twice_from_one_pass():
    hidden, weight, targets, bias = draw()
    loss = cross_entropy(hidden, weight, targets, bias)
    first = torch.autograd.grad(loss, weight, retain_graph=True)
    assert torch.equal(*first, *torch.autograd.grad(loss, weight))


def test_no_places_and_no_targets_cost_nothing():
    hidden, weight, targets, bias = draw(places=0)
    loss = cross_entropy(hidden, weight, targets, bias)
    loss.backward()
    assert loss == 0 and (weight.grad == 0).all()
    hidden, weight, targets, bias = draw()
    loss = cross_entropy(hidden, weight, torch.full_like(targets, -1), bias, smoothing=0.1)
    loss.backward()
    assert loss == 0 and (hidden.grad == 0).all() and (weight.grad == 0).all() and (bias.grad == 0).all()


def test_an_ignored_place_may_hold_anything_finite():
    hidden, weight, targets, bias = draw()
    with torch.no_grad():
        hidden[1] = 1e30
    cross_entropy(hidden, weight, targets, bias).backward()
    assert weight.grad.isfinite().all() and (hidden.grad[1] == 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_wide(dtype):
    hidden, weight, targets, bias = draw(places=600, vocabulary=300, dtype=dtype)
    loss = cross_entropy(hidden, weight, targets, bias, chunk=7)
    wide = [x.detach().double().requires_grad_() for x in (hidden, weight, bias)]
    expected = plain(*wide[:2], targets, wide[2])
    assert loss.dtype == torch.float32
    # Logits are rounded to the dtype (products of it), their sum is not.
    torch.testing.assert_close(loss.double(), expected, rtol=2 * torch.finfo(dtype).eps, atol=0)
    loss.backward()
    expected.backward()
    for got, wanted in zip((hidden, weight, bias), wide, strict=True):
        assert got.grad.dtype == dtype
        error = (got.grad.double() - wanted.grad).abs().max() / wanted.grad.abs().max()
        assert error < 2 * torch.finfo(dtype).eps


def test_autocast_lowers_the_products_alone():
    hidden, weight, targets, bias = draw(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = cross_entropy(hidden, weight, targets, bias)
    lowered = cross_entropy(hidden.bfloat16(), weight.bfloat16(), targets, bias.bfloat16())
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, lowered, rtol=0.01, atol=0)
    assert not torch.equal(loss, cross_entropy(hidden, weight, targets, bias))
    assert {x.dtype for x in torch.autograd.grad(loss, (hidden, weight, bias))} == {torch.float32}


class Largest(TorchDispatchMode):
    """Keeps the size of the largest tensor that any operation gives."""

    size = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        self.size = max(self.size, *sizes, 0)
        return out


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_places_times_vocabulary_is_never_stored(smoothing):
    places, width, vocabulary, chunk = 4096, 4, 2048, 64
    hidden, weight, targets, bias = draw(places, width, vocabulary, torch.float32)
    with Largest() as seen:
        cross_entropy(hidden, weight, targets, bias, smoothing=smoothing, chunk=chunk).backward()
    assert seen.size == chunk * vocabulary
    with Largest() as seen:
        plain(hidden, weight, targets, bias, smoothing).backward()
    assert seen.size == places * vocabulary


def test_the_default_chunk_is_bounded():
    hidden, weight, targets, bias = draw(2000, 2, 5000, torch.float32)
    with Largest() as seen:
        cross_entropy(hidden, weight, targets, bias)
    assert seen.size <= 1 << 21


def test_without_gradients_none_are_made():
    hidden, weight, targets, bias = draw()
    with Largest() as seen, torch.no_grad():
        cross_entropy(hidden, weight, targets, bias, chunk=1)
    assert seen.size <= max(hidden.numel(), weight.numel())
    assert not cross_entropy(hidden.detach(), weight.detach(), targets).requires_grad


def test_a_second_derivative_is_refused():
    hidden, weight, targets, bias = draw()
    with pytest.raises(errors.UnsupportedError) as raised:
        torch.autograd.grad(cross_entropy(hidden, weight, targets, bias), weight, create_graph=True)
    text = "cross_entropy: a gradient must be differentiated once; got create_graph=True"
    assert str(raised.value) == text


@pytest.mark.unhooked
@pytest.mark.parametrize(
    "change, kind, text",
    [
        ({"hidden": [1]}, errors.KindError, "hidden must be a floating tensor; got list"),
        ({"hidden": torch.ones(7).double()}, errors.ShapeError, "hidden must have the shape [places, width]; got [7]"),
        (
            {"weight": torch.ones(5).double()},
            errors.ShapeError,
            "weight must have the shape [vocabulary, width]; got [5]",
        ),
        ({"hidden": torch.ones(7, 4).double()}, errors.ShapeError, "hidden must have the width 5; got 4 ([7, 4])"),
        ({"bias": torch.ones(3).double()}, errors.ShapeError, "bias must have the width 11; got 3 ([3])"),
        (
            {"hidden": torch.ones(7, 5)},
            errors.KindError,
            "hidden must have the weights' dtype torch.float64; got torch.float32 (module.to(torch.float32))",
        ),
        ({"targets": torch.ones(7)}, errors.KindError, "targets must be a tensor of integers; got torch.float32"),
        (
            {"targets": torch.ones(6, dtype=torch.long)},
            errors.ShapeError,
            "targets must have the shape [7], one for each place; got [6]",
        ),
        (
            {"targets": torch.full((7,), 11)},
            errors.ArgumentError,
            "targets must lie below the vocabulary of 11, or be negative where there is none; got 11",
        ),
        ({"smoothing": 1.5}, errors.ArgumentError, "smoothing must lie in [0, 1]; got 1.5"),
        ({"chunk": 0}, errors.ArgumentError, "chunk must be >= 1; got 0 (how many places are computed at once)"),
    ],
)
def test_errors(change, kind, text):
    hidden, weight, targets, bias = draw()
    given = {"hidden": hidden, "weight": weight, "targets": targets, "bias": bias} | change
    with pytest.raises(kind) as raised:
        cross_entropy(**given)
    assert str(raised.value) == f"cross_entropy: {text}"


@pytest.mark.compile
def test_compiles_in_one_graph():
    hidden, weight, targets, bias = draw(dtype=torch.float32)
    compiled = torch.compile(cross_entropy, fullgraph=True, backend="aot_eager")
    ours, expected = compiled(hidden, weight, targets, bias), cross_entropy(hidden, weight, targets, bias)
    torch.testing.assert_close(ours, expected)
    got, wanted = (torch.autograd.grad(loss, (hidden, weight, bias)) for loss in (ours, expected))
    torch.testing.assert_close(got, wanted)
