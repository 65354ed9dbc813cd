"""Options: their limits, and what a resumed run may change."""

import json

import pytest

from qkv.errors import ArgumentError, KindError
from qkv.training.options import Options, check_same, micro_batches_of
from qkv.training.schedules import cosine


def record(kind="gpt", about=None, **options):
    now = Options(**{"steps": 10, "rate": 1e-3} | options)
    return {"kind": kind, "about": about or {}, "options": json.loads(json.dumps(now.record()))}


def test_what_may_change():
    check_same(record(), record())
    check_same(
        record(),
        record(steps=20, accumulate=4, validate_every=1, checkpoint_every=1, keep=9, workers=2, tensorboard=True),
    )


@pytest.mark.parametrize(
    ("now", "text"),
    [
        (record(rate=2e-3), "train: options.rate must be the run's 0.001 when it is resumed; got 0.002"),
        (
            record(betas=(0.9, 0.98)),
            "train: options.betas must be the run's [0.9, 0.999] when it is resumed; got [0.9, 0.98]",
        ),
        (
            record(schedule=cosine(10)),
            "train: options.schedule must be the run's constant(warm_up=0) when it is resumed; "
            "got cosine(steps=10, warm_up=0, last=0.0)",
        ),
        (record(kind="bert"), "train: kind must be the run's gpt when it is resumed; got bert"),
        (record(about={"data": "b"}), "train: about.data must be the run's None when it is resumed; got b"),
    ],
)
def test_what_may_not(now, text):
    with pytest.raises(ArgumentError) as refused:
        check_same(record(), now)
    assert str(refused.value) == text


def test_a_step_stays_as_large_on_another_number_of_ranks():
    asked, unsaid = (Options(steps=1, rate=1.0, accumulate=count) for count in (3, None))
    assert [micro_batches_of(unsaid, ranks, before) for ranks, before in ((2, None), (1, 4), (2, 4), (4, 4))] == [
        1,
        4,
        2,
        1,
    ]
    assert micro_batches_of(asked, 2, None) == micro_batches_of(asked, 2, 4) == 3
    text = (
        r"^train: the number of processes must share out the 4 micro-batches that a step of this run has; got 3 "
        r"\(or say --accumulate\)$"
    )
    with pytest.raises(ArgumentError, match=text):
        micro_batches_of(unsaid, 3, 4)


@pytest.mark.unhooked
@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"steps": 0}, ArgumentError, "Options: steps must be >= 1; got 0"),
        ({"keep": 0}, ArgumentError, "Options: keep must be >= 1; got 0"),
        ({"workers": -1}, ArgumentError, "Options: workers must be >= 0; got -1"),
        ({"accumulate": 0}, ArgumentError, "Options: accumulate must be >= 1; got 0"),
        ({"accumulate": 1.5}, KindError, "Options: accumulate must be an integer; got float"),
        ({"rate": 0}, ArgumentError, "Options: rate must be a finite number > 0; got 0"),
        ({"clip": -1.0}, ArgumentError, "Options: clip must be a finite number > 0; got -1.0"),
        ({"weight_decay": 2}, ArgumentError, "Options: weight_decay must lie in [0, 1]; got 2"),
        ({"betas": (0.9, 1.5)}, ArgumentError, "Options: betas must lie in [0, 1]; got 1.5"),
        ({"precision": "fp8"}, ArgumentError, "Options: precision must be one of float32, bf16; got fp8"),
    ],
)
def test_the_text_of_a_refusal(options, kind, text):
    with pytest.raises(kind) as refused:
        Options(**{"steps": 10, "rate": 1e-3} | options)
    assert str(refused.value) == text
