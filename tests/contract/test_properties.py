"""Properties over random combinations of all choices, shapes and dtypes."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from budget import assert_within
from cases import CHOICES, PARTS, Case, build, inputs
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import qkv
from qkv.attention import call_of
from qkv.masks.algebra import Mask

pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module")

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Drawn:
    """Inputs in float64 that a narrower dtype holds exactly, and parts."""

    query: Tensor
    key: Tensor
    value: Tensor
    dtype: torch.dtype
    parts: dict[str, Any] = field(default_factory=dict)

    def run(self, dtype: torch.dtype, impl: str) -> Tensor:
        tensors = (x.to(dtype) for x in (self.query, self.key, self.value))
        return qkv.attend(*tensors, **Case("", self.parts).to(dtype).parts, impl=impl)

    def seen(self) -> Tensor:
        """Say which pairs may meet."""
        *batch, heads, queries, _ = self.query.shape
        seen = torch.ones(*batch, heads, queries, self.key.shape[-2], dtype=torch.bool)
        if self.parts["mask"] is not None:
            seen &= self.parts["mask"].dense(queries, seen.shape[-1], batch=tuple(batch), heads=heads)
        return seen


@st.composite
def masks(draw: st.DrawFn, batch: tuple[int, ...], heads: int, queries: int, keys: int, depth: int = 2) -> Mask:
    kind = draw(st.sampled_from(["leaf", "and", "or", "not"])) if depth else "leaf"
    rows = torch.Size(batch).numel()

    def lengths(most: int) -> Tensor:
        return torch.tensor(draw(st.lists(st.integers(0, most), min_size=rows, max_size=rows))).long().reshape(batch)

    if kind == "leaf":
        draw_ = torch.Generator().manual_seed(draw(st.integers(0, 99)))
        return draw(
            st.sampled_from(
                [
                    qkv.causal(),
                    qkv.causal(offset=lengths(keys + 1)),
                    qkv.window(draw(st.integers(1, 4))),
                    qkv.prefix(draw(st.integers(0, 3))),
                    qkv.padding(keys=lengths(keys)),
                    qkv.padding(keys=lengths(keys), queries=lengths(queries)),
                    qkv.dense_mask(torch.rand(heads, queries, keys, generator=draw_) < 0.7),
                ]
            )
        )
    left = draw(masks(batch, heads, queries, keys, depth - 1))
    if kind == "not":
        return ~left
    right = draw(masks(batch, heads, queries, keys, depth - 1))
    return left & right if kind == "and" else left | right


@st.composite
def calls(draw: st.DrawFn, positional: bool = True) -> Drawn:
    batch = draw(st.sampled_from([(), (2,), (1, 2), (0,)]))
    key_heads = draw(st.integers(1, 2))
    heads = key_heads * draw(st.integers(1, 3))
    queries, keys = draw(st.sampled_from([0, 1, 2, 5])), draw(st.sampled_from([0, 1, 2, 7]))
    width, value_width = draw(st.sampled_from([1, 4])), draw(st.sampled_from([0, 1, 4, 6]))
    dtype = draw(st.sampled_from(DTYPES))
    noise = torch.Generator().manual_seed(draw(st.integers(0, 99)))

    def normal(*shape: int) -> Tensor:
        return torch.randn(*batch, *shape, generator=noise).to(dtype).double()

    torch.manual_seed(0)
    score = draw(
        st.sampled_from(
            [
                None,
                qkv.dot(),
                qkv.scaled_dot(scale=-0.7),
                qkv.cosine(0.5),
                qkv.soft_cap(qkv.scaled_dot(), 1.5),
                qkv.Bilinear(query=width, key=width),
                qkv.Additive(query=width, key=width, hidden=3),
                *([qkv.Location(query=width, keys=9)] if positional else []),
            ]
        )
    )
    bias = draw(
        st.sampled_from(
            [
                None,
                qkv.alibi(heads=heads),
                qkv.T5Relative(heads, buckets=8, max_distance=16),
                qkv.dense_bias(torch.linspace(-1, 1, heads * queries * keys).view(heads, queries, keys)),
                qkv.dense_bias(torch.where(torch.arange(keys) % 3 > 0, 0.5, -torch.inf).view(1, keys)),
            ]
        )
        if positional
        else st.none()
    )
    mask = draw(st.none() | masks(batch, heads, queries, keys)) if positional else None
    # Sparse and hard selections jump where the last bit of a score does, which a budget does not foresee.
    smooth = [None, qkv.sigmoid(), qkv.sink(torch.linspace(-1, 1, heads))]
    select = draw(st.sampled_from([*smooth, qkv.sparsemax(), qkv.entmax15()]))
    tensors = normal(heads, queries, width), normal(key_heads, keys, width), normal(key_heads, keys, value_width)
    return Drawn(*tensors, dtype, {"score": score, "bias": bias, "mask": mask, "select": select})


@settings(max_examples=300)
@given(calls())
def test_what_plan_picks_equals_the_definition(drawn: Drawn) -> None:
    output = drawn.run(drawn.dtype, "auto")
    plain = torch.float32 if drawn.dtype == torch.float64 else drawn.dtype
    exact = drawn.run(torch.float64, "reference")
    assert output.dtype == drawn.dtype
    assert output.shape == (*drawn.query.shape[:-1], drawn.value.shape[-1])
    if output.numel():
        rounded = drawn.value.to(drawn.dtype)
        assert_within(output, exact.detach(), drawn.run(plain, "reference").detach(), rounded)


@settings(max_examples=150)
@given(calls())
def test_a_row_without_a_key_is_exactly_zero_and_the_others_sum_to_one(drawn: Drawn) -> None:
    empty = ~drawn.seen().any(-1)
    for impl in ("auto", "reference"):
        assert (drawn.run(drawn.dtype, impl)[empty] == 0).all()
    parts = {**drawn.parts, "select": None}
    case = Case("", parts).to(torch.float32)
    seen = qkv.attention_map(drawn.query.float(), drawn.key.float(), **case.parts)
    weights, scores = seen.dense(), seen.scores()
    alive = (scores != -torch.inf).any(-1)
    torch.testing.assert_close(weights.sum(-1), alive.float(), rtol=0, atol=1e-6)
    assert (weights[scores == -torch.inf] == 0).all()
    assert seen.entropy().isfinite().all()


@settings(max_examples=100)
@given(calls(positional=False), st.integers(0, 99))
def test_the_order_of_the_keys_does_not_matter(drawn: Drawn, seed: int) -> None:
    order = torch.randperm(drawn.key.shape[-2], generator=torch.Generator().manual_seed(seed))
    turned = Drawn(drawn.query, drawn.key[..., order, :], drawn.value[..., order, :], torch.float64, drawn.parts)
    torch.testing.assert_close(turned.run(torch.float64, "auto"), drawn.run(torch.float64, "auto"))


@settings(max_examples=150)
@given(calls(), st.data())
def test_parts_of_the_keys_merge_to_the_whole(drawn: Drawn, data: st.DataObject) -> None:
    keys, heads = drawn.key.shape[-2], drawn.query.shape[-3]
    score = qkv.soft_cap(qkv.scaled_dot(), 1.5) if isinstance(drawn.parts["score"], qkv.Location) else None
    whole_mask = drawn.seen()
    edges = sorted(data.draw(st.lists(st.integers(0, keys), max_size=3)))
    outputs, levels = [], []
    for start, stop in zip([0, *edges], [*edges, keys], strict=True):
        part = drawn.key[..., start:stop, :], drawn.value[..., start:stop, :]
        mask = qkv.dense_mask(whole_mask[..., start:stop])
        output, seen = qkv.attend_with_map(drawn.query, *part, score=score, mask=mask)
        outputs.append(output)
        levels.append(seen.logsumexp())
    merged, level = qkv.merge_attention(outputs, levels)
    whole, seen = qkv.attend_with_map(drawn.query, drawn.key, drawn.value, score=score, mask=qkv.dense_mask(whole_mask))
    torch.testing.assert_close(merged, whole)
    torch.testing.assert_close(level, seen.logsumexp())
    assert level.shape == (*drawn.query.shape[:-1],) and heads == level.shape[-2]


@pytest.mark.parametrize("first", PARTS, ids=lambda card: card.name)
def test_every_pair_of_parts_can_be_asked_for_together(first: Any) -> None:
    """No two parts of different kinds refuse each other, and `explain` reads every call."""
    for second in PARTS:
        if second.kind != first.kind:
            parts = {CHOICES[card.kind]: build(card) for card in (first, second)}
            told = qkv.explain(*inputs(), **parts)
            assert told.backend in str(told) and 0 <= told.pairs_alive <= told.pairs_possible == 2 * 2 * 5 * 7
            every = {"score": None, "bias": None, "mask": None, "select": None, **parts}
            assert call_of("attend", *inputs(), **every, dropout=0.0).grid.keys == 7
