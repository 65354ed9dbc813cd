"""What qkv raises. A leaf: it imports nothing, so everything may import it.

Every message reads `<function>: <argument> must <rule>; got <value> (<shape or fix>)`; `must` writes it.
"""

__all__ = [
    "ArgumentError",
    "FileError",
    "KindError",
    "QkvError",
    "ShapeError",
    "TrainingError",
    "UnsupportedError",
    "must",
]


class QkvError(Exception):
    """Any error that qkv raises on purpose."""


class ArgumentError(QkvError, ValueError):
    """An argument's value breaks a rule."""


class ShapeError(ArgumentError):
    """A tensor's shape, or two shapes together, break a rule."""


class KindError(QkvError, TypeError):
    """An argument is of the wrong type, dtype or device."""


class UnsupportedError(QkvError, NotImplementedError):
    """What was asked for has no meaning, or no implementation, for these choices."""


class FileError(QkvError, OSError):
    """A file is missing, broken, refused, or in the way."""


class TrainingError(QkvError, RuntimeError):
    """A training cannot go on: its loss or its gradients are not finite."""


def must(function: str, argument: str, rule: str, got: object, fix: object = "") -> str:
    """Write the message of an error in the house form."""
    text = f"{function}: {argument} must {rule}; got {got}"
    return f"{text} ({fix})" if fix else text
