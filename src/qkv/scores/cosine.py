"""Cosine similarity with a temperature."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from qkv.core.card import Card
from qkv.core.checks import check_device, check_floats, check_number, check_same_width, check_values, shown
from qkv.core.types import DotPair, wide
from qkv.errors import ShapeError, must


class Cosine(nn.Module):
    """The cosine of query and key, divided by a temperature. A module, so that a learned temperature is found."""

    temperature: float | Tensor

    def __init__(self, temperature: float | Tensor) -> None:
        super().__init__()
        # A plain tensor is a buffer, so that `.to(device)` of whatever holds the score takes it along.
        if isinstance(temperature, Tensor) and not isinstance(temperature, nn.Parameter):
            self.register_buffer("temperature", temperature, persistent=False)
        else:
            self.temperature = temperature

    def check(self, query: Tensor, key: Tensor) -> None:
        """Raise ShapeError unless query and key are equally wide and a tensor of temperatures has one for each head."""
        check_same_width("cosine", query, key)
        if isinstance(self.temperature, Tensor) and self.temperature.numel() not in (1, query.shape[-3]):
            rule = f"hold one number, or one for each of the {query.shape[-3]} heads"
            raise ShapeError(must("cosine", "temperature", rule, list(self.temperature.shape)))
        if isinstance(self.temperature, Tensor):
            check_device("cosine", "temperature", self.temperature, query)

    def pair(self, query_width: int, key_width: int) -> DotPair:
        """Meet by the dot product."""
        return DotPair(key_width)

    def prepare(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Scale both to length 1 and divide the query by the temperature."""
        temperature = self.temperature
        if isinstance(temperature, Tensor):
            temperature = temperature.reshape(-1, 1, 1)
        return (unit(query) / temperature).to(query.dtype), unit(key).to(key.dtype)

    def __repr__(self) -> str:
        return f"cosine(temperature={shown(self.temperature)})"


def unit(x: Float[Tensor, "*lead dim"]) -> Float[Tensor, "*lead dim"]:
    """Scale vectors to length 1, in float32 or wider; a zero vector stays zero, with gradient zero."""
    x = x.to(wide(x.dtype))
    # Dividing by the largest entry first keeps tiny and huge vectors from under- and overflowing when squared.
    largest = x.detach().abs().amax(-1, keepdim=True) if x.shape[-1] else x.sum(-1, keepdim=True)
    x = x / torch.where(largest > 0, largest, 1)
    square = (x * x).sum(-1, keepdim=True)
    return x * torch.where(square > 0, square, torch.inf).rsqrt()


def cosine(temperature: float | Float[Tensor, "*heads"] = 0.1) -> Cosine:
    """Score by cos(q, k) / temperature; the temperature may be a learned tensor, one for all heads or one for each.

    Paper: Henry et al. 2020, arXiv:2010.04245; Liu et al. 2022 (Swin V2), arXiv:2111.09883.
    Cost: O(queries·keys·dim) time.
    Raises: KindError, ArgumentError if the temperature is not a positive number or a floating tensor [] or [heads].
    """
    if isinstance(temperature, Tensor):
        check_floats("cosine", "temperature", temperature)
        if temperature.ndim > 1:
            raise ShapeError(must("cosine", "temperature", "have the shape [] or [heads]", list(temperature.shape)))
        check_values("cosine", "temperature", temperature, "finite and > 0", above=0.0)
    else:
        check_number("cosine", "temperature", temperature, "a finite number > 0", above=0.0)
    return Cosine(temperature)


CARDS = (
    Card(
        name="cosine",
        kind="score",
        equation="cos(q, k) / τ",
        paper="Henry et al. 2020, arXiv:2010.04245",
        cost="n·m·d multiply-adds",
        build=cosine,
    ),
)
