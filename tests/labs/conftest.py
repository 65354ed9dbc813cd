"""The small lab, for all tests of labs."""

from small_labs import small

__all__ = ["small"]
