"""Threads share steps, and leave off where they hinder each other."""

import time

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
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    parts, size = [], company.size()
    company.work(lambda part: parts.append(part) is None, size, rows)
    assert sorted(parts) == list(range(size))
    return size


def test_a_slow_step_is_followed_by_steps_of_one_thread(monkeypatch):
    company = Company()
    for seconds in (5.0, 1.0, 1.9, 3.0):
        assert step(company, monkeypatch, seconds) == 3
    assert [step(company, monkeypatch, 9.0) for _ in range(ALONE + 1)] == [1] * ALONE + [3]


def test_steps_of_other_rows_are_no_measure(monkeypatch):
    company = Company()
    assert [step(company, monkeypatch, 1.0 * rows, rows) for rows in (1, 8, 1, 8)] == [3] * 4


def test_steps_that_grow_with_the_text_are_not_slow(monkeypatch):
    company, seconds = Company(), 1.0
    for _ in range(300):
        assert step(company, monkeypatch, seconds) == 3
        seconds *= 1.009
