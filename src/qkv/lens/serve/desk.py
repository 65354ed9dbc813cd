"""One thread that runs the model, so that the event loop never waits for it."""

import asyncio
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from qkv.errors import QkvError

Answer = TypeVar("Answer")

WAITING = 64
"""How many clients may wait for a reading, and how many tiles may be waited for by all."""

SECONDS = 60.0
"""How long one waits for an answer."""


class Busy(QkvError):
    """Too much is waited for, or it took too long."""


class Stale(QkvError):
    """The same client has asked for something newer."""


@dataclass(eq=False)
class _Job:
    work: Callable[[], Any]
    future: "Future[Any]" = field(default_factory=Future)

    def run(self) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            self.future.set_result(self.work())
        except BaseException as error:
            self.future.set_exception(error)


class Desk:
    """Does what clients ask for, one thing after another: tiles first, then each client's newest reading in turn.

    What a client asked for before and has not yet been begun is dropped. While nothing is asked for, `idle` is called,
    again and again as long as it returns True.
    """

    def __init__(self, idle: Callable[[], bool] = lambda: False) -> None:
        self._idle = idle
        self._tiles: deque[_Job] = deque()
        self._readings: OrderedDict[str, _Job] = OrderedDict()
        self._changed = threading.Condition()
        self._open = True
        self._thread = threading.Thread(target=self._work, name="qkv-desk", daemon=True)
        self._thread.start()

    async def read(self, client: str, work: Callable[[], Answer]) -> Answer:
        """Do some work for a client, unless it asks for other work before this has begun.

        Raises: Stale if it did; Busy; whatever the work raises.
        """
        job = _Job(work)
        with self._changed:
            self._check()
            before = self._readings.pop(client, None)
            if before is None and len(self._readings) >= WAITING:
                raise Busy(f"{WAITING} others are waiting: try again in a moment")
            self._readings[client] = job
            self._changed.notify()
        if before is not None and before.future.set_running_or_notify_cancel():
            before.future.set_exception(Stale("something newer was asked for"))
        return await self._wait(job)

    async def tile(self, work: Callable[[], Answer]) -> Answer:
        """Do some short work before all readings.

        Raises: Busy; whatever the work raises.
        """
        job = _Job(work)
        with self._changed:
            self._check()
            if len(self._tiles) >= WAITING:
                raise Busy(f"{WAITING} tiles are waited for: try again in a moment")
            self._tiles.append(job)
            self._changed.notify()
        return await self._wait(job)

    def close(self) -> None:
        """Stop after what is being done; what waits is given up."""
        with self._changed:
            self._open = False
            waiting = [*self._tiles, *self._readings.values()]
            self._tiles.clear()
            self._readings.clear()
            self._changed.notify()
        for job in waiting:
            job.future.cancel()
        self._thread.join(timeout=2)

    def _check(self) -> None:
        if not self._open:
            raise Busy("the server is stopping")

    async def _wait(self, job: _Job) -> Any:
        try:
            return await asyncio.wait_for(asyncio.wrap_future(job.future), SECONDS)
        except (asyncio.TimeoutError, TimeoutError) as error:
            raise Busy(f"it took more than {SECONDS:g} seconds: try a shorter text") from error
        finally:
            # Of one who has gone, or has waited too long, nothing need be begun, and the place is another's.
            job.future.cancel()
            with self._changed:
                if job in self._tiles:
                    self._tiles.remove(job)
                for client in [client for client, waiting in self._readings.items() if waiting is job]:
                    del self._readings[client]

    def _work(self) -> None:
        while True:
            with self._changed:
                job = self._next()
                if job is None and not self._open:
                    return
            if job is not None:
                job.run()
            elif not self._idle():
                with self._changed:
                    if self._open and not self._tiles and not self._readings:
                        self._changed.wait()

    def _next(self) -> _Job | None:
        if self._tiles:
            return self._tiles.popleft()
        return self._readings.popitem(last=False)[1] if self._readings else None
