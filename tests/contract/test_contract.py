"""What every part and every mechanism promises. Each test runs over the table that the cards make (cases.py)."""

import pytest
import torch
from budget import assert_within
from cases import (
    BATCH,
    HEADS,
    KEYS,
    MECHANISMS,
    PARTS,
    QUERIES,
    SELECTIONS,
    STRAIGHT_THROUGH,
    WIDTH,
    Case,
    build,
    case_of,
    inputs,
    same,
)
from torch import Tensor
from torch.autograd import gradcheck

import qkv
from qkv.attention import call_of
from qkv.core import map as map_module
from qkv.core.card import Card
from qkv.plan import make_plan

EVERY_PART = pytest.mark.parametrize("card", PARTS, ids=lambda card: card.name)
EVERY_SELECTION = pytest.mark.parametrize("card", SELECTIONS, ids=lambda card: card.name)
EVERY_MECHANISM = pytest.mark.parametrize("card", MECHANISMS, ids=lambda card: card.name)

# Query 1 sees nothing; query 3 sees one key.
SEEN = torch.ones(QUERIES, KEYS, dtype=torch.bool)
SEEN[1], SEEN[3, 1:] = False, False
HALVES = (torch.float16, torch.bfloat16)


def masked(case: Case, mask: qkv.Mask) -> Case:
    """Hide more than the case does."""
    return case.with_(mask=case.parts["mask"] & mask if "mask" in case.parts else mask)


def ways(case: Case, dtype: torch.dtype = torch.float32) -> list[str]:
    """Name the ways that can compute a case: the definition, and each fast path that does not refuse."""
    query, key, value = inputs(dtype)
    parts = {"score": None, "bias": None, "mask": None, "select": None, **case.parts}
    chosen = make_plan("attend", call_of("attend", query, key, value, **parts, dropout=0.0)).backend.name
    return sorted({"reference", chosen})


def sum_of_gradients(case: Case, results: list[Tensor], leaves: list[Tensor]) -> list[Tensor]:
    found = torch.autograd.grad(sum(result.square().sum() for result in results), leaves, allow_unused=True)
    return [torch.zeros_like(leaf) if grad is None else grad for leaf, grad in zip(leaves, found, strict=True)]


@EVERY_PART
def test_shapes(card: Card) -> None:
    case = case_of(card)
    output, seen = qkv.attend_with_map(*inputs(), **case.parts)
    assert output.shape == (BATCH, HEADS, QUERIES, WIDTH)
    assert seen.shape == seen.dense().shape == (BATCH, HEADS, QUERIES, KEYS)
    assert qkv.attend(*inputs(queries=1), **{**case.parts, "mask": None, "bias": None}).shape[-2:] == (1, WIDTH)


@EVERY_PART
@pytest.mark.parametrize("impl", ["auto", "reference"])
def test_a_masked_weight_is_exactly_zero_and_so_is_a_row_without_a_key(card: Card, impl: str) -> None:
    case = masked(case_of(card), qkv.dense_mask(SEEN))
    output, seen = qkv.attend_with_map(*inputs(), **case.parts, impl=impl)
    weights = seen.dense()
    allowed = case.parts["mask"].dense(QUERIES, KEYS, batch=(BATCH,), heads=HEADS).expand_as(weights)
    assert (weights[~allowed] == 0).all()
    assert weights.isfinite().all()
    empty = ~allowed.any(-1)
    assert empty[:, :, 1].all() and (output[empty] == 0).all()
    assert (seen.entropy()[empty] == 0).all()


@EVERY_PART
def test_gradients_stay_finite_beside_a_row_without_a_key(card: Card) -> None:
    case = masked(case_of(card), qkv.dense_mask(SEEN))
    for impl in ways(case):
        leaves = [x.requires_grad_() for x in (*inputs(), *case.parameters())]
        output, seen = qkv.attend_with_map(*leaves[:3], **case.parts, impl=impl)
        results = [output, seen.dense(), seen.entropy(), seen.received(), seen.row(1), seen[..., 1:3, 2:]]
        for grad in sum_of_gradients(case, results, leaves):
            assert grad.isfinite().all()
        grads = sum_of_gradients(case, [qkv.attend(*leaves[:3], **case.parts, impl=impl)[..., 1, :]], leaves)
        assert all((grad == 0).all() for grad in grads)


