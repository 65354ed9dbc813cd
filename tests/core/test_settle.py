"""Every function that MKL answers is called once on one number, before anything of qkv computes."""

import subprocess
import sys

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from qkv.core.settle import FUNCTIONS, settle


class Seen(TorchDispatchMode):
    """Note each operation with its dtype and its size."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, torch.dtype, int]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = function(*args, **(kwargs or {}))
        self.calls.append((function.overloadpacket.__name__, result.dtype, result.numel()))
        return result


def test_settle_calls_each_on_one_number() -> None:
    with Seen() as seen:
        settle()
    for function in FUNCTIONS:
        for dtype in (torch.float32, torch.float64):
            assert (function.__name__, dtype, 1) in seen.calls


def test_a_part_used_alone_settles_too() -> None:
    script = "import sys, qkv; qkv.sinusoidal; print('qkv.core.settle' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
