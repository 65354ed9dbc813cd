"""Results on the disk: a file for each lab, form and seed, from which tables, plots and pages are made again."""

import ast
import hashlib
import importlib
import json
import os
import re
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
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


def result_path(out: Path, lab: Lab, seed: int) -> Path:
    """Say where a result lies."""
    return out / FOLDER / f"{lab.key}.{seed}.json"


def code_of(lab: Lab) -> str:
    """Name the code and the size of an experiment: a result of other code, or of another version, is an older one.

    The code is that of the lab and of what it takes from `labs`, with its data. What is said of it, and how it is drawn,
    may change.
    """
    digest = hashlib.blake2b(repr((lab.size, version("qkv"), version("torch"))).encode(), digest_size=8)
    for path in _taken(lab.source, {}):
        digest.update(ast.dump(_bare(path)).encode())
        if path.name == "__init__.py":
            for data in sorted(path.parent.glob("*.jsonl")):
                digest.update(data.read_bytes())
    return digest.hexdigest()


def _taken(path: Path, seen: dict[Path, None]) -> Iterable[Path]:
    """Find a file of `labs` and those that it imports from there, and they from there."""
    seen[path] = None
    for part in ast.parse(path.read_text(encoding="utf-8")).body:
        if not isinstance(part, ast.ImportFrom) or not (part.module or "").startswith("qkv.labs."):
            continue
        found = Path(str(importlib.import_module(str(part.module)).__file__))
        if part.module != Lab.__module__ and found not in seen:
            _taken(found, seen)
    return seen


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


def check_folder(out: Path) -> None:
    """Raise FileError unless results can be written there, before any is measured."""
    try:
        (out / FOLDER).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out / FOLDER):
            pass
    except OSError as error:
        raise _not_writable(out, error) from error


def write_result(out: Path, lab: Lab, result: Result) -> None:
    """Write a result, whole or not at all."""
    path = result_path(out, lab, result.seed)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_or_nothing(path) as temporary:
            temporary.write_text(json.dumps(asdict(result), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise _not_writable(out, error) from error


def _not_writable(out: Path, error: OSError) -> FileError:
    return FileError(must("lab", str(out), "be a folder that can be written to", error.strerror or error))


def read_result(path: Path, lab: Lab) -> Result:
    """Read a result. Raises: FileError for one that is broken, or was measured by other code."""
    again = "run the lab again"
    try:
        # A pipe of that name would wait for ever.
        found: Any = json.loads(path.read_text(encoding="utf-8") if path.is_file() else "")
        if found["format"] != FORMAT:
            raise FileError(must("lab", str(path), f"be in format {FORMAT}", str(found["format"])[:40], again))
        result = Result(**found)
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        if isinstance(error, FileError):
            raise
        raise FileError(must("lab", str(path), "be a result", type(error).__name__, again)) from error
    if not _is_whole(result, lab) or path.name != result_path(path, lab, result.seed).name:
        raise FileError(must("lab", str(path), f"hold all figures of {lab.name}", "others", again))
    if result.code != code_of(lab):
        raise FileError(must("lab", str(path), "be of this version of the lab", "an older result", again))
    return result


def _is_whole(result: Result, lab: Lab) -> bool:
    """Say whether each part of a result is of its kind, and each number one that a computer can count with."""
    if not isinstance(result.versions, dict) or type(result.seed) is not int or not isinstance(result.figures, dict):
        return False
    texts = [result.lab, result.form, result.date, result.device, result.code]
    texts += [*result.versions, *result.versions.values()]
    numbers: list[Any] = [result.seconds, *(result.figures.get(name) for name in lab.labels)]
    if not all(isinstance(text, str) for text in texts) or not all(isinstance(x, int | float) for x in numbers):
        return False
    try:
        # A text may hold what no file can, an integer be more than a float holds.
        for text in texts:
            text.encode()
        counted = [float(number) for number in numbers]
    except (OverflowError, UnicodeEncodeError):
        return False
    return counted[0] >= 0


def find_results(out: Path, lab: Lab) -> tuple[list[Result], list[str]]:
    """Find a lab's results in the order of their seeds; and what is wrong with those that are passed over.

    Raises: FileError if `out` is there and cannot be looked into.
    """
    results, wrong = [], []
    name = re.compile(rf"{re.escape(lab.key)}\.\d+\.json")
    try:
        paths = sorted(path for path in (out / FOLDER).iterdir() if name.fullmatch(path.name))
    except FileNotFoundError:
        paths = []
    except OSError as error:
        rule = "be a folder that can be read"
        raise FileError(must("lab", str(out), rule, error.strerror or error)) from error
    for path in paths:
        try:
            results.append(read_result(path, lab))
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
    """Name what an experiment ran on: a GPU, if this process used one."""
    import platform

    import torch

    if torch.cuda.is_initialized():
        return torch.cuda.get_device_name()
    return f"CPU, {platform.machine()}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"
