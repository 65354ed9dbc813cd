"""The budget by hand, and that it can fail."""

import pytest
import torch
from budget import assert_gradients_within, assert_within, budget, last_place


def test_last_places() -> None:
    sizes = torch.tensor([1.0, 1.5, 2.0, 0.75, 0.0], dtype=torch.float64)
    expected = torch.tensor([2**-23, 2**-23, 2**-22, 2**-24, 2**-149], dtype=torch.float64)
    assert torch.equal(last_place(sizes, torch.float32), expected)
    assert last_place(sizes, torch.bfloat16)[0] == 2**-7


def test_budget_by_hand() -> None:
    exact = torch.tensor([[[1.0, 0.25], [0.5, 0.5]]], dtype=torch.float64)
    plain = (exact + torch.tensor([[[0.0, 0.125], [0.0, 0.0]]])).to(torch.bfloat16)
    own = torch.tensor([[[2**-7], [2**-8]]], dtype=torch.float64)
    assert torch.equal(budget(exact, plain), 0.25 + 4 * own)
    value = torch.tensor([[[3.0, -5.0]]])
    assert torch.equal(budget(exact, plain, value), torch.full((1, 1, 1), 0.25 + 4 * 2.0**-5, dtype=torch.float64))


def test_each_query_head_is_measured_by_its_own_key_head() -> None:
    exact = torch.zeros(4, 1, 1, dtype=torch.float64)
    value = torch.tensor([1.0, 2.0]).view(2, 1, 1)
    assert budget(exact, exact.float(), value).flatten().tolist() == [2**-21, 2**-21, 2**-20, 2**-20]


def test_float64_is_measured_by_what_float32_errs() -> None:
    exact = torch.ones(1, 1, 1, dtype=torch.float64)
    plain = exact.float() + 2**-20
    assert budget(exact, plain, dtype=torch.float64).item() == 2 * 2**-49 + 4 * 2**-52


def test_within_and_beyond() -> None:
    exact = torch.tensor([[[1.0, 1.0]]], dtype=torch.float64)
    assert_within(exact.float() + 4 * 2**-23, exact, exact.float())
    text = r"weights: 1 of 2 elements are over budget \(torch.float32\); at \[0, 0, 1\] 1.00000\d+ is not 1: off by"
    with pytest.raises(AssertionError, match=text):
        assert_within(exact.float() + torch.tensor([0, 5 * 2**-23]), exact, exact.float(), what="weights")


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_must_stand_where_it_belongs(bad: float) -> None:
    exact = torch.tensor([[[bad, 1.0]]], dtype=torch.float64)
    assert_within(exact.float(), exact, torch.ones(1, 1, 2))
    for wrong in ([0.0, 1.0], [bad, bad], [-torch.inf, 1.0]):
        with pytest.raises(AssertionError, match="over budget"):
            assert_within(torch.tensor([[wrong]]), exact, exact.float())


def test_nothing_is_within() -> None:
    empty = torch.zeros(2, 0, 3, dtype=torch.float64)
    assert_within(empty.float(), empty, empty.float(), torch.zeros(2, 0, 3))


def test_gradients_are_measured_together() -> None:
    exact = [torch.zeros(1, 1, 1, dtype=torch.float64), torch.full((1, 1, 1), 4.0, dtype=torch.float64)]
    plain = [each.float() for each in exact]
    assert_gradients_within([plain[0] + 2**-19, plain[1]], exact, plain)
    with pytest.raises(AssertionError, match=r"^scores: gradient 0: 1 of 1 elements are over budget"):
        assert_gradients_within([plain[0] + 2**-18, plain[1]], exact, plain, what="scores")
