"""A run: the folder of one training.

run.json         what was trained: kind, options, seed, versions, command
metrics.jsonl    a JSON object for each step and each validation
checkpoints/     what resuming needs
model/           the best model so far, for users
"""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

from qkv.errors import FileError, must
from qkv.files import write_whole
from qkv.folders import file_error, listing, read_json
from qkv.training.folder import leftovers, present, whole_folder

RECORD, LOCK = "run.json", "lock"


@dataclass(frozen=True)
class Run:
    """Where the parts of a run are."""

    folder: Path

    @property
    def metrics(self) -> Path:
        """The file of metrics."""
        return self.folder / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.folder / "checkpoints"

    @property
    def model(self) -> Path:
        """The folder of the best model, also when a crash came while it was replaced."""
        return present(self.folder / "model")

    def record(self) -> dict[str, Any]:
        """Read what was trained."""
        return read_json(self.folder / RECORD, "Run.record")

    def rewrite(self, record: Mapping[str, Any]) -> None:
        """Write what is trained anew."""
        write_whole("Run.rewrite", self.folder / RECORD, _json(record), overwrite=True)

    def hold(self) -> IO[str]:
        """Keep other trainings out of this run until the file is closed, or the process ends however it does.

        What crashes left in the run is removed.

        Raises: FileError if another holds it, or it cannot be written to.
        """
        try:
            # A record lock: processes that this one starts (data workers, say) do not hold it when it is killed.
            file = (self.folder / LOCK).open("a")
            with tempfile.TemporaryFile(dir=self.checkpoints):
                pass
        except OSError as error:
            raise file_error("train", self.folder, "be writable", error.strerror or error) from error
        try:
            import fcntl

            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Windows has no such locks.
        except ModuleNotFoundError:
            pass
        except OSError as error:
            file.close()
            rule = "not be in training by another process"
            raise file_error("train", self.folder, rule, error.strerror or error) from error
        for path in leftovers(self.folder):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return file


def create_run(folder: str | os.PathLike[str], record: Mapping[str, Any]) -> Run:
    """Make a run's folder, whole or not at all.

    Raises: FileError if there is something already, or the folder cannot be made.
    """
    run = Run(Path(os.path.abspath(folder)))
    if os.path.lexists(run.folder) and not _is_empty(run.folder):
        goes_on = (run.folder / RECORD).exists()
        fix = "resume it, or choose another name" if goes_on else "choose another name"
        raise file_error("train", run.folder, "be new", _what(run.folder), fix)
    try:
        run.folder.parent.mkdir(parents=True, exist_ok=True)
        # Another training may have begun here a moment ago.
        with whole_folder(run.folder, replace=False) as temporary:
            (temporary / "checkpoints").mkdir()
            (temporary / RECORD).write_bytes(_json(record))
    except OSError as error:
        rule = "be new" if (run.folder / RECORD).exists() else "be writable"
        raise file_error("train", run.folder, rule, error.strerror or error) from error
    return run


def open_run(folder: str | os.PathLike[str], function: str = "open_run") -> Run:
    """Find a run. Raises: FileError, saying what the folder is, if it is none."""
    run = Run(Path(os.path.abspath(folder)))
    if not (run.folder / RECORD).is_file():
        raise FileError(must(function, str(run.folder), f"be a run, with its {RECORD}", _what(run.folder)))
    return run


def versions() -> dict[str, str]:
    """Give the versions of Python and of the packages that a training's bits depend on."""
    found = {"python": sys.version.split()[0]}
    for name in ("qkv", "torch", "numpy", "accelerate", "tokenizers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _what(path: Path) -> str:
    """Say what is at a path."""
    if not os.path.lexists(path):
        return "nothing"
    if not path.is_dir():
        return "a file"
    if (path / RECORD).exists():
        return "a run"
    if (path / "config.json").exists():
        return "a model's folder"
    if (path / "checkpoint.json").exists():
        return "a checkpoint"
    return f"a folder with {listing(path)}"


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _json(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode()
