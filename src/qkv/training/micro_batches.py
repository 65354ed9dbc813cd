"""Micro-batches: those of one rank, in order, read ahead by workers."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from qkv.training.interrupt import ignore_interrupts
from qkv.training.task import Batches


def micro_batches(batches: Batches, places: range, workers: int) -> Iterator[Any]:
    """Give the batches at some places. Workers change nothing but who reads them, and when."""
    return iter(
        DataLoader(
            batches,  # type: ignore[arg-type]
            batch_size=None,
            sampler=places,
            num_workers=workers,
            collate_fn=_as_it_is,
            worker_init_fn=ignore_interrupts,
            # A loader draws a seed for its workers: not from the generator that the training draws from.
            generator=torch.Generator(),
        )
    )


def _as_it_is(batch: Any) -> Any:
    return batch
