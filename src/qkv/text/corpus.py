"""Users' texts, read as a stream: text, JSON and tab-separated files, folders of them, packed with gzip or zstd.

    texts = read_texts("poems/")                       # documents between blank lines; .jsonl by their field "text"
    pairs = read_pairs("cmn.txt")                      # source, a tab, target

Both can be read as often as one likes, and hold one document at a time.
"""

import gzip
import hashlib
import io
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from qkv.errors import ArgumentError, FileError, must
from qkv.folders import file_error, listing

Line = tuple[int, str]
"""The number of a line in its file, and what it holds."""
Split = Callable[[Iterable[Line]], Iterator[str]]
"""How the lines of a plain text become documents."""

JSON = (".jsonl", ".ndjson", ".json")
TABLES = (".tsv", ".tab")
PLAIN = (".txt", ".text", ".md", ".rst", ".py")
PACKED = (".gz", ".zst")


def paragraphs(lines: Iterable[Line]) -> Iterator[str]:
    """Take what stands between blank lines as one document."""
    held: list[str] = []
    for _, line in lines:
        if line.strip():
            held.append(line)
        elif held:
            yield "\n".join(held)
            held = []
    if held:
        yield "\n".join(held)


def each_line(lines: Iterable[Line]) -> Iterator[str]:
    """Take each line that is not blank as one document."""
    return (line for _, line in lines if line.strip())


def each_file(lines: Iterable[Line]) -> Iterator[str]:
    """Take a whole file as one document."""
    if (text := "\n".join(line for _, line in lines)).strip():
        yield text


@dataclass(frozen=True)
class Texts:
    """Documents of files, read anew each time."""

    files: tuple[Path, ...]
    field: str | None = None
    split: Split = paragraphs

    def __iter__(self) -> Iterator[str]:
        return (text for text, _ in self.measured())

    def measured(self) -> Iterator[tuple[str, int]]:
        """Give each document and how many bytes of `size` were read for it.

        Raises: FileError, naming the file and the line, for what is no text.
        """
        count = 0
        for file, before in _with_sizes(self.files):
            lines = _Lines("read_texts", file)
            documents = self._of_json(lines) if _kind(file) in JSON else self.split(lines)
            for text in documents:
                count += 1
                yield text, before + lines.read
        if not count:
            raise file_error("read_texts", self.files[0], "hold text", "none")

    def _of_json(self, lines: "_Lines") -> Iterator[str]:
        name = self.field or "text"
        for number, found in _objects(lines):
            value = found if isinstance(found, str) else found.get(name) if isinstance(found, dict) else None
            if isinstance(value, list) and all(isinstance(part, str) for part in value):
                value = "\n".join(value)
            if not isinstance(value, str):
                got = f"the fields {', '.join(map(repr, found))}" if isinstance(found, dict) else type(found).__name__
                if isinstance(found, dict) and name in found:
                    got = f"{type(found[name]).__name__} in it"
                raise lines.error(f"hold text in the field {name!r}", got[:200], number)
            if value.strip():
                yield encodable(value)

    @property
    def size(self) -> int:
        """Bytes on the disk."""
        return sum(file.stat().st_size for file in self.files)

    @property
    def identity(self) -> str:
        """A name that changes when a file, its size or its time does."""
        return identity_of(self.files, self.field, self.split.__qualname__)


@dataclass(frozen=True)
class TextPairs:
    """Pairs of texts that say the same, read anew each time."""

    files: tuple[Path, ...]
    fields: tuple[str, str]

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return (pair for _, _, pair in self.with_places())

    def with_places(self) -> Iterator[tuple[Path, str, tuple[str, str]]]:
        """Give each pair with its file and where it stands there.

        Raises: FileError, naming the file and the line, where a pair has one side.
        """
        count = 0
        for file in self.files:
            lines = _Lines("read_pairs", file)
            for number, pair in self._of_json(lines) if _kind(file) in JSON else self._of_table(lines):
                if len(pair) < 2 or not all(isinstance(side, str) and side.strip() for side in pair):
                    got = repr(pair)[:80]
                    where = f"the fields {self.fields}" if _kind(file) in JSON else "two columns, a tab between them"
                    raise lines.error(f"hold text in {where}", got, number)
                count += 1
                where = f"line {number}" if isinstance(number, int) else number
                yield file, where, (encodable(pair[0]), encodable(pair[1]))
        if not count:
            raise file_error("read_pairs", self.files[0], "hold pairs", "none")

    def _of_json(self, lines: "_Lines") -> Iterator[tuple[int | str, list[Any]]]:
        for number, found in _objects(lines):
            if not isinstance(found, dict):
                raise lines.error("hold JSON objects", type(found).__name__, number)
            yield number, [found.get(field) for field in self.fields]

    def _of_table(self, lines: "_Lines") -> Iterator[tuple[int | str, list[str]]]:
        # What follows the second column, such as where a pair is from, is left out.
        return ((number, line.split("\t")[:2]) for number, line in lines if line.strip())

    @property
    def identity(self) -> str:
        """A name that changes when a file, its size or its time does."""
        return identity_of(self.files, *self.fields)


