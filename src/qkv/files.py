"""Files written whole or not at all. A leaf beside errors."""

import os
import stat
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qkv.errors import FileError, must


def write_whole(function: str, path: str | os.PathLike[str], content: bytes, *, overwrite: bool) -> None:
    """Write a file in one step: under a temporary name beside it, synced, renamed. A crash leaves the old file.

    Raises: FileError, naming `function`, if the path exists and may not be overwritten, is a folder, or cannot be
    written.
    """
    check_writable(function, path, overwrite=overwrite)
    target = Path(os.path.realpath(path))
    named = repr(os.fspath(path))
    try:
        mode = target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~_umask()
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name[:100]}.", suffix=".tmp", dir=target.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, mode)
            os.replace(temporary, target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise FileError(must(function, "path", "be writable", named, error.strerror or error)) from error


def check_writable(function: str, path: str | os.PathLike[str], *, overwrite: bool) -> None:
    """Raise FileError if `write_whole` would refuse this path, before any work."""
    named = repr(os.fspath(path))
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        mode = None
    # A name that is too long, or that is no name.
    except (OSError, ValueError) as error:
        raise FileError(must(function, "path", "be writable", named, getattr(error, "strerror", error))) from error
    if mode is not None and not stat.S_ISREG(mode):
        raise FileError(must(function, "path", "be a file", named, "it is a folder or a device"))
    parent = os.path.dirname(os.path.realpath(path))
    if not os.path.isdir(parent):
        raise FileError(must(function, "path", "lie in a folder that exists", named, f"create {parent}"))
    if mode is not None and not overwrite:
        raise FileError(must(function, "path", "be new", named, "the file exists: choose another name or move it away"))


@contextmanager
def whole_or_nothing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; what was written there takes its place, once it is on the disk."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    # The new name is safe once the folder is; Windows opens no folders, and needs none.
    if os.name == "posix":
        sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file or a folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def contains(path: str | os.PathLike[str], mark: bytes, *, within: int) -> bool:
    """Say whether the first bytes of a file hold a mark; one that cannot be read holds none."""
    try:
        with open(path, "rb") as file:
            return mark in file.read(within)
    except OSError:
        return False


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
