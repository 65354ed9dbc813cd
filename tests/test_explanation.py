"""What `explain` tells: the truth, in words."""

import torch

import qkv

QKV = torch.zeros(3, 1, 2, 256, 8).unbind()


def test_it_tells_what_runs_and_why_nothing_faster_does() -> None:
    told = qkv.explain(*QKV, bias=qkv.alibi(heads=2), mask=qkv.causal(), select=qkv.sparsemax())
    text = str(told)
    assert text.startswith("scaled_dot() + alibi(heads=2) · causal() → sparsemax()\nbackend   reference\nnot ")
    assert "sdpa: it selects by softmax alone, not by sparsemax()" in text
    assert told.pairs_possible == told.cost.pairs == 2 * 256 * 256
    assert told.pairs_alive == 2 * 256 * 257 // 2
    assert "dropout 0.1" in qkv.explain(*QKV, dropout=0.1).choices


def test_the_path_it_names_runs() -> None:
    for parts in ({}, {"mask": qkv.causal()}, {"select": qkv.topk(2)}, {"mask": qkv.window(4), "dropout": 0.5}):
        told = qkv.explain(*QKV, **parts)
        assert qkv.attend(*QKV, **parts, impl=told.backend).shape == QKV[0].shape
        assert all(told.backend != name for name, _ in told.refused)


def test_nothing_alive_and_nothing_possible() -> None:
    hidden = torch.zeros(256, 256, dtype=torch.bool)
    assert qkv.explain(*QKV, mask=hidden).pairs_alive == 0
    none = qkv.explain(QKV[0][..., :0, :], *QKV[1:], mask=qkv.causal())
    assert none.pairs_possible == none.pairs_alive == 0 and "(0%)" in str(none)
