"""How much a path may err: twice what plain PyTorch errs in the same dtype, and 4 units in the last place.

The yardstick is a run in float64, so the tolerance is the same rule on every machine and no number is ever guessed.
"""

import torch
from torch import Tensor

ULPS = 4


def budget(exact: Tensor, plain: Tensor, value: Tensor | None = None, *, dtype: torch.dtype | None = None) -> Tensor:
    """Give the tolerance of each element of a result in `dtype`, by default plain PyTorch's.

    `exact` is the result in float64 from the very same inputs, `plain` what plain PyTorch gives in its dtype: its
    largest error counts. The last places are those of the largest |value| that a row of the output averages,
    [*batch, key_heads, keys, dim], as rounding grows with what is averaged and not with what is left of it; without
    `value` (for gradients) those of the largest number of the row itself.

    A float64 result has no finer yardstick: there `plain` is run in float32, and its error shrinks by their precision.
    """
    dtype = plain.dtype if dtype is None else dtype
    finer = torch.finfo(dtype).eps / torch.finfo(plain.dtype).eps
    error = torch.nan_to_num((plain.double() - exact).abs(), nan=0, posinf=0).amax() if exact.numel() else 0
    return 2 * finer * error + ULPS * last_place(_largest(exact, value), dtype)


def last_place(size: Tensor, dtype: torch.dtype) -> Tensor:
    """Give one unit in the last place of `dtype` at numbers of this size."""
    info = torch.finfo(dtype)
    exponent = torch.frexp(size.double().clamp(min=info.smallest_normal)).exponent
    return torch.ldexp(torch.full_like(size, info.eps, dtype=torch.float64), exponent - 1)


def _largest(exact: Tensor, value: Tensor | None) -> Tensor:
    """Give the largest finite |number| behind each row, broadcastable to the result."""
    numbers = exact if value is None else value
    numbers = torch.nan_to_num(numbers.detach().double(), nan=0, posinf=0, neginf=0).abs()
    if value is None:
        return numbers.amax(-1, keepdim=True) if numbers.numel() else numbers.sum(-1, keepdim=True)
    largest = numbers.flatten(-2).amax(-1) if numbers.shape[-2:].numel() else numbers.sum((-2, -1))
    return largest.repeat_interleave(exact.shape[-3] // value.shape[-3], dim=-1)[..., None, None]


def assert_within(actual: Tensor, exact: Tensor, plain: Tensor, value: Tensor | None = None, *, what: str = "") -> None:
    """Assert that a result stays within its budget; NaN and inf must stand where the exact result has them."""
    assert actual.shape == exact.shape, f"{what}: has the shape {list(actual.shape)}, not {list(exact.shape)}"
    assert exact.dtype == torch.float64, f"{what}: the yardstick is {exact.dtype}, not float64"
    got = actual.detach().double()
    finite = exact.isfinite()
    same = torch.where(finite, got.isfinite(), (got == exact) | (got.isnan() & exact.isnan()))
    error = torch.where(finite & same, (got - exact).abs(), torch.where(same, 0.0, torch.inf))
    allowed = budget(exact, plain, value, dtype=actual.dtype).expand_as(exact)
    over = error > allowed
    if not over.any():
        return
    worst = tuple(torch.unravel_index((error / allowed).argmax(), exact.shape))
    at = [int(index) for index in worst]
    raise AssertionError(
        f"{what or 'the result'}: {int(over.sum())} of {over.numel()} elements are over budget ({actual.dtype}); "
        f"at {at} {got[worst].item():.9g} is not {exact[worst].item():.9g}: off by {error[worst].item():.3g}, "
        f"{(error / allowed)[worst].item():.3g} times the allowed {allowed[worst].item():.3g}"
        f" (plain PyTorch: {plain[worst].item():.9g})"
    )
