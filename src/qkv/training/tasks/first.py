"""The first batches of many: what is measured again and again while training."""

from typing import Any

from qkv.training.task import Batches

VALIDATED = 20
"""Batches that the loss is measured on."""


class First:
    """The first batches of others."""

    def __init__(self, batches: Batches, count: int = VALIDATED) -> None:
        self.batches, self.count = batches, min(count, len(batches))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> Any:
        return self.batches[number]
