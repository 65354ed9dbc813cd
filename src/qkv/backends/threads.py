"""The threads that kernels run on: as many as torch says, each on a part of the work."""

import itertools
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock

import torch

_pool: ThreadPoolExecutor | None = None
_lock = Lock()


def in_parallel(work: Callable[[int], object], parts: int) -> None:
    """Call work(0) to work(parts − 1), each once and in no order, on `torch.get_num_threads()` threads.

    The caller works too and waits for nobody who has not begun, so calls may nest and come from several threads. Parts
    that write to places of their own give the same on any number of threads.

    Cost: some 20 µs; nothing for one part or one thread.
    Raises: what `work` raised first; parts not yet begun are left out.
    """
    helpers = min(torch.get_num_threads(), parts) - 1
    if helpers < 1:
        for part in range(parts):
            work(part)
        return
    left = itertools.count()
    failed: list[BaseException] = []

    def take() -> None:
        # A count's next is one step under the GIL: no two threads get the same part.
        while not failed and (part := next(left)) < parts:
            try:
                work(part)
            except BaseException as error:
                failed.append(error)

    helping = _ask(take, helpers)
    take()
    for future in helping:
        if not future.cancel():
            future.result()
    if failed:
        raise failed[0]


def _ask(take: Callable[[], None], helpers: int) -> list[Future[None]]:
    global _pool
    with _lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(max(helpers, os.cpu_count() or 1), thread_name_prefix="qkv")
        try:
            return [_pool.submit(take) for _ in range(helpers)]
        except RuntimeError:
            # The interpreter is on its way out, or the system has no thread left: the caller does everything.
            return []


def _after_fork() -> None:
    """Forget the parent's threads: a child has none of them, nor whoever may hold the lock."""
    global _pool, _lock
    _pool, _lock = None, Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
