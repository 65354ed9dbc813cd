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


def test_what_is_stored_is_counted() -> None:
    query = torch.randn(1, 2, 1024, 8)
    keep = torch.rand(1, 1024, generator=torch.Generator().manual_seed(0)) < 0.5
    ends = 4 * query.nbytes
    told = qkv.explain(query, query, query, mask=qkv.padding(keys=keep), impl="segments")
    # The keys that nobody sees are filled with zeros, and every block of rows shares one tile of numbers.
    assert told.cost.bytes >= ends + 2 * 3 * query.nbytes + 2 * 4 * 64 * (keep.nonzero().amax() - keep.nonzero()[0, 1])
    assert qkv.explain(query, query, query, mask=qkv.padding(keys=torch.tensor([500]))).cost.bytes == ends


def test_a_query_without_numbers_is_told_what_its_mask_hides() -> None:
    query = torch.zeros(1, 2, 256, 8, device="meta")
    for mask in (qkv.causal(), qkv.window(4), qkv.padding(keys=torch.tensor([100])), torch.ones(256, 256).tril() > 0):
        real = qkv.explain(*QKV, mask=mask)
        assert qkv.explain(query, query, query, mask=mask).pairs_alive == real.pairs_alive < real.pairs_possible
    nowhere = qkv.padding(keys=torch.tensor([100], device="meta"))
    assert qkv.explain(query, query, query, mask=nowhere).pairs_alive == 2 * 256 * 256


def test_nothing_alive_and_nothing_possible() -> None:
    hidden = torch.zeros(256, 256, dtype=torch.bool)
    assert qkv.explain(*QKV, mask=hidden).pairs_alive == 0
    none = qkv.explain(QKV[0][..., :0, :], *QKV[1:], mask=qkv.causal())
    assert none.pairs_possible == none.pairs_alive == 0 and "(0%)" in str(none)
