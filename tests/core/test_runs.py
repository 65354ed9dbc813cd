"""Runs: their shape, and that `|`, `&` and `~` are those of sets."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qkv.core.runs import Runs

BLOCKS = 3


@st.composite
def intervals(draw: st.DrawFn, keys: int) -> tuple[Tensor, Tensor]:
    slots = draw(st.integers(1, 7))
    ends = st.lists(st.integers(-3, keys + 3), min_size=BLOCKS * slots, max_size=BLOCKS * slots)
    return tuple(torch.tensor(draw(ends)).view(BLOCKS, slots) for _ in range(2))


def flags(start: Tensor, stop: Tensor, keys: int) -> Tensor:
    """Spell intervals out key by key, in plain Python."""
    rows = zip(start.tolist(), stop.tolist(), strict=True)
    seen = [[any(a <= key < b for a, b in zip(*row, strict=True)) for key in range(keys)] for row in rows]
    return torch.tensor(seen, dtype=torch.bool).view(BLOCKS, keys)


def assert_well_formed(runs: Runs) -> None:
    for start, stop in zip(runs.start.tolist(), runs.stop.tolist(), strict=True):
        real = [(a, b) for a, b in zip(start, stop, strict=True) if a < b]
        held = [edge for run in real for edge in run]
        assert held == sorted(set(held)) and all(0 <= edge <= runs.keys for edge in held)
        spare = len(start) - len(real)
        assert list(zip(start, stop, strict=True)) == real + [(runs.keys, runs.keys)] * spare


@settings(max_examples=300)
@given(st.data())
def test_runs_are_sets_of_keys(data: st.DataObject) -> None:
    keys = data.draw(st.integers(0, 14))
    drawn = [data.draw(intervals(keys)) for _ in range(2)]
    left, right = (Runs.make(start, stop, keys) for start, stop in drawn)
    left_flags, right_flags = (flags(start, stop, keys) for start, stop in drawn)
    for runs, expected in (
        (left, left_flags),
        (~left, ~left_flags),
        (~~left, left_flags),
        (left | right, left_flags | right_flags),
        (left & right, left_flags & right_flags),
        (~(left & right) & ~right, ~right_flags),
    ):
        assert_well_formed(runs)
        assert torch.equal(runs.cover(), expected)
        assert torch.equal(runs.count(), expected.sum(-1))
        assert torch.equal(runs.shown(), expected.any(-2))


@settings(max_examples=200)
@given(st.data())
def test_runs_of_flags_are_the_flagged_cells(data: st.DataObject) -> None:
    cell, keys = data.draw(st.integers(1, 4)), data.draw(st.integers(0, 20))
    cells = -(-keys // cell)
    drawn = data.draw(st.lists(st.booleans(), min_size=BLOCKS * cells, max_size=BLOCKS * cells))
    marked = torch.tensor(drawn, dtype=torch.bool).view(BLOCKS, cells)
    expected = marked.repeat_interleave(cell, dim=-1)[:, :keys]
    begins = marked & ~torch.nn.functional.pad(marked, (1, 0))[:, :cells]
    known = int(begins.sum(-1).max()) if cells else 0
    for most in (None, known, known + 1):
        runs = Runs.of_flags(marked, cell, keys, most)
        assert_well_formed(runs)
        assert torch.equal(runs.cover(), expected)


def test_an_example_by_hand() -> None:
    left = Runs.make(torch.tensor([[4, 0, 8]]), torch.tensor([[6, 2, 12]]), 10)
    assert (left.start.tolist(), left.stop.tolist()) == ([[0, 4, 8]], [[2, 6, 10]])
    right = Runs.make(torch.tensor([[1]]), torch.tensor([[5]]), 10)
    assert ((left & right).start.tolist(), (left & right).stop.tolist()) == ([[1, 4, 10]], [[2, 5, 10]])
    assert ((left | right).start.tolist(), (left | right).stop.tolist()) == ([[0, 8, 10, 10]], [[6, 10, 10, 10]])
    assert ((~left).start.tolist(), (~left).stop.tolist()) == ([[2, 6, 10, 10]], [[4, 8, 10, 10]])


@pytest.mark.parametrize("slots", [1, 8])
def test_leading_dimensions_broadcast(slots: int) -> None:
    start = torch.arange(slots).mul(2).expand(2, 1, 5, slots)
    left, right = (
        Runs.make(start, start + 1, 16),
        Runs.make(torch.zeros(3, 5, slots, dtype=torch.int64), torch.full((3, 5, slots), 4), 16),
    )
    for runs in (left & right, left | right):
        assert runs.start.shape[:-1] == (2, 3, 5)
