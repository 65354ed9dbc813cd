"""Text from elsewhere, made safe for a terminal. A leaf: the command prints its errors by it."""

import unicodedata


def printable(text: str) -> str:
    """Make a text safe to show in one line: what controls a terminal or the direction of writing becomes �."""
    joiners = "\u200c\u200d"
    unsafe = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
    return "".join("�" if unicodedata.category(one) in unsafe and one not in joiners else one for one in text)
