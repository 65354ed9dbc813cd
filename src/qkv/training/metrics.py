"""Metrics: one JSON object a line, flushed, in a file that reads after a crash as if there had been none.

{"step": 12, "loss": 3.21, "rate": 0.0003, …}
{"step": 12, "loss": 3.21, "attention_loss": 0.4, …}    what teaches an attention beside the words: descended on too
{"step": 12, "validation_loss": 3.40}
"""

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qkv.errors import ArgumentError, UnsupportedError, must
from qkv.folders import file_error
from qkv.training.folder import sync_any


class Metrics:
    """Writes metrics from a step on: lines of later steps, and a last one that was cut, are removed first.

    With a folder for TensorBoard, what is written goes there too.

    Raises: FileError if the file cannot be written; UnsupportedError if TensorBoard is asked for and not installed.
    """

    def __init__(self, path: Path, step: int = 0, tensorboard: Path | None = None) -> None:
        self._path = path
        self._board: Any = None
        if tensorboard is not None:
            self._board = board_writer("Metrics")(str(tensorboard), purge_step=step + 1)
        try:
            # Unbuffered: what a full disk refused must not come again when the file is closed.
            self._file = path.open("ab", buffering=0)
            os.truncate(path, _end(path, step))
        except OSError as error:
            raise file_error("Metrics", path, "be writable", error.strerror or error) from error

    def write(self, step: int, **numbers: float | str) -> None:
        """Add a line. Raises: FileError if the disk is full."""
        line = json.dumps({"step": step, **numbers}, ensure_ascii=False).encode() + b"\n"
        try:
            if self._file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            fix = "the checkpoints are whole; make room, then resume"
            raise file_error("Metrics", self._path, "be writable", error.strerror or error, fix) from error
        if self._board is not None:
            for name, value in numbers.items():
                (self._board.add_text if isinstance(value, str) else self._board.add_scalar)(name, value, step)

    def sync(self) -> None:
        """Wait until what was written is on the disk: a checkpoint must not be ahead of its metrics."""
        sync_any(self._path)

    def close(self) -> None:
        """Close the file, and TensorBoard's."""
        self._file.close()
        if self._board is not None:
            self._board.close()


def board_writer(function: str) -> Any:
    """Give what writes for TensorBoard. Raises: UnsupportedError, naming `function`, if it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError as error:
        text = must(function, "tensorboard", "be installed", "no such package", "pip install tensorboard")
        raise UnsupportedError(text) from error
    return SummaryWriter


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """Read a file of metrics line by line; a last line that a crash cut is left out.

    Raises: ArgumentError, naming the line, if another is no JSON object with a step.
    """
    for _, line in _lines(path):
        yield line


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Give each line with the place where it ends."""
    end = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            end += len(line)
            try:
                found = json.loads(line)
                found["step"] + 0
            except (ValueError, TypeError, KeyError) as error:
                rule = "hold a JSON object with a step"
                raise ArgumentError(must("read_metrics", f"{path} line {number}", rule, line[:80])) from error
            yield end, found


def _end(path: Path, step: int) -> int:
    """Find where the lines up to a step end."""
    kept = 0
    for end, line in _lines(path):
        if line["step"] > step:
            break
        kept = end
    return kept
