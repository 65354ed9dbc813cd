"""Which backend runs, and what is said when none may."""

import pytest
import torch

import qkv
from qkv.attention import call_of
from qkv.core.backend import Backend
from qkv.plan import FUSED, make_plan

QKV = torch.zeros(3, 1, 2, 5, 8).unbind()
SPARSE = call_of("attend", *QKV, None, None, None, qkv.sparsemax(), 0.0)
PLAIN = call_of("attend", *QKV, None, None, None, None, 0.0)


def test_the_first_that_does_not_refuse_runs() -> None:
    plan = make_plan("attend", PLAIN)
    assert plan.backend.name == "sdpa" and "sdpa" not in dict(plan.refused)
    assert make_plan("attend", PLAIN, "reference").backend.name == "reference"
    plan = make_plan("attend", SPARSE)
    assert plan.backend.name == "reference" and [name for name, _ in plan.refused] == [one.name for one in FUSED]


def reasons(*backends: Backend) -> str:
    return "; ".join(f"{backend.name}: {backend.refuses(SPARSE)}" for backend in backends)


def test_insisting_in_vain_gives_the_reasons() -> None:
    with pytest.raises(qkv.UnsupportedError) as refused:
        make_plan("attend", SPARSE, "fused")
    expected = f"attend: impl='fused' must have a fast path for this call; got none ({reasons(*FUSED)})"
    assert str(refused.value) == expected
    for backend in FUSED:
        with pytest.raises(qkv.UnsupportedError) as refused:
            make_plan("attend", SPARSE, backend.name)
        told = f"attend: impl='{backend.name}' must express this call; got a refusal ({reasons(backend)})"
        assert str(refused.value) == told


def test_an_unknown_name_is_answered_by_the_known() -> None:
    with pytest.raises(qkv.ArgumentError) as refused:
        make_plan("attend", PLAIN, "flash")
    names = ", ".join(["auto", "fused", "reference", *(backend.name for backend in FUSED)])
    assert str(refused.value) == f"attend: impl must be one of {names}; got 'flash'"
