import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import qkv.cli
from qkv.errors import ArgumentError

COMMAND = Path(sys.executable).with_name("qkv")
MODULE = [sys.executable, "-m", "qkv"]


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, capture_output=True, text=True, timeout=60, env=os.environ | environment)


def test_version_is_the_one_in_pyproject():
    pyproject = Path(__file__).parents[1].joinpath("pyproject.toml").read_text()
    version = re.search(r'^version = "(.+)"$', pyproject, re.MULTILINE)[1]
    assert CliRunner().invoke(qkv.cli.app, ["--version"]).stdout == f"qkv {version}\n"


@pytest.mark.parametrize("command", [[COMMAND], MODULE], ids=["qkv", "python -m qkv"])
def test_both_commands_answer(command):
    done = run(*command, "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage: qkv" in done.stdout


def test_no_argument_shows_the_help():
    done = run(*MODULE)
    assert "Usage: qkv" in done.stdout + done.stderr


def test_unknown_command_is_refused():
    done = run(*MODULE, "sea")
    assert done.returncode == 2
    assert "No such command 'sea'" in done.stderr


def test_an_error_of_qkv_is_one_line(monkeypatch, capsys):
    def fail(prog_name):
        raise ArgumentError("window: width must be >= 1; got 0")

    monkeypatch.setattr(qkv.cli, "app", fail)
    with pytest.raises(SystemExit) as stop:
        qkv.cli.main()
    assert stop.value.code == 1
    assert capsys.readouterr().err == "qkv: window: width must be >= 1; got 0\n"


def test_an_error_cannot_drive_the_terminal(monkeypatch, capsys):
    def fail(prog_name):
        raise OSError("\x1b]0;owned\x07\n")

    monkeypatch.setattr(qkv.cli, "app", fail)
    monkeypatch.setattr(os, "dup2", lambda *_: None)
    with pytest.raises(SystemExit):
        qkv.cli.main()
    assert capsys.readouterr().err == "qkv: �]0;owned��\n"


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to …")]
)
def test_too_little_memory_is_one_line(monkeypatch, capsys, error):
    def fail(prog_name):
        raise error

    monkeypatch.setattr(qkv.cli, "app", fail)
    with pytest.raises(SystemExit):
        qkv.cli.main()
    assert capsys.readouterr().err.startswith("qkv: memory must hold what is asked for; got too little (")
    error = RuntimeError("another")
    with pytest.raises(RuntimeError, match="another"):
        monkeypatch.setattr(qkv.cli, "app", lambda prog_name: (_ for _ in ()).throw(error))
        qkv.cli.main()


@pytest.mark.parametrize("option", ["--out", "--json"])
@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("x" * 300, "path must be writable; got 'x*' \\(File name too long\\)"),
        ("/proc/self/mem", "path must be new.*; got '/proc/self/mem' .*"),
    ],
    ids=["too long", "no file"],
)
def test_a_file_that_cannot_be_written_is_one_line(option, place, text):
    done = run(*MODULE, "see", "A mouse.", option, place)
    assert done.returncode == 1 and re.fullmatch(f"qkv: (see|write_page): {text}\n", done.stderr), done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_full_disk_behind_stdout_is_one_line():
    with open("/dev/full", "w") as full:
        done = subprocess.run([*MODULE, "--version"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "qkv: [Errno 28] No space left on device\n")


def test_a_letter_that_the_terminal_does_not_know_is_a_question_mark():
    script = "import qkv.cli; qkv.cli.app = lambda prog_name: print('老鼠 mouse'); qkv.cli.main()"
    done = run(sys.executable, "-c", script, PYTHONIOENCODING="latin-1")
    assert (done.returncode, done.stdout, done.stderr) == (0, "?? mouse\n", "")


def test_help_imports_neither_torch_nor_numpy():
    script = (
        "import sys; sys.argv = ['qkv', '--help']\n"
        "import qkv.cli\n"
        "try: qkv.cli.main()\n"
        "except SystemExit as stop: assert stop.code in (0, None)\n"
        "print({'torch', 'numpy', 'transformers', 'tokenizers', 'rich'} & set(sys.modules))"
    )
    done = run(sys.executable, "-c", script)
    assert done.stdout.endswith("set()\n"), done.stdout + done.stderr


def test_help_takes_a_fifth_of_a_second_of_processor_time():
    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run(COMMAND, "--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    # The fastest of five: what else the machine does can only add.
    assert min(seconds() for _ in range(5)) <= 0.2
