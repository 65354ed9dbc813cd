"""The threads that kernels run on: as many as torch says, each on a part of the work.

They are torch's own where they can be asked (OpenMP's, by GNU's name for it). Torch's stay awake for some milliseconds
after each of its operators, and would keep others from the processors. Elsewhere there is a pool.
"""

import ctypes
import functools
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Lock, current_thread, main_thread

import torch

_TAKE = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

_pool: ThreadPoolExecutor | None = None
_lock = Lock()
_is_child = False


def in_parallel(work: Callable[[int], object], parts: int) -> None:
    """Call work(0) to work(parts − 1), each once and in no order, on `torch.get_num_threads()` threads.

    The caller works too, and calls may nest and come from several threads. Parts that write to places of their own give
    the same on any number of threads.

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

    def take(_: object = None) -> None:
        try:
            # A count's next is one step under the GIL: no two threads get the same part.
            while not failed and (part := next(left)) < parts:
                work(part)
        except BaseException as error:
            failed.append(error)

    team = None if _is_child else _team()
    if team is not None:
        with _caught(take, failed):
            team(_TAKE(take), None, helpers + 1, 0)
    else:
        helping = _ask(take, helpers)
        take()
        for future in helping:
            if not future.cancel():
                future.result()
    if failed:
        raise failed[0]


@contextmanager
def _caught(take: Callable[..., None], failed: list[BaseException]) -> Iterator[None]:
    """Catch what ctypes would print and drop: an interrupt that comes as `take` begins or ends, in the main thread."""
    if current_thread() is not main_thread():
        yield
        return
    before = sys.unraisablehook

    def caught(found: "sys.UnraisableHookArgs") -> None:
        if found.object is take and found.exc_value is not None:
            failed.append(found.exc_value)
        else:
            before(found)

    sys.unraisablehook = caught
    try:
        yield
    finally:
        sys.unraisablehook = before


@functools.cache
def _team() -> Callable[..., None] | None:
    """Find what runs a function on each of torch's threads, the caller's among them, in what torch is linked with."""
    try:
        team = ctypes.CDLL(torch._C.__file__).GOMP_parallel
    except (AttributeError, OSError):
        return None
    team.argtypes, team.restype = (_TAKE, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
    return team


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
    """Forget the parent's threads: a child has none of them, nor whoever may hold the lock.

    OpenMP does not know: it would wait for them.
    """
    global _pool, _lock, _is_child
    _pool, _lock, _is_child = None, Lock(), True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
