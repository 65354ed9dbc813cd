"""Spans: an interval of keys for each query, and dense masks told by them."""

import pytest
import torch

import qkv
from qkv.core.types import Grid
from qkv.errors import KindError, ShapeError
from qkv.masks.spans import spans, spans_of

START, STOP = torch.tensor([0, 0, 1, 3, 2]), torch.tensor([1, 3, 4, 3, 9])


def test_each_query_sees_its_interval():
    assert spans(START, STOP).picture(5, 5).split("\n") == [
        "■ · · · ·", "■ ■ ■ · ·", "· ■ ■ ■ ·", "· · · · ·", "· · ■ ■ ■",
    ]  # fmt: skip


@pytest.mark.parametrize("block", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("lead", [(), (2, 1), (2, 3)])
def test_runs_claim_what_some_and_what_every_row_sees(block, lead):
    generator = torch.Generator().manual_seed(0)
    start, stop = (torch.randint(-2, 12, (*lead, 7), generator=generator) for _ in range(2))
    mask, grid = spans(start, stop), Grid((2,), 3, 7, 9)
    mask.check(grid)
    dense = mask.tile(grid.rows(), grid.columns(), grid)
    some, every = (runs.cover() for runs in mask.runs(block, grid))
    for number, rows in enumerate(dense.split(block, -2)):
        assert (some[..., number, :] | ~rows.any(-2)).all(), "a pair is missed"
        assert (~every[..., number, :] | rows.all(-2)).all(), "a pair is claimed for all"
    if block == 1:
        assert torch.equal(some, every)


@pytest.mark.parametrize(
    "mask",
    [
        qkv.causal(),
        qkv.causal() & qkv.window(3),
        qkv.padding(keys=torch.tensor([4, 9]), left=True) & qkv.causal(),
        qkv.padding(keys=torch.tensor([4, 0]), queries=torch.tensor([2, 3])),
    ],
)
def test_a_dense_mask_of_intervals_is_told_by_them(mask):
    dense = mask.dense(9, 9, batch=(2,))
    told = spans_of(dense)
    assert torch.equal(told.dense(9, 9, batch=(2,)), dense)
    spread = spans_of(dense.expand(2, 4, 9, 9))
    assert spread.start.shape[1] == 1, "a spread dimension is read once"
    assert torch.equal(spread.dense(9, 9, batch=(2,), heads=4).expand(2, 4, 9, 9), dense.expand(2, 4, 9, 9))


def test_other_masks_are_not():
    assert spans_of(torch.tensor([[True, False, True]])) is None
    assert spans_of(torch.tensor([[True, True, False], [False, True, False]])) is not None
    assert spans_of(torch.zeros(2, 3, 0, dtype=torch.bool)).start.tolist() == [[0, 0, 0], [0, 0, 0]]


def test_attention_by_spans_is_that_of_the_dense_mask():
    query, key, value = (torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0)) for _ in range(3))
    mask = spans(START, STOP.clamp(max=5))
    expected = qkv.attend(query, key, value, mask=mask.dense(5, 5))
    torch.testing.assert_close(qkv.attend(query, key, value, mask=mask), expected)


@pytest.mark.unhooked
def test_what_does_not_fit_is_refused():
    with pytest.raises(KindError, match=r"^spans: start must be a tensor of integers; got torch\.float32$"):
        spans(START.float(), STOP)
    with pytest.raises(
        ShapeError, match=r"^spans: stop must spread out to \[\*batch, heads, queries\] = \[2, 5\]; got \[1\]$"
    ):
        spans(START, STOP[:1]).check(Grid((), 2, 5, 5))
