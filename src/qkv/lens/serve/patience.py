"""HTTP for a server that does not wait for ever: uvicorn's, with a limit to how long a request's head may take."""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0


class Patience(H11Protocol):
    """A connection whose request's head must come within HEAD_SECONDS, from when it is opened or the head begins."""

    late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait."""
        super().connection_made(transport)
        self.late = self.loop.call_later(HEAD_SECONDS, self.give_up)

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
