"""One seed of one lab, in a process of its own: `python -m qkv.labs.running.worker NAME FORM SEED OUT [GIVEN]`.

What it is doing goes to standard output, a line of JSON at a time.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path

import torch

from qkv.errors import QkvError
from qkv.labs import find_lab
from qkv.labs.lab import Progress
from qkv.labs.running.results import Result, code_of, device, now, write_result
from qkv.training.run import versions

EVERY = 0.3
"""Seconds between two lines."""


class Told(Progress):
    """Tells the parent process."""

    def __init__(self) -> None:
        self._last = 0.0

    def tell(self, doing: str, done: int = 0, whole: int | None = None) -> None:
        """Write a line, now and then."""
        if (at := time.monotonic()) - self._last > EVERY:
            self._last = at
            print(json.dumps({"doing": doing, "done": done, "whole": whole}), flush=True)


def leave_with_the_parent() -> None:
    """End this process when the parent ends, in whatever way: its end of standard input closes then."""

    def watch() -> None:
        # Not by sys.stdin, whose lock Python wants as it ends.
        while os.read(0, 1):
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main(name: str, form: str, seed: int, out: Path, given: str | None = None) -> None:
    """Measure and write the result."""
    lab = find_lab(name, full=form == "full")
    if given is not None and lab.takes_chinese:
        lab = find_lab(name, full=form == "full", chinese=Path(given))
    elif given is not None:
        from qkv.labs.table import Table

        lab = find_lab(name, full=form == "full", table=Table.read(given))
    # A result is that of one thread, however many seeds run beside it.
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    code, began = code_of(lab), time.monotonic()
    figures = lab.measure(seed, lab.size, Told())
    seconds = round(time.monotonic() - began, 2)
    write_result(out, lab, Result(name, form, seed, figures, seconds, now(), device(), versions(), code))


if __name__ == "__main__":
    leave_with_the_parent()
    try:
        main(sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]), *sys.argv[5:])
    except QkvError as error:
        sys.exit(str(error))