@dataclass(frozen=True)
class HubTexts:
    """Documents of a data set on the Hugging Face Hub, as they come."""

    name: str
    field: str | None = None

    def __iter__(self) -> Iterator[str]:
        try:
            from datasets import load_dataset
        except ModuleNotFoundError as error:
            rule = "be a file or a folder, as datasets is not installed"
            got = repr(f"datasets:{self.name}")
            raise FileError(must("read_texts", "path", rule, got, "pip install datasets")) from error
        name, _, config = self.name.partition(":")
        field = self.field or "text"
        for row in load_dataset(name, config or None, split="train", streaming=True):
            if not isinstance(row.get(field), str):
                got = ", ".join(map(repr, row))
                raise ArgumentError(must("read_texts", "field", f"name a text of {self.name}", repr(field), got))
            yield encodable(row[field])

    @property
    def identity(self) -> str:
        """A name for what was asked for; what the Hub holds may change under it."""
        return f"datasets:{self.name} {self.field}"


def read_texts(path: str | PathLike[str], field: str | None = None, *, split: Split = paragraphs) -> Texts | HubTexts:
    """Read the documents of a file or of all files in a folder; or of `datasets:NAME` or `datasets:NAME:CONFIG`.

    Plain text is split by `split`: `paragraphs`, `each_line` or `each_file`. JSON holds texts, or objects with one in
    `field` ("text" if None): a value on each line, or the whole of a .json file, which may be a list.

    Raises: FileError if there is nothing to read; while reading, FileError that names the file and the line.
    """
    if isinstance(path, str) and path.startswith("datasets:"):
        return HubTexts(path.removeprefix("datasets:"), field)
    return Texts(_find("read_texts", Path(path), PLAIN + JSON), field, split)


def read_pairs(path: str | PathLike[str], fields: tuple[str, str] = ("source", "target")) -> TextPairs:
    """Read the pairs of a file or of all files in a folder: two columns with a tab between, or two fields of JSON.

    Raises: FileError if there is nothing to read; while reading, FileError that names the file and the line.
    """
    return TextPairs(_find("read_pairs", Path(path), (*TABLES, ".txt", *JSON)), fields)


def encodable(text: str) -> str:
    """Give a text that can be written in UTF-8: half of a pair of surrogates, as JSON may hold, becomes `?`."""
    return text.encode("utf-8", "replace").decode("utf-8")


