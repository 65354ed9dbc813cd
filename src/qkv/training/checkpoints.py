"""Checkpoints: folders that hold all a training needs to go on, whole or not there at all.

    checkpoints/step-00000120/
        weights.safetensors optimizer.safetensors    tensors by name; never a pickle, which can run any code
        state.json                                   the step, the place in the data, every random state
        checkpoint.json                              the marker: each file's size and SHA-256

A folder is written under another name, synced and renamed. The marker is written last and read first.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from qkv.errors import FileError, must
from qkv.folders import file_error, read_json
from qkv.training.folder import leftovers, remove_folder, whole_folder

MARKER, STATE = "checkpoint.json", "state.json"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A whole checkpoint: its state as JSON held it, and tensors read when asked for."""

    folder: Path
    state: dict[str, Any]

    @property
    def step(self) -> int:
        """How many steps had been taken."""
        return self.state["step"]

    def file(self, name: str) -> Path:
        """Where the tensors of a name are."""
        return self.folder / f"{name}.safetensors"

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Read the tensors of a name. Raises: FileError if they are broken."""
        try:
            return load_file(self.file(name))
        except (OSError, SafetensorError) as error:
            raise file_error("Checkpoint.tensors", self.file(name), "hold tensors", error) from error


def save_checkpoint(
    folder: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]
) -> Checkpoint:
    """Write a checkpoint into a folder of them. A crash, or a full disk, leaves the others as they were.

    Raises: FileError if it cannot be written.
    """
    checkpoint = Checkpoint(folder / f"step-{step:08}", {"step": step, **state})
    try:
        with whole_folder(checkpoint.folder) as temporary:
            for name, named in tensors.items():
                save_file(
                    {key: tensor.contiguous() for key, tensor in named.items()}, temporary / f"{name}.safetensors"
                )
            (temporary / STATE).write_text(json.dumps(checkpoint.state), encoding="utf-8")
            marks = {path.name: _mark(path) for path in sorted(temporary.iterdir())}
            (temporary / MARKER).write_text(json.dumps({"format": 1, "files": marks}, indent=1), encoding="utf-8")
    except (OSError, SafetensorError) as error:
        begun = "the older checkpoints are whole" if _steps(folder) else "nothing was trained yet"
        fix = f"{begun}; make room, then resume"
        got = getattr(error, "strerror", None) or error
        raise file_error("save_checkpoint", checkpoint.folder, "be writable", got, fix) from error
    return checkpoint


def newest_checkpoint(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """Give the newest whole checkpoint of a folder, and the names of what was passed over as half written.

    Raises: FileError, naming the file, if one was cut or changed after it was written whole.
    """
    skipped = [path.name for path in leftovers(folder)]
    for path in reversed(_steps(folder)):
        if not (path / MARKER).exists():
            skipped.append(path.name)
            continue
        marks = read_json(path / MARKER, "newest_checkpoint").get("files")
        if not isinstance(marks, dict) or STATE not in marks:
            got = "no files" if marks is None else marks
            raise file_error("newest_checkpoint", path / MARKER, "name the files of a checkpoint", got, _remove(path))
        for name, mark in marks.items():
            _check(path / name, mark)
        return Checkpoint(path, read_json(path / STATE, "newest_checkpoint")), skipped
    return None, skipped


def prune_checkpoints(folder: Path, keep: int, best: int | None) -> None:
    """Remove all but the last `keep` checkpoints and that of the step `best`, and what crashes left."""
    kept = f"step-{best:08}" if best is not None else ""
    for path in [*_steps(folder)[:-keep], *leftovers(folder)]:
        if path.name != kept:
            remove_folder(path)


def _steps(folder: Path) -> list[Path]:
    """Give the checkpoints' folders, the oldest first."""
    found = [path for path in folder.iterdir() if re.fullmatch(r"step-\d{8,}", path.name)]
    return sorted(found, key=lambda path: int(path.name[5:]))


def _mark(path: Path) -> dict[str, Any]:
    """Give the size and the SHA-256 of a file."""
    size, digest = 0, hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            size += len(part)
            digest.update(part)
    return {"bytes": size, "sha256": digest.hexdigest()}


def _check(path: Path, mark: object) -> None:
    """Raise FileError if a file is not the one that was marked."""
    try:
        found = _mark(path)
    except OSError as error:
        raise _changed(path, error.strerror or error) from error
    if found != mark:
        size = mark.get("bytes") if isinstance(mark, dict) else mark
        same = found["bytes"] == size
        raise _changed(path, "other content of the same size" if same else f"{found['bytes']} bytes, not {size}")


def _changed(path: Path, got: object) -> FileError:
    return FileError(must("newest_checkpoint", str(path), "be as it was written", got, _remove(path.parent)))


def _remove(checkpoint: Path) -> str:
    return f"remove {checkpoint} to go on from an older checkpoint"
