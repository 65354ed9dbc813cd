"""How alike translations and references are, by the pieces of one to six characters that they share."""

from collections import Counter
from collections.abc import Sequence

LONGEST = 6
RECALL = 2
"""Recall counts so many times as much as precision."""


def chrf(said: Sequence[str], references: Sequence[str]) -> float:
    """Give (1 + β²)·P·R / (β²·P + R) from 0 to 1, P and R averaged over the lengths of the pieces that there are.

    Pieces are counted over all texts together; white space is left out, so languages without it need no other treatment.

    Paper: Popović 2015, W15-3049.
    """
    shares = []
    for length in range(1, LONGEST + 1):
        shared = made = wanted = 0
        for text, reference in zip(said, references, strict=True):
            found, due = _pieces(text, length), _pieces(reference, length)
            shared, made, wanted = shared + (found & due).total(), made + found.total(), wanted + due.total()
        if made and wanted:
            shares.append((shared / made, shared / wanted))
    if not shares:
        return 0.0
    precision, recall = (sum(each) / len(shares) for each in zip(*shares, strict=True))
    below = RECALL**2 * precision + recall
    return (1 + RECALL**2) * precision * recall / below if below else 0.0


def _pieces(text: str, length: int) -> Counter[str]:
    letters = "".join(text.split())
    return Counter(letters[start : start + length] for start in range(len(letters) - length + 1))
