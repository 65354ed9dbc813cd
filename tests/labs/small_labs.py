"""A small lab that the command, and the processes it starts, find among the others."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "running"
SITE = """
import importlib.util, sys
import qkv.labs
spec = importlib.util.spec_from_file_location("qkv.labs.small", {path!r})
module = importlib.util.module_from_spec(spec)
sys.modules["qkv.labs.small"] = module
spec.loader.exec_module(module)
qkv.labs.NAMES = ("small",)
"""


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Put the small lab in the place of the others, here and in the processes that are started."""
    path = HERE / "small_lab.py"
    spec = importlib.util.spec_from_file_location("qkv.labs.small", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "qkv.labs.small", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr("qkv.labs.NAMES", ("small",))
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SITE.format(path=str(path)))
    here = [str(tmp_path / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(here))
    return module.LAB
