"""What a way of computing attention offers: when it refuses, how it runs, what it costs."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from qkv.core.call import Call
from qkv.core.types import Summary


@dataclass(frozen=True)
class Cost:
    """What a backend does for a call: query–key pairs computed, floating-point operations, bytes moved."""

    pairs: int
    flops: int
    bytes: int


@dataclass(frozen=True)
class Backend:
    """A way of computing attention. None of these functions looks at a tensor's values to decide, but `outdone`.

    `refuses` gives the reason why it cannot compute a call exactly, or None. `run` gives the output, and each row's
    summary where that falls out. `caveat` names what it cannot promise, or is empty.
    `outdone` says why a later path is faster, or None: asked only where no path is insisted on, and it may read what
    a mask on the CPU holds.
    """

    name: str
    refuses: Callable[[Call], str | None]
    run: Callable[[Call], tuple[Tensor, Summary | None]]
    cost: Callable[[Call], Cost]
    caveat: Callable[[Call], str]
    outdone: Callable[[Call], str | None] = lambda call: None


def dense_cost(call: Call, pairs: int, stored: int) -> Cost:
    """Count `pairs` scored and weighed, with `stored` numbers a pair written to memory and read back."""
    pair = call.pair
    # A multiply and an add for each feature of a score and of a value; for additive scores the tanh counts as one more.
    flops = pairs * (2 * pair.dim + (pair.held > 1) * 2 * pair.dim + 2 * call.value.shape[-1] + 5)
    ends = call.query.numel() + call.key.numel() + call.value.numel()
    output = call.query.numel() // max(1, call.query.shape[-1]) * call.value.shape[-1]
    return Cost(pairs, flops, (ends + output) * call.query.element_size() + 2 * 4 * stored * pairs)


def all_pairs(call: Call) -> int:
    """Count the pairs of a call: batch × heads × queries × keys."""
    rows = call.query.numel() // max(1, call.query.shape[-1])
    return rows * call.grid.keys
