"""A step gets done by whoever works on it: all threads, one alone, or one after another has gone."""

import multiprocessing
from threading import Thread

import numpy as np
import pytest
import torch

from qkv.models.generation import generate
from qkv.models.gpt import Gpt, GptConfig
from qkv.models.steps.board import finish, new_board, take, wait
from qkv.models.steps.company import Company


def test_a_part_is_taken_once_and_a_phase_ends_with_its_parts():
    board = new_board(phases=2, parts=9)
    assert board.shape == (2, 16)
    assert take(board, 1, 8) and not take(board, 1, 8)
    assert take(board, 1, 0) and take(board, 0, 8)
    finish(board, 1)
    assert wait(board, 1, 1) and not wait(board, 1, 2)
    finish(board, 1)
    assert wait(board, 1, 2) and not wait(board, 0, 1)


def test_one_thread_waits_for_what_another_has_begun():
    board, order = new_board(1, 2), []

    def work(part):
        if part == 0 and not order:
            assert take(board, 0, 0) and not wait(board, 0, 2)
            order.append("begun")
            finish(board, 0)
        if part == 1 and take(board, 0, 1):
            order.append("other")
            finish(board, 0)
        return wait(board, 0, 2)

    threads = [Thread(target=Company().work, args=(lambda _, part=part: work(part), 1, 1)) for part in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(order) == ["begun", "other"]
    np.testing.assert_array_equal(board[0, :3], [2, 1, 1])


CONFIG = GptConfig(100, 48, 3, 3, 192, 60)
PROMPT = torch.arange(6)[None]


def text(gpt):
    return torch.cat(list(generate(gpt, gpt.start(), PROMPT, new=40))).tolist()


@pytest.fixture
def shared(monkeypatch):
    """A small model whose steps threads share, and what it says on one."""
    torch.manual_seed(0)
    gpt = Gpt(CONFIG).eval()
    said = text(gpt)
    monkeypatch.setattr("qkv.models.steps.SHARED", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    return gpt, said


def test_calls_from_several_threads_at_once(shared):
    gpt, said = shared
    found = []
    threads = [Thread(target=lambda: found.append(text(gpt))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [said] * 4


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system does not fork")
def test_a_fork_goes_on(shared):
    gpt, said = shared
    assert text(gpt) == said
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(text, [gpt, gpt]) == [said] * 2
