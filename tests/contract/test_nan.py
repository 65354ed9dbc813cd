"""NaN and inf in keys and values: what no query may see is nowhere, what some may see reaches those alone.

The four cases are key or value × seen by none or by some. Of the second the definition alone makes its promise, for
outputs; `explain` says so of the other paths.
"""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import qkv
from qkv.core.card import Card, cards

BATCH, HEADS, KEY_HEADS, QUERIES, KEYS, DIM = 2, 4, 2, 5, 7, 8
PATHS = ("sdpa", "reference")
BAD = (torch.nan, torch.inf, -torch.inf)


def _hiding(*columns: int) -> Tensor:
    """Show a batch of pairs to everyone, but the given keys of the first example to no one."""
    seen = torch.ones(BATCH, 1, QUERIES, KEYS, dtype=torch.bool)
    seen[0, :, :, list(columns)] = False
    return seen


def _rows_differ() -> Tensor:
    """Show key 4 of the first example to its queries 1 and 3, in every head."""
    seen = torch.ones(BATCH, HEADS, QUERIES, KEYS, dtype=torch.bool)
    seen[0, :, [0, 2, 4], 4] = False
    return seen


def _heads_differ() -> Tensor:
    """Show key 4 of the first example to one of the two query heads that share a key head."""
    seen = torch.ones(BATCH, HEADS, QUERIES, KEYS, dtype=torch.bool)
    seen[0, [0, 2, 3], :, 4] = False
    return seen


def _bias(seen: Tensor) -> Tensor:
    return torch.where(seen, torch.linspace(-1, 1, KEYS), -torch.inf)


@dataclass
class Case:
    """A choice of masks and biases, and the key of the first example that turns bad."""

    name: str
    key: int
    choices: dict[str, Any]

    def __str__(self) -> str:
        return self.name

    def seen(self) -> Tensor:
        """Say which pairs may meet, for all examples and heads."""
        shape = (BATCH, HEADS, QUERIES, KEYS)
        mask, bias = self.choices.get("mask"), self.choices.get("bias")
        seen = torch.ones(shape, dtype=torch.bool)
        if mask is not None:
            seen = seen & (mask if isinstance(mask, Tensor) else mask.dense(QUERIES, KEYS, batch=(BATCH,), heads=HEADS))
        return seen if bias is None else seen & (bias > -torch.inf)


LENGTHS = torch.tensor([6, 7])
SEEN_BY_NONE = [
    Case("padding of keys", 6, {"mask": qkv.padding(keys=LENGTHS)}),
    Case("padding of keys and queries", 6, {"mask": qkv.padding(keys=LENGTHS, queries=torch.tensor([3, 0]))}),
    Case("padding by flags", 3, {"mask": qkv.padding(keys=_hiding(3)[:, 0, 0])}),
    Case("documents", 6, {"mask": qkv.documents(torch.tensor([[3, 3], [3, 4]]))}),
    Case("documents without a query", 1, {"mask": qkv.documents(torch.tensor([[2, 5], [3, 4]]))}),
    Case("causal from the first key", 5, {"mask": qkv.causal(offset=0)}),
    Case("window", 0, {"mask": qkv.window(3, offset=4)}),
    Case("dense mask", 2, {"mask": _hiding(0, 2)}),
    Case("combined masks", 6, {"mask": qkv.causal() & qkv.padding(keys=LENGTHS)}),
    Case("bias of −inf", 2, {"bias": _bias(_hiding(2))}),
    Case("bias of −inf and a mask", 2, {"bias": _bias(_hiding(0, 2)), "mask": qkv.causal()}),
]
SEEN_BY_SOME = [
    Case("padding of queries", 4, {"mask": qkv.padding(keys=LENGTHS, queries=torch.tensor([3, 0]))}),
    Case("documents", 4, {"mask": qkv.documents(torch.tensor([[3, 3], [3, 4]]))}),
    Case("causal", 6, {"mask": qkv.causal()}),
    Case("window", 5, {"mask": qkv.window(2)}),
    Case("dense mask", 4, {"mask": _rows_differ()}),
    Case("dense mask of heads", 4, {"mask": _heads_differ()}),
    Case("bias of −inf", 4, {"bias": _bias(_rows_differ())}),
]


def _inputs() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "query": torch.randn(BATCH, HEADS, QUERIES, DIM, generator=generator),
        "key": torch.randn(BATCH, KEY_HEADS, KEYS, DIM, generator=generator),
        "value": torch.randn(BATCH, KEY_HEADS, KEYS, DIM, generator=generator),
    }


def _spoilt(inputs: dict[str, Tensor], place: str, at: int, bad: float) -> dict[str, Tensor]:
    """Turn one number of one position bad in the first example's heads."""
    tensor = inputs[place].clone()
    tensor[0, :, at, 1] = bad
    return {**inputs, place: tensor}


def _run(inputs: dict[str, Tensor], case: Case, impl: str) -> list[Tensor]:
    """Attend, and give the output and the gradients of query, key and value (0 where a score reads no key)."""
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in inputs.items()}
    output = qkv.attend(**leaves, **case.choices, impl=impl)
    upstream = torch.linspace(-1, 1, output.numel()).view_as(output)
    return [output.detach(), *torch.autograd.grad(output, list(leaves.values()), upstream, materialize_grads=True)]


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("impl", PATHS)
@pytest.mark.parametrize("case", SEEN_BY_NONE, ids=str)
@pytest.mark.parametrize("place", ["key", "value"])
def test_seen_by_none_reaches_nothing(place: str, case: Case, impl: str, bad: float) -> None:
    assert not case.seen()[0, :, :, case.key].any()
    inputs = _inputs()
    clean, spoilt = _run(inputs, case, impl), _run(_spoilt(inputs, place, case.key, bad), case, impl)
    for name, want, got in zip(("output", "query", "key", "value"), clean, spoilt, strict=True):
        assert got.isfinite().all(), name
        assert torch.equal(got, want), name
    assert not spoilt[2][0, :, case.key].any() and not spoilt[3][0, :, case.key].any()


