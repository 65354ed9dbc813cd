"""What a training asks of what it trains."""

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class Batch(Protocol):
    """A batch: tensors that move together."""

    def to(self, device: Any) -> Any:
        """Give the same on a device."""


@runtime_checkable
class Batches(Protocol):
    """Batches by number. A batch depends on its number alone, so that any rank, worker or resumed run gets the same.

    A number may exceed the length: `number // len` is the epoch.
    """

    def __len__(self) -> int:
        """How many batches an epoch has."""

    def __getitem__(self, number: int) -> Any:
        """Give a batch."""


@runtime_checkable
class Task(Protocol):
    """A model, its data, and what to do with them."""

    kind: str
    """What is trained, in a word: a run goes on with the same alone."""

    model: nn.Module
    """The model. The methods use it through this attribute: sharded models are saved from a copy that is put here."""

    batches: Batches
    validation: Batches
    """May have no batches."""

    def loss(self, batch: Any) -> tuple[Tensor | dict[str, Tensor], int]:
        """Give the sum of the losses over a batch, and over how many targets it is.

        What else a training descends on, such as what is paid for where a model looks, comes beside "loss" by a name of
        its own, the same names each time: so the losses of a training compare with those that are measured.
        """

    def tokens(self, batch: Any) -> int:
        """How many tokens a batch makes the model read, to say how fast the training is."""

    def sample(self) -> str:
        """Show what the model can do, in a line or a few; "" for nothing."""

    def save(self, folder: Path) -> None:
        """Write the model into an empty folder, as a user loads it."""
