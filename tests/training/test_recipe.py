"""Recipes: numbers that become the loop's options."""

import pytest

from qkv import errors
from qkv.training.recipe import Recipe
from qkv.training.schedules import constant, cosine, inverse_square_root, linear

TINY = {"width": 8, "layers": 1, "heads": 1, "steps": 100, "rate": 1e-3}


@pytest.mark.parametrize(
    ("name", "schedule"),
    [
        ("cosine", cosine(100, warm_up=10, last=0.1)),
        ("linear", linear(100, warm_up=10, last=0.1)),
        ("inverse_square_root", inverse_square_root(10)),
        ("constant", constant(10)),
    ],
)
def test_the_schedule_by_its_name(name, schedule):
    options = Recipe(**TINY, warm_up=10, schedule=name).options(seed=3)
    assert options.schedule == schedule
    assert (options.steps, options.rate, options.seed, options.betas) == (100, 1e-3, 3, (0.9, 0.98))


def test_a_short_training_warms_up_less():
    assert Recipe(**{**TINY, "steps": 5}).options().schedule == cosine(5, warm_up=4, last=0.1)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {"schedule": "x"},
            "Recipe: schedule must be one of cosine, linear, inverse_square_root, constant; got x",
        ),
        ({"width": 0}, "Recipe: width must be >= 1; got 0"),
        ({"warm_up": -1}, "Recipe: warm_up must be >= 0; got -1"),
    ],
)
def test_numbers_that_are_none(change, text):
    with pytest.raises(errors.ArgumentError) as raised:
        Recipe(**{**TINY, **change})
    assert str(raised.value) == text
