"""Schedules: factors known by hand, a peak of 1, and the texts of refusals."""

import math

import pytest
import torch

from qkv.errors import ArgumentError, KindError
from qkv.training.schedules import constant, cosine, inverse_square_root, linear


def factors(schedule, steps):
    return [schedule(step) for step in range(steps)]


def test_by_hand():
    assert factors(constant(), 3) == [1, 1, 1]
    assert factors(constant(warm_up=4), 5) == [0.25, 0.5, 0.75, 1, 1]
    assert factors(linear(4), 5) == [1, 0.75, 0.5, 0.25, 0]
    assert factors(linear(5, warm_up=2, last=0.2), 6) == pytest.approx([0.5, 1, 0.8, 0.6, 0.4, 0.2])
    assert factors(cosine(4), 5) == pytest.approx([1, 0.5 + math.sqrt(2) / 4, 0.5, 0.5 - math.sqrt(2) / 4, 0])
    assert factors(cosine(3, warm_up=2, last=0.5), 4) == pytest.approx([0.5, 1, 0.75, 0.5])
    assert factors(inverse_square_root(2), 8) == pytest.approx([0.5] + [math.sqrt(2 / t) for t in range(2, 9)])


def test_the_papers_rate_peaks_where_its_formula_does():
    schedule, width, warm_up = inverse_square_root(4000), 512, 4000
    peak = width**-0.5 * warm_up**-0.5
    for step in (1, 17, 3999, 4000, 4001, 100_000):
        paper = width**-0.5 * min(step**-0.5, step * warm_up**-1.5)
        assert peak * schedule(step - 1) == pytest.approx(paper, rel=1e-12)


def test_the_cosine_is_torchs():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    for step in range(10):
        assert cosine(10)(step) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize("schedule", [constant(7), linear(20, 7), cosine(20, 7), inverse_square_root(7)])
def test_every_schedule_rises_to_one_and_never_above(schedule):
    assert factors(schedule, 7) == [(step + 1) / 7 for step in range(7)]
    assert all(0 <= factor < 1 for factor in factors(schedule, 40)[7:]) or schedule == constant(7)


def test_after_its_end_a_schedule_stays():
    assert linear(4, last=0.1)(100) == pytest.approx(0.1) and cosine(4, last=0.1)(100) == pytest.approx(0.1)
    assert linear(4, warm_up=4)(3) == 1 and linear(1)(0) == 1 and cosine(1)(1) == 0


def test_equal_numbers_make_equal_schedules_that_say_what_they_are():
    assert cosine(10, 2) == cosine(10, warm_up=2) != cosine(10)
    assert repr(cosine(10, 2)) == "cosine(steps=10, warm_up=2, last=0.0)"


@pytest.mark.unhooked
@pytest.mark.parametrize(
    ("make", "kind", "text"),
    [
        (lambda: constant(-1), ArgumentError, "constant: warm_up must be >= 0; got -1"),
        (lambda: inverse_square_root(0), ArgumentError, "inverse_square_root: warm_up must be >= 1; got 0"),
        (lambda: linear(0), ArgumentError, "linear: steps must be >= 1; got 0"),
        (lambda: cosine(2.5), KindError, "cosine: steps must be an integer; got float"),
        (lambda: cosine(10, 11), ArgumentError, "cosine: warm_up must be at most the 10 steps; got 11"),
        (lambda: linear(10, last=2.0), ArgumentError, "linear: last must lie in [0, 1]; got 2.0"),
        (lambda: linear(10, last="0"), KindError, "linear: last must be a number; got str"),
        (lambda: cosine(10, last=math.nan), ArgumentError, "cosine: last must lie in [0, 1]; got nan"),
    ],
)
def test_the_text_of_a_refusal(make, kind, text):
    with pytest.raises(kind) as refused:
        make()
    assert str(refused.value) == text
