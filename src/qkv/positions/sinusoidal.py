"""Sinusoidal positions: sines and cosines of growing wavelength, added to the input."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from qkv.core.card import Card
from qkv.core.checks import check_integers, check_number, check_whole
from qkv.errors import ArgumentError, must


@dataclass(frozen=True)
class Sinusoidal:
    """Position p, feature 2i: sin(p / base^(2i/width)); feature 2i+1: the cosine."""

    width: int
    base: float = 10000.0

    def __call__(self, positions: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape width"]:
        """Give the vectors of positions, in float32.

        Cost: O(positions·width).
        Raises: KindError if the positions are not integers.
        """
        check_integers("sinusoidal", "positions", positions)
        exact = torch.float32 if positions.device.type == "mps" else torch.float64
        steps = torch.arange(0, self.width, 2, device=positions.device, dtype=exact)
        angle = positions[..., None].to(exact) * self.base ** (-steps / self.width)
        return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(-2).float()


def sinusoidal(width: int, *, base: float = 10000.0) -> Sinusoidal:
    """Make sinusoidal positions: call the result on integer positions, add its vectors to the token embeddings.

    Paper: Vaswani et al. 2017, arXiv:1706.03762, section 3.5.
    Raises: KindError, ArgumentError if the width is not an even integer of at least 2, or the base not a number > 1.
    """
    check_whole("sinusoidal", "width", width, 2)
    if width % 2:
        raise ArgumentError(must("sinusoidal", "width", "be even", width, "a sine and a cosine for each wavelength"))
    check_number("sinusoidal", "base", base, "a finite number > 1", above=1.0)
    return Sinusoidal(width, float(base))


CARDS = (
    Card(
        name="sinusoidal",
        kind="position",
        equation="sin(p / 10000^(2i/d)), cos(p / 10000^(2i/d))",
        paper="Vaswani et al. 2017, arXiv:1706.03762",
        cost="n·d; no parameters",
        build=lambda: sinusoidal(8),
    ),
)
