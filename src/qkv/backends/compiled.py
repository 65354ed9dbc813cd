"""What all kernels on the CPU share: how numba compiles them, and the threads they run on.

Importing this module imports numba. So it is imported by the files that hold kernels, and those only by the functions
that run them, when they run.
"""

import contextlib
import inspect
import itertools
import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Any

import numba
import torch
from numba.core import event
from numba.core.caching import FunctionCache

# Every fast-math flag but `nnan` and `ninf`: infinities and NaN mean something here.
_MATH = {"nsz", "arcp", "contract", "afn", "reassoc"}

_log = logging.getLogger("qkv")


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function of numbers and NumPy arrays with numba, at its first call and once for each kind of arguments.

    It runs without the GIL; a division by zero gives inf or NaN. The result is kept on disk, where there is a place for
    it, until the function's own file changes: so a kernel and what it calls belong in one file.

    Cost: seconds to compile, said in the log ("qkv"); milliseconds to read from the disk.
    """
    # In the tests every function is wrapped in a check of its shapes, which numba cannot compile.
    compiled: Any = numba.njit(nogil=True, error_model="numpy", fastmath=_MATH)(inspect.unwrap(function))
    # numba says with a RuntimeError that no folder can be written to; then each process compiles for itself.
    with contextlib.suppress(RuntimeError):
        compiled._cache = _Cache(compiled.py_func)
    return compiled


class _Cache(FunctionCache):
    """numba's cache on disk; a disk that is full or no longer there does not break a call."""

    def save_overload(self, sig: Any, data: Any) -> None:
        with contextlib.suppress(OSError):
            super().save_overload(sig, data)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        with contextlib.suppress(OSError, EOFError):
            return super().load_overload(sig, target_context)


class _Teller(event.Listener):
    """Tells the user what is compiled; functions that a kernel calls are part of it."""

    def __init__(self) -> None:
        self.depth = 0
        self.since = 0.0

    # numba compiles one kernel at a time, so nothing here is changed by two threads at once.
    def on_start(self, event: event.Event) -> None:
        if _is_ours(event):
            if not self.depth:
                kept = "kept on disk" if isinstance(event.data["dispatcher"]._cache, _Cache) else "for this process"
                _log.warning("qkv: compiling %s, once (%s)", _name(event), kept)
                self.since = time.perf_counter()
            self.depth += 1

    def on_end(self, event: event.Event) -> None:
        if _is_ours(event):
            self.depth -= 1
            if not self.depth:
                took = time.perf_counter() - self.since
                _log.info("qkv: compiled %s in %.1f s", _name(event), took)


def _is_ours(event: event.Event) -> bool:
    return event.data["dispatcher"].py_func.__module__.startswith("qkv.")


def _name(event: event.Event) -> str:
    function = event.data["dispatcher"].py_func
    return f"{function.__module__}.{function.__name__}"


event.register("numba:compile", _Teller())

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
