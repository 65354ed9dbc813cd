"""Two ranks give one rank's losses on the same data: with DDP, sharded, and after a change of their number."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from processes import DRIVER, environment, finish, metrics_of, tensors_of, train_to_end

from qkv.errors import UnsupportedError
from qkv.training.devices import accelerator_for

pytestmark = pytest.mark.slow


def close(run, other, step=20):
    """Compare metrics, and what was learned, to 1e-5."""
    ours, theirs = metrics_of(run), metrics_of(other)
    assert len(ours) == len(theirs) and any("loss" in line for line in ours)
    for line, expected in zip(ours, theirs, strict=True):
        assert line == pytest.approx(expected, abs=1e-5)
    ours, theirs = tensors_of(run, step), tensors_of(other, step)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        # How many tokens were seen is counted on each rank.
        if not name.endswith("seen"):
            torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """One rank that reads four micro-batches a step."""
    run = tmp_path_factory.mktemp("ranks") / "one"
    train_to_end(run, options={"accumulate": 4, "steps": 9})
    return run


@pytest.mark.parametrize("sharded", [False, True])
def test_two_ranks_are_one(one, tmp_path, sharded):
    said = train_to_end(tmp_path / "two", ranks=2, sharded=sharded, options={"accumulate": 2, "steps": 9})
    close(tmp_path / "two", one, 9)
    # The main rank alone speaks.
    assert "validation loss" in said[0] and "validation loss" not in said[1]


@pytest.mark.parametrize("sharded", [False, True])
def test_another_number_of_ranks_goes_on(one, tmp_path, sharded):
    run = tmp_path / "run"
    train_to_end(run, ranks=2, sharded=sharded, options={"accumulate": 2, "steps": 4, "validate_every": 7})
    cut_to_steps(run, 4)
    # Unless it is told otherwise, a step holds what it held.
    said = train_to_end(run, options={"steps": 6})
    cut_to_steps(run, 6)
    assert "from here on" not in said[0]
    train_to_end(run, ranks=2, sharded=sharded, options={"steps": 9})
    losses, expected = ([line for line in metrics_of(each) if "loss" in line] for each in (run, one))
    for line, other in zip(losses, expected, strict=True):
        assert line == pytest.approx(other, abs=1e-5)


def cut_to_steps(run, steps):
    assert [line["step"] for line in metrics_of(run) if "loss" in line] == list(range(1, steps + 1))


LAUNCHERS = {
    # Its number of micro-batches must change nothing: the options say how many.
    "accelerate.commands.accelerate_cli launch --cpu --num_processes 1 --num_machines 1 --mixed_precision no"
    " --dynamo_backend no --gradient_accumulation_steps 3": 4,
    "torch.distributed.run --standalone --nproc_per_node 2": 2,
}


@pytest.mark.parametrize("launcher", LAUNCHERS, ids=["accelerate", "torchrun"])
def test_it_is_launched(one, tmp_path, launcher):
    asked = {"options": {"accumulate": LAUNCHERS[launcher], "steps": 9}}
    command = [sys.executable, "-m", *launcher.split(), str(DRIVER), str(tmp_path / "run"), json.dumps(asked)]
    env = {name: value for name, value in environment().items() if name != "ACCELERATE_USE_CPU"}
    out = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    finish(subprocess.Popen(command, env=env | {"CUDA_VISIBLE_DEVICES": ""}, **out))
    close(tmp_path / "run", one, 9)


def test_other_ways_to_shard_are_refused(monkeypatch):
    from accelerate import Accelerator
    from accelerate.utils import DistributedType

    monkeypatch.setattr(Accelerator, "distributed_type", property(lambda self: DistributedType.FSDP))
    text = (
        r"^train: accelerate must be launched for one device, DDP or FSDP2; got FSDP \(--use_fsdp --fsdp_version 2\)$"
    )
    with pytest.raises(UnsupportedError, match=text):
        accelerator_for("float32")


def test_a_run_of_two_ranks_that_kept_nothing_goes_on_as_it_began(tmp_path):
    run, options = tmp_path / "run", {"steps": 4, "validate_every": 4, "checkpoint_every": 4}
    train_to_end(run, ranks=2, options=options)
    kept = metrics_of(run)
    for made in ("checkpoints", "model"):
        shutil.rmtree(run / made)
    (run / "checkpoints").mkdir()
    (run / "metrics.jsonl").unlink()
    train_to_end(run, options=options)
    for line, other in zip(metrics_of(run), kept, strict=True):
        assert line == pytest.approx(other, abs=1e-5)
