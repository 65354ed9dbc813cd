"""A small table of pairs, as a user may have: numbers, and each of their digits said."""

from pathlib import Path

SAID = ("null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun")


def write_table(path: Path, rows: int = 1200) -> Path:
    """Write a table of 1 to 4 digits; the third column is left out by readers."""
    numbers = range(1, 9973, 9973 // rows)
    lines = (f"{number}\t{' '.join(SAID[int(digit)] for digit in str(number))}\tmade here\n" for number in numbers)
    path.write_text("".join(lines), encoding="utf-8")
    return path
