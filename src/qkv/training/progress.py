"""Progress: a bar with loss, tokens a second and an estimate, or plain lines where there is no terminal."""

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from qkv.text.printable import LINES, printable

EVERY = 10.0
"""Seconds between two plain lines."""


class Shown:
    """Shows how a training goes on standard error. Use it as a context; not shown, it says nothing at all."""

    def __init__(self, steps: int, start: int, *, shown: bool = True, console: Console | None = None) -> None:
        self._steps, self._start = steps, start
        self._console = console or Console(stderr=True, quiet=not shown, highlight=False, soft_wrap=True)
        self._began = self._said = time.monotonic()
        self._bar: Progress | None = None
        if shown and self._console.is_terminal:
            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
            self._bar = Progress(*columns, TimeRemainingColumn(), console=self._console)
            self._task = self._bar.add_task("", total=steps, completed=start)

    def __enter__(self) -> "Shown":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, step: int, loss: float, speed: float, more: str = "") -> None:
        """Show a step: its loss, how many tokens a second were read, and what else there is to say."""
        text = f"loss {loss:.4f} · {speed:,.0f} tokens/s" + (f" · {more}" if more else "")
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=text)
            return
        now = time.monotonic()
        if now - self._said >= EVERY or step == self._steps:
            self._said = now
            left = (now - self._began) / max(step - self._start, 1) * (self._steps - step)
            self.say(f"step {step}/{self._steps} · {text} · {left:,.0f} s left")

    def say(self, text: str) -> None:
        """Show a text above the bar; one from a corpus may hold what would control the terminal."""
        self._console.print(printable(text, keep=LINES), markup=False)
