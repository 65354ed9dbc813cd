"""Kills trainings: `nursery.py FOLDER WORKERS` trains once at once, and once killed at random moments and resumed.

Imports are paid once: each training is a child of this process. Prints after how many steps each kill came.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from accelerate import Accelerator  # noqa: F401
from tiny import TinyTask

from qkv.training.loop import train
from qkv.training.options import Options
from qkv.training.schedules import cosine

STEPS = 20


def begin(run: Path, workers: int) -> int:
    """Start a child that trains, or goes on."""
    child = os.fork()
    if child == 0:
        options = Options(
            STEPS, 0.01, cosine(STEPS, 3), accumulate=2, workers=workers, validate_every=4, checkpoint_every=2
        )
        try:
            # What a resumed run begins with must not matter.
            task = TinyTask(pause=0.01, seed=os.getpid() if any(run.glob("checkpoints/step-*")) else 0)
            train(task, run, options, resume=(run / "run.json").exists(), shown=False)
            os._exit(0)
        finally:
            sys.stderr.flush()
            os._exit(1)
    return child


def steps_of(run: Path) -> int:
    """How many lines of steps a run has."""
    path = run / "metrics.jsonl"
    return path.read_text().count('"loss"') if path.exists() else 0


def main() -> None:
    torch.set_num_threads(1)
    folder, workers = Path(sys.argv[1]), int(sys.argv[2])
    assert os.waitstatus_to_exitcode(os.waitpid(begin(folder / "once", workers), 0)[1]) == 0
    draw, kills = random.Random(workers), []
    # Early ones may come before there is a run, or a checkpoint; later ones a few steps further on each.
    for wait in (0, 0, 3, 3, 3, 4, 4, 4):
        run = folder / "parts"
        child, until = begin(run, workers), steps_of(run) // 2 * 2 - 2 + wait
        deadline = time.monotonic() + 60
        while wait and steps_of(run) < min(until, STEPS - 1) and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(draw.random() * 0.1)
        os.kill(child, signal.SIGKILL)
        if os.WIFSIGNALED(os.waitpid(child, 0)[1]):
            kills.append(steps_of(run))
    assert os.waitstatus_to_exitcode(os.waitpid(begin(folder / "parts", workers), 0)[1]) == 0
    print(json.dumps(kills))


if __name__ == "__main__":
    main()
