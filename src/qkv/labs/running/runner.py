"""Run labs: each seed in a process of its own, two at a time, and what is measured already not again."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from qkv.errors import FileError
from qkv.labs.lab import Lab
from qkv.labs.running.results import check_folder, read_result, result_path
from qkv.text.printable import printable

AT_ONCE = 2
LOOK = 0.2
"""Seconds between two looks at the processes."""


def run_labs(labs: Sequence[Lab], *, seeds: Sequence[int], out: Path, again: bool = False) -> list[str]:
    """Measure the seeds that are not measured yet; labs that measure time come last, one seed at a time.

    Gives what went wrong, a line each. Stopped in whatever way, it leaves the results of the seeds that are finished.
    """
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    wanted = [(lab, seed) for lab in labs for seed in seeds if again or not _is_there(out, lab, seed)]
    if kept := len(labs) * len(seeds) - len(wanted):
        console.print(f"{kept} of {len(labs) * len(seeds)} are measured already", markup=False)
    check_folder(out)
    columns = (BarColumn(20), TextColumn("{task.description}"), TimeElapsedColumn(), TimeRemainingColumn())
    failures = []
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=sum(lab.seconds for lab, _ in wanted))
        for alone in (False, True):
            some = [(lab, seed) for lab, seed in wanted if lab.alone == alone]
            for one in _finished(some, out, 1 if alone else AT_ONCE, bar, task):
                if error := one.error():
                    log = result_path(out, one.lab, one.seed).with_suffix(".log")
                    log.write_bytes(one.last_said(1 << 20))
                    failures.append(f"{one.name}: {error} (all of it: {log})")
                said = failures[-1] if error else f"{one.name}: measured in {one.seconds:.0f} s"
                console.print(printable(said), markup=False)
    return failures


def _finished(
    some: Sequence[tuple[Lab, int]], out: Path, at_once: int, bar: Progress, task: TaskID
) -> Iterator["_Running"]:
    """Run seeds, so many at once; give each as it ends. Left early, it ends those that run."""
    waiting, running, done = deque(some), list[_Running](), bar.tasks[task].completed
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                running.append(_Running.start(*waiting.popleft(), out))
            time.sleep(LOOK)
            for one in [one for one in running if one.process.poll() is not None]:
                running.remove(one)
                done += one.lab.seconds
                yield one
            # What runs counts by its time, up to nearly all that it should take.
            begun = sum(min(one.seconds, 0.95 * one.lab.seconds) for one in running)
            bar.update(task, completed=done + begun, description=" | ".join(one.doing() for one in running))
    finally:
        for one in running:
            one.process.kill()
            one.process.wait()


@dataclass(eq=False)
class _Running:
    """A process, and the file in which it says what it does."""

    lab: Lab
    seed: int
    process: subprocess.Popen[bytes]
    said: IO[bytes]
    began: float

    @classmethod
    def start(cls, lab: Lab, seed: int, out: Path) -> "_Running":
        said = tempfile.TemporaryFile()  # noqa: SIM115
        command = [sys.executable, "-m", "qkv.labs.running.worker", lab.name, lab.form, str(seed), str(out)]
        command += [str(lab.given)] if lab.given else []
        # In a session of its own: a terminal's Ctrl-C reaches the parent alone, which ends it.
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=said, stderr=said, start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        return cls(lab, seed, process, said, time.monotonic())

    @property
    def name(self) -> str:
        return f"{self.lab.name}, seed {self.seed}"

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def doing(self) -> str:
        """Say what it said last."""
        for line in reversed(self._lines()):
            if line.startswith("{"):
                told = json.loads(line)
                share = f" {told['done']}/{told['whole']}" if told["whole"] else ""
                return f"{self.name}: {told['doing']}{share}"
        return self.name

    def error(self) -> str:
        """Say why it did not end well; nothing if it did."""
        if self.process.returncode == 0:
            return ""
        lines = [line for line in self._lines() if line.strip() and not line.startswith("{")]
        return lines[-1].strip() if lines else f"ended by signal {-self.process.returncode}"

    def last_said(self, most: int) -> bytes:
        """Give the last bytes of what it said."""
        size = os.fstat(self.said.fileno()).st_size
        return os.pread(self.said.fileno(), most, max(0, size - most))

    def _lines(self) -> list[str]:
        """Give the last of what it said, in whole lines."""
        text = self.last_said(4000).decode("utf-8", "replace")
        return text.splitlines() if text.endswith("\n") else text.splitlines()[:-1]


def _is_there(out: Path, lab: Lab, seed: int) -> bool:
    try:
        read_result(result_path(out, lab, seed), lab)
    except FileError:
        return False
    return True
