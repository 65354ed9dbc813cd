"""Packed documents: one packing or two, what follows the last, and bad lengths."""

import pytest
import torch
from torch import Tensor

from qkv.core.types import Grid
from qkv.errors import ArgumentError, KindError, ShapeError
from qkv.masks.causal import causal
from qkv.masks.documents import documents


def test_a_document_sees_itself_and_the_rest_sees_nothing() -> None:
    mask = documents(torch.tensor([2, 1]))
    assert mask.picture(4, 4).split("\n") == ["■ ■ · ·", "■ ■ · ·", "· · ■ ·", "· · · ·"]
    assert (mask & causal()).picture(3, 3).split("\n") == ["■ · ·", "■ ■ ·", "· · ■"]


def test_the_last_query_stands_at_the_last_key() -> None:
    assert documents(torch.tensor([2, 1])).picture(2, 3).split("\n") == ["■ ■ ·", "· · ■"]
    assert documents(torch.tensor([2])).picture(3, 2).split("\n") == ["· ·", "■ ■", "■ ■"]


def test_empty_documents_take_no_place() -> None:
    assert documents(torch.tensor([0, 1, 0, 2, 0])).picture(3, 3).split("\n") == ["■ · ·", "· ■ ■", "· ■ ■"]
    assert documents(torch.tensor([], dtype=torch.int64)).picture(1, 2) == "· ·"
    assert documents(torch.tensor([1])).dense(0, 1).shape == (0, 1)
    assert documents(torch.tensor([0])).dense(1, 0).shape == (1, 0)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_each_row_is_packed_by_itself(dtype: torch.dtype) -> None:
    dense = documents(torch.tensor([[1, 2], [3, 0]], dtype=dtype)).dense(3, 3, batch=(2,))
    assert dense.int().tolist() == [[[[1, 0, 0], [0, 1, 1], [0, 1, 1]]], [[[1, 1, 1]] * 3]]


def test_queries_and_keys_packed_by_lengths_of_their_own() -> None:
    mask = documents(keys=torch.tensor([1, 2, 1]), queries=torch.tensor([2, 0, 1]))
    assert mask.picture(4, 5).split("\n") == ["■ · · · ·", "■ · · · ·", "· · · ■ ·", "· · · · ·"]


def test_runs_by_hand() -> None:
    some, every = documents(torch.tensor([3, 2, 2])).runs(2, Grid((), 1, 8, 8))
    assert (some.start.tolist(), some.stop.tolist()) == ([[0], [0], [3], [5]], [[3], [5], [7], [7]])
    assert (every.start.tolist(), every.stop.tolist()) == ([[0], [8], [8], [8]], [[3], [8], [8], [8]])


def test_it_reads_as_its_call() -> None:
    lengths = torch.tensor([1, 2])
    assert repr(documents(lengths)) == "documents(int64[2])"
    assert repr(documents(keys=lengths, queries=lengths)) == "documents(keys=int64[2], queries=int64[2])"


ONE = torch.tensor([1])
TWO = torch.tensor([2, 2])


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ({"lengths": TWO}, ArgumentError, "documents: lengths must sum to at most 3; got 4 (there are 3 keys)"),
        (
            {"keys": ONE, "queries": torch.tensor([3])},
            ArgumentError,
            "documents: queries must sum to at most 2; got 3 (there are 2 queries)",
        ),
        (
            {"keys": torch.tensor([5]), "queries": ONE},
            ArgumentError,
            "documents: keys must sum to at most 3; got 5 (there are 3 keys)",
        ),
        ({"lengths": torch.tensor([2, -1])}, ArgumentError, "documents: lengths must be >= 0; got -1"),
        (
            {"lengths": ONE.expand(3, 1)},
            ShapeError,
            "documents: lengths must have the shape [documents] or [*batch, documents]; got [3, 1] (the batch is [2])",
        ),
        (
            {},
            ArgumentError,
            "documents: lengths must be given alone, or keys and queries together; got None",
        ),
        (
            {"lengths": ONE, "keys": ONE, "queries": ONE},
            ArgumentError,
            "documents: lengths must be given alone, or keys and queries together; got lengths and keys and queries",
        ),
        (
            {"queries": ONE},
            ArgumentError,
            "documents: lengths must be given alone, or keys and queries together; got queries",
        ),
    ],
)
def test_what_does_not_fit_is_refused(given: dict, kind: type, message: str) -> None:
    with pytest.raises(kind) as error:
        documents(**given).dense(2, 3, batch=(2,))
    assert str(error.value) == message


@pytest.mark.unhooked
@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        (
            {"lengths": [1, 2]},
            KindError,
            "documents: lengths must be a tensor of integers; got list (one length for each document)",
        ),
        (
            {"keys": ONE, "queries": torch.tensor([0.5])},
            KindError,
            "documents: queries must hold integers; got torch.float32 (one length for each document)",
        ),
        (
            {"keys": ONE, "queries": TWO},
            ShapeError,
            "documents: keys must have as many documents as queries; got [1] and [2]",
        ),
        (
            {"lengths": torch.tensor(3)},
            ShapeError,
            "documents: lengths must have the shape [documents] or [*batch, documents]; got [] "
            "(one length for each document)",
        ),
    ],
)
def test_other_kinds_are_refused(given: dict, kind: type, message: str) -> None:
    with pytest.raises(kind) as error:
        documents(**given)
    assert str(error.value) == message


def test_lengths_whose_sum_would_overflow_are_refused() -> None:
    with pytest.raises(ArgumentError) as error:
        documents(torch.tensor([1 << 62, 1 << 62])).dense(4, 4)
    assert str(error.value) == ("documents: lengths must sum to at most 4; got 4611686018427387904 (there are 4 keys)")


@pytest.mark.unhooked
@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        (
            torch.tensor([4], device="meta"),
            "documents: lengths must hold numbers, as the query on cpu does; got a meta tensor",
        ),
        (
            torch.tensor([4]).to(torch.uint16),
            "documents: lengths must hold integers; got torch.uint16 (one length for each document)",
        ),
        (
            torch.tensor([4]).to_sparse(),
            "documents: lengths must be a dense tensor; got torch.sparse_coo (.to_dense())",
        ),
    ],
)
def test_lengths_that_cannot_be_read_are_refused(lengths: Tensor, message: str) -> None:
    with pytest.raises(KindError) as error:
        documents(lengths).dense(4, 4)
    assert str(error.value) == message
