"""Which backend runs, and what is said when none may."""

import itertools

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import qkv
from qkv.attention import call_of
from qkv.core.backend import Backend
from qkv.plan import FUSED, choose, make_plan

QKV = torch.zeros(3, 1, 2, 5, 8).unbind()
SPARSE = call_of("attend", *QKV, None, None, None, qkv.sparsemax(), 0.0)
PLAIN = call_of("attend", *QKV, None, None, None, None, 0.0)


def test_the_first_that_does_not_refuse_runs() -> None:
    plan = make_plan("attend", PLAIN)
    assert plan.backend.name == "sdpa" and "sdpa" not in dict(plan.refused)
    assert make_plan("attend", PLAIN, "reference").backend.name == "reference"
    plan = make_plan("attend", SPARSE)
    assert plan.backend.name == "reference" and [name for name, _ in plan.refused] == [one.name for one in FUSED]


MASKS = (None, qkv.causal(), qkv.causal(offset=1), qkv.window(4), torch.ones(48, 48, dtype=torch.bool))
SELECTIONS = (None, qkv.topk(2), qkv.sink(torch.zeros(2)))


@pytest.mark.parametrize("shape", [(1, 2, 48, 8), (48, 8), (2, 3, 2, 5, 8), (1, 2, 0, 8), (1, 2, 48, 0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_what_is_told_at_once_is_what_the_plan_says(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    query = torch.zeros(*(1,) * (3 - len(shape)), *shape, dtype=dtype)
    few = query[..., :1, :, :]
    for mask, select, score, dropout, bias, key, width in itertools.product(
        MASKS, SELECTIONS, (None, qkv.soft_cap(qkv.dot(), 2.0)), (0.0, 0.5), (None, qkv.alibi(2)), (query, few), (0, 8)
    ):
        value = key[..., :width] if width else key.new_zeros(*key.shape[:-1], 3)
        try:
            call = call_of("attend", query, key, value, score, bias, mask, select, dropout)
        except qkv.errors.QkvError:
            continue
        assert choose("attend", call) is make_plan("attend", call).backend


def test_a_dense_call_runs_the_flash_kernel_and_nothing_else() -> None:
    query, key, value = torch.randn(3, 1, 8, 128, 64).unbind()
    for mask in (None, qkv.causal()):
        with profile(activities=[ProfilerActivity.CPU]) as ran:
            qkv.attend(query, key, value, mask=mask)
        names = [event.name for event in ran.events() if event.name.startswith(("aten::", "qkv::"))]
        assert "aten::_scaled_dot_product_flash_attention_for_cpu" in names
        # Views and uninitialised memory apart (which the tests fill), that is all.
        light = {"empty", "empty_like", "empty_strided", "fill_", "transpose", "as_strided"}
        rest = {name.removeprefix("aten::") for name in names if "scaled_dot_product" not in name}
        assert rest <= light


def reasons(*backends: Backend) -> str:
    return "; ".join(f"{backend.name}: {backend.refuses(SPARSE)}" for backend in backends)


def test_insisting_in_vain_gives_the_reasons() -> None:
    with pytest.raises(qkv.UnsupportedError) as refused:
        make_plan("attend", SPARSE, "fused")
    expected = f"attend: impl must name what can compute this call; got 'fused' ({reasons(*FUSED)})"
    assert str(refused.value) == expected
    for backend in FUSED:
        with pytest.raises(qkv.UnsupportedError) as refused:
            make_plan("attend", SPARSE, backend.name)
        told = f"attend: impl must name what can compute this call; got '{backend.name}' ({reasons(backend)})"
        assert str(refused.value) == told


def test_an_unknown_name_is_answered_by_the_known() -> None:
    with pytest.raises(qkv.ArgumentError) as refused:
        make_plan("attend", PLAIN, "flash")
    names = ", ".join(["auto", "fused", "reference", *(backend.name for backend in FUSED)])
    assert str(refused.value) == f"attend: impl must be one of {names}; got 'flash'"
