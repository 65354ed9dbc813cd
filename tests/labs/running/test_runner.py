"""Labs in processes: results, failures, resuming, and Ctrl-C."""

import os
import signal
import subprocess
import sys
import time

import pytest

from qkv.labs.running.results import find_results
from qkv.labs.running.runner import run_labs

pytestmark = pytest.mark.slow


def test_seeds_are_measured_once(small, tmp_path):
    assert run_labs([small], seeds=range(3), out=tmp_path) == []
    results, wrong = find_results(tmp_path, small)
    assert [result.figures["x"] for result in results] == [2.0, 4.0, 6.0] and not wrong
    stamps = [path.stat().st_mtime_ns for path in sorted((tmp_path / "results").iterdir())]
    (tmp_path / "results" / "small.quick.1.json").write_text("broken")
    assert run_labs([small], seeds=range(3), out=tmp_path) == []
    after = [path.stat().st_mtime_ns for path in sorted((tmp_path / "results").iterdir())]
    assert [was == now for was, now in zip(stamps, after, strict=True)] == [True, False, True]


def test_one_that_fails_says_so_and_the_others_go_on(small, tmp_path, monkeypatch):
    monkeypatch.setenv("SMALL_0", "fails")
    monkeypatch.setenv("SMALL_2", "dies")
    failures = run_labs([small], seeds=range(4), out=tmp_path)
    first, second = sorted(failures)
    assert first.startswith("small, seed 0: ValueError: no luck today (all of it: ")
    assert second.startswith("small, seed 2: ended by signal 9 (all of it: ")
    assert "Traceback" in (tmp_path / "results" / "small.quick.0.log").read_text()
    assert [result.seed for result in find_results(tmp_path, small)[0]] == [1, 3]


def test_ctrl_c_keeps_the_finished_ones_and_leaves_no_process(small, tmp_path, monkeypatch):
    monkeypatch.setenv("SMALL_1", "sleeps")
    monkeypatch.setenv("SMALL_2", "sleeps")
    command = [sys.executable, "-m", "qkv", "lab", "run", "small", "--out", str(tmp_path / "labs")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    first = tmp_path / "labs" / "results" / "small.quick.0.json"
    deadline = time.monotonic() + 100
    while not first.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    process.wait(timeout=60)
    assert process.returncode == 130 and "stopped; what is measured is kept" in process.stderr.read()
    assert [result.seed for result in find_results(tmp_path / "labs", small)[0]] == [0]
    assert workers_for(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_their_parent(small, tmp_path, monkeypatch, number):
    monkeypatch.setenv("SMALL_0", "sleeps")
    command = [sys.executable, "-m", "qkv", "lab", "run", "small", "--seeds", "1", "--out", str(tmp_path / "labs")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 100
    while not workers_for(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert workers_for(tmp_path)
    # Only once its imports are done does it watch.
    time.sleep(8.0)
    process.send_signal(number)
    process.wait(timeout=60)
    while workers_for(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert workers_for(tmp_path) == []


def workers_for(folder):
    """Name the processes that still work for a folder; those that ended wait for nobody."""
    found = []
    for number in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{number}/cmdline", "rb") as file:
                words = file.read()
        except OSError:
            continue
        if str(folder).encode() in words and b"worker" in words:
            found.append(number)
    return found
