"""Dense masks: what they broadcast to, how they are planned, and bad input."""

import pytest
import torch

from qkv.core.types import Grid
from qkv.errors import KindError, ShapeError
from qkv.masks.dense import dense_mask

PAIRS = torch.tensor([[1, 0, 0, 1], [1, 1, 0, 0], [0, 0, 0, 1]], dtype=torch.bool)


def test_a_tensor_is_its_own_mask() -> None:
    assert dense_mask(PAIRS).picture(3, 4).split("\n") == ["■ · · ■", "■ ■ · ·", "· · · ■"]


@pytest.mark.parametrize("shape", [(), (4,), (3, 1), (1, 4), (2, 1, 1), (5, 1, 1, 4), (5, 2, 3, 4)])
def test_it_broadcasts(shape: tuple[int, ...]) -> None:
    tensor = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.5
    dense = dense_mask(tensor).dense(3, 4, batch=(5,), heads=2)
    assert torch.equal(dense.expand(5, 2, 3, 4), tensor.expand(5, 2, 3, 4))


def test_runs_by_hand() -> None:
    some, every = dense_mask(PAIRS).runs(2, Grid((), 1, 3, 4))
    assert (some.start.tolist(), some.stop.tolist()) == ([[0, 3], [3, 4]], [[2, 4], [4, 4]])
    assert (every.start.tolist(), every.stop.tolist()) == ([[0, 4], [3, 4]], [[1, 4], [4, 4]])


def test_many_keys_are_planned_in_cells() -> None:
    tensor = torch.zeros(2, 640, dtype=torch.bool)
    tensor[:, 25] = True
    tensor[:, 600:620] = True
    some, every = dense_mask(tensor).runs(2, Grid((), 1, 2, 640))
    assert some.start.shape[-1] <= 32
    assert [some.start[0, :3].tolist(), some.stop[0, :3].tolist()] == [[20, 600, 640], [30, 620, 640]]
    assert [every.start[0, :2].tolist(), every.stop[0, :2].tolist()] == [[600, 640], [620, 640]]


def test_no_queries_and_no_keys() -> None:
    assert dense_mask(PAIRS[:0]).dense(0, 4).shape == (0, 4)
    assert dense_mask(PAIRS[:, :0]).dense(3, 0).shape == (3, 0)


def test_a_transposed_tensor_is_as_good() -> None:
    some, _ = dense_mask(PAIRS.T.contiguous().T).runs(2, Grid((), 1, 3, 4))
    assert some.start.tolist() == [[0, 3], [3, 4]]


def test_it_reads_as_its_call() -> None:
    assert repr(dense_mask(PAIRS)) == "dense_mask(bool[3, 4])"


@pytest.mark.parametrize("shape", [(3, 5), (2, 4), (3, 3, 4), (1, 1, 1, 3, 4)])
def test_a_tensor_that_does_not_broadcast_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError) as error:
        dense_mask(torch.ones(shape, dtype=torch.bool)).dense(3, 4, batch=(5,), heads=2)
    rule = "dense_mask: tensor must broadcast to [*batch, heads, queries, keys] = [5, 2, 3, 4]"
    assert str(error.value) == f"{rule}; got {list(shape)}"


def test_a_tensor_on_another_device_is_refused() -> None:
    with pytest.raises(KindError) as error:
        dense_mask(PAIRS.to("meta")).dense(3, 4)
    message = "dense_mask: tensor must be on cpu; got meta (it is too large to be moved at each call)"
    assert str(error.value) == message


@pytest.mark.unhooked
@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        ([[True]], "dense_mask: tensor must be a boolean tensor; got list (True = may attend)"),
        (
            PAIRS.float(),
            "dense_mask: tensor must be boolean; got torch.float32 "
            "(mask > 0 or mask.bool(), True = may attend; a float mask that is added is a bias)",
        ),
    ],
)
def test_other_kinds_are_refused(tensor: object, message: str) -> None:
    with pytest.raises(KindError) as error:
        dense_mask(tensor)
    assert str(error.value) == message


@pytest.mark.parametrize("columns", [[0, 1, 2], [1], [2, 3, 0], [3, 0], [3, 2], [0, 2], [1, 1], []])
def test_keys_are_asked_for_in_any_order(columns: list[int]) -> None:
    grid, wanted = Grid((), 1, 3, 4), torch.tensor(columns, dtype=torch.long)
    assert torch.equal(dense_mask(PAIRS).tile(grid.rows(), wanted, grid), PAIRS[:, wanted])
