"""What a layout says: how one kind of model lies on the disk, its config and the names of its tensors, both ways."""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from qkv.errors import UnsupportedError, must


class Layout(ABC):
    """A kind of model in its folder. A file's tensors are first brought to *plain* names: no prefix, nothing twice."""

    model: ClassVar[type[nn.Module]]
    """The class of such models here."""

    kind: ClassVar[str]
    """What config.json names as model_type."""

    what: ClassVar[str]
    """What to call such a model in a message, with its article."""

    fields: ClassVar[Mapping[str, str]]
    """The config's names there of our config's fields."""

    supported: ClassVar[Mapping[str, tuple[object, ...]]]
    """The values that we implement of fields that change what is computed; the first is the default."""

    layers: ClassVar[tuple[str, str]]
    """The config's name of the number of layers, and the plain names' pattern of a layer's number."""

    def fits(self, model: nn.Module) -> bool:
        """Say whether a model can be written so."""
        return isinstance(model, self.model)

    def check(self, function: str, path: object, found: Mapping[str, Any]) -> None:
        """Raise UnsupportedError for a config of what ours does not compute."""
        for field, values in self.supported.items():
            if found.get(field, values[0]) not in values:
                rule = "be " + " or ".join(repr(value) for value in values)
                raise UnsupportedError(must(function, f"{field} in {path}", rule, repr(found[field])))

    def count(self, tensors: Mapping[str, Tensor]) -> int | None:
        """Count the layers that plain names name; None of a model that has no stack of them."""
        return len({found[1] for name in tensors if (found := re.match(self.layers[1], name))})

    @abstractmethod
    def plain(self, function: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Bring the names of all kinds of such files to plain ones. Raises: UnsupportedError for what ours has not."""

    @abstractmethod
    def config(self, found: Mapping[str, Any]) -> Any:
        """Make our config of a file's. Raises: KindError, ArgumentError for numbers out of range."""

    @abstractmethod
    def build(self, config: Any, found: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> nn.Module:
        """Build the model that has the heads whose tensors there are."""

    @abstractmethod
    def theirs(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Turn our tensors into theirs, by plain names."""

    @abstractmethod
    def ours(self, tensors: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Turn theirs into ours, for the names of a state."""

    @abstractmethod
    def written(self, function: str, model: Any) -> tuple[dict[str, object], dict[str, Tensor]]:
        """Give the config and the tensors to write. Raises: UnsupportedError for what the layout has no place for."""
