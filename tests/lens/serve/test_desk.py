"""The one thread that works: in order, tiles first, and nothing that nobody waits for."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from qkv.lens.serve import desk as module
from qkv.lens.serve.desk import Busy, Desk, Stale


def to_the_end(work):
    """Run it in a thread of its own: the browser of other tests keeps a loop in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


@pytest.fixture
def desk():
    made = Desk()
    yield made
    made.close()


@pytest.fixture
def held(desk):
    """The desk is at work until the event is set; what has been done is listed."""
    release, begun, done = threading.Event(), threading.Event(), []

    def hold():
        begun.set()
        release.wait(5)

    async def start():
        task = asyncio.ensure_future(desk.read("holder", hold))
        while not begun.is_set():
            await asyncio.sleep(0.001)
        return task

    return release, start, done


def test_work_is_done_elsewhere_while_the_loop_goes_on(desk):
    async def both():
        task = asyncio.ensure_future(desk.read("a", lambda: (time.sleep(0.05), threading.current_thread().name)[1]))
        turns = 0
        while not task.done():
            turns += 1
            await asyncio.sleep(0.001)
        return task.result(), turns

    name, turns = to_the_end(both())
    assert name == "qkv-desk" and turns > 5


def test_tiles_come_first_and_clients_in_turn(desk, held):
    release, start, done = held

    async def run():
        holder = await start()
        waiting = [asyncio.ensure_future(desk.read(name, lambda name=name: done.append(name))) for name in "ab"]
        await asyncio.sleep(0)
        waiting.append(asyncio.ensure_future(desk.tile(lambda: done.append("tile"))))
        await asyncio.sleep(0)
        release.set()
        await asyncio.gather(holder, *waiting)

    to_the_end(run())
    assert done == ["tile", "a", "b"]


def test_only_the_newest_of_a_client_is_done(desk, held):
    release, start, done = held

    async def run():
        holder = await start()
        typed = []
        for text in ("t", "th", "the"):
            typed.append(asyncio.ensure_future(desk.read("a", lambda text=text: done.append(text))))
            await asyncio.sleep(0)
        release.set()
        await holder
        return await asyncio.gather(*typed, return_exceptions=True)

    found = to_the_end(run())
    assert [type(one) for one in found] == [Stale, Stale, type(None)] and done == ["the"]


def test_nothing_is_begun_for_one_who_has_gone(desk, held):
    release, start, done = held

    async def run():
        holder = await start()
        gone = asyncio.ensure_future(desk.read("a", lambda: done.append("a")))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        release.set()
        await holder
        await desk.tile(lambda: None)

    to_the_end(run())
    assert done == []


def test_what_the_work_raises_reaches_who_asked(desk):
    def fail():
        raise KeyError("x")

    with pytest.raises(KeyError):
        to_the_end(desk.read("a", fail))
    assert to_the_end(desk.read("a", lambda: 3)) == 3


def test_a_wait_and_a_queue_have_ends(desk, held, monkeypatch):
    monkeypatch.setattr(module, "WAITING", 2)
    monkeypatch.setattr(module, "SECONDS", 0.2)
    release, start, done = held

    async def run():
        holder = await start()
        waiting = [asyncio.ensure_future(desk.read(name, lambda: done.append("read"))) for name in "ab"]
        waiting += [asyncio.ensure_future(desk.tile(lambda: done.append("tile"))) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Busy, match=r"^2 others are waiting: try again in a moment$"):
            await desk.read("c", lambda: None)
        with pytest.raises(Busy, match=r"^2 tiles are waited for: try again in a moment$"):
            await desk.tile(lambda: None)
        found = await asyncio.gather(*waiting, return_exceptions=True)
        release.set()
        await asyncio.gather(holder, return_exceptions=True)
        return found

    assert [str(one) for one in to_the_end(run())] == ["it took more than 0.2 seconds: try a shorter text"] * 4
    assert done == []


def test_idle_time_is_used_and_given_up_at_once():
    steps = iter(range(5))
    made = Desk(lambda: next(steps, None) is not None)
    deadline = time.monotonic() + 5
    while next(iter([steps.__length_hint__()])) and time.monotonic() < deadline:
        time.sleep(0.001)
    assert steps.__length_hint__() == 0
    made.close()
    assert not made._thread.is_alive()
    with pytest.raises(Busy, match="the server is stopping"):
        to_the_end(made.tile(lambda: None))


def test_who_has_gone_leaves_the_place_to_another(desk, held, monkeypatch):
    monkeypatch.setattr(module, "WAITING", 1)
    release, start, done = held

    async def run():
        holder = await start()
        for ask in (lambda work: desk.read("gone", work), desk.tile):
            gone = asyncio.ensure_future(ask(lambda: done.append("gone")))
            await asyncio.sleep(0)
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)
        others = [asyncio.ensure_future(one) for one in (desk.read("b", lambda: "b"), desk.tile(lambda: "tile"))]
        await asyncio.sleep(0)
        release.set()
        await holder
        return await asyncio.gather(*others)

    assert to_the_end(run()) == ["b", "tile"] and done == []