ARGUMENT = {"score": "score", "bias": "bias", "mask": "mask", "selection": "select"}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("card", [card for card in cards() if card.kind in ARGUMENT], ids=lambda card: card.name)
@pytest.mark.parametrize("place", ["key", "value"])
def test_seen_by_none_reaches_nothing_whatever_is_chosen(place: str, card: Card, bad: float) -> None:
    torch.manual_seed(0)
    built = card.build()
    mask = qkv.padding(keys=LENGTHS) & built if card.kind == "mask" else qkv.padding(keys=LENGTHS)
    case = Case(card.name, 6, {ARGUMENT[card.kind]: built, "mask": mask})
    inputs = _inputs()
    # Cards are built for two heads.
    inputs["query"] = inputs["query"][:, :2]
    results = []
    for each in (inputs, _spoilt(inputs, place, case.key, bad)):
        torch.manual_seed(0)
        results.append(_run(each, case, "auto"))
    for want, got in zip(*results, strict=True):
        assert got.isfinite().all()
        assert torch.equal(got, want)


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("case", SEEN_BY_SOME, ids=str)
@pytest.mark.parametrize("place", ["key", "value"])
def test_seen_by_some_reaches_no_other_in_the_definition(place: str, case: Case, bad: float) -> None:
    sees = case.seen()[..., case.key]
    sees[1] = False
    assert sees.any() and not sees[0].all()
    inputs = _inputs()
    clean = _run(inputs, case, "reference")[0]
    spoilt = _run(_spoilt(inputs, place, case.key, bad), case, "reference")[0]
    assert torch.equal(spoilt[~sees], clean[~sees])
    if place == "value":
        # The weight of a key that is seen is positive, so its inf stays inf, in the one feature where it stands.
        assert torch.equal(spoilt[sees][:, 1].nan_to_num(7), torch.full_like(spoilt[sees][:, 1], bad).nan_to_num(7))
        assert torch.equal(spoilt[sees][:, 2:], clean[sees][:, 2:])
    elif bad != bad:
        assert spoilt[sees].isnan().all()


@pytest.mark.parametrize("case", SEEN_BY_SOME, ids=str)
def test_a_path_that_cannot_promise_it_says_so(case: Case) -> None:
    text = "NaN or inf in a key or value that only some queries see may reach the others"
    assert text in str(qkv.explain(**_inputs(), **case.choices, impl="sdpa"))
    assert text in str(qkv.explain(**_inputs(), **case.choices, dropout=0.1, impl="stream"))
    assert text not in str(qkv.explain(**_inputs(), **case.choices, impl="reference"))


@pytest.mark.parametrize("impl", PATHS)
def test_a_query_that_sees_nothing_reaches_nothing(impl: str) -> None:
    case = Case("padding of queries", 0, {"mask": qkv.padding(keys=LENGTHS, queries=torch.tensor([3, 5]))})
    clean, spoilt = _run(_inputs(), case, impl), _run(_spoilt(_inputs(), "query", 4, torch.nan), case, impl)
    for want, got in zip(clean, spoilt, strict=True):
        assert torch.equal(got, want)
    assert not spoilt[0][0, :, 3:].any() and not spoilt[1][0, :, 3:].any()


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("case", SEEN_BY_NONE, ids=str)
def test_a_map_never_sees_what_no_query_sees(case: Case, bad: float) -> None:
    inputs = _inputs()
    spoilt = _spoilt(inputs, "key", case.key, bad)
    maps = [qkv.attention_map(each["query"], each["key"], **case.choices) for each in (inputs, spoilt)]
    clean, seen = (torch.cat([m.dense().flatten(), m.entropy().flatten(), m.received().flatten()]) for m in maps)
    assert torch.equal(seen, clean)


@pytest.mark.parametrize("impl", PATHS)
@pytest.mark.parametrize("case", [*SEEN_BY_NONE, *SEEN_BY_SOME, Case("every pair", 0, {})], ids=str)
def test_what_lies_around_the_inputs_in_memory_is_never_read(case: Case, impl: str) -> None:
    inputs, cut = _inputs(), {}
    for name, tensor in inputs.items():
        batch, heads, positions, dim = tensor.shape
        around = torch.full((batch + 1, heads + 2, positions + 4, dim + 3), torch.nan)
        cut[name] = around[1:, 1:-1, 3:-1, 2:-1]
        cut[name].copy_(tensor)
    leaves = {name: tensor.requires_grad_() for name, tensor in cut.items()}
    output = qkv.attend(**leaves, **case.choices, impl=impl)
    upstream = torch.linspace(-1, 1, output.numel()).view_as(output)
    for got, want in zip(
        [output, *torch.autograd.grad(output, list(leaves.values()), upstream)], _run(inputs, case, impl), strict=True
    ):
        assert got.isfinite().all()
        torch.testing.assert_close(got, want)