@EVERY_PART
@pytest.mark.parametrize("impl", ["auto", "reference"])
def test_the_future_cannot_leak(card: Card, impl: str) -> None:
    case = masked(case_of(card), qkv.causal())
    query, key, value = inputs()
    _, other_key, other_value = inputs(seed=1)
    before, seen = qkv.attend_with_map(query, key, value, **case.parts, impl=impl)
    for row in range(QUERIES - 1):
        past = torch.arange(KEYS)[:, None] <= KEYS - QUERIES + row
        changed = torch.where(past, key, 100 * other_key), torch.where(past, value, 100 * other_value)
        after, seen_after = qkv.attend_with_map(query, *changed, **case.parts, impl=impl)
        assert same(before[..., : row + 1, :], after[..., : row + 1, :])
        assert same(seen.row(row), seen_after.row(row))


@EVERY_PART
@pytest.mark.parametrize("impl", ["auto", "reference"])
def test_what_stands_in_the_padding_changes_no_bit(card: Card, impl: str) -> None:
    lengths = torch.tensor([4, 6])
    case = masked(case_of(card), qkv.padding(keys=lengths))
    query, key, value = inputs()
    other = inputs(seed=1)[1]
    real = (torch.arange(KEYS) < lengths[:, None])[:, None, :, None]

    def run(key: Tensor, value: Tensor) -> list[Tensor]:
        leaves = [x.clone().requires_grad_() for x in (query, key, value)]
        output, seen = qkv.attend_with_map(*leaves, **case.parts, impl=impl)
        return [output, seen.dense(), *torch.autograd.grad(output.square().sum(), leaves, allow_unused=True)]

    before = run(key, value)
    for rubbish in (100 * other, torch.full_like(key, torch.nan), torch.full_like(key, torch.inf)):
        after = run(torch.where(real, key, rubbish), torch.where(real, value, rubbish))
        for first, second in zip(before, after, strict=True):
            assert (first is None and second is None) or same(first, second)


@pytest.mark.parametrize("card", [card for card in PARTS if card.kind in ("score", "selection")], ids=lambda c: c.name)
def test_padding_taken_away_is_as_padding_hidden(card: Card) -> None:
    # A bias or a mask may stand on the number of keys, which this changes; those have tests of their own.
    lengths = torch.tensor([4, 6])
    query, key, value = inputs()
    parts = case_of(card).parts
    padded = qkv.attend(query, key, value, mask=qkv.padding(keys=lengths), **parts)
    for row, length in enumerate(lengths.tolist()):
        one = query[row], key[row, :, :length], value[row, :, :length]
        wide = case_of(card).to(torch.float64).parts
        exact = qkv.attend(*(x.double() for x in one), **wide, impl="reference")
        plain = qkv.attend(*one, **parts, impl="reference")
        assert_within(padded[row], exact, plain, one[2])


@EVERY_PART
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_gradients_by_finite_differences(card: Card) -> None:
    if card.name in STRAIGHT_THROUGH:
        return
    case = masked(case_of(card).to(torch.float64), qkv.dense_mask(SEEN))
    for impl in ways(case, torch.float64):
        leaves = [x.requires_grad_() for x in (*inputs(torch.float64), *case.parameters())]

        def run(query: Tensor, key: Tensor, value: Tensor, *_: Tensor, impl: str = impl) -> Tensor:
            return qkv.attend(query, key, value, **case.parts, impl=impl)

        assert gradcheck(run, leaves, fast_mode=True)


@EVERY_PART
@pytest.mark.parametrize(
    ("dtype", "hidden"),
    [
        (torch.float64, True),
        (torch.float32, True),
        (torch.float32, False),
        (torch.bfloat16, True),
        (torch.float16, False),
    ],
)
def test_every_way_is_within_its_budget_forward_and_backward(card: Card, dtype: torch.dtype, hidden: bool) -> None:
    case = case_of(card).to(dtype)
    case = masked(case, qkv.dense_mask(SEEN)) if hidden else case
    # In float64 the yardstick of plain PyTorch is a run in float32.
    plain_dtype = torch.float32 if dtype == torch.float64 else dtype

    def run(in_dtype: torch.dtype, impl: str) -> tuple[Tensor, list[Tensor]]:
        this = case.to(in_dtype)
        leaves = [x.to(in_dtype).detach().requires_grad_() for x in inputs(dtype)]
        output = qkv.attend(*leaves, **this.parts, impl=impl)
        assert output.dtype == in_dtype
        every = [*leaves, *(x.requires_grad_() for x in this.parameters())]
        return output, sum_of_gradients(this, [output.float() if in_dtype in HALVES else output], every)

    exact, exact_grads = run(torch.float64, "reference")
    plain, plain_grads = run(plain_dtype, "reference")
    for impl in ways(case, dtype):
        output, grads = run(dtype, impl)
        assert_within(output, exact.detach(), plain.detach(), inputs(dtype)[2], what=f"{impl} forward")
        # A gradient is a difference of what the rows pass on, so what it rounds by is the largest of all of them.
        largest = max(float(grad.abs().max()) for grad in exact_grads)
        for name, grad, exact_grad, plain_grad in zip("qkvabcdef", grads, exact_grads, plain_grads, strict=False):
            assert grad.dtype == dtype
            # What is learned sums over batch and heads as well.
            summed = largest if name in "qkv" else largest * BATCH * HEADS
            assert_within(grad, exact_grad, plain_grad, summed=summed, what=f"{impl} gradient of {name}")


