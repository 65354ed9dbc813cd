"""Progress: a bar on a terminal, plain lines elsewhere, nothing when it is not shown."""

import io

import pytest
from rich.console import Console

from qkv.training import progress
from qkv.training.progress import Shown


def console(terminal):
    return Console(file=io.StringIO(), force_terminal=terminal, width=100, highlight=False)


def test_plain_lines_come_now_and_then_and_at_the_end(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    out = console(terminal=False)
    with Shown(10, 4, console=out) as shown:
        for step in range(5, 11):
            clock[0] += 4.0
            shown.update(step, 1.5, 2000.0)
        shown.say("[bold] stays as it is\n\x1b[31m does not")
    assert out.file.getvalue().splitlines() == [
        "step 7/10 · loss 1.5000 · 2,000 tokens/s · 12 s left",
        "step 10/10 · loss 1.5000 · 2,000 tokens/s · 0 s left",
        "[bold] stays as it is",
        "�[31m does not",
    ]


def test_a_terminal_shows_a_bar_and_its_cursor_again():
    out = console(terminal=True)
    with pytest.raises(KeyboardInterrupt), Shown(10, 0, console=out) as shown:
        shown.update(3, 2.25, 1234.0)
        shown.say("a line")
        raise KeyboardInterrupt
    text = out.file.getvalue()
    assert "3/10" in text and "loss 2.2500 · 1,234 tokens/s" in text and "a line" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


def test_not_shown_it_says_nothing(capsys):
    with Shown(2, 0, shown=False) as shown:
        shown.update(2, 1.0, 1.0)
        shown.say("nothing")
    assert capsys.readouterr() == ("", "")
