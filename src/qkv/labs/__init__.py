"""Labs: each question about attention, answered by an experiment that can fail.

A file is a question; `lab.py` says what a lab is, `running/` runs it, `report/` makes its pages.
"""

import importlib

from qkv.errors import ArgumentError, must
from qkv.labs.lab import Lab

NAMES: tuple[str, ...] = (
    "formula",
    "scaling",
    "alignment",
    "cost",
    "memory",
    "masks",
    "matrix",
    "bert_gpt",
    "vocabulary",
    "contextual",
    "embeddings",
    "norms",
    "placement",
    "hard",
    "local",
    "heads",
    "head_cost",
)
"""The labs, in the order of the questions."""


def find_lab(name: str) -> Lab:
    """Give a lab by its name. Raises: ArgumentError, with the nearest name, if there is none."""
    if name not in NAMES:
        import difflib

        near = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.4)
        fix = f"did you mean {near[0]}?" if near else "`qkv lab list` names them"
        raise ArgumentError(must("lab", "NAME", f"be one of {', '.join(NAMES)}", repr(name), fix))
    return importlib.import_module(f"qkv.labs.{name}").LAB


def all_labs() -> list[Lab]:
    """Give every lab."""
    return [find_lab(name) for name in NAMES]
