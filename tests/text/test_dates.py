"""Dates in many languages."""

import builtins
import re
from collections import Counter
from datetime import date

import pytest

from qkv import errors
from qkv.text import dates
from qkv.text.dates import LANGUAGES, STYLES, date_pair, date_pairs, write_date

babel = pytest.importorskip("babel", reason="babel is an extra")


def test_by_hand():
    day = date(2024, 3, 5)
    assert write_date(day, "de") == "Dienstag, 5. März 2024"
    assert write_date(day, "zh") == "2024年3月5日星期二"
    assert write_date(day, "en", "medium") == "Mar 5, 2024"


def test_a_pair_is_a_function_of_its_number_and_seed():
    assert date_pair(7) == date_pair(7) == list(date_pairs(8))[7]
    assert len({date_pair(number).target for number in range(50)}) > 45
    assert date_pair(7, seed=1) != date_pair(7)


def test_all_languages_are_drawn_alike():
    drawn = Counter(pair.language for pair in date_pairs(2600))
    assert set(drawn) == set(LANGUAGES)
    assert min(drawn.values()) > 130 and max(drawn.values()) < 280


def test_no_day_is_on_both_sides():
    kept, held = ({pair.target for pair in date_pairs(4000, held_out=side)} for side in (False, True))
    assert not kept & held and len(held) > 1000


def test_no_form_is_that_of_two_days():
    """Day and month can be told apart: no two days of a year are written alike in one language."""
    year = [date(2024, 1 + month, 1 + day) for month in range(12) for day in range(28)]
    for language in LANGUAGES:
        for style in STYLES:
            assert len({write_date(day, language, style) for day in year}) == len(year), (language, style)


def test_targets_are_iso():
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", pair.target) for pair in date_pairs(100))


def test_without_babel(monkeypatch):
    plain = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("babel"):
            raise ModuleNotFoundError(name)
        return plain(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(errors.UnsupportedError) as raised:
        write_date(dates.FIRST, "de")
    text = "write_date: babel must be installed; got no such package (pip install babel, or give pairs of your own)"
    assert str(raised.value) == text
