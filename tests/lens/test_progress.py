"""Progress is told in plain lines where there is no terminal, and by a bar where there is one."""

import io

from rich.console import Console

from qkv.lens import progress


def test_lines_tell_how_much_is_done_and_left(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    console = Console(file=io.StringIO(), width=80)
    with progress.progress("sentences", console) as tell:
        # An earlier run has read 100.
        tell(100, 1000)
        now[0] = 5.0
        tell(150, 1000)
        now[0] = 10.0
        tell(300, 1000)
    assert console.file.getvalue() == "300/1,000 sentences · 20 sentences/s · 35 s left\n"


def test_a_terminal_has_a_bar():
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    with progress.progress("heads", console) as tell:
        tell(1, 3)
        tell(2, 3)
    assert "2/3" in console.file.getvalue() and "heads" in console.file.getvalue()
