"""Ctrl-C and SIGTERM: the first asks a training to stop in order, the second ends it at once."""

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any


class Interrupt:
    """While entered, the first SIGINT or SIGTERM only sets `asked` to its name; the second does what it always does.

    Python hands signals to its main thread alone: entered in another, this watches nothing.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.asked = ""
        self._say = say
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._first)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._restore()

    def _first(self, number: int, frame: FrameType | None) -> None:
        self.asked = signal.Signals(number).name
        self._restore()
        self._say(f"{self.asked}: this step is finished and kept; once more to leave at once")

    def _restore(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())


def ignore_interrupts(worker: int) -> None:
    """Let a data worker outlive Ctrl-C, which a terminal sends to all: the step in hand needs its batches."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
