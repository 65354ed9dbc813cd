"""An end to how long a model may run: PyTorch's next operation after it raises."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from torch.overrides import TorchFunctionMode

from qkv.errors import QkvError

SECONDS = 30.0


class LateError(QkvError):
    """A model took too long."""


class Deadline(TorchFunctionMode):
    """Inside, every operation raises LateError once `seconds` have passed; nothing else changes."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.end = time.monotonic() + seconds

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Do the operation, if there is time."""
        if time.monotonic() > self.end:
            raise LateError(f"the model took more than {self.seconds:g} seconds: try a shorter text")
        return function(*args, **(kwargs or {}))
