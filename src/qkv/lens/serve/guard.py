"""Who may ask, and how much: the outermost layer of the server.

A page elsewhere in the same browser can send requests here, and by rebinding a name even read the answers. So the Host
must be ours, the Origin too wherever a browser sends one, and whoever asks must hold a token. The token reaches the
browser as a cookie, by a link that serves once: a link is seen by others, in a list of processes or a history.
"""

import asyncio
import secrets
from collections.abc import Callable
from contextlib import suppress

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

BODY = 1 << 20
"""Bytes of the longest request."""

BODY_SECONDS = 10.0
"""How long a request's body may take to come."""

LINGER_SECONDS = 0.5
"""How long what is too large is read on and thrown away: who is cut off while sending does not hear why."""

KNOWN = "qkv.known"
"""What a request's scope holds if it came with the token."""

SAFE = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "SAMEORIGIN",
}


class Keys:
    """The token, and the ticket of the link that serves once and then is replaced by another."""

    def __init__(self, *, renewed: Callable[[str], None] = lambda ticket: None) -> None:
        self.token = secrets.token_urlsafe(32)
        self.ticket = secrets.token_urlsafe(32)
        self._renewed = renewed

    def use(self, ticket: str) -> bool:
        """Say whether this is the ticket, which then serves no more."""
        if not _same(ticket, self.ticket):
            return False
        self.ticket = secrets.token_urlsafe(32)
        self._renewed(self.ticket)
        return True


class Guard:
    """Lets a request through to `app` if it may pass; every refusal says why."""

    def __init__(self, app: ASGIApp, *, port: int, keys: Keys) -> None:
        self.app = app
        self.keys = keys
        self.hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}
        self.cookie = f"qkv-{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        answer = self._refuse(request)
        if answer is None and scope["path"].startswith("/open/"):
            answer = self._open(request)
        if answer is None and not self._known(request):
            answer = refusal(request, 401, "a token is wanted: open the link that `qkv see --serve` printed")
        if answer is not None:
            await answer(scope, receive, self._safe(send))
            return
        # The connection is told, which is kept longer for it.
        scope[KNOWN] = True
        await self.app(scope, receive, self._safe(send))

    def _refuse(self, request: Request) -> Response | None:
        hosts, origins = request.headers.getlist("host"), request.headers.getlist("origin")
        if len(hosts) != 1 or hosts[0].lower() not in self.hosts:
            here = sorted(self.hosts)[0]
            return refusal(request, 421, f"Host must be {here}; got {_shown(hosts)} (forward the same port)")
        if any(origin != f"http://{hosts[0].lower()}" for origin in origins):
            return refusal(request, 403, f"Origin must be this server; got {_shown(origins)}")
        # A page on another port of this machine is "same-site".
        fetched = request.headers.get("sec-fetch-site", "none")
        if fetched not in ("none", "same-origin") and request.headers.get("sec-fetch-mode") != "navigate":
            return refusal(request, 403, f"requests must come from this server's page; got one that is {fetched[:20]}")
        if request.method not in ("GET", "HEAD", "POST"):
            return refusal(request, 405, "method must be GET or POST", {"allow": "GET, HEAD, POST"})
        if request.method == "POST" and not origins and "authorization" not in request.headers:
            return refusal(request, 403, "Origin must be this server; got none")
        return None

    def _open(self, request: Request) -> Response:
        if request.method != "GET" or not self.keys.use(request.url.path.removeprefix("/open/")):
            text = "a link serves once, and this one has: take the newest that `qkv see --serve` printed"
            return refusal(request, 403, text)
        answer = RedirectResponse("/", 303)
        answer.set_cookie(self.cookie, self.keys.token, httponly=True, samesite="lax", path="/")
        return answer

    def _known(self, request: Request) -> bool:
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        return _same(request.cookies.get(self.cookie, ""), self.keys.token) or _same(bearer, self.keys.token)

    def _safe(self, send: Send) -> Send:
        async def safe(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = Headers(raw=message["headers"])
                safe = {"content-security-policy": "default-src 'none'", **SAFE}
                extra = [(name.encode(), value.encode()) for name, value in safe.items() if name not in given]
                message = {**message, "headers": [*message["headers"], *extra]}
            await send(message)

        return safe


def refusal(request: Request, status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    """Say why not: as plain text to someone who reads it in a browser, else as JSON."""
    if "text/html" in request.headers.get("accept", ""):
        return PlainTextResponse(f"qkv: {text}\n", status, headers)
    return JSONResponse({"error": text}, status, headers)


class BodyError(Exception):
    """A body that is too large or too slow; the arguments are a status and a text."""


async def body_of(request: Request) -> bytes:
    """Read a request's body, no more than BODY bytes and no longer than BODY_SECONDS.

    Raises: BodyError.
    """
    content, stream = bytearray(), request.stream()

    async def collect(keep: bool) -> None:
        async for part in stream:
            if keep:
                content.extend(part)
                if len(content) > BODY:
                    return

    try:
        # What is no number h11 has refused.
        if int(request.headers.get("content-length", 0)) <= BODY:
            await asyncio.wait_for(collect(True), BODY_SECONDS)
            if len(content) <= BODY:
                return bytes(content)
    except (asyncio.TimeoutError, TimeoutError):
        raise BodyError(408, f"a request must come within {BODY_SECONDS:g} seconds") from None
    except ClientDisconnect:
        raise BodyError(400, "a request must come whole") from None
    with suppress(asyncio.TimeoutError, TimeoutError, ClientDisconnect):
        await asyncio.wait_for(collect(False), LINGER_SECONDS)
    raise BodyError(413, f"a request must have at most {BODY:,} bytes")


def _same(given: str, wanted: str) -> bool:
    return secrets.compare_digest(given.encode("utf-8", "replace"), wanted.encode())


def _shown(values: list[str]) -> str:
    return repr(", ".join(values)[:100]) if values else "none"
