"""Checkpoints: exact, whole or not there, each fault named with its file."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from crashes import killed_at_every_call

from qkv.errors import FileError
from qkv.training import checkpoints
from qkv.training.checkpoints import newest_checkpoint, prune_checkpoints, save_checkpoint

TENSORS = {
    "weights": {"a": torch.arange(6.0).reshape(2, 3).t(), "b": torch.tensor(7, dtype=torch.long)},
    "optimizer": {"a/exp_avg": torch.full((3,), 0.1, dtype=torch.float64), "a/step": torch.tensor(4.0)},
}


def save(folder, step, **state):
    return save_checkpoint(folder, step, TENSORS, {"position": 3, **state})


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_is_saved_is_read(tmp_path):
    save(tmp_path, 12, loss=0.1 + 0.2)
    found, skipped = newest_checkpoint(tmp_path)
    assert skipped == [] and found.step == 12 and found.state == {"step": 12, "position": 3, "loss": 0.1 + 0.2}
    for name, tensors in TENSORS.items():
        read = found.tensors(name)
        assert read.keys() == tensors.keys()
        assert all(torch.equal(read[key], tensors[key]) and read[key].dtype == tensors[key].dtype for key in read)
    files = ["checkpoint.json", "optimizer.safetensors", "state.json", "weights.safetensors"]
    assert names(tmp_path / "step-00000012") == files


def test_the_newest_is_taken_by_number(tmp_path):
    assert newest_checkpoint(tmp_path) == (None, [])
    for step in (99_999_999, 2, 100_000_000):
        save(tmp_path, step)
    assert newest_checkpoint(tmp_path)[0].step == 100_000_000


def test_a_half_one_is_passed_over_by_name(tmp_path):
    for step in (1, 2):
        save(tmp_path, step)
    (tmp_path / "step-00000002" / "checkpoint.json").unlink()
    (tmp_path / ".step-00000003.0123.tmp").mkdir()
    found, skipped = newest_checkpoint(tmp_path)
    assert found.step == 1 and skipped == [".step-00000003.0123.tmp", "step-00000002"]


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors", "state.json"])
def test_a_cut_or_changed_or_lost_file_is_named(tmp_path, name):
    save(tmp_path, 1)
    save(tmp_path, 2)
    path = tmp_path / "step-00000002" / name
    content = path.read_bytes()
    fix = rf"\(remove {path.parent} to go on from an older checkpoint\)"
    path.write_bytes(content[:-3])
    size = rf"{len(content) - 3} bytes, not {len(content)}"
    with pytest.raises(FileError, match=rf"^newest_checkpoint: {path} must be as it was written; got {size} {fix}$"):
        newest_checkpoint(tmp_path)
    path.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    with pytest.raises(FileError, match=rf"{path} must be as it was written; got other content of the same size {fix}"):
        newest_checkpoint(tmp_path)
    path.unlink()
    with pytest.raises(FileError, match=rf"{path} must be as it was written; got No such file or directory {fix}"):
        newest_checkpoint(tmp_path)
    shutil.rmtree(path.parent)
    assert newest_checkpoint(tmp_path)[0].step == 1


@pytest.mark.parametrize("text", ["{}", '{"files": 3}', '{"files": {}}'])
def test_a_marker_that_marks_nothing_is_named(tmp_path, text):
    save(tmp_path, 1)
    (tmp_path / "step-00000001" / "checkpoint.json").write_text(text)
    fix = rf"\(remove {tmp_path}/step-00000001 to go on from an older checkpoint\)$"
    got = r"checkpoint\.json must name the files of a checkpoint; got (no files|3|\{\}) "
    with pytest.raises(FileError, match=got + fix):
        newest_checkpoint(tmp_path)


def test_tensors_that_are_none_are_named(tmp_path):
    save(tmp_path, 1)
    found, _ = newest_checkpoint(tmp_path)
    found.file("weights").write_bytes(b"no tensors")
    with pytest.raises(FileError, match=rf"^Checkpoint\.tensors: {found.file('weights')} must hold tensors; got "):
        found.tensors("weights")


def test_the_last_ones_and_the_best_are_kept(tmp_path):
    for step in range(1, 7):
        save(tmp_path, step)
    (tmp_path / ".step-00000009.0123.tmp").mkdir()
    prune_checkpoints(tmp_path, 2, best=3)
    assert names(tmp_path) == ["step-00000003", "step-00000005", "step-00000006"]
    prune_checkpoints(tmp_path, 1, best=None)
    assert names(tmp_path) == ["step-00000006"]


def test_killed_at_any_call_a_whole_one_is_found(tmp_path):
    folder = tmp_path / "checkpoints"
    steps = set()

    def setup():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for step in (1, 2):
            save(folder, step)

    def act():
        save(folder, 3)
        prune_checkpoints(folder, 1, best=None)

    def check():
        found, _ = newest_checkpoint(folder)
        steps.add(found.step)
        for name, tensors in TENSORS.items():
            assert all(torch.equal(value, tensors[key]) for key, value in found.tensors(name).items())

    assert killed_at_every_call(act, setup, check) >= 12
    assert steps == {2, 3}


def full(*args, **kwargs):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("where", "name"), [(os, "fsync"), (checkpoints, "save_file"), (Path, "write_text"), (os, "rename")]
)
def test_a_full_disk_leaves_the_older_whole(tmp_path, monkeypatch, where, name):
    save(tmp_path, 1)
    text = (
        rf"^save_checkpoint: {tmp_path}/step-00000002 must be writable; got No space left on device "
        r"\(the older checkpoints are whole; make room, then resume\)$"
    )
    with monkeypatch.context() as patched, pytest.raises(FileError, match=text):
        patched.setattr(where, name, full)
        save(tmp_path, 2)
    assert names(tmp_path) == ["step-00000001"]
    assert newest_checkpoint(tmp_path)[0].step == 1


def test_a_disk_that_is_full_at_once_has_nothing_to_keep(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", full)
    text = r"got No space left on device \(nothing was trained yet; make room, then resume\)$"
    with pytest.raises(FileError, match=text):
        save(tmp_path, 0)


def in_a_small_disk(options, program, folder):
    """Run a program in a mount namespace where `folder` is a disk of its own."""
    script = f"mount -t tmpfs {options} tmpfs {folder} && exec {sys.executable} -c '{program}'"
    tried = subprocess.run(["unshare", "-rm", "sh", "-c", f"mount -t tmpfs tmpfs {folder}"], capture_output=True)
    if tried.returncode:
        pytest.skip(f"no disk can be mounted here: {tried.stderr.decode().strip()}")
    return subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, timeout=120)


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare, to mount a small disk")
@pytest.mark.slow
def test_a_disk_that_is_really_full(tmp_path):
    program = f"""
import json, torch
from pathlib import Path
from qkv.errors import FileError
from qkv.training.checkpoints import newest_checkpoint, save_checkpoint
folder, step = Path("{tmp_path}"), 0
try:
    while True:
        step += 1
        save_checkpoint(folder, step, {{"weights": {{"a": torch.zeros(50_000)}}}}, {{}})
except FileError as error:
    found, skipped = newest_checkpoint(folder)
    print(json.dumps([str(error), step, found.step, skipped, float(found.tensors("weights")["a"].sum())]))
"""
    done = in_a_small_disk("-o size=1m", program, tmp_path)
    assert done.returncode == 0, done.stderr
    text, tried, newest, skipped, total = json.loads(done.stdout)
    assert (newest, skipped, total) == (tried - 1, [], 0.0) and newest >= 3
    assert "must be writable; got" in text and "No space left on device" in text
