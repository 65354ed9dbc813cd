"""How all kernels on the CPU are compiled, by numba.

Importing this module imports numba. So it is imported by the files that hold kernels, and those only by the functions
that run them, when they run.
"""

import contextlib
import inspect
import logging
import time
from collections.abc import Callable
from typing import Any

import numba
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
