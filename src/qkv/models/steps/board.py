"""How threads share a step inside its kernel: parts are claimed on a board, and whoever finds one open takes it.

Between two phases stands no barrier that threads must reach. A phase ends when its parts are done, by whomever: one
thread alone gets through a step, and a thread that comes late, or rests, keeps nobody but by a part it has begun.
"""

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from llvmlite.binding import get_process_triple  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic as typed_intrinsic

from qkv.backends.compiled import kernel

PATIENCE = 1 << 10
"""Looks at the board, some 20 to 50 µs, after which a waiting thread lets others have the processor."""

LINE = 8
"""Numbers of a board in a line of the cache: phases do not share one."""

# Within kernels, intrinsics take what `generate` takes.
intrinsic: Any = typed_intrinsic


def new_board(phases: int, parts: int) -> np.ndarray:
    """Make a board: of each phase how many parts are done, then for each part whether it was begun."""
    return np.zeros((phases, -(-(1 + parts) // LINE) * LINE), np.int64)


def _entry(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
    kind = signature.args[0]
    board = context.make_array(kind)(context, builder, arguments[0])
    return cgutils.get_item_pointer(context, builder, kind, board, list(arguments[1:3]), wraparound=False)


@intrinsic
def _exchanged(typing: Any, board: Any, phase: Any, column: Any) -> Any:
    """Set an entry to 1, and give what it was."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        entry = _entry(context, builder, signature, arguments)
        return builder.atomic_rmw("xchg", entry, ir.Constant(ir.IntType(64), 1), "acq_rel")

    return types.int64(board, types.intp, types.intp), generate


@intrinsic
def _count(typing: Any, board: Any, phase: Any) -> Any:
    """Count one part as done: what it wrote is then seen by who sees the count."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        entry = _entry(context, builder, signature, [*arguments, ir.Constant(ir.IntType(64), 0)])
        return builder.atomic_rmw("add", entry, ir.Constant(ir.IntType(64), 1), "acq_rel")

    return types.int64(board, types.intp), generate


@intrinsic
def _counted(typing: Any, board: Any, phase: Any) -> Any:
    """Give how many parts are done."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        entry = _entry(context, builder, signature, [*arguments, ir.Constant(ir.IntType(64), 0)])
        return builder.load_atomic(entry, "acquire", 8)

    return types.int64(board, types.intp), generate


@intrinsic
def _pause(typing: Any) -> Any:
    """Let the other thread of a core have it for a moment, and save power."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        if get_process_triple().startswith("x86_64"):
            function = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, function, "llvm.x86.sse2.pause"), [])
        return context.get_dummy_value()

    return types.void(), generate


@kernel
def take(board, phase, part):  # type: ignore[no-untyped-def]
    """Claim a part of a phase; say whether it was still open."""
    return _exchanged(board, phase, 1 + part) == 0


@kernel
def finish(board, phase):  # type: ignore[no-untyped-def]
    """Say that a part that was taken is done."""
    _count(board, phase)


@kernel
def wait(board, phase, parts):  # type: ignore[no-untyped-def]
    """Wait until all parts of a phase are done, but not for ever; say whether they are."""
    for _ in range(PATIENCE):
        if _counted(board, phase) == parts:
            return True
        _pause()
    return False
