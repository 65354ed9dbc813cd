"""The front door: every mechanism in one call."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from qkv.core.call import Call, make_call
from qkv.core.checks import check_part
from qkv.core.map import AttentionMap, make_map
from qkv.core.types import Bias, Mask, Score, Selection
from qkv.errors import KindError, must
from qkv.masks.dense import dense_mask
from qkv.plan import choose
from qkv.positions.dense import DenseBias
from qkv.scores.dot import scaled_dot
from qkv.selections.soft import softmax

_SCALED_DOT, _SOFTMAX = scaled_dot(), softmax()


def attend(
    query: Float[Tensor, "*batch heads queries dim"],
    key: Float[Tensor, "*batch key_heads keys key_dim"],
    value: Float[Tensor, "*batch key_heads keys value_dim"],
    *,
    score: Score | None = None,
    bias: Bias | Float[Tensor, "..."] | None = None,
    mask: Mask | Bool[Tensor, "..."] | None = None,
    select: Selection | None = None,
    dropout: float = 0.0,
    impl: str = "auto",
) -> Float[Tensor, "*batch heads queries value_dim"]:
    """Attend: score every query against every key, add the bias, hide what the mask hides, select, and sum the values.

    The default is scaled dot-product attention with softmax. Key and value may have fewer heads, when they divide the
    query's. A row without a key gives exactly 0. `dropout` is applied whenever it is not 0. `explain` tells what runs.

    Paper: Vaswani et al. 2017, arXiv:1706.03762; each part's own is in its docstring.
    Cost: O(queries·keys·dim) time at most; see `explain`.
    Raises: ShapeError, KindError, ArgumentError for what does not fit; UnsupportedError if `impl` names a
    path that cannot compute this call.
    """
    call = call_of("attend", query, key, value, score, bias, mask, select, dropout)
    return choose("attend", call, impl).run(call)[0]


def attend_with_map(
    query: Float[Tensor, "*batch heads queries dim"],
    key: Float[Tensor, "*batch key_heads keys key_dim"],
    value: Float[Tensor, "*batch key_heads keys value_dim"],
    *,
    score: Score | None = None,
    bias: Bias | Float[Tensor, "..."] | None = None,
    mask: Mask | Bool[Tensor, "..."] | None = None,
    select: Selection | None = None,
    dropout: float = 0.0,
    impl: str = "auto",
) -> tuple[Float[Tensor, "*batch heads queries value_dim"], AttentionMap]:
    """Attend, and also return the map of the weights (before dropout), which computes what is asked of it.

    Cost: that of `attend`, and O((queries + keys)·dim) memory for the map.
    Raises: as `attend`.
    """
    call = call_of("attend_with_map", query, key, value, score, bias, mask, select, dropout)
    output, summary = choose("attend_with_map", call, impl).run(call)
    return output, make_map(call, summary)


class Attends:
    """A module that attends by `self.attend` and `self.attend_with_map`; a lens shadows them on the instance."""

    attend = staticmethod(attend)
    attend_with_map = staticmethod(attend_with_map)


def attention_map(
    query: Float[Tensor, "*batch heads queries dim"],
    key: Float[Tensor, "*batch key_heads keys key_dim"],
    *,
    score: Score | None = None,
    bias: Bias | Float[Tensor, "..."] | None = None,
    mask: Mask | Bool[Tensor, "..."] | None = None,
    select: Selection | None = None,
) -> AttentionMap:
    """Make the map of the weights alone, with no output.

    Cost: O((queries + keys)·dim) memory; nothing is scored before something is asked.
    Raises: as `attend`.
    """
    return make_map(call_of("attention_map", query, key, key, score, bias, mask, select, 0.0))


def call_of(
    function: str,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    score: Score | None,
    bias: Bias | Tensor | None,
    mask: Mask | Tensor | None,
    select: Selection | None,
    dropout: float,
) -> Call:
    """Put objects in the place of defaults and of plain tensors, and check everything."""
    if isinstance(bias, Tensor):
        if not bias.is_floating_point():
            fix = "a boolean tensor goes to mask=" if bias.dtype == torch.bool else "bias.float()"
            raise KindError(must(function, "bias", "be a floating tensor or a bias", bias.dtype, fix))
        bias = DenseBias(bias)
    if isinstance(mask, Tensor):
        if mask.dtype != torch.bool:
            fix = "True = may attend; a tensor of numbers to add goes to bias="
            raise KindError(must(function, "mask", "be a boolean tensor or a mask", mask.dtype, fix))
        mask = dense_mask(mask)
    if not (score is bias is mask is select is None):
        for argument, part in (("score", score), ("bias", bias), ("mask", mask), ("select", select)):
            check_part(function, argument, part)
    return make_call(function, query, key, value, score or _SCALED_DOT, bias, mask, select or _SOFTMAX, dropout)