def identity_of(files: tuple[Path, ...], *options: object) -> str:
    """Name files and what is made of them: another name when a file, its size or its time changes."""
    found = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.blake2b(repr((found, options)).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _find(function: str, path: Path, known: tuple[str, ...]) -> tuple[Path, ...]:
    """Give the files to read, sorted. Files of a folder that are empty, hidden or of another kind are passed over."""
    try:
        if path.is_dir():
            inside = sorted(Path(top, name) for top, _, names in os.walk(path) for name in names)
            files = [file for file in inside if _kind(file) in known and file.is_file() and file.stat().st_size]
            files = [file for file in files if not any(part.startswith(".") for part in file.relative_to(path).parts)]
            if not files:
                raise file_error(function, path, f"hold files that end in {', '.join(known)}", listing(path))
            return tuple(files)
        if not path.stat().st_size:
            raise file_error(function, path, "hold text", "an empty file")
        with open(path, "rb"):
            return (path,)
    except FileError:
        raise
    except (OSError, ValueError) as error:
        raise file_error(function, path, "be a file or a folder", getattr(error, "strerror", None) or error) from error


def _kind(file: Path) -> str:
    """Give the suffix that tells what a file holds, below the one that tells how it is packed."""
    suffixes = [suffix.lower() for suffix in file.suffixes]
    return next((suffix for suffix in reversed(suffixes) if suffix not in PACKED), "")


def _with_sizes(files: tuple[Path, ...]) -> Iterator[tuple[Path, int]]:
    before = 0
    for file in files:
        yield file, before
        before += file.stat().st_size


class _Lines:
    """The lines of a file with their numbers, and how far it is read."""

    def __init__(self, function: str, file: Path) -> None:
        self.function, self.file, self.read = function, file, 0

    def error(self, rule: str, got: object, place: int | str, fix: str = "") -> FileError:
        where = f"line {place}" if isinstance(place, int) else place
        return file_error(self.function, self.file, rule, got, f"{where}; {fix}" if fix else where)

    def __iter__(self) -> Iterator[Line]:
        number = start = 0
        try:
            with open(self.file, "rb") as raw:
                for number, line in enumerate(_unpacked(self.function, self.file, raw), 1):
                    self.read = raw.tell()
                    yield number, self._decoded(number, start, line)
                    start += len(line)
        except FileError:
            raise
        except (OSError, EOFError, zlib.error) as error:
            got = getattr(error, "strerror", None) or error
            raise self.error("be readable to its end", got, number + 1) from error

    def _decoded(self, number: int, start: int, line: bytes) -> str:
        if number == 1:
            if line.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise self.error("be UTF-8", "UTF-16", 1, f"iconv -f UTF-16 -t UTF-8 {self.file.name}")
            line = line.removeprefix(b"\xef\xbb\xbf")
        if (place := line.find(b"\0")) >= 0:
            raise self.error("be text", f"a zero byte at byte {start + place}", number, "is it a binary file?")
        try:
            return line.decode().removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError as error:
            got = f"byte 0x{line[error.start]:02x} at byte {start + error.start}"
            raise self.error("be UTF-8", got, number, "convert it with iconv") from error


def _unpacked(function: str, file: Path, raw: io.BufferedReader) -> io.BufferedIOBase:
    kind = file.suffix.lower()
    if kind == ".gz":
        return gzip.GzipFile(fileobj=raw)
    if kind == ".zst":
        try:
            import zstandard
        except ModuleNotFoundError as error:
            rule = "be unpacked, as zstandard is not installed"
            raise file_error(function, file, rule, "a .zst file", "pip install zstandard") from error
        return io.BufferedReader(_Zstandard(zstandard, raw))
    return raw


class _Zstandard(io.RawIOBase):
    """A file packed with zstd. The library's own reader takes a file that was cut off for one that ends there."""

    def __init__(self, library: Any, raw: io.BufferedReader) -> None:
        self.library, self.raw = library, raw
        self.packed, self.ready = b"", b""
        self.frame: Any = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.ready:
            self.packed = self.packed or self.raw.read(1 << 16)
            if not self.packed:
                if self.frame is not None:
                    raise EOFError("it was cut off")
                return 0
            self.frame = self.frame or self.library.ZstdDecompressor().decompressobj()
            try:
                self.ready, self.packed = self.frame.decompress(self.packed), b""
            except self.library.ZstdError as error:
                raise OSError(str(error)) from error
            if self.frame.eof:
                self.packed, self.frame = self.frame.unused_data, None
        size = min(len(buffer), len(self.ready))
        buffer[:size], self.ready = self.ready[:size], self.ready[size:]
        return size


def _objects(lines: _Lines) -> Iterator[tuple[int | str, Any]]:
    """Give the values of JSON lines, or of the list that a .json file holds, and where each stands."""
    if _kind(lines.file) != ".json":
        for number, line in lines:
            if line.strip():
                yield number, _parsed(lines, number, line)
        return
    numbered = list(lines)
    found = _parsed(lines, 1, "\n".join(line for _, line in numbered))
    for index, value in enumerate(found if isinstance(found, list) else [found]):
        yield f"item {index}", value


def _parsed(lines: _Lines, number: int, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise lines.error("hold JSON", error.msg, number + error.lineno - 1, f"column {error.colno}") from error
    # Nested too deep, or a number with too many digits.
    except (RecursionError, ValueError) as error:
        raise lines.error("hold JSON", error, number) from error
