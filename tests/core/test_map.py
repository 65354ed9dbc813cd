"""The map: its memory. What it answers is held by the contract tests, its refusals by test_errors.py."""

import copy
import pickle
import subprocess
import sys

import pytest
import torch

import qkv

PROGRAM = """
import resource, sys, torch, qkv
torch.set_num_threads(1)
positions, question = int(sys.argv[1]), sys.argv[2]
query, key = torch.randn(2, 1, positions, 64)
ask = lambda seen: eval(question, {"seen": seen, "torch": torch})
ask(qkv.attention_map(query[:, :300], key[:, :300]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
ask(qkv.attention_map(query, key))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""
QUESTIONS = (
    "seen.row(5)",
    "seen.top_keys(8)",
    "seen.entropy()",
    "seen.received()",
    "seen.pooled(256, 256)",
    "seen[0, :64, :64]",
    "seen[0, :, 5]",
    "seen.logsumexp()",
)


@pytest.mark.slow
@pytest.mark.parametrize("question", QUESTIONS)
def test_memory_does_not_grow_with_queries_times_keys(question: str) -> None:
    # 12,288² float32 weights are 604 MB. benchmarks/map_memory.py asks at 32,768.
    run = subprocess.run([sys.executable, "-c", PROGRAM, "12288", question], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 150_000_000


def test_dense_refuses_with_the_size_and_a_way_out() -> None:
    seen = qkv.attention_map(*torch.empty(2, 1, 32768, 1))
    with pytest.raises(qkv.ArgumentError) as refused:
        seen.dense()
    assert str(refused.value) == (
        "AttentionMap.dense: the weights must fit in 1,073,741,824 bytes; got 4,294,967,296 (dense(limit=4294967296), "
        "or ask for less: map[..., :64, :64], map.row(i), map.pooled(512, 512), map.head(0))"
    )
    assert seen[0, -1, :2].shape == (2,)
    assert repr(seen) == "AttentionMap(1 × 32768 × 32768, softmax())"


def test_an_index_narrows_before_it_computes() -> None:
    seen = qkv.attention_map(*torch.randn(2, 40, 16, 1024, 1))
    with pytest.raises(qkv.ArgumentError):
        seen.dense()
    assert seen[3, 5].shape == (1024, 1024)
    torch.testing.assert_close(seen[3, 5], seen.example(3).head(5).dense()[0, 0])


def test_some_rows_are_those_of_the_dense_map() -> None:
    seen = qkv.attention_map(*torch.randn(2, 2, 3, 9, 4), mask=qkv.causal())
    torch.testing.assert_close(seen.rows(torch.tensor([7, 0, 7])), seen.dense()[..., [7, 0, 7], :])
    drawn = qkv.attention_map(*torch.randn(2, 1, 9, 4), select=qkv.hard(sample=True))
    assert torch.equal(drawn.rows(torch.arange(9)), drawn.dense())


def test_a_copy_answers_and_a_changed_one_is_not_copied():
    query, key = torch.randn(2, 1, 2, 9, 4)
    may = torch.ones(9, 9).tril() > 0
    seen = qkv.attention_map(query, key, mask=qkv.dense_mask(may))
    for other in (pickle.loads(pickle.dumps(seen)), copy.deepcopy(seen), copy.copy(seen)):
        torch.testing.assert_close(other.entropy(), seen.entropy())
    may.logical_not_()
    with pytest.raises(qkv.ArgumentError, match="changed in place"):
        copy.deepcopy(seen)
