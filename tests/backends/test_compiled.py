"""Kernels compile once, say so, and need no disk; their threads survive nesting, forks, errors and the end."""

import logging
import multiprocessing
import os
import re
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from qkv.backends.compiled import in_parallel, kernel

SOURCE = Path(__file__).parents[2] / "src"


@pytest.fixture(params=[1, 2, 5])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_every_part_is_taken_once(threads):
    taken = np.zeros(1000, dtype=int)

    def work(part):
        taken[part] += 1

    in_parallel(work, 1000)
    assert (taken == 1).all()
    in_parallel(work, 0)
    assert taken.sum() == 1000


def test_as_many_threads_as_torch_says(threads):
    if threads > (os.cpu_count() or 1):
        pytest.skip("the pool holds no more threads than there are processors")
    seen, meet = set(), threading.Barrier(threads)

    def work(part):
        meet.wait(timeout=30)
        seen.add(threading.get_ident())

    in_parallel(work, threads)
    assert len(seen) == threads and threading.get_ident() in seen


def test_calls_nest(threads):
    total = np.zeros((6, 7), dtype=int)

    def outer(row):
        in_parallel(lambda column: total.__setitem__((row, column), 1), 7)

    in_parallel(outer, 6)
    assert total.all()


def test_several_python_threads_call_at_once(threads):
    total = np.zeros((8, 50), dtype=int)

    def caller(row):
        in_parallel(lambda part: total.__setitem__((row, part), total[row, part] + 1), 50)

    callers = [threading.Thread(target=caller, args=(row,)) for row in range(8)]
    for each in callers:
        each.start()
    for each in callers:
        each.join(timeout=30)
    assert (total == 1).all()


def test_the_first_error_reaches_the_caller(threads):
    taken = []

    def work(part):
        taken.append(part)
        if part == 3:
            raise ValueError("part 3")
        time.sleep(0.001)

    with pytest.raises(ValueError, match="part 3"):
        in_parallel(work, 200)
    assert len(taken) < 200
    # The pool is as good as before.
    in_parallel(taken.append, 5)


def _in_a_child(total):
    torch.set_num_threads(2)
    in_parallel(lambda part: total.__setitem__(part, 1), len(total))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_has_threads_of_its_own():
    in_parallel(lambda part: None, 10)
    context = multiprocessing.get_context("fork")
    total = context.Array("i", 50)
    child = context.Process(target=_in_a_child, args=(total,))
    child.start()
    child.join(timeout=30)
    assert child.exitcode == 0 and all(total)


def _script(package: Path, **environment: str) -> subprocess.CompletedProcess:
    """Call a kernel of a file named qkv.* in a process of its own."""
    script = """
        import importlib.util, sys
        import qkv.backends.compiled
        spec = importlib.util.spec_from_file_location("qkv.doubling", sys.argv[1])
        module = sys.modules["qkv.doubling"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        print(module.total(21.0))
    """
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(package)],
        env={**os.environ, "PYTHONPATH": str(SOURCE), **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture
def doubling(tmp_path):
    file = tmp_path / "home" / "doubling.py"
    file.parent.mkdir()
    text = """
        from qkv.backends.compiled import kernel

        @kernel
        def twice(x: float) -> float:
            return 2 * x

        @kernel
        def total(x: float) -> float:
            return twice(x)
    """
    file.write_text(textwrap.dedent(text))
    return file


def test_compiled_once_and_kept_on_disk(doubling):
    first, second = _script(doubling), _script(doubling)
    assert first.stdout == second.stdout == "42.0\n", first.stderr + second.stderr
    assert first.stderr == "qkv: compiling qkv.doubling.total, once (kept on disk)\n"
    assert second.stderr == ""


def test_another_source_is_compiled_again(doubling):
    _script(doubling)
    doubling.write_text(doubling.read_text().replace("2 * x", "3 * x"))
    assert _script(doubling).stdout == "63.0\n"


def test_no_folder_to_write_to(doubling, tmp_path):
    # What is no folder can be written to by nobody, not even by root.
    nowhere = tmp_path / "nowhere"
    nowhere.write_text("")
    (doubling.parent / "__pycache__").write_text("")
    environment = {"HOME": str(nowhere), "XDG_CACHE_HOME": str(nowhere), "NUMBA_CACHE_DIR": str(nowhere / "cache")}
    done = _script(doubling, **environment)
    assert done.stdout == "42.0\n", done.stderr
    assert done.stderr == "qkv: compiling qkv.doubling.total, once (for this process)\n"


def test_a_disk_that_fills_up_breaks_no_call(monkeypatch, tmp_path):
    from numba.core.caching import FunctionCache

    def full(self, *_):
        raise OSError(28, "No space left on device")

    @kernel
    def half(x):
        return x / 2

    monkeypatch.setattr(FunctionCache, "_save_overload", full)
    monkeypatch.setattr(FunctionCache, "_load_overload", full)
    assert half(42.0) == 21.0


def test_infinities_and_nan_mean_what_they_mean():
    @kernel
    def probe(x):
        return 1 / x, x - x, x > 0

    assert probe(0.0)[0] == np.inf
    assert np.isnan(probe(np.inf)[1])
    assert not probe(np.nan)[2]


def test_other_peoples_kernels_are_none_of_our_business(caplog):
    import numba

    with caplog.at_level(logging.INFO, logger="qkv"):
        assert numba.njit(lambda x: x + 1)(1) == 2
    assert caplog.records == []


def test_the_time_is_told_to_who_asks(caplog, monkeypatch):
    from numba.core.caching import FunctionCache

    monkeypatch.setattr(FunctionCache, "_load_overload", lambda *_: None)

    @kernel
    def three(x):
        return x + 3

    three.py_func.__module__ = "qkv.test"
    with caplog.at_level(logging.INFO, logger="qkv"):
        assert three(1.0) == 4.0
        assert three(2.0) == 5.0
    first, then = caplog.records
    assert first.getMessage() == "qkv: compiling qkv.test.three, once (kept on disk)" and first.levelname == "WARNING"
    assert re.fullmatch(r"qkv: compiled qkv\.test\.three in \d+\.\d s", then.getMessage()) and then.levelname == "INFO"


def test_what_needs_no_kernel_brings_no_numba():
    script = """
        import sys, torch, qkv
        from qkv.cli import main
        x = torch.randn(1, 2, 5, 8)
        qkv.attend(x, x, x, mask=qkv.causal())
        assert "numba" not in sys.modules and "llvmlite" not in sys.modules
    """
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
