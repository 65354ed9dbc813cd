"""The report's folder."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from qkv.errors import FileError, must
from qkv.files import contains, whole_or_nothing
from qkv.labs.lab import Lab
from qkv.labs.report.frame import GENERATOR
from qkv.labs.report.pages import follow_ups, index, lab_page, mistakes
from qkv.labs.running.results import Result


def write_report(folder: Path, labs: Sequence[Lab], results: Mapping[str, Sequence[Result]]) -> Path:
    """Write the report's pages, each whole or not at all, and give the first.

    Raises: FileError if a page of another program is in the way, or the folder cannot be written to; UnsupportedError
    if matplotlib is not installed.
    """
    pages = {"index.html": index(labs, results), "mistakes.html": mistakes(labs, results), "choose.html": follow_ups()}
    pages |= {f"{lab.name}.html": lab_page(lab, results[lab.name]) for lab in labs}
    whole = {name: text.encode("utf-8") for name, text in pages.items()}
    for name in pages:
        path = folder / name
        if os.path.lexists(path) and not contains(path, GENERATOR.encode(), within=1000):
            raise FileError(
                must("lab report", str(path), "be new or a page of qkv's own", "another file", "choose another --out")
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in whole.items():
            with whole_or_nothing(folder / name) as temporary:
                temporary.write_bytes(text)
    except OSError as error:
        raise FileError(
            must("lab report", str(folder), "be a folder that can be written to", error.strerror or error)
        ) from error
    return folder / "index.html"
