"""What the examples share: a training for each seed, and figures that are kept as JSON."""

import json
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

RUNS = Path("runs")


def trained(name: str, *words: str) -> Path:
    """Run `qkv train …` into runs/NAME to its end, or go on with it; give the run's folder."""
    run = RUNS / name
    command = ["train", *words, "--out", str(run)]
    if (run / "run.json").exists():
        command.append("--resume")
    print(f"$ qkv {shlex.join(command)}", flush=True)
    subprocess.run([sys.executable, "-m", "qkv", *command], check=True)
    return run


def train_seconds(run: Path) -> float:
    """Sum the seconds of a run's steps."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return sum(line.get("seconds", 0.0) for line in lines)


def best_validation(run: Path) -> float:
    """Find the lowest validation loss of a run."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return min(line["validation_loss"] for line in lines if "validation_loss" in line)


def keep(name: str, figures: Mapping[str, object]) -> None:
    """Print figures and keep them in runs/NAME.json."""
    path = RUNS / f"{name}.json"
    path.write_text(json.dumps({"date": time.strftime("%Y-%m-%d"), **figures}, indent=1) + "\n", encoding="utf-8")
    for key, value in figures.items():
        print(f"{key}: {value}")
    print(f"kept in {path}")


def spread(values: Sequence[float]) -> str:
    """Tell the mean of some seeds, and each."""
    return f"{statistics.mean(values):.4g} ({', '.join(f'{value:.4g}' for value in values)})"
