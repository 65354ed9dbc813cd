"""Randomness that a resumed run repeats: a seed for each micro-batch, and every generator's state for the rest."""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def seed_for(seed: int, micro: int) -> None:
    """Seed torch's generators for a micro-batch, so that dropout is a function of (seed, micro-batch) alone.

    The same bits come whatever ran before and on whichever rank: two ranks drop what one would.
    """
    torch.manual_seed(int(np.random.SeedSequence([seed, micro]).generate_state(1, np.uint64)[0]))


def seed_all(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators."""
    random.seed(seed)
    np.random.seed(seed % (1 << 32))
    torch.manual_seed(seed)


def random_states() -> dict[str, Any]:
    """Give the state of Python's, NumPy's and torch's generators, and of the GPU's in use, as JSON can hold them."""
    version, words, gauss = random.getstate()
    kind, keys, *rest = np.random.get_state(legacy=True)
    states: dict[str, Any] = {
        "python": [version, list(words), gauss],
        "numpy": [kind, keys.tolist(), *rest],  # type: ignore[union-attr]
        "torch": _written(torch.get_rng_state()),
    }
    if torch.cuda.is_available():
        states["cuda"] = _written(torch.cuda.get_rng_state())
    return states


def restore_random_states(states: dict[str, Any]) -> None:
    """Take the states that `random_states` gave; a GPU's only where there is one."""
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, np.array(keys, np.uint32), *rest))
    torch.set_rng_state(_read(states["torch"]))
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(_read(states["cuda"]))


@contextmanager
def deterministic() -> Iterator[None]:
    """Take deterministic algorithms for a while: sums into one place by several threads change their last bits."""
    # cuBLAS reads it when it first starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    was, warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    filled = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    # The fill costs time, and is there to find bugs: it stays if somebody else asked for it.
    memory.fill_uninitialized_memory = was and filled
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was, warn_only=warned)
        memory.fill_uninitialized_memory = filled


def _written(state: torch.Tensor) -> str:
    return state.numpy().tobytes().hex()


def _read(state: str) -> torch.Tensor:
    return torch.tensor(list(bytes.fromhex(state)), dtype=torch.uint8)
