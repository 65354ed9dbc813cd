"""Kernels compile once, say so, and need no disk."""

import logging
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from qkv.backends.compiled import kernel

SOURCE = Path(__file__).parents[2] / "src"


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
