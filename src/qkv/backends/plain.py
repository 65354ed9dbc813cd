"""The definition as a backend: it takes everything."""

from qkv.core import reference
from qkv.core.backend import Backend, Cost, all_pairs, dense_cost
from qkv.core.call import Call


def _cost(call: Call) -> Cost:
    # Scores, weights and (with a mask) what may meet are each written and read.
    pair = call.pair
    return dense_cost(call, all_pairs(call), 2 + (call.mask is not None) + pair.held)


PLAIN = Backend(
    name="reference",
    refuses=lambda call: None,
    run=reference.attend,
    cost=_cost,
    caveat=lambda call: "",
)
