"""Which tokens make a word. A leaf: readings and their views ask it too."""

import unicodedata
from collections.abc import Sequence

IDEOGRAPHS = 0x2E80
"""Characters from here on are taken for those of scripts without spaces."""


def word_ranges(text: str, spans: Sequence[tuple[int, int]], special: Sequence[bool]) -> list[tuple[int, int]]:
    """Merge tokens into words: for each word its first token, and the one after its last.

    Tokens are of one word where they touch in the text between two letters or digits of a script with spaces, or stand
    for parts of one character. A special token is a word of its own.
    """
    found: list[tuple[int, int]] = []
    last = 0
    for at, (start, stop) in enumerate(spans):
        joined = at > 0 and not special[at] and not special[at - 1] and start < stop
        # A tokenizer of bytes may count the space before a word as its own, and splits a character where it must.
        if joined and (start < last or (start == last and joins(text[last - 1]) and joins(text[start]))):
            found[-1] = (found[-1][0], at + 1)
        else:
            found.append((at, at + 1))
        last = stop
    return found


def joins(character: str) -> bool:
    """Say whether a character makes one word with its like: a letter, mark or digit of a script with spaces."""
    spaced = character < chr(IDEOGRAPHS) or "가" <= character <= "힣"
    return spaced and unicodedata.category(character)[0] in "LMN"
