"""Without numba, or with its compiler switched off, the paths that need kernels say so and others are taken."""

import subprocess
import sys

import pytest

CODE = """
import sys
{first}
import torch, qkv
torch.manual_seed(0)
query, key, value = torch.randn(3, 1, 2, 200, 32)
for choices in ({{"bias": qkv.alibi(2)}}, {{"dropout": 0.1}}, {{"score": qkv.Additive(32, 32, 16)}}):
    said = str(qkv.explain(query, key, value, **choices))
    assert {reason!r} in said, said
    assert qkv.attend(query, key, value, **choices).isfinite().all()
config = qkv.GptConfig(100, 32, 2, 2, 64, 32)
gpt = qkv.Gpt(config)
loss, count = gpt.loss(torch.randint(100, (2, 20)), torch.randint(100, (2, 20)))
loss.backward()
tokens = list(qkv.generate(gpt.eval(), gpt.start(), torch.randint(100, (1, 4)), new=5))
assert len(tokens) == 5
"""


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        ("sys.modules['numba'] = None", "numba is not installed"),
        ("import os; os.environ['NUMBA_DISABLE_JIT'] = '1'", "numba compiles nothing here (NUMBA_DISABLE_JIT)"),
    ],
)
def test_without_kernels_other_paths_are_taken(first: str, reason: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(first=first, reason=reason)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
