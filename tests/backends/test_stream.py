"""Streamed attention equals the definition, forward and backward, dropout bit by bit, and stores nothing for a pair."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from budget import assert_gradients_within, assert_within
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import grids, trees
from torch import Tensor

import qkv
from qkv.attention import call_of
from qkv.backends import stream
from qkv.backends.stream import bands, tiles
from qkv.backends.stream.bands import plan_bands
from qkv.errors import UnsupportedError

HEADS, QUERIES, KEYS = 4, 60, 90


@pytest.fixture(autouse=True)
def small_cases_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "FEWEST_PAIRS", 0)


LENGTHS = torch.tensor([37, 90])


def numbers(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def t5() -> qkv.T5Relative:
    torch.manual_seed(0)
    return qkv.T5Relative(heads=HEADS, offset=torch.tensor([30, 4]))


class Doubled(torch.nn.Module):
    """A bias of another's making, which holds a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.by = qkv.dense_bias(numbers(HEADS, QUERIES, KEYS)), torch.nn.Parameter(torch.tensor(2.0))

    def check(self, grid: qkv.Grid) -> None:
        self.inner.check(grid)

    def tile(self, rows: Tensor, columns: Tensor, grid: qkv.Grid) -> Tensor:
        return self.by * self.inner.tile(rows, columns, grid)


