"""A few queries against many keys: the kernel and the fold equal the definition, read what is seen, and say why not."""

from itertools import product

import numpy as np
import pytest
import torch
from budget import assert_within
from torch import Tensor

import qkv
from qkv.backends import decode

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
BATCH, HEADS, KEYS = 2, 4, 300
LENGTHS = torch.tensor([0, 170])
MASKS = {
    "none": None,
    "causal": qkv.causal(),
    "window": qkv.window(40),
    "two-sided window": qkv.window(before=30, after=2),
    "window and prefix": qkv.causal() & (qkv.window(20) | qkv.prefix(3)),
    "dilated window": qkv.window(6, dilation=3),
    "padding": qkv.padding(keys=LENGTHS),
    "rows of their own": qkv.causal(offset=LENGTHS) & qkv.padding(keys=LENGTHS),
    "padded queries": qkv.padding(keys=LENGTHS, queries=torch.tensor([1, 0])),
    "dense": qkv.dense_mask(torch.arange(BATCH * HEADS * 3 * KEYS).view(BATCH, HEADS, 3, KEYS) % 7 > 3),
    "bigbird": qkv.bigbird(16),
}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "FEWEST_NUMBERS", 0)


@pytest.fixture
def kernel_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "_folds", lambda call: False)


def inputs(
    dtype: torch.dtype = torch.float32, queries: int = 1, key_heads: int = 1, dim: int = 24, width: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    shapes = ((HEADS, queries, dim), (key_heads, KEYS, dim), (key_heads, KEYS, dim if width is None else width))
    return tuple(torch.randn(BATCH, *shape, generator=draw).to(dtype) for shape in shapes)  # type: ignore[return-value]


def check(tensors: tuple[Tensor, Tensor, Tensor], **parts: object) -> None:
    exact = qkv.attend(*(x.double() for x in tensors), **parts, impl="reference")
    plain = qkv.attend(*tensors, **parts, impl="reference")
    assert_within(qkv.attend(*tensors, **parts, impl="decode"), exact, plain, tensors[2])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("queries", [1, 3])
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.usefixtures("kernel_alone")
def test_every_mask(mask: qkv.Mask | None, queries: int, dtype: torch.dtype) -> None:
    if isinstance(mask, type(MASKS["dense"])):
        mask = qkv.dense_mask(mask.tensor[:, :, :queries])
    if queries == 3 and mask is MASKS["padded queries"]:
        mask = qkv.padding(keys=LENGTHS, queries=torch.tensor([3, 2]))
    for key_heads in (1, 2, 4):
        check(inputs(dtype, queries, key_heads), mask=mask)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("dim", "width"), list(product((1, 5, 16, 17, 40, 80, 96), (1, 16, 33))))
@pytest.mark.usefixtures("kernel_alone")
def test_every_width(dim: int, width: int, dtype: torch.dtype) -> None:
    check(inputs(dtype, 2, 2, dim, width))


@pytest.mark.parametrize("queries", [1, 3])
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_the_fold(dtype: torch.dtype, queries: int) -> None:
    query, key, value = inputs(dtype, queries)
    query = torch.cat((query, query + 1), dim=1)
    check((query, key, value))
    check((query[0], key[0], value[0]), score=qkv.dot())


