"""A folder with a model in Hugging Face's layout: found on the disk or the Hub, its JSON read. A leaf beside errors."""

import json
import os
import re
from os import PathLike
from pathlib import Path
from typing import Any

from qkv.errors import FileError, must


def find_folder(folder: str | PathLike[str], function: str) -> Path:
    """Give a folder as it is; fetch a name from the Hub, or from what was fetched before."""
    path = Path(folder)
    if os.path.isdir(path):
        return path
    if os.path.exists(path) or not isinstance(folder, str) or not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", folder):
        raise FileError(
            must(function, "folder", "be a folder, or a model's name on the Hugging Face Hub", repr(folder))
        )
    try:
        from huggingface_hub import snapshot_download
    except ModuleNotFoundError as error:
        rule = "be a folder, as huggingface_hub is not installed"
        raise FileError(must(function, "folder", rule, repr(folder), "pip install huggingface_hub")) from error
    try:
        return Path(snapshot_download(folder, allow_patterns=["*.json", "*.safetensors", "*.txt"]))
    except (OSError, ValueError) as error:
        rule = "be a folder, or a name that the Hugging Face Hub can be asked for"
        fix = f"{type(error).__name__}; with a network: hf download {folder} --local-dir FOLDER, then give FOLDER"
        raise FileError(must(function, "folder", rule, repr(folder), fix)) from error


def read_json(path: Path, function: str) -> dict[str, Any]:
    """Read a JSON object. Raises: FileError, naming `function`, if there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise file_error(function, path, "exist", f"a folder with {listing(path.parent)}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise file_error(function, path, "hold JSON", error) from error
    if not isinstance(found, dict):
        raise file_error(function, path, "hold a JSON object", type(found).__name__)
    return found


def listing(folder: Path) -> str:
    """Name the first files of a folder."""
    return ", ".join(sorted(path.name for path in folder.iterdir())[:10]) or "nothing"


def file_error(function: str, path: Path, rule: str, got: object, fix: str = "") -> FileError:
    """Make the error of a file that breaks a rule."""
    return FileError(must(function, str(path), rule, got, fix))
