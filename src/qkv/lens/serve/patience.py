"""HTTP for a server that does not wait for ever: uvicorn's, with a limit to how long a request's head may take.

Connections that ask for nothing shut nobody out: once there are too many, the one that has been idle longest is closed,
of those without a token first.
"""

import asyncio
import sys
from typing import Any

import h11
from starlette.responses import JSONResponse
from uvicorn.protocols.http.h11_impl import H11Protocol

from qkv.lens.serve.guard import KNOWN

HEAD_SECONDS = 10.0


class Patience(H11Protocol):
    """A connection whose request's head must come within HEAD_SECONDS, from when it is opened or the head begins."""

    late: asyncio.TimerHandle | None = None
    since = 0.0
    """When it was opened, or last answered."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # uvicorn would count idle connections, and not say why it refuses.
        self.most, self.limit_concurrency = self.limit_concurrency or sys.maxsize, None
        self.served = self.app

    @property
    def idle(self) -> bool:
        """Whether nothing is being answered."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def known(self) -> bool:
        """Whether its last request came with the token."""
        return KNOWN in (self.scope or ())

    def connection_made(self, transport: Any) -> None:
        """Begin to wait."""
        super().connection_made(transport)
        self.late = self.loop.call_later(HEAD_SECONDS, self.give_up)
        self.since = self.loop.time()
        # Those that are being closed are still among them.
        opened = [one for one in self.connections if isinstance(one, Patience) and not one.transport.is_closing()]
        if len(opened) > self.most and (idle := [one for one in opened if one.idle]):
            min(idle, key=lambda one: (one.known, one.since)).transport.close()

    def handle_events(self) -> None:
        """Answer; if too much is being answered, say so."""
        self.app = self.served if len(self.tasks) < self.most else self.crowded
        super().handle_events()

    def on_response_complete(self) -> None:
        """Be idle from now on."""
        self.since = self.loop.time()
        super().on_response_complete()

    async def crowded(self, scope: Any, receive: Any, send: Any) -> None:
        """Refuse."""
        text = f"{self.most} requests are being answered: try again in a moment"
        headers = {"connection": "close", "retry-after": "1", "cache-control": "no-store"}
        await JSONResponse({"error": text}, 503, headers)(scope, receive, send)

    def data_received(self, data: bytes) -> None:
        """Wait on only while a head is incomplete."""
        super().data_received(data)
        # What has come and is no request yet is the beginning of one.
        incomplete = self.conn.their_state is h11.IDLE and bool(self.conn.trailing_data[0])
        if not incomplete:
            self._stop()
        elif self.late is None:
            self.late = self.loop.call_later(HEAD_SECONDS, self.give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._stop()
        super().connection_lost(exc)

    def give_up(self) -> None:
        """Say that the head came too slowly, and close."""
        self.late = None
        if self.conn.their_state is not h11.IDLE or self.transport.is_closing():
            return
        text = f"qkv: a request must begin within {HEAD_SECONDS:g} seconds\n".encode()
        headers = [("content-type", "text/plain; charset=utf-8"), ("content-length", str(len(text)))]
        answer = h11.Response(status_code=408, headers=[*headers, ("connection", "close")], reason=b"Request Timeout")
        for event in (answer, h11.Data(data=text), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _stop(self) -> None:
        if self.late is not None:
            self.late.cancel()
            self.late = None
