"""The norms by their formulas."""

import pytest
import torch

from qkv import errors
from qkv.models.norms import batch_norm, layer_norm, rms_norm

X = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def double(make, *arguments):
    return make(*arguments).double()


def test_layer_norm():
    expected = (X - X.mean(-1, keepdim=True)) / (X.var(-1, keepdim=True, correction=0) + 0.1).sqrt()
    torch.testing.assert_close(double(layer_norm(epsilon=0.1), 4)(X), expected)


def test_rms_norm():
    expected = X / (X.square().mean(-1, keepdim=True) + 0.1).sqrt()
    torch.testing.assert_close(double(rms_norm(epsilon=0.1), 4)(X), expected)


def test_batch_norm_is_over_all_tokens():
    norm = double(batch_norm(epsilon=0.1, momentum=1.0), 4)
    tokens = X.flatten(0, 1)
    expected = (X - tokens.mean(0)) / (tokens.var(0, correction=0) + 0.1).sqrt()
    torch.testing.assert_close(norm(X), expected)
    # What it has seen is what it norms by afterwards (torch keeps the unbiased variance).
    expected = (X - tokens.mean(0)) / (tokens.var(0) + 0.1).sqrt()
    torch.testing.assert_close(norm.eval()(X), expected)


@pytest.mark.unhooked
@pytest.mark.parametrize(
    "make, kind, text",
    [
        (lambda: layer_norm(epsilon=0), errors.ArgumentError, "layer_norm: epsilon must be a finite number > 0; got 0"),
        (lambda: rms_norm(epsilon="1"), errors.KindError, "rms_norm: epsilon must be a finite number > 0; got str"),
        (
            lambda: batch_norm(epsilon=-1),
            errors.ArgumentError,
            "batch_norm: epsilon must be a finite number > 0; got -1",
        ),
        (lambda: batch_norm(momentum=2), errors.ArgumentError, "batch_norm: momentum must lie in [0, 1]; got 2"),
    ],
)
def test_what_is_no_norm(make, kind, text):
    with pytest.raises(kind) as raised:
        make()
    assert str(raised.value) == text
