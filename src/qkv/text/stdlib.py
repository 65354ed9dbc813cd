"""The running Python's own standard library as a corpus: real code, and the prose of its docstrings, on any machine."""

import ast
import hashlib
import sysconfig
import tokenize
from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path

from qkv.errors import FileError, must

_LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "lib2to3", "turtledemo", "__pycache__"}
"""Folders that are not the library, or hold little but made-up text."""

HELD_OUT = 20
"""One file in so many is held out for validation."""


def code(*, held_out: bool = False) -> Iterator[str]:
    """Give the source of each module, in the order of their names; with `held_out` that of the others.

    The same Python gives the same texts. Which files are held out follows from their names.

    Raises: FileError if this Python comes without its sources.
    """
    for path in _modules(held_out):
        try:
            with tokenize.open(path) as file:
                text = file.read()
        # Some files are there to be broken.
        except (OSError, SyntaxError, UnicodeDecodeError):
            continue
        if text.strip():
            yield text


def prose(*, held_out: bool = False) -> Iterator[str]:
    """Give the docstrings of each module, one text a module, with empty lines between them.

    Raises: FileError if this Python comes without its sources.
    """
    for text in code(held_out=held_out):
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError):
            continue
        found = [
            cleandoc(doc)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and (doc := ast.get_docstring(node, clean=False))
        ]
        if found:
            yield "\n\n".join(found)


def _modules(held_out: bool) -> Iterator[Path]:
    root = Path(sysconfig.get_path("stdlib"))
    every = sorted(path for path in root.rglob("*.py") if not _LEFT_OUT & set(path.relative_to(root).parts))
    if not every:
        raise FileError(must("stdlib", str(root), "hold Python's sources", "none", "give a corpus of your own"))
    for path in every:
        name = path.relative_to(root).as_posix()
        if (hashlib.blake2b(name.encode(), digest_size=4).digest()[0] % HELD_OUT == 0) == held_out:
            yield path
