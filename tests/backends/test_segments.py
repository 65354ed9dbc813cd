"""Attention piece by piece equals the definition, forward and backward, and reads nothing that is hidden."""

import pytest
import torch
from budget import assert_gradients_within, assert_within
from hypothesis import given
from hypothesis import strategies as st
from oracle import grids, trees
from torch._subclasses.fake_tensor import FakeTensorMode

import qkv
from qkv.attention import call_of
from qkv.backends import segments
from qkv.errors import UnsupportedError

LENGTHS = torch.tensor([37, 90])
MASKS = {
    "causal window": qkv.window(20),
    "two-sided window": qkv.window(before=10, after=5),
    "dilated window": qkv.window(9, dilation=3),
    "window and prefix": qkv.causal() & (qkv.window(20) | qkv.prefix(4)),
    "prefix": qkv.prefix(11),
    "key padding": qkv.padding(keys=LENGTHS),
    "key and query padding": qkv.padding(keys=LENGTHS, queries=LENGTHS),
    "left padding": qkv.padding(keys=LENGTHS, left=True) & qkv.causal(),
    "kept keys": qkv.padding(keys=torch.rand(2, 90, generator=torch.Generator().manual_seed(1)) > 0.7),
    "documents": qkv.documents(torch.tensor([30, 1, 29, 10])) & qkv.causal(),
    "documents of each row": qkv.documents(torch.tensor([[50, 40], [90, 0]])),
    "offsets": qkv.window(16, offset=torch.tensor([-20, 8])),
    "BigBird": qkv.bigbird(8, window=1, random=1),
    "layout of each head": qkv.blocks(torch.rand(4, 9, 9, generator=torch.Generator().manual_seed(2)) > 0.7, 10),
    "later keys": ~qkv.causal(),
}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Cut small grids, into small pieces."""
    monkeypatch.setattr(segments, "FEWEST_PAIRS", 0)
    monkeypatch.setattr(segments, "BLOCK", 8)
    monkeypatch.setattr(segments, "TRAINING_BLOCK", 16)
    monkeypatch.setattr(segments, "WORKSPACE", 1)


def tensors(dtype=torch.float64, *, queries=90, keys=90, heads=4, key_heads=2, width=6, value=6, batch=(2,)):
    generator = torch.Generator().manual_seed(0)
    shapes = ((heads, queries, width), (key_heads, keys, width), (key_heads, keys, value))
    return [torch.randn(*batch, *shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def both(inputs, impl, **choices):
    """Attend, and give the output and the gradients of all inputs."""
    output = qkv.attend(*inputs, impl=impl, **choices)
    above = torch.linspace(-1, 1, output.numel()).view(output.shape).to(output.dtype)
    return output, torch.autograd.grad(output, inputs, above)


def copies(inputs, dtype):
    return [x.detach().to(dtype).requires_grad_() for x in inputs]


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_equals_the_definition_within_the_budget(name, dtype):
    inputs = tensors(dtype)
    output, gradients = both(inputs, "segments", mask=MASKS[name])
    exact, exact_gradients = both(copies(inputs, torch.float64), "reference", mask=MASKS[name])
    plain_dtype = torch.float32 if dtype == torch.float64 else dtype
    plain, plain_gradients = both(copies(inputs, plain_dtype), "reference", mask=MASKS[name])
    assert_within(output, exact, plain, inputs[2], what=name)
    assert_gradients_within(gradients, exact_gradients, plain_gradients, what=name)
    with torch.no_grad():
        assert_within(qkv.attend(*inputs, mask=MASKS[name], impl="segments"), exact, plain, inputs[2], what=name)


@given(st.data())
def test_random_masks_on_random_grids(data):
    grid = data.draw(grids().filter(lambda grid: grid.queries and grid.keys))
    # A causal mask by itself is PyTorch's.
    mask = data.draw(trees(grid)) & ~qkv.window(1, offset=99)
    inputs = tensors(
        queries=grid.queries, keys=grid.keys, heads=grid.heads, key_heads=1, batch=grid.batch,
        width=data.draw(st.sampled_from([1, 3, 6])), value=data.draw(st.sampled_from([1, 6, 8])),
    )  # fmt: skip
    output, gradients = both(inputs, "segments", mask=mask)
    right, right_gradients = both(inputs, "reference", mask=mask)
    torch.testing.assert_close(output, right, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradients, right_gradients, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("queries", "keys"), [(90, 90), (91, 88), (40, 90), (90, 2), (2, 90)])
@pytest.mark.parametrize("offset", [None, -7, 5])
def test_a_dilated_window_is_ordinary_ones_over_every_few_positions(queries, keys, offset):
    inputs = tensors(queries=queries, keys=keys, value=9)
    mask = qkv.window(before=3, after=2, dilation=4, offset=offset)
    output, gradients = both(inputs, "segments", mask=mask)
    right, right_gradients = both(inputs, "reference", mask=mask)
    torch.testing.assert_close(output, right, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradients, right_gradients, rtol=1e-11, atol=1e-11)


def test_a_dilated_window_computes_no_gaps(monkeypatch):
    monkeypatch.undo()
    query = torch.randn(1, 2, 4096, 8)
    one, other = (qkv.explain(query, query, query, mask=qkv.window(65, dilation=step)) for step in (1, 8))
    assert one.backend == other.backend == "segments"
    assert other.cost.pairs < 1.1 * one.cost.pairs


@pytest.mark.parametrize("score", [qkv.dot(), qkv.scaled_dot(0.3), qkv.cosine(0.5), qkv.Bilinear(6, 6).double()])
def test_every_dot_score(score):
    inputs = tensors()
    for ours, right in zip(
        both(inputs, "segments", mask=qkv.window(20), score=score),
        both(inputs, "reference", mask=qkv.window(20), score=score),
        strict=True,
    ):
        torch.testing.assert_close(ours, right, rtol=1e-11, atol=1e-11)


def test_a_row_without_a_key_is_exactly_0_with_gradients_0():
    inputs = tensors()
    output, gradients = both(inputs, "segments", mask=MASKS["offsets"])
    assert (output[0, :, :20] == 0).all() and (gradients[0][0, :, :20] == 0).all()
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("score", [qkv.scaled_dot(), qkv.cosine()])
@pytest.mark.parametrize("name", ["kept keys", "key and query padding", "offsets", "layout of each head"])
def test_nan_that_nobody_sees_reaches_nothing(name, score):
    mask, clean = MASKS[name], tensors()
    dense = mask.dense(90, 90, batch=(2,), heads=4).expand(2, 4, 90, 90)
    hidden = ~dense.any(-2).unflatten(1, (2, 2)).any(2)
    blind = ~dense.any(-1)
    assert hidden.any() or blind.any()
    dirty = [x.detach().clone() for x in clean]
    dirty[0][blind] = torch.nan
    dirty[1][hidden], dirty[2][hidden] = torch.inf, torch.nan
    dirty = [x.requires_grad_() for x in dirty]
    expected, got = both(clean, "segments", mask=mask, score=score), both(dirty, "segments", mask=mask, score=score)
    assert torch.equal(got[0], expected[0])
    for one, other in zip(got[1], expected[1], strict=True):
        assert torch.equal(one, other)


def test_strided_inputs_are_as_good():
    inputs = [x.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() for x in tensors()]
    plain = [x.detach().contiguous().requires_grad_() for x in inputs]
    ours, theirs = (both(each, "segments", mask=qkv.window(20)) for each in (inputs, plain))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_the_plan_takes_it_where_it_skips(monkeypatch):
    monkeypatch.undo()
    query, key, value = (torch.randn(1, 2, 1024, 8) for _ in range(3))
    lengths = torch.tensor([500])
    assert qkv.explain(query, key, value, mask=qkv.window(64)).backend == "segments"
    assert qkv.explain(query, key, value, mask=qkv.padding(keys=lengths)).backend == "segments"
    computed = qkv.explain(query, key, value, mask=qkv.window(64))
    assert computed.cost.pairs < 0.15 * computed.pairs_possible
    assert qkv.explain(query, key, value).backend == "sdpa"
    assert qkv.explain(query, key, value, mask=qkv.causal()).backend == "sdpa"


def test_a_data_mask_that_hides_little_goes_to_sdpa(monkeypatch):
    monkeypatch.undo()
    inputs = [torch.randn(1, 2, 1024, 8) for _ in range(3)]
    mask = qkv.dense_mask(torch.rand(1024, 1024, generator=torch.Generator().manual_seed(0)) > 0.1)
    assert torch.equal(qkv.attend(*inputs, mask=mask), qkv.attend(*inputs, mask=mask, impl="sdpa"))


@pytest.mark.parametrize(
    ("choices", "reason"),
    [
        ({}, "there is no mask, so nothing to skip"),
        ({"mask": qkv.window(9), "dropout": 0.1}, "it has no dropout"),
        ({"mask": qkv.window(9), "bias": qkv.alibi(heads=2)}, "it has no place for a bias"),
        ({"mask": qkv.window(9), "select": qkv.sparsemax()}, "it selects by softmax alone, not by sparsemax()"),
        ({"mask": qkv.window(9), "score": qkv.soft_cap(qkv.dot(), 5.0)}, "it scores by dot products alone, not by "),
        ({"mask": qkv.window(9), "dtype": torch.float16}, "on the CPU float16 rounds the weights"),
        ({"mask": qkv.window(9), "device": "meta"}, "it runs on the CPU, not on meta"),
    ],
)
def test_reasons(monkeypatch, choices, reason):
    monkeypatch.undo()
    queries, dtype = choices.pop("queries", 1024), choices.pop("dtype", torch.float32)
    device = choices.pop("device", "cpu")
    query, key, value = (torch.zeros(2, size, 4, dtype=dtype, device=device) for size in (queries, 1024, 1024))
    with pytest.raises(UnsupportedError) as error:
        qkv.attend(query, key, value, impl="segments", **choices)
    assert f"segments: {reason}" in str(error.value)


@pytest.mark.parametrize(
    ("mask", "queries", "reason"),
    [
        (qkv.causal(), 1024, "PyTorch's own causal path skips as much"),
        (~qkv.window(9), 1024, "the mask leaves 100% of the pairs to compute"),
        (qkv.window(9), 100, "100 × 1024 pairs a head are too few to cut"),
        (qkv.padding(keys=torch.arange(1024) % 9 > 0), 1024, "the mask leaves 100% of the pairs to compute"),
    ],
)
def test_what_another_path_does_faster_it_does_when_told_to(monkeypatch, mask, queries, reason):
    monkeypatch.undo()
    query, key, value = (torch.randn(2, size, 64) for size in (queries, 1024, 1024))
    told = qkv.explain(query, key, value, mask=mask)
    assert told.backend == "sdpa" and ("segments", reason) in told.refused
    assert qkv.explain(query, key, value, mask=mask, impl="segments").backend == "segments"
    ours, theirs = (qkv.attend(query, key, value, mask=mask, impl=impl) for impl in ("segments", "reference"))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("alive", [100, 600, 720, 1000, 1024])
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_one_contiguous_piece_a_sequence_is_always_taken(monkeypatch, alive, keep, training):
    monkeypatch.undo()
    query = torch.randn(1, 2, 1024, 64, requires_grad=training)
    keys = torch.arange(1024).expand(1, -1) < alive if keep else torch.tensor([alive])
    told = qkv.explain(query, query, query, mask=qkv.padding(keys=keys))
    assert told.backend == "segments" and told.cost.pairs == 2 * 1024 * alive


def test_a_plan_is_made_once_a_call(monkeypatch):
    monkeypatch.undo()
    made, plan = [], segments.plan_pieces
    monkeypatch.setattr(segments, "plan_pieces", lambda *given: made.append(given) or plan(*given))
    query = torch.randn(1, 2, 1024, 8)
    qkv.attend(query, query, query, mask=qkv.padding(keys=torch.tensor([500])))
    assert len(made) == 1


def test_under_vmap_it_gives_way():
    inputs = [torch.randn(3, 2, 64, 4) for _ in range(3)]
    mapped = torch.func.vmap(lambda q, k, v: qkv.attend(q, k, v, mask=qkv.window(9)))(*inputs)
    assert torch.allclose(mapped, qkv.attend(*inputs, mask=qkv.window(9)), atol=1e-5)


def test_what_it_costs_is_what_it_computes():
    query, key, value = tensors()
    call = call_of("t", query, key, value, None, None, MASKS["causal window"], None, 0.0)
    plan = segments.plan_pieces(MASKS["causal window"], call.grid, 16)
    assert segments.SEGMENTS.cost(call).pairs == plan.pairs == sum(p.blocks * p.rows * p.keys for p in plan.pieces) * 8


def test_no_second_derivative_is_ever_a_wrong_number():
    inputs = tensors()
    output = qkv.attend(*inputs, mask=qkv.window(20), impl="segments")
    gradients = torch.autograd.grad(output.sum(), inputs, create_graph=True)
    assert all(gradient.requires_grad for gradient in gradients)
    loss = output.square().sum() + sum(gradient.square().sum() for gradient in gradients)
    with pytest.raises(
        UnsupportedError,
        match=r"^attend: a gradient must be differentiated once; got twice \(.*'segments'",
    ):
        loss.backward()


@pytest.mark.parametrize("which", [0, 1, 2])
def test_torch_func_over_any_input(monkeypatch, which):
    inputs = [x.detach() for x in tensors()]

    def loss(x):
        given = [*inputs[:which], x, *inputs[which + 1 :]]
        return qkv.attend(*given, mask=qkv.window(20)).square().sum()

    expected = inputs[which].clone().requires_grad_()
    loss(expected).backward()
    torch.testing.assert_close(torch.func.grad(loss)(inputs[which]), expected.grad)


def test_vmap_over_what_a_mask_holds():
    query, key, value = (x.detach() for x in tensors(batch=(1,)))
    offsets = torch.tensor([[0], [-9]])
    mapped = torch.func.vmap(lambda offset: qkv.attend(query, key, value, mask=qkv.causal(offset=offset)))(offsets)
    for one, offset in zip(mapped, offsets, strict=True):
        torch.testing.assert_close(one, qkv.attend(query, key, value, mask=qkv.causal(offset=offset)))


def test_half_precision_is_summed_wide(monkeypatch):
    monkeypatch.setattr(segments, "BLOCK", 64)
    monkeypatch.setattr(segments, "TRAINING_BLOCK", 64)
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(1, 1, 2048, 8, generator=generator).bfloat16() for _ in range(3)]
    inputs[0].zero_()
    ours, sdpa = ([x.clone().requires_grad_() for x in inputs] for _ in range(2))
    exact = copies(inputs, torch.float64)
    results = [
        both(each, impl, mask=qkv.causal(offset=0))
        for each, impl in ((ours, "segments"), (exact, "reference"), (sdpa, "reference"))
    ]
    assert_within(results[0][0], results[1][0], results[2][0], inputs[2])
    assert_gradients_within(*(gradients for _, gradients in results))


def test_fake_tensors_and_a_default_device_elsewhere(monkeypatch):
    monkeypatch.undo()
    query = torch.randn(1, 2, 1024, 8)
    expected = qkv.attend(query, query, query, mask=qkv.window(64))
    with torch.device("meta"):
        assert torch.equal(qkv.attend(query, query, query, mask=qkv.window(65)).isnan(), torch.isnan(expected))
    with FakeTensorMode() as mode:
        fake = mode.from_tensor(query)
        assert qkv.attend(fake, fake, fake, mask=qkv.window(64)).shape == query.shape
