"""Dates in a dozen languages, to be brought to ISO form: a translation in the small, whose alignments cross.

    Dienstag, 5. März 2024  →  2024-03-05
    2024年3月5日星期二       →  2024-03-05

The forms are those of the Unicode CLDR, by Babel.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta

import torch

from qkv.errors import UnsupportedError, must
from qkv.text.batching import generator

LANGUAGES = ("ar", "de", "en", "es", "fr", "hi", "it", "ja", "ko", "pt", "ru", "tr", "zh")
STYLES = ("full", "long", "medium")
"""CLDR's forms from which the day and the month can be told apart in each of these languages; `short` is not one."""

FIRST, LAST = date(1900, 1, 1), date(2099, 12, 31)
HELD_OUT = 10
"""One day in so many is held out for validation, in all languages and forms."""


@dataclass(frozen=True)
class DatePair:
    """One day: as it is written in a language, and in ISO form."""

    source: str
    target: str
    language: str


def date_pair(number: int, *, seed: int = 0, held_out: bool = False) -> DatePair:
    """Draw a day, a language and a form: a function of the number and the seed alone.

    No day is both held out and not.

    Raises: UnsupportedError if Babel is not installed.
    """
    chance = generator(seed, number, held_out)

    def draw(count: int) -> int:
        return int(torch.randint(count, (), generator=chance))

    days = (LAST - FIRST).days + 1
    while _is_held_out(day := FIRST + timedelta(draw(days))) != held_out:
        pass
    language, style = LANGUAGES[draw(len(LANGUAGES))], STYLES[draw(len(STYLES))]
    return DatePair(write_date(day, language, style), day.isoformat(), language)


def date_pairs(count: int, *, seed: int = 0, held_out: bool = False) -> Iterator[DatePair]:
    """Give the first pairs of a seed."""
    return (date_pair(number, seed=seed, held_out=held_out) for number in range(count))


def write_date(day: date, language: str, style: str = "full") -> str:
    """Write a day as a language does. Raises: UnsupportedError if Babel is not installed."""
    try:
        from babel.dates import format_date
    except ModuleNotFoundError as error:
        fix = "pip install babel, or give pairs of your own"
        raise UnsupportedError(must("write_date", "babel", "be installed", "no such package", fix)) from error
    return format_date(day, style, language)


def _is_held_out(day: date) -> bool:
    return hashlib.blake2b(day.isoformat().encode(), digest_size=4).digest()[0] % HELD_OUT == 0