@EVERY_PART
@pytest.mark.parametrize("key_heads", [1, 2])
def test_grouped_heads_are_repeated_heads(card: Card, key_heads: int) -> None:
    query, key, value = inputs(torch.float64, key_heads=key_heads)
    case = case_of(card).to(torch.float64)
    repeat = HEADS // key_heads
    for impl in ways(case, torch.float64):
        output, seen = qkv.attend_with_map(query, key, value, **case.parts, impl=impl)
        full = key.repeat_interleave(repeat, -3), value.repeat_interleave(repeat, -3)
        expected, all_seen = qkv.attend_with_map(query, *full, **case.parts, impl=impl)
        torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(seen.dense(), all_seen.dense(), rtol=1e-12, atol=1e-12)
        for head in range(HEADS):
            torch.testing.assert_close(seen.head(head).dense(), all_seen.dense()[:, head : head + 1])


@EVERY_PART
@pytest.mark.parametrize("tile", [1, 40, 1 << 21])
@pytest.mark.parametrize("asked_first", [False, True], ids=["fresh", "kept"])
def test_all_that_a_map_answers_is_in_its_dense_form(
    card: Card, tile: int, asked_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(map_module, "TILE_NUMBERS", tile)
    case = masked(case_of(card).to(torch.float64), qkv.dense_mask(SEEN))
    query, key, value = (x.requires_grad_() for x in inputs(torch.float64, key_heads=1))
    leaves = [query, key, *(x.requires_grad_() for x in case.parameters())]
    output, kept = qkv.attend_with_map(query, key, value, **case.parts, impl="reference")
    fresh = qkv.attention_map(query, key, **case.parts)
    seen = kept if asked_first else fresh
    monkeypatch.setattr(map_module, "TILE_NUMBERS", 1 << 21)
    weights = qkv.attention_map(query, key, **case.parts).dense()
    monkeypatch.setattr(map_module, "TILE_NUMBERS", tile)

    def agree(actual: Tensor, expected: Tensor) -> None:
        torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-12)

    def agree_with_gradients(actual: Tensor, expected: Tensor) -> None:
        agree(actual, expected)
        pull = torch.linspace(-1, 2, actual.numel(), dtype=actual.dtype).view(actual.shape)
        found = torch.autograd.grad(actual, leaves, pull, allow_unused=True, retain_graph=True)
        wanted = torch.autograd.grad(expected, leaves, pull, allow_unused=True, retain_graph=True)
        for one, other in zip(found, wanted, strict=True):
            agree(
                torch.zeros(()) if one is None else one, torch.zeros(()) if one is None and other is None else other
            )  # an unused leaf is unused by both

    agree(weights @ value, output)
    if asked_first:
        seen.dense()
    agree_with_gradients(seen[..., 1:4, 2::3], weights[..., 1:4, 2::3])
    for row in (0, 1, 3, -1):
        agree_with_gradients(seen.row(row), weights[..., row, :])
    agree_with_gradients(seen.dense(), weights)
    agree_with_gradients(seen.received(), weights.sum(-2))
    total = weights.sum(-1, keepdim=True)
    share = weights / torch.where(total > 0, total, 1)
    agree_with_gradients(seen.entropy(), -(share * torch.where(share > 0, share, 1).log()).sum(-1))
    with torch.no_grad():
        agree(seen[1, 0, 4], weights[1, 0, 4])
        agree(seen[:, -1, :, 3], weights[:, -1, :, 3])
        agree(seen[1], weights[1])
        agree(seen[..., 0], weights[..., 0])
        for head in range(HEADS):
            agree(seen.head(head).dense(), weights[:, head : head + 1])
            agree(seen.head(head)[:, 0, 2:, 1], weights[:, head, 2:, 1])
        for example in (0, 1, -1):
            one = weights[example][None]
            agree(seen.example(example).dense(), one)
            agree(seen.example(example).head(1).received(), one[:, 1:].sum(-2))
            agree(seen.head(1).example(example).row(2), one[:, 1:, 2])
        heaviest, where = seen.top_keys(3)
        agree(heaviest, weights.topk(3).values)
        agree(weights.gather(-1, where), heaviest)
        picture, brightest = seen.pooled(2, 3), seen.pooled(2, 3, reduce=torch.amax)
        for height, rows in enumerate(([0, 1, 2], [3, 4])):
            for width, columns in enumerate(([0, 1, 2], [3, 4], [5, 6])):
                box = weights[..., rows, :][..., columns]
                agree(picture[..., height, width], box.mean((-2, -1)))
                agree(brightest[..., height, width], box.amax((-2, -1)))
    if "select" not in case.parts:
        agree_with_gradients(seen.logsumexp().exp(), seen.scores().exp().sum(-1))


