"""Labs: each question about attention, answered by an experiment that can fail.

A file is a question; `lab.py` says what a lab is, `running/` runs it, `report/` makes its pages. `papers/` holds the
experiments of papers' tables, which are the full form of some.
"""

import importlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from qkv.errors import ArgumentError, must
from qkv.labs.lab import Lab

if TYPE_CHECKING:
    from qkv.labs.table import Table

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


PAPERS: tuple[str, ...] = ("alignment", "placement", "local", "heads")
"""Those whose full form is another experiment, a paper's own: `papers/` has it, in a file of the same name."""


def find_lab(name: str, *, full: bool = False, table: "Table | None" = None, chinese: Path | None = None) -> Lab:
    """Give a lab by its name: its quick form or its full one, on a user's pairs or Chinese model if they are given.

    Raises: ArgumentError, with the nearest name, if there is none, or for pairs or a model that it does not take.
    """
    if name not in NAMES:
        import difflib

        near = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.4)
        fix = f"did you mean {near[0]}?" if near else "`qkv lab list` names them"
        raise ArgumentError(must("lab", "NAME", f"be one of {', '.join(NAMES)}", repr(name), fix))
    folder = "qkv.labs.papers" if full and name in PAPERS else "qkv.labs"
    lab = importlib.import_module(f"{folder}.{name}").LAB
    lab = replace(lab, form="full" if full else "quick")
    if chinese is not None:
        if not lab.takes_chinese:
            raise ArgumentError(must("lab", "--chinese", "be given to contextual", name, "the others take no model"))
        lab = replace(lab, **{lab.form: replace(lab.size, chinese=chinese)})
    if table is None:
        return lab
    if not lab.takes_pairs:
        rule = f"be given to the full form of {', '.join(PAPERS)}"
        raise ArgumentError(must("lab", "--data", rule, f"{name} in its {lab.form} form", "it makes its own data"))
    return replace(lab, full=replace(lab.full, table=table))


def all_labs(*, full: bool = False, table: "Table | None" = None) -> list[Lab]:
    """Give every lab; a user's pairs go to those that take them."""
    labs = [find_lab(name, full=full) for name in NAMES]
    return [find_lab(lab.name, full=full, table=table) if lab.takes_pairs else lab for lab in labs]