def test_which_of_the_two(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = []
    for name in ("_fold", "_attend"):
        inner = getattr(decode, name)
        monkeypatch.setattr(decode, name, lambda call, inner=inner, name=name: chosen.append(name) or inner(call))
    for dtype in DTYPES:
        qkv.attend(*inputs(dtype), impl="decode")
    qkv.attend(*inputs(), mask=qkv.causal(), impl="decode")
    qkv.attend(*inputs(), mask=qkv.window(9), impl="decode")
    assert chosen == ["_fold", "_fold", "_attend", "_fold", "_attend"]
    chosen.clear()
    monkeypatch.setattr(decode, "FROM_MEMORY", 1)
    # A key head has four rows for each query; a fifth is too many for bfloat16.
    for dtype, queries in product(DTYPES[:2], (1, 2)):
        qkv.attend(*inputs(dtype, queries), impl="decode")
    assert chosen == ["_attend", "_attend", "_attend", "_fold"]
    chosen.clear()
    refused = dict(qkv.explain(*inputs(key_heads=HEADS)).refused)
    assert refused["decode"].startswith("no query heads share keys")
    monkeypatch.setattr(decode, "BEYOND_CACHES", 1)
    qkv.attend(*inputs(torch.bfloat16, queries=2), impl="decode")
    qkv.attend(*inputs(key_heads=HEADS), impl="decode")
    assert chosen == ["_attend", "_attend"]


@pytest.mark.usefixtures("kernel_alone")
def test_a_soft_cap_and_other_scores() -> None:
    check(inputs(), score=qkv.soft_cap(qkv.scaled_dot(), 2.0), mask=qkv.window(30))
    with torch.no_grad():
        for score in (qkv.cosine(), qkv.Bilinear(24, 24)):
            query, key, value = inputs()
            got = qkv.attend(query, key, value, score=score, impl="decode")
            torch.testing.assert_close(got, qkv.attend(query, key, value, score=score, impl="reference"))


@pytest.mark.usefixtures("kernel_alone")
def test_large_scores_and_many_keys() -> None:
    # At a scale of 50 a row errs by what a score of some hundreds is rounded by: of few rows the worst is chance.
    query, key, value = (torch.randn(1, heads, size, 64) for heads, size in ((128, 1), (32, 5000), (32, 5000)))
    for scale in (1e-3, 1.0, 50.0, 1e4):
        check((query * scale, key, value))


@pytest.mark.parametrize(("dtype", "bits"), [(torch.float16, torch.int16), (torch.bfloat16, torch.int16)], ids=str)
def test_every_half_number_is_read_by_its_bits(dtype: torch.dtype, bits: torch.dtype) -> None:
    # One key has all the weight, so the output is its value: all 65,536 of them, subnormal, infinite and NaN.
    every = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(bits).view(dtype).view(1, 1, 1, -1)
    assert every.isnan().any() and every.isinf().any() and (every.float().abs() < torch.finfo(dtype).tiny).any()
    query = torch.ones(1, 2, 1, 16, dtype=dtype)
    output = qkv.attend(query, query[:, :1], every, impl="decode")
    torch.testing.assert_close(output[:, :1], every, rtol=0, atol=0, equal_nan=True)
    # And as keys: the definition and the kernel agree on what is NaN.
    key = every.view(1, 1, -1, 16)
    value = torch.ones(1, 1, key.shape[2], 16, dtype=dtype)
    for some in (key[:, :, :64], key):
        got, want = (
            qkv.attend(query, some, value[:, :, : some.shape[2]], impl=impl) for impl in ("decode", "reference")
        )
        assert torch.equal(got.isnan(), want.isnan())


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("place", [1, 2], ids=["key", "value"])
@pytest.mark.usefixtures("kernel_alone")
def test_what_is_hidden_reaches_nobody(place: int, bad: float) -> None:
    for mask in (qkv.padding(keys=LENGTHS), qkv.dense_mask(torch.arange(KEYS) % 2 == 0)):
        tensors = inputs(queries=2)
        clean = qkv.attend(*tensors, mask=mask, impl="decode")
        tensors[place][:, :, 201] = bad
        assert torch.equal(qkv.attend(*tensors, mask=mask, impl="decode"), clean)
    # The last key is seen by the last of two queries alone.
    tensors = inputs(queries=2)
    clean = qkv.attend(*tensors, mask=qkv.causal(), impl="decode")
    tensors[place][:, :, -1] = bad
    spoilt = qkv.attend(*tensors, mask=qkv.causal(), impl="decode")
    assert torch.equal(spoilt[..., 0, :], clean[..., 0, :])
    assert "caveat" not in str(qkv.explain(*tensors, mask=qkv.causal(), impl="decode"))


@pytest.mark.usefixtures("kernel_alone")
def test_a_row_without_a_key_is_zero() -> None:
    output = qkv.attend(*inputs(queries=2), mask=qkv.padding(keys=LENGTHS), impl="decode")
    assert (output[0] == 0).all() and (output[1] != 0).all()


@pytest.mark.usefixtures("kernel_alone")
def test_what_lies_between_is_neither_copied_nor_read(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = inputs(key_heads=2)
    wanted = qkv.attend(query, key, value, impl="decode")
    stores = [torch.full((BATCH, 2, 2 * KEYS, 40), torch.nan) for _ in range(2)]
    views = [store[:, :, :KEYS, 3:27] for store in stores]
    for view, x in zip(views, (key, value), strict=True):
        view.copy_(x)
    monkeypatch.setattr(Tensor, "contiguous", lambda x: pytest.fail("copied") if x.numel() > 1000 else x)
    assert torch.equal(qkv.attend(query, *views, impl="decode"), wanted)
    monkeypatch.undo()
    monkeypatch.setattr(decode, "FEWEST_NUMBERS", 0)
    for view in (key.mT.contiguous().mT, key[..., :1, :].expand_as(key)):
        check((query, view, value))


@pytest.mark.usefixtures("kernel_alone", "as_users_run")
def test_any_number_of_threads_gives_the_same_bits() -> None:
    tensors = tuple(torch.randn(1, heads, size, 64) for heads, size in ((8, 1), (2, 4000), (2, 4000)))
    before, outputs = torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        outputs.append(qkv.attend(*tensors, impl="decode"))
    torch.set_num_threads(before)
    assert torch.equal(outputs[0], outputs[1]) and torch.equal(outputs[0], outputs[2])


def caches() -> dict[str, tuple[object, qkv.Mask]]:
    return {
        "growing": (qkv.Cache(), qkv.causal()),
        "with room": (qkv.Cache(capacity=64), qkv.causal()),
        "rolling": (qkv.RollingCache(7), qkv.window(7)),
    }


@pytest.mark.parametrize("name", ["growing", "with room", "rolling"])
@pytest.mark.parametrize("sizes", [[1] * 20, [9, 1, 1, 3, 2, 4]], ids=["steps", "chunks"])
@torch.no_grad()
def test_steps_equal_the_whole(name: str, sizes: list[int]) -> None:
    cache, mask = caches()[name]
    query, key, value = (torch.randn(2, heads, 20, 24) for heads in (8, 2, 2))
    whole = qkv.attend(query, key, value, mask=mask, impl="reference")
    exact = qkv.attend(query.double(), key.double(), value.double(), mask=mask, impl="reference")
    outputs, used = [], set()
    for one, two, three in zip(*(x.split(sizes, dim=-2) for x in (query, key, value)), strict=True):
        keys, values, shown = cache.extend(two, three)
        here = mask if shown is None else shown & mask
        used.add(qkv.explain(one, keys, values, mask=here).backend)
        outputs.append(qkv.attend(one, keys, values, mask=here))
    assert "decode" in used and (sizes[0] > 1 or used == {"decode"})
    assert_within(torch.cat(outputs, dim=-2), exact, whole, value)


@torch.no_grad()
def test_ragged_steps_equal_each_row_alone() -> None:
    lengths, width, steps = torch.tensor([6, 2, 0]), 6, 5
    prompt = [torch.randn(3, heads, width, 24) for heads in (8, 2, 2)]
    after = [torch.randn(3, heads, steps, 24) for heads in (8, 2, 2)]
    cache, outputs = qkv.RaggedCache(lengths, width), []
    cache.extend(*prompt[1:])
    for step in range(steps):
        mask = qkv.causal(offset=cache.offset)
        query, key, value = (x[..., step : step + 1, :] for x in after)
        keys, values, shown = cache.extend(key, value)
        assert qkv.explain(query, keys, values, mask=shown & mask).backend == "decode"
        outputs.append(qkv.attend(query, keys, values, mask=shown & mask))
    for row, length in enumerate(lengths.tolist()):
        whole = [torch.cat((x[row, :, :length], y[row]), dim=-2) for x, y in zip(prompt, after, strict=True)]
        exact = qkv.attend(*(x.double() for x in whole), mask=qkv.causal(), impl="reference")[..., length:, :]
        plain = qkv.attend(*whole, mask=qkv.causal(), impl="reference")[..., length:, :]
        assert_within(torch.cat(outputs, dim=-2)[row], exact, plain, whole[2])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"queries": 9}, "36 rows of queries meet each key (its heads × queries), more than 32"),
        ({"dtype": torch.float64}, "it computes in float32, not in torch.float64"),
        ({"score": qkv.Additive(24, 24, 8)}, "it scores by dot products alone, softly capped or not, not by Additive("),
        ({"select": qkv.sparsemax()}, "it selects by softmax alone, not by sparsemax()"),
        ({"bias": qkv.alibi(heads=HEADS)}, "it has no place for a bias"),
        ({"dropout": 0.1}, "it has no dropout"),
        ({"score": qkv.Bilinear(24, 24)}, "it gives no gradients (with torch.no_grad(): ...)"),
        ({"grad": True}, "it gives no gradients (with torch.no_grad(): ...)"),
        ({"key_heads": HEADS}, "no query heads share keys, so PyTorch's own attention reads each once too"),
    ],
)
def test_why_not(change: dict, reason: str) -> None:
    names = ("queries", "dtype", "key_heads")
    query, key, value = inputs(**{name: change[name] for name in names if name in change})
    parts = {name: part for name, part in change.items() if name not in (*names, "grad")}
    query.requires_grad_(bool(change.get("grad")))
    refused = dict(qkv.explain(query, key, value, **parts).refused)
    assert refused["decode"].startswith(reason)
    with pytest.raises(qkv.errors.UnsupportedError, match="decode: "):
        qkv.attend(query, key, value, **parts, impl="decode")


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_why_not_few_keys_and_other_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    query, key, value = inputs()
    assert dict(qkv.explain(query, key, value, mask=qkv.window(3)).refused)["decode"] == (
        "300 keys are too few for the kernel to pay"
    )
    meta = [x.to("meta") for x in (query, key, value)]
    assert dict(qkv.explain(*meta).refused)["decode"] == "it runs on the CPU, not on meta"
    reason = "it reads memory itself, which torch.compile, torch.func and fake tensors cannot follow"
    seen = []

    def one(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        seen.append(dict(qkv.explain(query, key, value).refused)["decode"])
        return qkv.attend(query, key, value)

    torch.vmap(one)(query, key, value)
    assert seen == [reason]


def test_what_it_costs() -> None:
    found = qkv.explain(*inputs(), mask=qkv.window(40), impl="decode")
    assert found.cost.pairs == BATCH * HEADS * 40
    assert found.cost.bytes == 4 * (BATCH * 40 * 48 + 2 * BATCH * HEADS * 24)
    assert np.isfinite(found.cost.flops)


def test_features_of_a_query_may_lie_apart(kernel_alone: None) -> None:
    query, key, value = inputs(dim=32)
    apart = torch.stack((query, torch.full_like(query, 7)), -1).flatten(-2)[..., ::2]
    assert apart.stride(-1) == 2
    for row in (1, slice(None)):
        some = apart[row] if isinstance(row, int) else apart
        check((some, key[row], value[row]), score=qkv.soft_cap(qkv.scaled_dot(), 3.0))
