"""A bar for work that is done once: how far it is, how fast, and how long it will take."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def bar(what: str, total: int | None, *, shown: bool = True) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on a terminal; call what it gives with how far of `total` the work is, and how many more were made."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        BarColumn(),
        TextColumn("{task.fields[made]:,} {task.description}, {task.fields[rate]:,}/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not (shown and console.is_terminal), transient=True) as shows:
        task, begin, made = shows.add_task(what, total=total, made=0, rate=0), time.monotonic(), 0

        def advance(done: int, more: int) -> None:
            nonlocal made
            made += more
            rate = round(made / max(time.monotonic() - begin, 1e-3))
            shows.update(task, completed=done, made=made, rate=rate)

        yield advance
