"""Ctrl-C and SIGTERM: the first asks a training to stop in order, the second ends it at once."""

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

ECHO = 0.5
"""Seconds in which a signal is the first one's echo: a launcher passes on the Ctrl-C that the terminal sent to all."""


class Interrupt:
    """While entered, the first SIGINT or SIGTERM only sets `asked` to its name; the second does what it always does.

    Python hands signals to its main thread alone: entered in another, this watches nothing.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.asked = ""
        self._at = 0.0
        self._say = say
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._caught)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _caught(self, number: int, frame: FrameType | None) -> None:
        if not self.asked:
            self.asked, self._at = signal.Signals(number).name, time.monotonic()
            text = f"{self.asked}: this step is finished and kept; once more to leave at once"
            try:
                self._say(text)
            except RuntimeError:
                # Python does not write to a stream that it is in the midst of writing to.
                os.write(2, f"{text}\n".encode())
        elif time.monotonic() - self._at > ECHO:
            signal.signal(number, self._before[number])
            signal.raise_signal(number)


def ignore_interrupts(worker: int) -> None:
    """Let a data worker outlive Ctrl-C, which a terminal sends to all: the step in hand needs its batches."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
