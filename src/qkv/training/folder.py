"""A folder written whole or not at all, as `qkv.files` writes a file."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qkv.files import sync


@contextmanager
def whole_folder(path: Path, *, replace: bool = True) -> Iterator[Path]:
    """Give a temporary folder beside `path`; it takes that place once all that was written there is on the disk.

    No system swaps two folders in one step everywhere. A crash between the two renames leaves what stood at `path`
    under another name, where `present` finds it. Without `replace` a folder that holds something stays: OSError.
    """
    temporary, old = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp"), _aside(path)
    temporary.mkdir()
    try:
        yield temporary
        for inside in (*temporary.rglob("*"), temporary):
            sync_any(inside)
        if replace and path.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.rename(path, old)
        os.rename(temporary, path)
        sync_any(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def present(path: Path) -> Path:
    """Give the folder that is at `path`, or that was before a crash in the middle of replacing it."""
    return _aside(path) if not path.exists() and _aside(path).exists() else path


def remove_folder(path: Path) -> None:
    """Remove a folder so that a crash leaves no half of it under its name."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    os.rename(path, temporary)
    shutil.rmtree(temporary, ignore_errors=True)


def leftovers(folder: Path) -> list[Path]:
    """Give what crashes left in a folder while something was written or removed there."""
    return sorted(folder.glob(".*.tmp"))


def sync_any(path: Path) -> None:
    """Wait until a file or a folder is on the disk; Windows opens no folders, and needs none."""
    if os.name == "posix" or path.is_file():
        sync(path)


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")
