"""The definition as a backend: it takes everything, and counts every pair."""

import pytest
import torch

import qkv
from qkv.attention import call_of
from qkv.backends.plain import PLAIN
from qkv.core.call import Call

NOTHING = {"score": None, "bias": None, "mask": None, "select": None, "dropout": 0.0}
PAIRS = 2 * 4 * 5 * 7


def call(**parts: object) -> Call:
    query, key, value = torch.zeros(2, 4, 5, 8), torch.zeros(2, 2, 7, 8), torch.zeros(2, 2, 7, 3)
    return call_of("attend", query, key, value, **{**NOTHING, **parts})


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"score": qkv.soft_cap(qkv.cosine(), 2.0)},
        {"score": qkv.Additive(8, 8, 3)},
        {"bias": qkv.alibi(heads=4)},
        {"mask": qkv.causal() & ~qkv.window(2)},
        {"select": qkv.hard(sample=True)},
        {"select": qkv.entmax15(), "dropout": 0.5},
    ],
    ids=str,
)
def test_it_takes_everything(parts: dict) -> None:
    assert PLAIN.refuses(call(**parts)) is None and PLAIN.caveat(call(**parts)) == ""
    output, _ = PLAIN.run(call(**parts))
    assert output.shape == (2, 4, 5, 3) and (output == 0).all()


def test_it_is_named_for_what_it_is() -> None:
    assert PLAIN.name == "reference"


def test_its_cost_counts_every_pair_even_those_a_mask_hides() -> None:
    plain, masked = PLAIN.cost(call()), PLAIN.cost(call(mask=qkv.causal()))
    assert plain.pairs == masked.pairs == PAIRS
    # What may meet is one more number a pair, written and read.
    assert masked.bytes - plain.bytes == 8 * PAIRS
