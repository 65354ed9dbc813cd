"""Imports inside qkv point one way, and never in a circle."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"

CHOICES = {"scores", "positions", "masks", "selections"}
ATTENTION = {
    "errors",
    "files",
    "folders",
    "core",
    "backends",
    "plan",
    "attention",
    "explanation",
    "mechanisms",
} | CHOICES
EVERYTHING = ATTENTION | {"models", "text", "training", "lens", "labs", "integrations"}

# Each part of the package, and the other parts it may import.
MAY_IMPORT = {
    "errors": set(),
    "files": {"errors"},
    "folders": {"errors"},
    "core": {"errors"},
    **{choice: {"errors", "core"} for choice in CHOICES},
    "backends": {"errors", "core"} | CHOICES,
    "plan": {"errors", "core", "backends"} | CHOICES,
    "attention": {"errors", "core", "backends", "plan"} | CHOICES,
    "explanation": {"errors", "core", "backends", "plan", "attention"} | CHOICES,
    "mechanisms": ATTENTION - {"mechanisms"},
    "models": ATTENTION,
    "text": {"errors", "files", "folders", "core"},
    "training": ATTENTION | {"models", "text"},
    "lens": EVERYTHING - {"lens", "labs", "training"},
    # As its users do: by the public names.
    "labs": EVERYTHING - {"labs", "integrations"} | {"__init__"},
    "integrations": EVERYTHING - {"labs", "integrations", "lens"},
    "commands": EVERYTHING,
    "cli": EVERYTHING | {"commands"},
    "__main__": {"cli"},
    "__init__": EVERYTHING,
}


def name_of(file: Path, source: Path) -> str:
    parts = file.relative_to(source).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(module: str) -> str:
    _, _, inside = module.partition(".")
    return inside.partition(".")[0] or "__init__"


def imports_of(file: Path, source: Path, modules: set[str]) -> Iterator[str]:
    """Every module of the package that a file imports, wherever in the file it does."""
    package = name_of(file, source)
    if file.name != "__init__.py":
        package = package.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            found = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in found:
            while name and name not in modules:
                name = name.rpartition(".")[0]
            if name:
                yield name


def graph_of(source: Path) -> dict[str, set[str]]:
    files = {name_of(file, source): file for file in sorted((source / "qkv").rglob("*.py"))}
    return {module: set(imports_of(file, source, set(files))) - {module} for module, file in files.items()}


def wrong_directions(graph: dict[str, set[str]]) -> list[str]:
    return [
        f"{module} imports {target}"
        for module, targets in graph.items()
        for target in sorted(targets)
        if part_of(target) not in MAY_IMPORT.get(part_of(module), set()) | {part_of(module)}
    ]


def cycle(graph: dict[str, set[str]]) -> list[str]:
    # qkv/__init__.py names everything lazily, so it closes no circle.
    try:
        TopologicalSorter({module: graph[module] for module in graph if module != "qkv"}).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_every_part_has_its_place():
    assert {part_of(module) for module in graph_of(SOURCE)} <= set(MAY_IMPORT)


def test_the_order_has_no_circle_itself():
    # qkv/__init__.py names everything lazily, so who asks it for a name closes no circle.
    assert list(TopologicalSorter({part: others - {"__init__"} for part, others in MAY_IMPORT.items()}).static_order())


def test_imports_point_one_way():
    assert wrong_directions(graph_of(SOURCE)) == []


def test_no_cycles():
    assert cycle(graph_of(SOURCE)) == []


@pytest.fixture
def package(tmp_path):
    def write(**files: str) -> Path:
        for name, text in {"__init__": "", "core/__init__": "", "masks/__init__": "", **files}.items():
            file = tmp_path / "qkv" / f"{name}.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return tmp_path

    return write


@pytest.mark.parametrize(
    "statement",
    [
        "import qkv.masks.causal",
        "from qkv.masks.causal import causal",
        "from qkv.masks import causal",
        "from qkv import masks",
        "from ..masks.causal import causal",
        "from .. import masks",
        "def later():\n    from qkv.masks import causal",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from qkv.masks import causal",
    ],
)
def test_a_wrong_direction_is_found(package, statement):
    source = package(**{"core/reference": statement, "masks/causal": ""})
    (found,) = wrong_directions(graph_of(source))
    assert found.startswith("qkv.core.reference imports qkv.masks")


def test_the_public_front_is_no_way_around(package):
    source = package(**{"core/reference": "from qkv import causal"})
    assert wrong_directions(graph_of(source)) == ["qkv.core.reference imports qkv"]


def test_a_cycle_is_found(package):
    source = package(**{"masks/causal": "from .window import window", "masks/window": "from . import causal"})
    assert set(cycle(graph_of(source))) == {"qkv.masks.causal", "qkv.masks.window"}


def test_right_imports_are_accepted(package):
    source = package(
        **{
            "errors": "import sys",
            "core/types": "import torch\nfrom qkv.errors import QkvError",
            "masks/causal": "from qkv.core.types import Mask\nfrom .window import window",
            "masks/window": "from qkv.core import types",
        }
    )
    assert wrong_directions(graph_of(source)) == []
    assert cycle(graph_of(source)) == []
