"""Metrics: a line for each object, cut where a resumed run goes on."""

import os
import sys

import pytest

from qkv.errors import ArgumentError, FileError, UnsupportedError
from qkv.training.metrics import Metrics, read_metrics


def test_lines_are_there_at_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics = Metrics(path)
    metrics.write(1, loss=0.1 + 0.2)
    assert path.read_text() == '{"step": 1, "loss": 0.30000000000000004}\n'
    metrics.write(1, sample="你好\n")
    assert list(read_metrics(path)) == [{"step": 1, "loss": 0.1 + 0.2}, {"step": 1, "sample": "你好\n"}]
    metrics.sync()
    metrics.close()


def test_resuming_cuts_later_lines_and_a_half_one(tmp_path):
    path = tmp_path / "metrics.jsonl"
    kept = '{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.5}\n{"step": 2, "validation_loss": 1.7}\n'
    path.write_text(kept + '{"step": 3, "loss": 1.2}\n{"step": 4, "lo')
    assert [line["step"] for line in read_metrics(path)] == [1, 2, 2, 3]
    metrics = Metrics(path, step=2)
    assert path.read_text() == kept
    metrics.write(3, loss=1.25)
    metrics.close()
    assert path.read_text() == kept + '{"step": 3, "loss": 1.25}\n'
    Metrics(path, step=0).close()
    assert path.read_text() == ""


def test_a_line_that_is_none_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for line in ("nothing", "[1]", '{"loss": 1}', '{"step": "one"}'):
        path.write_text('{"step": 1}\n' + line + "\n")
        text = rf"^read_metrics: {path} line 2 must hold a JSON object with a step; got "
        with pytest.raises(ArgumentError, match=text):
            Metrics(path, step=5)


def test_a_full_disk_and_a_folder_in_the_way(tmp_path):
    with pytest.raises(FileError, match=rf"^Metrics: {tmp_path} must be writable; got Is a directory$"):
        Metrics(tmp_path)
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    metrics = Metrics(tmp_path / "metrics.jsonl")
    metrics._file.close()
    metrics._file = open("/dev/full", "wb", buffering=0)  # noqa: SIM115
    text = r"got No space left on device \(the checkpoints are whole; make room, then resume\)$"
    with pytest.raises(FileError, match=text):
        metrics.write(1, loss=1.0)
    metrics.close()


def test_tensorboard_gets_the_same(tmp_path):
    pytest.importorskip("tensorboard", reason="TensorBoard is an extra")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    metrics = Metrics(tmp_path / "metrics.jsonl", tensorboard=tmp_path / "board")
    for step in (1, 2):
        metrics.write(step, loss=1 / step, sample="text")
    metrics.close()
    events = EventAccumulator(str(tmp_path / "board")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 1.0), (2, 0.5)]


def test_tensorboard_must_be_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    text = r"^Metrics: tensorboard must be installed; got no such package \(pip install tensorboard\)$"
    with pytest.raises(UnsupportedError, match=text):
        Metrics(tmp_path / "metrics.jsonl", tensorboard=tmp_path / "board")
    assert not (tmp_path / "metrics.jsonl").exists()
