"""The norms a model can be given: objects that make a norm of a width."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from jaxtyping import Float
from torch import Tensor, nn

from qkv.core.checks import check_number, check_rate


@dataclass(frozen=True)
class LayerNorm:
    """Makes torch's LayerNorm of a width."""

    epsilon: float

    def __call__(self, width: int) -> nn.Module:
        """Make one."""
        return nn.LayerNorm(width, self.epsilon)


@dataclass(frozen=True)
class RMSNorm:
    """Makes torch's RMSNorm of a width."""

    epsilon: float

    def __call__(self, width: int) -> nn.Module:
        """Make one."""
        return nn.RMSNorm(width, self.epsilon)


@dataclass(frozen=True)
class BatchNorm:
    """Makes a BatchNorm of a width, over all tokens."""

    epsilon: float
    momentum: float

    def __call__(self, width: int) -> nn.Module:
        """Make one."""
        return TokenNorm(width, self.epsilon, self.momentum)


Norm: TypeAlias = Callable[[int], nn.Module]
"""What makes a norm of a width: one of the three, or any function that gives a module on [*batch, width]."""


class TokenNorm(nn.BatchNorm1d):
    """Batch normalisation of features over all tokens of all sequences, whatever the dimensions before the last."""

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """Normalise by the batch while training, by the running statistics after."""
        return super().forward(x.reshape(-1, x.shape[-1])).view(x.shape)


def layer_norm(*, epsilon: float = 1e-5) -> LayerNorm:
    """Normalise each token to mean 0 and variance 1, then scale and shift.

    Paper: Ba et al. 2016, arXiv:1607.06450.
    Raises: KindError, ArgumentError unless epsilon is a number > 0.
    """
    check_number("layer_norm", "epsilon", epsilon, "a finite number > 0", above=0.0)
    return LayerNorm(epsilon)


def rms_norm(*, epsilon: float = 1e-6) -> RMSNorm:
    """Divide each token by the root of its mean square, then scale.

    Paper: Zhang and Sennrich 2019, arXiv:1910.07467.
    Raises: KindError, ArgumentError unless epsilon is a number > 0.
    """
    check_number("rms_norm", "epsilon", epsilon, "a finite number > 0", above=0.0)
    return RMSNorm(epsilon)


def batch_norm(*, epsilon: float = 1e-5, momentum: float = 0.1) -> BatchNorm:
    """Normalise each feature over all tokens. A token then sees its batch while training: no leak is kept out.

    Paper: Ioffe and Szegedy 2015, arXiv:1502.03167; Shen et al. 2020, arXiv:2003.07845 (in Transformers).
    Raises: KindError, ArgumentError unless epsilon is a number > 0 and the momentum lies in [0, 1].
    """
    check_number("batch_norm", "epsilon", epsilon, "a finite number > 0", above=0.0)
    check_rate("batch_norm", "momentum", momentum)
    return BatchNorm(epsilon, momentum)
