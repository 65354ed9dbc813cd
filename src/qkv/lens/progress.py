"""Progress of what takes longer than a moment: how much is done, how fast, and how long it will take."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from qkv.lens.language import Say, english

EVERY = 10.0
"""Seconds between two plain lines, where there is no terminal."""


@contextmanager
def progress(what: str, console: Console | None = None, say: Say = english) -> Iterator[Callable[[int, int], None]]:
    """Give a function to be told how many are done, of how many; it shows a bar on standard error, or plain lines."""
    console = console or Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(
        *columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal, transient=True
    ) as bar:
        task, began, said, first = bar.add_task(what, total=None), time.monotonic(), time.monotonic(), -1

        def tell(done: int, total: int) -> None:
            nonlocal said, first
            # What an earlier run has done says nothing of the rate.
            first = done if first < 0 else first
            now = time.monotonic()
            rate = (done - first) / max(now - began, 1e-3)
            bar.update(task, completed=done, total=total, description=f"{rate:,.0f} {what}/s" if rate else what)
            if not console.is_terminal and now - said >= EVERY and rate:
                said = now
                left = (total - done) / rate
                to_go = say(f"{left:,.0f} s left", f"还需 {left:,.0f} 秒")
                console.print(f"{done:,}/{total:,} {what} · {rate:,.0f} {what}/s · {to_go}")

        yield tell
