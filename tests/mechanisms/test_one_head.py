import pytest
import torch

import qkv
from qkv.errors import KindError
from qkv.mechanisms.one_head import pairs_seen, with_head


def test_every_tensor_gets_a_head():
    one, other = with_head("f", query=torch.ones(2, 3, 4), memory=torch.ones(2, 5, 6))
    assert one.shape == (2, 1, 3, 4)
    assert other.shape == (2, 1, 5, 6)


@pytest.mark.parametrize(
    "mask",
    [qkv.causal(), qkv.causal() & qkv.padding(keys=torch.tensor([3, 3])), torch.ones(2, 3).bool().tril(1)],
)
def test_a_mask_is_spelled_out(mask):
    seen = pairs_seen("f", torch.ones(2, 2, 4), torch.ones(2, 3, 4), mask)
    assert seen.tolist() == [[[True, True, False], [True, True, True]]] * 2


def test_no_mask_takes_no_memory():
    seen = pairs_seen("f", torch.ones(2, 2, 4), torch.ones(2, 3, 4), None)
    assert seen.shape == (2, 2, 3) and seen.all()
    assert seen.untyped_storage().nbytes() == 1


@pytest.mark.unhooked
def test_what_is_no_mask():
    with pytest.raises(KindError) as raised:
        pairs_seen("f", torch.ones(2, 4), torch.ones(3, 4), "causal")
    assert str(raised.value) == "f: mask must be a boolean tensor or a mask of qkv; got 'causal' (such as qkv.causal())"


@pytest.mark.unhooked
def test_what_is_not_dense():
    with pytest.raises(KindError) as raised:
        with_head("f", query=torch.ones(2, 4).to_sparse())
    assert str(raised.value) == "f: query must be a dense tensor; got torch.sparse_coo (.to_dense())"
