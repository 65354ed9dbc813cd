"""Whether kernels can be compiled here; asking imports neither numba nor Triton."""

import importlib.util
import os
from functools import cache


@cache
def no_kernels() -> str | None:
    """Say why no kernel can be compiled, or None."""
    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        return "numba compiles nothing here (NUMBA_DISABLE_JIT)"
    try:
        found = importlib.util.find_spec("numba") is not None
    except ValueError:
        # It is in sys.modules as None, or without a spec: kept from being imported.
        found = False
    return None if found else "numba is not installed"


@cache
def has_triton() -> bool:
    """Say whether Triton is installed."""
    return importlib.util.find_spec("triton") is not None
