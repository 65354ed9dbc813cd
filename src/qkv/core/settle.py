"""A guard for exactness and determinism against a race in PyTorch's builds with MKL."""

import torch

FUNCTIONS = (torch.exp, torch.log, torch.tanh, torch.sin, torch.cos, torch.sqrt)
"""What qkv computes elementwise and MKL's vector library answers."""


def settle() -> None:
    """Call each function once on one number, so that no large tensor is the first.

    MKL chooses a function's kernel at its first call in a process. If that call is split among threads, one of them
    may run a kernel of low precision for its share, thousands of last places off, and only that once
    (github.com/pytorch/pytorch/issues/188792).

    Cost: microseconds, once.
    """
    for dtype in (torch.float32, torch.float64):
        for function in FUNCTIONS:
            function(torch.ones(1, dtype=dtype, device="cpu"))
