"""Booleans by their bytes: the same numbers as by the plain way."""

import pytest
import torch

from qkv.backends.added import added, any_of


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(3, 5), (2, 1, 4, 7), (0, 3)])
def test_it_adds_0_or_minus_infinity(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    seen = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.5
    expected = torch.zeros(shape, dtype=dtype).masked_fill(~seen, -torch.inf)
    for given, right in ((seen, expected), (seen.mT, expected.mT), (seen[..., ::2], expected[..., ::2])):
        assert added(given, dtype).dtype == dtype and torch.equal(added(given, dtype), right)


@pytest.mark.parametrize("shape", [(3, 5), (2, 4, 0), (0, 3)])
def test_it_says_whether_any_is_set(shape: tuple[int, ...]) -> None:
    seen = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.3
    for dim in (-1, -2):
        assert torch.equal(any_of(seen, dim), seen.any(dim))
