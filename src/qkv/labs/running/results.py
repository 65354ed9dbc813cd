"""Results on the disk: a file for each lab, form and seed, from which tables, plots and pages are made again."""

import ast
import hashlib
import importlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
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
    """Name the code and the size of an experiment: a result of other code is an older one.

    The code is that of the lab and of what it takes from `labs`. What is said of it, and how it is drawn, may change.
    """
    own = _bare(lab.source)
    taken = sorted(
        part.module
        for part in own.body
        if isinstance(part, ast.ImportFrom) and part.module and part.module.startswith("qkv.labs.")
    )
    others = [_bare(Path(str(importlib.import_module(name).__file__))) for name in taken if name != Lab.__module__]
    texts = [*map(ast.dump, (own, *others)), repr(getattr(lab, form))]
    return hashlib.blake2b("".join(texts).encode(), digest_size=8).hexdigest()


def _bare(path: Path) -> ast.Module:
    """Read code without what is told or drawn."""
    module = ast.parse(path.read_text(encoding="utf-8"))
    module.body = [part for part in module.body if not _is_told_or_drawn(part)]
    for part in ast.walk(module):
        if isinstance(part, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(part) is not None:
            part.body = part.body[1:]
    return module


def _is_told_or_drawn(part: ast.stmt) -> bool:
    if isinstance(part, ast.Assign):
        return any(isinstance(target, ast.Name) and target.id == "LAB" for target in part.targets)
    return isinstance(part, ast.FunctionDef) and part.name == "plot"


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
        if not whole or not all(isinstance(result.figures.get(name), int | float) for name in lab.labels):
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
