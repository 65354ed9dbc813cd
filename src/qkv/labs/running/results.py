"""Results on the disk: a file for each lab, form and seed, from which tables, plots and pages are made again."""

import hashlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from qkv.errors import FileError, must
from qkv.files import whole_or_nothing
from qkv.labs.lab import Figures, Lab

FOLDER = "results"
FORMAT = 1


@dataclass(frozen=True)
class Result:
    """What one seed of a lab measured, where, when, and with which code."""

    lab: str
    form: str
    seed: int
    figures: Figures
    seconds: float
    date: str
    device: str
    versions: dict[str, str]
    code: str
    format: int = FORMAT


def result_path(out: Path, lab: str, form: str, seed: int) -> Path:
    """Say where a result lies."""
    return out / FOLDER / f"{lab}.{form}.{seed}.json"


def code_of(lab: Lab, form: str) -> str:
    """Name the code and the size of an experiment: a result of other code is an older one."""
    module = _module(lab)
    source = Path(str(module.__file__)).read_bytes()
    return hashlib.blake2b(source + repr(getattr(lab, form)).encode(), digest_size=8).hexdigest()


def write_result(out: Path, result: Result) -> None:
    """Write a result, whole or not at all."""
    path = result_path(out, result.lab, result.form, result.seed)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_or_nothing(path) as temporary:
            temporary.write_text(json.dumps(asdict(result), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise FileError(must("lab", str(out), "be a folder that can be written to", error.strerror or error)) from error


def read_result(path: Path, lab: Lab, form: str) -> Result:
    """Read a result. Raises: FileError for one that is broken, or was measured by other code."""
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != FORMAT:
            raise FileError(must("lab", str(path), f"be in format {FORMAT}", found["format"], "run the lab again"))
        result = Result(**found)
        whole = isinstance(result.figures, dict) and result.lab == lab.name and result.form == form
        if not whole or set(lab.labels) - result.figures.keys():
            raise FileError(must("lab", str(path), f"hold all figures of {lab.name}", "others", "run the lab again"))
    except (OSError, ValueError, TypeError, KeyError) as error:
        if isinstance(error, FileError):
            raise
        raise FileError(
            must("lab", str(path), "be a result", f"{type(error).__name__}", "run the lab again")
        ) from error
    if result.code != code_of(lab, form):
        raise FileError(must("lab", str(path), "be of this version of the lab", "an older result", "run the lab again"))
    return result


def find_results(out: Path, lab: Lab, form: str = "quick") -> tuple[list[Result], list[str]]:
    """Find a lab's results in the order of their seeds; and what is wrong with those that are passed over."""
    results, wrong = [], []
    for path in sorted((out / FOLDER).glob(f"{lab.name}.{form}.*.json")):
        try:
            results.append(read_result(path, lab, form))
        except FileError as error:
            wrong.append(str(error))
    return sorted(results, key=lambda result: result.seed), wrong


def figures_of(results: Sequence[Result]) -> list[Figures]:
    """Give the figures of results."""
    return [result.figures for result in results]


def now() -> str:
    """Give the time to the minute."""
    return time.strftime("%Y-%m-%d %H:%M")


def device() -> str:
    """Name what an experiment runs on."""
    import platform

    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU, {platform.machine()}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"


def _module(lab: Lab) -> ModuleType:
    import importlib

    return importlib.import_module(lab.measure.__module__)
