"""A run's folder: made whole, found again, held by one training; anything else is named."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from qkv.errors import FileError
from qkv.training.run import create_run, open_run, versions


def test_a_run_is_made_and_found(tmp_path):
    made = create_run(tmp_path / "runs" / "first", {"kind": "tiny", "about": {"data": "数据"}})
    run = open_run(tmp_path / "runs" / "first")
    assert run == made and run.record() == {"kind": "tiny", "about": {"data": "数据"}}
    assert run.checkpoints.is_dir() and not run.metrics.exists()
    assert run.model == run.folder / "model"
    run.rewrite({"kind": "other"})
    assert run.record() == {"kind": "other"}
    assert os.listdir(tmp_path / "runs") == ["first"]


def test_an_empty_folder_becomes_a_run(tmp_path):
    assert create_run(tmp_path, {}).record() == {}


def test_nothing_is_overwritten(tmp_path):
    create_run(tmp_path / "run", {})
    text = rf"^train: {tmp_path}/run must be new; got a run \(resume it, or choose another name\)$"
    with pytest.raises(FileError, match=text):
        create_run(tmp_path / "run", {})
    (tmp_path / "file").write_text("text")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "b.txt").write_text("text")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name, what in (("file", "a file"), ("folder", "a folder with b.txt"), ("link", "a file")):
        text = rf"^train: {tmp_path}/{name} must be new; got {what} \(choose another name\)$"
        with pytest.raises(FileError, match=text):
            create_run(tmp_path / name, {})


def test_of_two_that_begin_at_once_one_is_refused(tmp_path, monkeypatch):
    create_run(tmp_path / "run", {"kind": "first"})
    # Neither had seen the other's.
    monkeypatch.setattr("qkv.training.run.os.path.lexists", lambda path: False)
    with pytest.raises(FileError, match=rf"^train: {tmp_path}/run must be new; got "):
        create_run(tmp_path / "run", {"kind": "second"})
    assert open_run(tmp_path / "run").record() == {"kind": "first"} and os.listdir(tmp_path) == ["run"]


def test_what_is_no_run_is_named(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "checkpoint.json").write_text("{}")
    (tmp_path / "file").write_text("")
    found = {"none": "nothing", "model": "a model's folder", "checkpoint": "a checkpoint", "file": "a file"}
    for name, what in found.items():
        text = rf"^generate: {tmp_path}/{name} must be a run, with its run.json; got {what}$"
        with pytest.raises(FileError, match=text):
            open_run(tmp_path / name, "generate")


def test_one_training_holds_a_run(tmp_path):
    run = create_run(tmp_path, {})
    program = f"from qkv.training.run import open_run; open_run({str(tmp_path)!r}).hold()"
    (tmp_path / ".model.0123.tmp").mkdir()
    (tmp_path / ".run.json.0123.tmp").write_text("half")
    with run.hold():
        assert sorted(os.listdir(tmp_path)) == ["checkpoints", "lock", "run.json"]
        held = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert f"train: {tmp_path} must not be in training by another process; got " in held.stderr
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_a_folder_that_refuses_is_named(tmp_path, monkeypatch):
    run = create_run(tmp_path / "run", {})
    shutil.rmtree(run.checkpoints)
    with pytest.raises(FileError, match=rf"^train: {run.folder} must be writable; got No such file or directory$"):
        run.hold()
    # Nothing can be made in /proc, not even by root.
    with pytest.raises(FileError, match=r"^train: /proc/none/run must be writable; got No such file or directory$"):
        create_run("/proc/none/run", {})


def test_versions_name_what_the_bits_depend_on():
    found = versions()
    assert {"python", "qkv", "torch", "numpy"} <= found.keys() and json.dumps(found)
