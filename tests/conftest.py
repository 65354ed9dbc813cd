"""What holds in every test: shapes are checked, uninitialised memory is NaN, examples are the same each time."""

import os
from collections.abc import Iterator

import hypothesis
import pytest
import torch
from jaxtyping import install_import_hook

UNHOOKED = "compile or unhooked"
"""The session without shape checks: `pytest -m "compile or unhooked"`."""

hypothesis.settings.register_profile("steady", derandomize=True, deadline=None)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=1000)
hypothesis.settings.load_profile("steady")

# Triton chooses when it is first imported: without a GPU its kernels are interpreted.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Each worker of pytest-xdist has a core to itself.
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)


def pytest_plugin_registered(plugin: object) -> None:
    # torch.compile(fullgraph=True) cannot trace the shape checks, and they would answer a wrong argument first. Told of
    # the options as soon as this file is read, we come before another conftest that imports qkv.
    if isinstance(plugin, pytest.Config) and plugin.known_args_namespace.markexpr != UNHOOKED:
        install_import_hook("qkv", "beartype.beartype")


@pytest.fixture(autouse=True)
def uninitialised_memory_is_nan() -> Iterator[None]:
    # torch fills what torch.empty returns only while deterministic algorithms are on.
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def as_users_run(uninitialised_memory_is_nan: None) -> None:
    """Turn the fill and the deterministic algorithms off: a test of qkv's own determinism needs that."""
    torch.use_deterministic_algorithms(False)
