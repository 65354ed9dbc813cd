"""Text from elsewhere, made safe for a terminal. A leaf: the command prints its errors by it."""

import unicodedata

LINES = "\n\t"
"""What a text of several lines may keep."""


def printable(text: str, keep: str = "") -> str:
    """Make a text safe to show: what controls a terminal or the direction of writing, line ends too, becomes �."""
    kept = "\u200c\u200d" + keep
    unsafe = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
    return "".join("�" if unicodedata.category(one) in unsafe and one not in kept else one for one in text)
