"""The contract's cases are tiny: fast paths take what would not pay."""

import pytest

from qkv.backends import additive, stream


@pytest.fixture(autouse=True)
def tiny_cases_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(additive, "FEWEST_QUERIES", 0)
    monkeypatch.setattr(additive, "FEWEST_FEATURES", 0)
    monkeypatch.setattr(stream, "FEWEST_PAIRS", 0)
