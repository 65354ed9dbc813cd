"""Trains the tiny task in a process of its own: `driver.py RUN '{"options": {…}, "task": {…}}'`; resumes if RUN is one.

With "sharded", the ranks of a CPU are taken for devices, as accelerate shards over devices alone.
"""

import json
import os
import sys
from pathlib import Path

import torch
from tiny import TinyTask

from qkv.training.devices import leave_group
from qkv.training.loop import train
from qkv.training.options import Options
from qkv.training.schedules import cosine


def main() -> None:
    asked = json.loads(sys.argv[2])
    if asked.get("sharded"):
        from accelerate.state import PartialState
        from accelerate.utils import DistributedType

        PartialState(cpu=True)
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
        os.environ |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
    torch.set_num_threads(1)
    options = {"steps": 20, "rate": 0.01, "schedule": cosine(20, warm_up=3), "validate_every": 7, "checkpoint_every": 3}
    # Ranks need not begin with the same weights.
    seed = int(os.environ.get("RANK", 0))
    task = TinyTask(**{"seed": seed} | asked.get("task", {}))
    resume = (Path(sys.argv[1]) / "run.json").exists()
    outcome = train(task, sys.argv[1], Options(**options | asked.get("options", {})), resume=resume)
    leave_group()
    print(json.dumps({"step": outcome.step, "loss": outcome.loss, "finished": outcome.finished}))


# A data worker that is spawned imports this file.
if __name__ == "__main__":
    main()
