"""How much a path may err: twice what plain PyTorch errs in the same dtype, and 4 units in the last place.

The yardstick is a run in float64 from the very same inputs, so the tolerance is one rule and no number is ever guessed.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

ULPS = 4


def budget(
    exact: Tensor,
    plain: Tensor,
    value: Tensor | None = None,
    *,
    dtype: torch.dtype | None = None,
    summed: float = 0.0,
) -> Tensor:
    """Give the tolerance of each element of a result in `dtype`, by default plain PyTorch's.

    `exact` is the result in float64 from the very same inputs, `plain` what plain PyTorch gives in its dtype: its
    largest error counts. Rounding grows with what is summed and not with what is left of it, so the last places are
    those of the largest |value| that a row of the output averages, [*batch, key_heads, keys, dim]; without `value`,
    those of the largest number of the row itself, or of `summed` where that is more.

    A float64 result has no finer yardstick: there `plain` is run in float32, and its error shrinks by their precision.
    """
    dtype = plain.dtype if dtype is None else dtype
    finer = torch.finfo(dtype).eps / torch.finfo(plain.dtype).eps
    error = torch.nan_to_num((plain.double() - exact).abs(), nan=0, posinf=0).amax() if exact.numel() else 0
    return 2 * finer * error + ULPS * last_place(_largest(exact, value).clamp(min=summed), dtype)


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


def assert_within(
    actual: Tensor,
    exact: Tensor,
    plain: Tensor,
    value: Tensor | None = None,
    *,
    summed: float = 0.0,
    what: str = "",
) -> None:
    """Assert that a result stays within its budget; NaN and inf must stand where the exact result has them."""
    assert actual.shape == exact.shape, f"{what}: has the shape {list(actual.shape)}, not {list(exact.shape)}"
    assert exact.dtype == torch.float64, f"{what}: the yardstick is {exact.dtype}, not float64"
    got = actual.detach().double()
    finite = exact.isfinite()
    same = torch.where(finite, got.isfinite(), (got == exact) | (got.isnan() & exact.isnan()))
    error = torch.where(finite & same, (got - exact).abs(), torch.where(same, 0.0, torch.inf))
    allowed = budget(exact, plain, value, dtype=actual.dtype, summed=summed).expand_as(exact)
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


def assert_gradients_within(
    actual: Sequence[Tensor], exact: Sequence[Tensor], plain: Sequence[Tensor], *, what: str = ""
) -> None:
    """Assert that the gradients of one run stay within their budgets, all measured by the largest number among them.

    The gradients of query and key are what is left of numbers of that size: with one key they are 0 after cancelling.
    """
    finite = [torch.nan_to_num(each, nan=0, posinf=0, neginf=0).abs() for each in exact]
    summed = max((each.amax().item() for each in finite if each.numel()), default=0.0)
    for index, (got, right, rough) in enumerate(zip(actual, exact, plain, strict=True)):
        assert_within(got, right, rough, what=f"{what}: gradient {index}".removeprefix(": "), summed=summed)
