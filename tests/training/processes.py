"""Starts the driver: one process, or several ranks, and compares what they leave."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from safetensors.torch import load_file

HERE = Path(__file__).parent
DRIVER = HERE / "driver.py"


def environment():
    """Give the variables of a process that finds qkv and these files, on the CPU, with a thread."""
    paths = [str(HERE), str(HERE.parents[1] / "src"), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}


def start(run, *, rank=0, ranks=1, port=0, start_new_session=False, **asked):
    """Start one process that trains."""
    env = environment()
    if ranks > 1:
        env |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
        env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, str(DRIVER), str(run), json.dumps(asked)]
    out = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=env, start_new_session=start_new_session, **out)


def finish(process, expect=0):
    """Wait for a process and give what it said."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == expect, err
    return out + err


def train_to_end(run, ranks=1, **asked):
    """Train with some ranks, and give what they said."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = [start(run, rank=rank, ranks=ranks, port=port, **asked) for rank in range(ranks)]
    return [finish(process) for process in started]


def metrics_of(run, leave_out=("seconds", "tokens_per_second")):
    """Give the lines of a run's metrics without what a clock has measured."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in leave_out} for line in lines]


def tensors_of(run, step=20):
    """Give every tensor of a run: the weights, the optimiser's, the model's for users."""
    files = [run / f"checkpoints/step-{step:08}/{name}.safetensors" for name in ("weights", "optimizer")]
    return {
        f"{file.name} {name}": value
        for file in [*files, run / "model/model.safetensors"]
        for name, value in load_file(file).items()
    }
