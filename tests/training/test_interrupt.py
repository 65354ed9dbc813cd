"""The first signal is noted, the second does what it always does."""

import os
import signal
import threading
import time

import pytest

from qkv.training.interrupt import Interrupt, ignore_interrupts


def test_the_first_is_noted_and_the_second_ends(monkeypatch):
    said = []
    before = signal.getsignal(signal.SIGTERM)
    with Interrupt(said.append) as interrupt:
        assert interrupt.asked == ""
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.asked == "SIGINT"
        assert said == ["SIGINT: this step is finished and kept; once more to leave at once"]
        # A launcher's echo of the same Ctrl-C.
        os.kill(os.getpid(), signal.SIGINT)
        later = time.monotonic() + 1
        monkeypatch.setattr(time, "monotonic", lambda: later)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert len(said) == 1
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_in_the_midst_of_writing_is_noted_too(capfd):
    def say(text):
        raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stderr>'>")

    with Interrupt(say) as interrupt:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.asked == "SIGINT"
    assert capfd.readouterr().err == "SIGINT: this step is finished and kept; once more to leave at once\n"


def test_sigterm_is_noted_too_and_the_usual_comes_back():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with Interrupt(lambda text: None) as interrupt:
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupt.asked == "SIGTERM"
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_in_another_thread_nothing_is_watched():
    before = signal.getsignal(signal.SIGINT)
    found = []

    def enter():
        with Interrupt(lambda text: None):
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [before]


def test_a_data_worker_outlives_ctrl_c():
    before = signal.getsignal(signal.SIGINT)
    try:
        ignore_interrupts(0)
        os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
