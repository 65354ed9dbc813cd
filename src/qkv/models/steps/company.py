"""Threads that take step after step together, unless they hinder each other."""

import math
import os
import time
from collections.abc import Callable

import torch

from qkv.backends.threads import in_parallel

ALONE = 20
"""Steps that the caller takes alone once threads hindered each other, before they try again."""


class Company:
    """Threads that share steps. Where others want the processors too, they are left alone.

    A thread that does not run may have begun what all others wait for, longer than the step takes on one. It shows in a
    step of twice the fastest's time; as texts grow and so do steps, the fastest is forgotten slowly.
    """

    def __init__(self) -> None:
        self.fastest: dict[int, float] = {}
        self.alone = 0

    def size(self) -> int:
        """Say how many threads are to take the next step."""
        if self.alone:
            self.alone -= 1
            return 1
        return torch.get_num_threads()

    def work(self, work: Callable[[int], bool], size: int, rows: int) -> None:
        """Call work(0) to work(size − 1) on threads, each until it says that the whole step is done."""

        def persist(part: int) -> None:
            while not work(part):
                _give_way()

        start = time.perf_counter()
        in_parallel(persist, size)
        if size > 1:
            took, fastest = time.perf_counter() - start, self.fastest.get(rows, math.inf)
            self.alone = ALONE if took > 2 * fastest else 0
            self.fastest[rows] = min(took, 1.01 * fastest)


_give_way: Callable[[], None] = getattr(os, "sched_yield", lambda: time.sleep(0))
