"""Work is shared among threads, each part once, whoever calls, however deep, before and after a fork."""

import multiprocessing
import os
import signal
import threading
import time

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import qkv
from qkv.backends import threads as module
from qkv.backends.threads import in_parallel

ASK = module._ask


@pytest.fixture(autouse=True, params=["torch's", "a pool"])
def whose(request, monkeypatch):
    if request.param == "a pool":
        monkeypatch.setattr(module, "_team", lambda: None)
    elif module._team() is None:
        pytest.skip("this torch is not linked with OpenMP by GNU's name")
    else:
        monkeypatch.setattr(module, "_ask", lambda take, helpers: pytest.fail("asked a pool"))
    return request.param


@pytest.fixture(params=[1, 2, 5])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_every_part_is_taken_once(threads):
    taken = np.zeros(1000, dtype=int)

    def work(part):
        taken[part] += 1

    in_parallel(work, 1000)
    assert (taken == 1).all()
    in_parallel(work, 0)
    assert taken.sum() == 1000


def test_as_many_threads_as_torch_says(threads):
    if threads > (os.cpu_count() or 1):
        pytest.skip("the pool holds no more threads than there are processors")
    seen, meet = set(), threading.Barrier(threads)

    def work(part):
        meet.wait(timeout=30)
        seen.add(threading.get_ident())

    in_parallel(work, threads)
    assert len(seen) == threads and threading.get_ident() in seen


def test_calls_nest(threads):
    total = np.zeros((6, 7), dtype=int)

    def outer(row):
        in_parallel(lambda column: total.__setitem__((row, column), 1), 7)

    in_parallel(outer, 6)
    assert total.all()


def test_several_python_threads_call_at_once(threads):
    total = np.zeros((8, 50), dtype=int)

    def caller(row):
        in_parallel(lambda part: total.__setitem__((row, part), total[row, part] + 1), 50)

    callers = [threading.Thread(target=caller, args=(row,)) for row in range(8)]
    for each in callers:
        each.start()
    for each in callers:
        each.join(timeout=30)
    assert (total == 1).all()


def test_the_first_error_reaches_the_caller(threads):
    taken = []

    def work(part):
        taken.append(part)
        if part == 3:
            raise ValueError("part 3")
        time.sleep(0.001)

    with pytest.raises(ValueError, match="part 3"):
        in_parallel(work, 200)
    assert len(taken) < 200
    # The pool is as good as before.
    in_parallel(taken.append, 5)


def _in_a_child(total):
    # Whatever the parent has.
    module._ask = ASK
    torch.set_num_threads(2)
    in_parallel(lambda part: total.__setitem__(part, 1), len(total))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_has_threads_of_its_own():
    in_parallel(lambda part: None, 10)
    context = multiprocessing.get_context("fork")
    total = context.Array("i", 50)
    child = context.Process(target=_in_a_child, args=(total,))
    child.start()
    child.join(timeout=30)
    assert child.exitcode == 0 and all(total)


SCORE = qkv.Additive(32, 32, 32).requires_grad_(False)
CALLS = (
    ("additive", {"score": SCORE}),
    ("stream", {"mask": qkv.causal(), "bias": qkv.alibi(heads=2)}),
    ("segments", {"mask": qkv.window(17)}),
)


def step(seed: int) -> list[Tensor]:
    """Attend by each path that has kernels or threads of its own, forward and backward."""
    generator = torch.Generator().manual_seed(seed)
    leaves = [torch.randn(1, 2, 512, 32, generator=generator, requires_grad=True) for _ in range(3)]
    found = []
    for impl, choices in CALLS:
        output = qkv.attend(*leaves, **choices, impl=impl)
        found += [output.detach(), *torch.autograd.grad(output.square().sum(), leaves)]
    return found


class Steps(Dataset):
    """A data set whose every item is a step."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        return torch.stack(step(index))


def test_several_python_threads_attend_at_once(threads):
    expected, found = [step(seed) for seed in range(6)], {}
    callers = [threading.Thread(target=lambda seed=seed: found.update({seed: step(seed)})) for seed in range(6)]
    for each in callers:
        each.start()
    for each in callers:
        each.join(timeout=60)
    for seed, alone in enumerate(expected):
        torch.testing.assert_close(found[seed], alone)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_the_workers_of_a_loader_attend():
    # The kernels and the pool are in use before the workers are forked off.
    expected = [torch.stack(step(seed)) for seed in range(4)]
    found = list(DataLoader(Steps(), batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=60))
    torch.testing.assert_close(found, expected)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timer of that kind")
@pytest.mark.unhooked
def test_no_interrupt_is_lost(threads, whose):
    """Wherever it comes: between parts, and as a thread begins or ends with them."""
    if whose == "a pool":
        pytest.skip("an interrupt inside concurrent.futures may leave its locks held")
    fired = caught = 0

    def interrupt(*_):
        nonlocal fired
        fired += 1
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for number in range(300):
            try:
                signal.setitimer(signal.ITIMER_REAL, (10 + number % 100) * 1e-6)
                in_parallel(lambda part: sum(range(200)), 8)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                caught += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert fired == caught > 0
