"""Threads that take step after step together, unless they hinder each other."""

import os
import time
from collections.abc import Callable

import torch

from qkv.backends.threads import in_parallel

ALONE = 50
"""Steps that the caller takes alone once threads hindered each other, before they try again."""


class Company:
    """Threads that share steps. Where others want the processors too, they are left alone.

    A thread that does not run may have begun what all others wait for, longer than a step takes on one. So the first
    step is taken alone, and two in a row that took longer together show that company does not pay.
    """

    def __init__(self) -> None:
        self.took_alone: dict[int, float] = {}
        self.slow = self.alone = 0

    def size(self, rows: int) -> int:
        """Say how many threads are to take the next step."""
        if self.alone or rows not in self.took_alone:
            self.alone = max(0, self.alone - 1)
            return 1
        return torch.get_num_threads()

    def work(self, work: Callable[[int], bool], size: int, rows: int) -> None:
        """Call work(0) to work(size − 1) on threads, each until it says that the whole step is done."""

        def persist(part: int) -> None:
            while not work(part):
                _give_way()

        start = time.perf_counter()
        in_parallel(persist, size)
        took = time.perf_counter() - start
        if size == 1:
            self.took_alone[rows] = took
        elif took <= self.took_alone[rows]:
            self.slow = 0
        elif self.slow:
            self.slow, self.alone = 0, ALONE
        else:
            self.slow = 1


_give_way: Callable[[], None] = getattr(os, "sched_yield", lambda: time.sleep(0))
