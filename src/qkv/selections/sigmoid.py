"""Sigmoid: each key gets its weight by itself; a row need not sum to 1."""

from dataclasses import dataclass

import torch
from torch import Tensor

from qkv.core.card import Card
from qkv.core.checks import check_number
from qkv.core.types import Selection, Summary


@dataclass(frozen=True)
class Sigmoid(Selection):
    """σ(score + bias). There is nothing to summarise."""

    bias: float = 0.0

    def summary(self, scores: Tensor) -> Summary:
        return ()

    def weights(self, scores: Tensor, summary: Summary, columns: Tensor) -> Tensor:
        return torch.sigmoid(scores + self.bias)

    def __repr__(self) -> str:
        return f"sigmoid(bias={self.bias:g})"


def sigmoid(bias: float = 0.0) -> Sigmoid:
    """Weigh each key by σ(score + bias); the paper starts from bias = −log(keys).

    Paper: Ramapuram et al. 2024, arXiv:2409.04431.
    Cost: O(queries·keys) time.
    Raises: KindError, ArgumentError if the bias is not a finite number.
    """
    check_number("sigmoid", "bias", bias, "a finite number")
    return Sigmoid(float(bias))


CARDS = (
    Card(
        name="sigmoid",
        kind="selection",
        equation="σ(sⱼ + b)",
        paper="Ramapuram et al. 2024, arXiv:2409.04431",
        cost="one exp a pair",
        build=sigmoid,
    ),
)
