"""Dot product and scaled dot product."""

import math
from dataclasses import dataclass

from torch import Tensor

from qkv.core.card import Card
from qkv.core.checks import check_number, check_same_width
from qkv.core.types import DotPair


@dataclass(frozen=True)
class Dot:
    """`scale · q·k`; without a scale, q·k / √dim."""

    scale: float | None = None

    def check(self, query: Tensor, key: Tensor) -> None:
        """Raise ShapeError unless query and key are equally wide."""
        if query.shape[-1] != key.shape[-1]:
            check_same_width("scaled_dot" if self.scale != 1 else "dot", query, key)

    def pair(self, query_width: int, key_width: int) -> DotPair:
        """Meet by the scaled dot product."""
        return DotPair(key_width, 1 / math.sqrt(max(1, key_width)) if self.scale is None else self.scale)

    def prepare(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Change nothing."""
        return query, key

    def __repr__(self) -> str:
        if self.scale == 1:
            return "dot()"
        return "scaled_dot()" if self.scale is None else f"scaled_dot(scale={self.scale:g})"


def dot() -> Dot:
    """Score by q·k.

    Paper: Luong et al. 2015, arXiv:1508.04025, section 3.1.
    Cost: O(queries·keys·dim) time.
    """
    return Dot(1.0)


def scaled_dot(scale: float | None = None) -> Dot:
    """Score by `scale · q·k`, the default scale being 1/√dim of a head: the variance of q·k grows with dim.

    Paper: Vaswani et al. 2017, arXiv:1706.03762, section 3.2.1.
    Cost: O(queries·keys·dim) time.
    Raises: KindError, ArgumentError if the scale is not a finite number.
    """
    if scale is not None:
        check_number("scaled_dot", "scale", scale, "a finite number")
    return Dot(scale)


CARDS = (
    Card(
        name="dot",
        kind="score",
        equation="q·k",
        paper="Luong et al. 2015, arXiv:1508.04025",
        cost="n·m·d multiply-adds",
        build=dot,
    ),
    Card(
        name="scaled dot",
        kind="score",
        equation="q·k / √d",
        paper="Vaswani et al. 2017, arXiv:1706.03762",
        cost="n·m·d multiply-adds",
        build=scaled_dot,
    ),
)
