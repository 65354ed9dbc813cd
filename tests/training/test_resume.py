"""Killed with SIGKILL at random moments and resumed, a training ends with the bits of one that was left alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from processes import environment, metrics_of, tensors_of

NURSERY = Path(__file__).parent / "nursery.py"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the trainings that are killed are forked")
@pytest.mark.parametrize("workers", [0, 2])
def test_killed_and_resumed_it_is_the_same_bit_for_bit(tmp_path, workers):
    command = [sys.executable, str(NURSERY), str(tmp_path), str(workers)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr
    kills = json.loads(done.stdout)
    # Most came in the middle of the training, and at different steps.
    assert len(kills) >= 5 and len({step for step in kills if 0 < step < 20}) >= 3, kills
    once, parts = tmp_path / "once", tmp_path / "parts"
    assert metrics_of(parts) == metrics_of(once)
    ours, theirs = tensors_of(parts), tensors_of(once)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name
    states = [json.loads((run / "checkpoints/step-00000020/state.json").read_text()) for run in (once, parts)]
    assert states[0] == states[1]
