"""Dropout drops its share, the same by any number of threads; GELU is torch's."""

import pytest
import torch
from budget import assert_within
from torch import nn

from qkv.models.pointwise import MANY, Dropout, Gelu

X = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


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
