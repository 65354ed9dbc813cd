"""The causal mask: where a query stands, and bad offsets."""

import pytest
import torch

from qkv.core.types import Grid
from qkv.errors import ArgumentError, KindError, ShapeError
from qkv.masks.causal import causal

# As many keys as queries, more, fewer, one, none.
PICTURES = {
    (3, 3): ["■ · ·", "■ ■ ·", "■ ■ ■"],
    (2, 4): ["■ ■ ■ ·", "■ ■ ■ ■"],
    (3, 2): ["· ·", "■ ·", "■ ■"],
    (1, 1): ["■"],
    (2, 0): ["", ""],
}


@pytest.mark.parametrize(("queries", "keys"), PICTURES)
def test_the_last_query_stands_at_the_last_key(queries: int, keys: int) -> None:
    assert causal().picture(queries, keys).split("\n") == PICTURES[queries, keys]


def test_an_offset_places_the_first_query() -> None:
    assert causal(offset=0).picture(2, 4).split("\n") == ["■ · · ·", "■ ■ · ·"]
    assert causal(offset=-1).picture(2, 2).split("\n") == ["· ·", "■ ·"]
    each = causal(offset=torch.tensor([0, 2])).dense(2, 4, batch=(2,))
    assert each.tolist() == [
        [[[True, False, False, False], [True, True, False, False]]],
        [[[True, True, True, False], [True, True, True, True]]],
    ]


def test_runs_by_hand() -> None:
    some, every = causal().runs(2, Grid((), 1, 5, 6))
    assert (some.start.tolist(), some.stop.tolist()) == ([[0]] * 3, [[3], [5], [6]])
    assert (every.start.tolist(), every.stop.tolist()) == ([[0]] * 3, [[2], [4], [6]])


def test_it_reads_as_its_call() -> None:
    assert repr(causal()) == "causal()"
    assert repr(causal(offset=3)) == "causal(offset=3)"
    assert repr(causal(offset=torch.tensor([3, 4]))) == "causal(offset=int64[2])"


def test_more_than_2_to_the_31_pairs() -> None:
    grid = Grid((), 1, 1 << 40, 1 << 40)
    rows = torch.tensor([(1 << 40) - 1])
    assert causal().tile(rows, torch.tensor([0, (1 << 40) - 1]), grid).tolist() == [[True, True]]


def test_an_offset_for_another_batch_is_refused() -> None:
    with pytest.raises(ShapeError) as error:
        causal(offset=torch.tensor([1, 2, 3])).dense(2, 2, batch=(2,))
    fix = "(query and key have the batch [2]: [*batch, heads, positions, dim])"
    assert str(error.value) == f"causal: offset must have the shape [*batch]; got [3] {fix}"


@pytest.mark.parametrize("offset", [(1 << 63) - 1, -(1 << 31), 1 << 70])
def test_an_offset_beyond_every_grid_is_refused(offset: int) -> None:
    with pytest.raises(ArgumentError) as error:
        causal(offset=offset)
    assert str(error.value) == f"causal: offset must lie between -2^31 and 2^31; got {offset}"


def test_an_offset_in_a_tensor_does_not_overflow() -> None:
    far = torch.tensor([(1 << 63) - 1, -(1 << 63)])
    assert causal(offset=far).dense(2, 2, batch=(2,)).flatten(1).tolist() == [[True] * 4, [False] * 4]


def test_an_offset_that_holds_nothing_is_refused() -> None:
    with pytest.raises(KindError) as error:
        causal(offset=torch.zeros(2, dtype=torch.long, device="meta")).dense(2, 2, batch=(2,))
    assert str(error.value) == "causal: offset must hold numbers, as the query on cpu does; got a meta tensor"


@pytest.mark.unhooked
@pytest.mark.parametrize(
    ("offset", "message"),
    [
        (1.5, "causal: offset must be an integer or a tensor of integers; got float"),
        (True, "causal: offset must be an integer or a tensor of integers; got bool"),
        (
            torch.tensor([1.0]),
            "causal: offset must hold integers; got torch.float32 (one position for each batch row)",
        ),
        (torch.tensor([1]).to_sparse(), "causal: offset must be a dense tensor; got torch.sparse_coo (.to_dense())"),
    ],
)
def test_an_offset_of_another_kind_is_refused(offset: object, message: str) -> None:
    with pytest.raises(KindError) as error:
        causal(offset=offset)
    assert str(error.value) == message
