"""A real server in a process of its own, shared by the tests that talk to one."""

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

# What needs `pip install 'qkv[serve]'`.
if any(importlib.util.find_spec(name) is None for name in ("starlette", "uvicorn", "httpx")):
    collect_ignore = ["test_app.py", "test_browser.py", "test_run.py"]


class Server:
    """A process that serves, and the links that it printed."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("tiny.py"))],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=dict(os.environ), start_new_session=True,
        )  # fmt: skip
        self.link = self.next_link()
        self.root = self.link.partition("/open/")[0]
        self.host, port = self.root.removeprefix("http://").split(":")
        self.port = int(port)

    def next_link(self):
        for line in self.process.stdout:
            if "http://" in line:
                return line[line.index("http://") :].strip()
        raise AssertionError("the server ended")

    def open(self):
        """Take the newest link; it serves once, and another takes its place."""
        link, self.link = self.link, None
        return link

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        rest, _ = self.process.communicate(timeout=10)
        return self.process.returncode, rest


@pytest.fixture(scope="session")
def server():
    started = Server()
    yield started
    code, rest = started.stop()
    assert (code, rest.splitlines()[-1]) == (0, "stopped")
    assert "Traceback" not in rest
