"""Rotary positions: turn query and key by their position, so that their product sees the distance alone."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from qkv.core.card import Card
from qkv.core.checks import check_floats, check_integers, check_number, check_whole
from qkv.core.types import wide
from qkv.errors import ArgumentError, KindError, ShapeError, must


@dataclass(frozen=True)
class Rotary:
    """Turns pair p of the features by position · base^(−2p/dim).

    Interleaved pairs are neighbours (2p, 2p + 1), half-split ones (p, p + dim/2).
    """

    base: float = 10000.0
    interleaved: bool = False
    dim: int | None = None

    def __call__(
        self, x: Float[Tensor, "*lead positions dim"], positions: Int[Tensor, "*lead2 positions"] | None = None
    ) -> Float[Tensor, "*lead positions dim"]:
        """Turn vectors by their positions (0, 1, 2, … by default; broadcastable to the leading dimensions).

        Only the first `self.dim` features turn, when that is given.

        Cost: O(positions·dim) time.
        Raises: ShapeError if the width is odd or less than `self.dim`; KindError unless x is floating, positions whole.
        """
        check_floats("rotary", "x", x)
        if x.ndim < 2:
            raise ShapeError(must("rotary", "x", "have the shape [*lead, positions, dim]", list(x.shape)))
        dim = x.shape[-1] if self.dim is None else self.dim
        if dim % 2:
            raise ShapeError(must("rotary", "the width", "be even", dim, list(x.shape)))
        if dim > x.shape[-1]:
            raise ShapeError(must("rotary", "dim", f"be at most the width {x.shape[-1]}", dim))
        if positions is None:
            positions = torch.arange(x.shape[-2], device=x.device)
        else:
            check_integers("rotary", "positions", positions)
            pairs = zip(reversed(positions.shape), reversed(x.shape[:-1]), strict=False)
            if positions.ndim >= x.ndim or any(size not in (1, most) for size, most in pairs):
                rule = f"broadcast to x's {list(x.shape[:-1])}"
                raise ShapeError(must("rotary", "positions", rule, list(positions.shape)))
        dtype = wide(x.dtype)
        # Angles in float64 where that is to be had: at position 100,000 float32 is off by 0.01.
        exact = torch.float32 if x.device.type == "mps" else torch.float64
        steps = torch.arange(0, dim, 2, device=x.device, dtype=exact)
        angle = positions[..., None].to(exact) * self.base ** (-steps / max(1, dim))
        cos, sin = angle.cos().to(dtype), angle.sin().to(dtype)
        turned, rest = x[..., :dim].to(dtype), x[..., dim:]
        if self.interleaved:
            first, second = turned[..., 0::2], turned[..., 1::2]
            out = torch.stack((first * cos - second * sin, first * sin + second * cos), dim=-1).flatten(-2)
        else:
            first, second = turned.chunk(2, dim=-1)
            out = torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)
        out = out.to(x.dtype)
        return torch.cat((out, rest), dim=-1) if dim < x.shape[-1] else out


def rotary(*, base: float = 10000.0, interleaved: bool = False, dim: int | None = None) -> Rotary:
    """Make rotary positions: call the result on query and on key, before the score.

    The half-split layout (the default) is that of Llama and GPT-NeoX, the interleaved one that of the paper and GPT-J.
    `dim` turns only the first features of a head.

    Paper: Su et al. 2021, arXiv:2104.09864.
    Raises: KindError, ArgumentError if the base is not a number > 1, or dim not an even integer of at least 2.
    """
    check_number("rotary", "base", base, "a finite number > 1", above=1.0)
    if not isinstance(interleaved, bool):
        raise KindError(must("rotary", "interleaved", "be True or False", interleaved))
    if dim is not None:
        check_whole("rotary", "dim", dim, 2)
        if dim % 2:
            raise ArgumentError(must("rotary", "dim", "be even", dim, "features turn in pairs"))
    return Rotary(float(base), interleaved, dim)


CARDS = (
    Card(
        name="rotary, half-split",
        kind="position",
        equation="R(i) q · R(j) k = q · R(j − i) k",
        paper="Su et al. 2021, arXiv:2104.09864; layout of GPT-NeoX",
        cost="(n + m)·d",
        build=rotary,
    ),
    Card(
        name="rotary, interleaved",
        kind="position",
        equation="R(i) q · R(j) k = q · R(j − i) k",
        paper="Su et al. 2021, arXiv:2104.09864",
        cost="(n + m)·d",
        build=lambda: rotary(interleaved=True),
    ),
)
