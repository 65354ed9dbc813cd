"""Top-k: ties."""

import torch
from weighing import weigh

import qkv

INF = torch.inf


def test_topk_ties_go_to_the_lower_key() -> None:
    assert weigh(qkv.topk(2), torch.tensor([[1.0, 3, 1, 1]]))[0, [2, 3]].tolist() == [0, 0]
    assert weigh(qkv.topk(2), torch.zeros(1, 4)).tolist() == [[0.5, 0.5, 0, 0]]
    assert weigh(qkv.topk(3), torch.tensor([[0.0, -INF, 0.0]])).tolist() == [[0.5, 0, 0.5]]
    torch.testing.assert_close(weigh(qkv.topk(9), torch.eye(3)), torch.eye(3).softmax(-1))