HIDING = torch.where(numbers(HEADS, QUERIES, KEYS) > 0.5, -torch.inf, 0.0)
CASES: dict[str, dict[str, Any]] = {
    "dropout": {"dropout": 0.3},
    "nearly all dropped": {"dropout": 0.99},
    "causal and dropout": {"mask": qkv.causal(), "dropout": 0.2},
    "padding and dropout": {"mask": qkv.padding(keys=LENGTHS), "dropout": 0.2},
    "padded queries": {"mask": qkv.padding(keys=LENGTHS, queries=torch.tensor([0, 50])), "dropout": 0.2},
    "offsets": {"mask": qkv.window(16, offset=torch.tensor([-20, 8])), "dropout": 0.1},
    "heads apart": {"mask": qkv.blocks(numbers(HEADS, 6, 9) > 0.3, 10), "dropout": 0.1},
    "few keys": {"mask": qkv.window(2), "dropout": 0.5},
    "dense bias": {"bias": numbers(HEADS, QUERIES, KEYS)},
    "bias of one head": {"bias": numbers(2, 1, QUERIES, KEYS), "mask": qkv.causal()},
    "bias of rows": {"bias": numbers(QUERIES, 1), "dropout": 0.1},
    "bias of keys": {"bias": numbers(2, HEADS, 1, KEYS), "dropout": 0.1},
    "bias that hides": {"bias": HIDING, "score": qkv.soft_cap(qkv.scaled_dot(), 2.0)},
    "T5 and a window": {"bias": t5, "mask": qkv.window(20)},
    "a bias within": {"bias": Doubled},
    "ALiBi and dropout": {"bias": qkv.alibi(heads=HEADS), "dropout": 0.1},
    "soft cap": {"score": qkv.soft_cap(qkv.scaled_dot(), 1.5), "mask": qkv.causal()},
    "soft cap, bias and dropout": {
        "score": qkv.soft_cap(qkv.cosine(), 3.0), "bias": numbers(1, KEYS), "dropout": 0.1
    },
    "sink": {"select": lambda: qkv.sink(torch.tensor([0.5, -1.0, 30.0, 0.0])), "mask": qkv.window(5)},
    "one sink and dropout": {"select": lambda: qkv.sink(torch.tensor(1.0)), "dropout": 0.1},
}  # fmt: skip


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut small grids, into small tiles."""
    monkeypatch.setattr(bands, "ROWS", 16)
    monkeypatch.setattr(bands, "MASKED_ROWS", 8)
    for module in (bands, tiles):
        monkeypatch.setattr(module, "TILE", 16 * 32 * 3)
    bands._kept.cache_clear()


def tensors(*, heads: int = HEADS, key_heads: int = 2, width: int = 6, value: int = 10) -> list[Tensor]:
    shapes = ((heads, QUERIES, width), (key_heads, KEYS, width), (key_heads, KEYS, value))
    return [numbers(2, *shape, seed=seed) for seed, shape in enumerate(shapes)]


def run(
    inputs: list[Tensor], choices: dict[str, Any], impl: str, dtype: torch.dtype
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Attend from one seed, and give the output and the gradients of the inputs and of all that is learned."""
    leaves = [x.detach().to(dtype).requires_grad_() for x in inputs]
    parts = {}
    for name, part in choices.items():
        part = part().to(dtype) if callable(part) and name in ("bias", "select") else part
        if isinstance(part, Tensor):
            part = part.to(dtype).requires_grad_()
            leaves.append(part)
        elif isinstance(part, torch.nn.Module):
            leaves += [tensor.requires_grad_() for tensor in (*part.parameters(), *part.buffers())]
        parts[name] = part
    torch.manual_seed(3)
    output = qkv.attend(*leaves[:3], **parts, impl=impl)
    above = torch.linspace(-1, 1, output.numel()).view(output.shape).to(output.dtype)
    return output, torch.autograd.grad(output, leaves, above)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_equals_the_definition_within_the_budget(name: str, dtype: torch.dtype) -> None:
    inputs = [x.to(dtype) for x in tensors()]
    output, gradients = run(inputs, CASES[name], "stream", dtype)
    exact, exact_gradients = run(inputs, CASES[name], "reference", torch.float64)
    plain, plain_gradients = run(inputs, CASES[name], "reference", dtype if dtype != torch.float64 else torch.float32)
    if dtype in (torch.float32, torch.float64):
        assert_within(output, exact, plain, inputs[2] * 4, what=name)
        assert_gradients_within(gradients, exact_gradients, plain_gradients, what=name)
    else:
        # What is learned is rounded to the half type as well: the definition in that type is the yardstick.
        torch.testing.assert_close(output, plain, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("name", ["dropout", "offsets", "dense bias", "bias of keys", "T5 and a window"])
def test_any_number_of_threads(name: str, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        ours, again = (run(tensors(), CASES[name], "stream", torch.float64) for _ in range(2))
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    right = run(tensors(), CASES[name], "reference", torch.float64)
    torch.testing.assert_close(ours, right, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(ours, again, rtol=0, atol=0)


@settings(max_examples=40)
@given(st.data())
def test_random_masks_on_random_grids(data: st.DataObject) -> None:
    grid = data.draw(grids().filter(lambda grid: grid.queries and grid.keys and 0 not in grid.batch))
    mask = data.draw(trees(grid))
    shapes = ((grid.heads, grid.queries, 3), (1, grid.keys, 3), (1, grid.keys, data.draw(st.sampled_from([1, 3, 5]))))
    inputs = [numbers(*grid.batch, *shape, seed=seed) for seed, shape in enumerate(shapes)]
    choices = {"mask": mask, "dropout": data.draw(st.sampled_from([0.3, 0.6]))}
    ours, right = (run(inputs, choices, impl, torch.float64) for impl in ("stream", "reference"))
    torch.testing.assert_close(ours, right, rtol=1e-11, atol=1e-11)


def test_dropout_drops_the_very_pairs_of_the_definition() -> None:
    query, key, _ = (x.float() for x in tensors())
    value = torch.eye(KEYS).expand(2, 2, KEYS, KEYS)
    for rate in (1e-12, 0.3, 1 - 1e-12, 1.0):
        weights = []
        for impl in ("stream", "reference"):
            torch.manual_seed(7)
            weights.append(qkv.attend(query, key, value, dropout=rate, impl=impl))
        assert torch.equal(weights[0] == 0, weights[1] == 0)


def test_cuts_of_other_widths_take_other_groups_of_heads() -> None:
    # The last band has 4 rows: its wide cuts take 4 heads at once, its narrow one takes 9, and then the tenth.
    inputs = [numbers(2, 12, count, 8, seed=count) for count in (20, 200, 200)]
    for choices in ({"dropout": 0.3}, {"mask": ~qkv.window(5), "dropout": 0.1}, {"bias": qkv.alibi(12)}):
        output, gradients = run(inputs, choices, "stream", torch.float64)
        exact, exact_gradients = run(inputs, choices, "reference", torch.float64)
        for found, wanted in zip((output, *gradients), (exact, *exact_gradients), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_large_scores_lose_nothing() -> None:
    inputs = [x * scale for x, scale in zip(tensors(), (100, 100, 1), strict=True)]
    ours, right = (run(inputs, {"dropout": 0.1}, impl, torch.float32) for impl in ("stream", "reference"))
    exact = run([x.float() for x in inputs], {"dropout": 0.1}, "reference", torch.float64)
    assert_within(ours[0], exact[0], right[0], inputs[2].float())


def test_finite_numbers_whose_sum_is_not_are_no_concern() -> None:
    query, key, value = (x.float() for x in tensors())
    value = value.abs() * 1e36
    assert value.sum() == torch.inf
    ours, right = (run([query, key, value], {"dropout": 0.1}, impl, torch.float32) for impl in ("stream", "reference"))
    torch.testing.assert_close(ours[0], right[0], rtol=1e-5, atol=1e31)


@pytest.mark.parametrize("shared", [True, False])
def test_heads_may_lie_between_the_positions(shared: bool) -> None:
    """As a module's do: then the output and the gradients lie so too, and joining the heads copies nothing."""
    wide = numbers(2, KEYS, 3, HEADS * 6)
    leaves = [x.unflatten(-1, (HEADS, 6)).transpose(1, 2).requires_grad_() for x in wide.unbind(2)]
    choices: dict[str, Any] = {"mask": qkv.causal(), "dropout": 0.2}
    if not shared:
        leaves = [x.detach().contiguous().requires_grad_() for x in leaves]
    found = []
    for impl in ("stream", "reference"):
        torch.manual_seed(3)
        output = qkv.attend(*leaves, **choices, impl=impl)
        found.append((output, *torch.autograd.grad(output.square().sum(), leaves)))
    for ours, right in zip(*found, strict=True):
        torch.testing.assert_close(ours, right, rtol=1e-11, atol=1e-11)
        assert (ours.transpose(1, 2) if shared else ours).is_contiguous()


def test_a_map_knows_the_rows_that_were_streamed() -> None:
    query, key, value = tensors()
    for choices in ({"mask": qkv.window(9, offset=-5)}, {"select": qkv.sink(torch.tensor([0.5]).double())}):
        _, seen = qkv.attend_with_map(query, key, value, dropout=0.1, **choices)
        assert seen.kept is not None
        torch.testing.assert_close(seen.dense(), qkv.attention_map(query, key, **choices).dense())


def test_nan_that_nobody_sees_reaches_nothing() -> None:
    clean, mask = tensors(), qkv.padding(keys=LENGTHS, queries=torch.tensor([0, 50]))
    dirty = [x.clone() for x in clean]
    dirty[0][1, :, 50:], dirty[1][0], dirty[2][0, :, 40:] = torch.nan, torch.inf, torch.nan
    ours, right = (run(x, {"mask": mask, "dropout": 0.1}, "stream", torch.float64) for x in (dirty, clean))
    torch.testing.assert_close(ours, right, rtol=0, atol=0)


def test_finite_differences_and_no_second_derivative() -> None:
    inputs = [x[:, :, :4].requires_grad_() for x in tensors()]

    def attend(*inputs: Tensor) -> Tensor:
        torch.manual_seed(0)
        return qkv.attend(*inputs, dropout=0.3, impl="stream")

    assert torch.autograd.gradcheck(attend, inputs)
    first = torch.autograd.grad(attend(*inputs).sum(), inputs, create_graph=True)
    with pytest.raises(UnsupportedError) as refused:
        first[0].sum().backward()
    assert str(refused.value) == (
        "attend: a gradient must be differentiated once; got twice "
        "(a second backward is not implemented on the path 'stream'; impl='reference' has one)"
    )


def test_bands_skip_what_the_mask_hides() -> None:
    grid = qkv.Grid((2,), 3, 64, 64)
    assert plan_bands(None, None, grid).pairs == 2 * 3 * 64 * 64
    plan = plan_bands(qkv.causal(), None, grid)
    assert plan.pairs == 2 * 3 * sum(8 * (8 * block + 8) for block in range(8))
    ragged = plan_bands(qkv.padding(keys=torch.tensor([64, 8])), None, grid)
    assert ragged.pairs == 3 * 64 * (64 + 8)
    assert plan_bands(qkv.causal(), None, grid) is plan


@pytest.mark.parametrize(
    ("choices", "reason"),
    [
        (
            {},
            "PyTorch's own attention is as fast without dropout, cap, sink, or many pairs with a bias or two widths",
        ),
        ({"select": qkv.sparsemax()}, "it selects by softmax alone, with a sink or not, not by sparsemax()"),
        (
            {"score": qkv.Additive(6, 6, 4).double()},
            "it scores by dot products alone, softly capped or not, not by Additive",
        ),
    ],
)
def test_what_it_does_not_take_it_refuses(choices: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnsupportedError, match="stream: ") as refused:
        qkv.attend(*tensors(value=6), **choices, impl="stream")
    assert reason in str(refused.value)


def test_what_has_no_values_is_refused() -> None:
    call = call_of("attend", *(x.to("meta") for x in tensors()), None, None, None, None, 0.1)
    assert stream.refuses(call) == "it runs on the CPU, not on meta"
    empty = call_of("attend", *(x[..., :0, :] for x in tensors()), None, None, None, None, 0.1)
    assert stream.refuses(empty) == "there are no pairs, or no features"
    reason = "its tiles are cut by plain Python, which torch.compile, torch.func and fake tensors cannot follow"

    def mapped(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        assert stream.refuses(call_of("attend", query, key, value, None, None, None, None, 0.1)) == reason
        return query

    torch.vmap(mapped)(*tensors())


PROGRAM = """
import resource, torch, qkv
torch.set_num_threads(1)
warm = [torch.randn(1, 1, 300, 32, requires_grad=True) for _ in range(3)]
qkv.attend(*warm, dropout=0.1).sum().backward()
inputs = [torch.randn(1, 1, 16384, 32, requires_grad=True) for _ in range(3)]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
qkv.attend(*inputs, dropout=0.1).sum().backward()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_nothing_is_stored_for_a_pair() -> None:
    told = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    # The pairs are a GiB; an input is 2 MiB.
    assert int(told.stdout) < 48 * 1024


def test_under_torch_func_over_what_a_call_holds_it_gives_way() -> None:
    query, key, value = tensors(value=6)
    bias = numbers(QUERIES, KEYS)

    def loss(bias: Tensor) -> Tensor:
        return qkv.attend(query, key, value, bias=bias).square().sum()

    expected = bias.clone().requires_grad_()
    loss(expected).backward()
    torch.testing.assert_close(torch.func.grad(loss)(bias), expected.grad)


@pytest.mark.parametrize("part", ["bias", "mask"])
def test_what_bias_and_mask_hold_may_not_change_before_the_backward_pass(part: str) -> None:
    leaves = [x.requires_grad_() for x in tensors()]
    held = numbers(QUERIES, KEYS)
    choices = {"bias": qkv.dense_bias(held)} if part == "bias" else {"mask": qkv.dense_mask(seen := held > 0)}
    output = qkv.attend(*leaves, **choices, dropout=0.1, impl="stream")
    (held if part == "bias" else seen).zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()