@EVERY_SELECTION
def test_a_selection_of_a_causal_row_sums_as_it_should(card: Card) -> None:
    weights = qkv.attention_map(*inputs(torch.float64)[:2], mask=qkv.causal(), **case_of(card).parts).dense()
    assert (weights >= 0).all()
    if card.name not in ("sigmoid", "softmax with a sink"):
        torch.testing.assert_close(weights.sum(-1), torch.ones(BATCH, HEADS, QUERIES, dtype=torch.float64))


# Mechanisms


def call(card: Card, query: Tensor, memory: Tensor, **kwargs: object) -> Tensor:
    module = build(card).to(query.dtype).eval()
    result = module(query, memory, **kwargs)
    return result[0] if isinstance(result, tuple) else result


def streams(dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(BATCH, positions, WIDTH, generator=draw, dtype=torch.float64).to(dtype)
        for positions in (QUERIES, KEYS)
    )  # type: ignore[return-value]


@EVERY_MECHANISM
def test_a_mechanism_keeps_shape_and_dtype(card: Card) -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        output = call(card, *streams(dtype))
        assert output.shape == (BATCH, QUERIES, WIDTH) and output.dtype == dtype
        assert output.isfinite().all()


@EVERY_MECHANISM
def test_a_mechanism_lets_no_future_leak(card: Card) -> None:
    query, memory = streams()
    other = streams(seed=1)[1]
    before = call(card, query, memory, mask=qkv.causal())
    for row in range(QUERIES - 1):
        past = torch.arange(KEYS)[:, None] <= KEYS - QUERIES + row
        after = call(card, query, torch.where(past, memory, 100 * other), mask=qkv.causal())
        assert same(before[:, : row + 1], after[:, : row + 1])


@EVERY_MECHANISM
def test_a_mechanism_sees_nothing_of_the_padding(card: Card) -> None:
    lengths = torch.tensor([4, 6])
    query, memory = streams()
    real = (torch.arange(KEYS) < lengths[:, None])[..., None]
    mask = qkv.padding(keys=lengths)
    before = call(card, query, memory, mask=mask)
    assert same(before, call(card, query, torch.where(real, memory, 7.0), mask=mask))
    for row, length in enumerate(lengths.tolist()):
        one = query[row : row + 1], memory[row : row + 1, :length]
        exact = call(card, *(x.double() for x in one))
        torch.testing.assert_close(before[row : row + 1].double(), exact, rtol=1e-5, atol=1e-5)


@EVERY_MECHANISM
def test_a_mechanism_is_finite_beside_a_row_without_a_key(card: Card) -> None:
    module = build(card).eval()
    leaves = [x.requires_grad_() for x in (*streams(), *module.parameters())]
    result = module(*leaves[:2], mask=qkv.dense_mask(SEEN))
    output = result[0] if isinstance(result, tuple) else result
    assert output.isfinite().all()
    grads = torch.autograd.grad(output.square().sum(), leaves, allow_unused=True)
    assert all(grad.isfinite().all() for grad in grads if grad is not None)


@EVERY_MECHANISM
def test_gradients_of_a_mechanism_by_finite_differences(card: Card) -> None:
    module = build(card).double().eval()
    leaves = [x.requires_grad_() for x in (*streams(torch.float64), *module.parameters())]

    def run(query: Tensor, memory: Tensor, *_: Tensor) -> Tensor:
        result = module(query, memory, mask=qkv.causal())
        return result[0] if isinstance(result, tuple) else result

    used = torch.autograd.grad(run(*leaves).sum(), leaves, allow_unused=True)
    assert used[1] is not None
    assert gradcheck(run, leaves, fast_mode=True)
