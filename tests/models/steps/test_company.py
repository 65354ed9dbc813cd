"""Threads share steps, and leave off where they hinder each other."""

import pytest
import torch

from qkv.models.steps.company import ALONE, Company


@pytest.fixture(autouse=True)
def three_threads(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)


def test_who_is_not_done_is_called_again(monkeypatch):
    calls, rests = [], []
    monkeypatch.setattr("qkv.models.steps.company._give_way", lambda: rests.append(1))
    Company().work(lambda part: calls.append(part) or len(calls) >= 3, 1, rows=1)
    assert calls == [0, 0, 0] and len(rests) == 2


def step(company, monkeypatch, seconds, rows=1):
    """Take a step of so many seconds."""
    clock = iter((0.0, seconds))
    monkeypatch.setattr("qkv.models.steps.company.time.perf_counter", lambda: next(clock))
    parts, size = [], company.size(rows)
    company.work(lambda part: parts.append(part) is None, size, rows)
    assert sorted(parts) == list(range(size))
    return size


def test_the_first_step_is_taken_alone_to_compare_with(monkeypatch):
    company = Company()
    assert [step(company, monkeypatch, 1.0) for _ in range(3)] == [1, 3, 3]


def test_two_steps_that_took_longer_than_alone_are_followed_by_steps_alone(monkeypatch):
    company = Company()
    for seconds in (2.0, 1.0, 3.0, 2.0, 3.0):
        step(company, monkeypatch, seconds)
    assert step(company, monkeypatch, 2.1) == 3
    assert [step(company, monkeypatch, 4.0) for _ in range(ALONE + 1)] == [1] * ALONE + [3]
    # What alone took last is what counts.
    assert [step(company, monkeypatch, 3.9) for _ in range(3)] == [3] * 3


def test_steps_of_other_rows_are_no_measure(monkeypatch):
    company = Company()
    assert [step(company, monkeypatch, 1.0 * rows, rows) for rows in (1, 8, 8, 1, 8, 8)] == [1, 1, 3, 3, 3, 3]
