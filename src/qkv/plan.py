"""Which backend runs a call, and why not a faster one. Decided from shapes, kinds, choices and what masks hide."""

from dataclasses import dataclass

import torch

from qkv.backends.additive import ADDITIVE
from qkv.backends.decode import DECODE, MOST_ROWS
from qkv.backends.flex import FLEX
from qkv.backends.plain import PLAIN
from qkv.backends.sdpa import SDPA, as_it_is
from qkv.backends.segments import SEGMENTS
from qkv.backends.stream import STREAM
from qkv.core.backend import Backend
from qkv.core.call import Call
from qkv.errors import ArgumentError, UnsupportedError, must

FUSED = (DECODE, SEGMENTS, STREAM, FLEX, SDPA, ADDITIVE)
"""The fast paths, the fastest first."""


def choose(function: str, call: Call, impl: str = "auto") -> Backend:
    """Choose the backend of `make_plan`'s, without its reasons: of the commonest call it is told at once."""
    if impl == "auto" and as_it_is(call) and (torch.compiler.is_compiling() or call.grid.queries > MOST_ROWS):
        # Too many queries for decoding, nothing to skip and nothing to stream: every other path would refuse.
        # A traced call is never decoded, and asked for its queries it would be tied to that many.
        return SDPA
    return make_plan(function, call, impl).backend


@dataclass(slots=True)
class Plan:
    """The backend chosen, and the reason of each faster one that refused."""

    backend: Backend
    refused: tuple[tuple[str, str], ...]


def make_plan(function: str, call: Call, impl: str = "auto") -> Plan:
    """Choose the first fast path that computes the call exactly, else the definition.

    `impl` may insist: "fused" on any fast path, "reference" on the definition, or a backend's name on that one.
    """
    if impl == PLAIN.name:
        return Plan(PLAIN, ())
    any_ = impl in ("auto", "fused")
    refused: list[tuple[str, str]] = []
    for backend in FUSED:
        if any_ or impl == backend.name:
            reason = backend.refuses(call) or (backend.outdone(call) if any_ else None)
            if reason is None:
                return Plan(backend, tuple(refused))
            refused.append((backend.name, reason))
    if impl == "auto":
        return Plan(PLAIN, tuple(refused))
    names = ["auto", "fused", PLAIN.name, *(backend.name for backend in FUSED)]
    if impl not in names:
        raise ArgumentError(must(function, "impl", f"be one of {', '.join(names)}", repr(impl)))
    reasons = "; ".join(f"{name}: {reason}" for name, reason in refused)
    raise UnsupportedError(must(function, "impl", "name what can compute this call", repr(impl), reasons))
