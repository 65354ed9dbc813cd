"""Files are written whole or not at all."""

import os
import stat
import subprocess
import sys

import pytest

from qkv.errors import FileError
from qkv.files import check_writable, contains, write_whole


def test_writes_and_replaces_only_when_asked(tmp_path):
    path = tmp_path / "a.txt"
    write_whole("save", path, b"one", overwrite=False)
    with pytest.raises(FileError, match=r"^save: path must be new; got '.*a\.txt' \(the file exists: choose another"):
        write_whole("save", path, b"two", overwrite=False)
    assert path.read_bytes() == b"one"
    write_whole("save", path, b"two", overwrite=True)
    assert path.read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_keeps_the_mode_and_honours_the_umask(tmp_path):
    path = tmp_path / "a.txt"
    mask = os.umask(0o027)
    try:
        write_whole("save", path, b"", overwrite=False)
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        path.chmod(0o600)
        write_whole("save", path, b"x", overwrite=True)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        os.umask(mask)


def test_refuses_a_folder_and_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileError, match=r"^save: path must be a file; got .* \(it is a folder or a device\)$"):
        write_whole("save", tmp_path, b"", overwrite=True)
    with pytest.raises(FileError, match=r"^save: path must lie in a folder that exists; got .* \(create .*\)$"):
        write_whole("save", tmp_path / "none" / "a.txt", b"", overwrite=True)


def test_killed_before_the_rename_the_old_file_stays(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")
    program = (
        "import os, signal\n"
        "from qkv.files import write_whole\n"
        "os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"write_whole('save', {str(path)!r}, b'new' * 1000, overwrite=True)\n"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == -9
    assert path.read_bytes() == b"old"


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileError, match=r"No space left on device"):
        write_whole("save", path, b"new", overwrite=True)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize(("name", "fix"), [("x" * 300, "File name too long"), ("a\0", "embedded null byte")])
def test_a_name_that_is_none_is_refused_before_any_work(tmp_path, name, fix):
    with pytest.raises(FileError, match=rf"^save: path must be writable; got '.*' \({fix}\)$"):
        check_writable("save", tmp_path / name, overwrite=True)


def test_what_a_file_contains(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"one two")
    assert contains(path, b"one", within=3) and not contains(path, b"two", within=6)
    assert not contains(tmp_path, b"", within=1) and not contains(tmp_path / "none", b"", within=1)
    assert not contains("/proc/self/mem", b"", within=1)
