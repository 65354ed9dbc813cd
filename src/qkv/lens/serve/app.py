"""What the server answers: its pages, a text read by a model, and tiles of a long map."""

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from importlib import resources
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from qkv.errors import QkvError
from qkv.lens.long import LONG_PARTS
from qkv.lens.look import look_at
from qkv.lens.page.build import LONGEST_TOKEN, PARTS, bundle, fill, pack_view, part
from qkv.lens.page.view import View
from qkv.lens.reading import Reading
from qkv.lens.serve import deadline
from qkv.lens.serve.deadline import Deadline, LateError
from qkv.lens.serve.desk import Busy, Desk, Stale
from qkv.lens.serve.guard import BodyError, Guard, Keys, body_of, refusal
from qkv.lens.serve.shelf import Shelf
from qkv.lens.subwords import word_ranges

WEIGHTS = 5_000_000
"""A text with more weights than this, in all its heads, is shown by tiles."""

BUDGET = 2_800_000
"""Bytes of a text's weights and features."""

ROWS = 1024
"""And so is a text of more tokens than this."""

CLIENT = 64
"""Letters of the longest name that a client may give itself."""

FRAMED = [*PARTS[:-1], "embedded"]

Read = Callable[[str], Reading]
Answer = TypeVar("Answer")


class RequestError(Exception):
    """A request that is not as it must be; the argument says how."""


def make_app(
    models: Mapping[str, Read], texts: list[str], *, port: int, keys: Keys, language: str | None = None
) -> Guard:
    """Make the server of some models, by name; `texts` are shown first, in a language or, for None, the browser's."""
    shelf = Shelf()
    desk = Desk(shelf.step)
    shell = fill(
        _part("shell.html"), part("page.css") + _part("shell.css"), _part("shell.js"),
        {"models": list(models), "texts": texts, "language": language}, "qkv", "connect-src 'self'", "frame-src 'self'",
    )  # fmt: skip
    empty = {"title": "", "subtitle": "", "views": []}
    frame = fill(part("page.html"), part("page.css"), bundle(FRAMED), empty, "qkv")
    long = fill(
        part("long.html"), part("page.css") + part("long.css"), bundle(LONG_PARTS), None, "qkv", "connect-src 'self'"
    )

    def page(filled: tuple[str, str]) -> Callable[[Request], Response]:
        content, policy = filled
        policy = f"{policy}; frame-ancestors 'self'"
        return lambda request: HTMLResponse(content, headers={"content-security-policy": policy})

    async def read(request: Request) -> Response:
        asked = _asked(await body_of(request), models)
        work = desk.read(asked["client"], lambda: _answer(models, shelf, asked["model"], asked["text"]))
        answer = await _while_there(request, work)
        return Response(answer, media_type="application/json")

    async def opened(request: Request) -> Response:
        name, layer, head = _place(request)

        def describe() -> dict[str, Any]:
            pyramid, peak = shelf.open(name, layer, head)
            return {
                "queries": pyramid.queries, "keys": pyramid.keys, "levels": pyramid.levels, "peak": peak,
                "read": pyramid.read / pyramid.queries,
            }  # fmt: skip

        return JSONResponse(await _while_there(request, desk.tile(describe)))

    async def tile(request: Request) -> Response:
        name, layer, head = _place(request)
        level, row, column = (request.path_params[part] for part in ("level", "row", "column"))
        work = desk.tile(lambda: shelf.open(name, layer, head)[0].tile(level, row, column).packed())
        content = await _while_there(request, work)
        return Response(content, media_type="application/octet-stream")

    async def glimpse(request: Request) -> Response:
        place = _place(request)
        content = await _while_there(request, desk.tile(lambda: shelf.small(*place).packed()))
        return Response(content, media_type="application/octet-stream")

    @asynccontextmanager
    async def life(app: Starlette):  # type: ignore[no-untyped-def]
        yield
        desk.close()

    place = "{name}/{layer:int}/{head:int}"
    app = Starlette(
        routes=[
            Route("/", page(shell)),
            Route("/frame", page(frame)),
            Route("/long", page(long)),
            Route("/api/read", read, methods=["POST"]),
            Route(f"/api/map/{place}", opened),
            Route(f"/api/small/{place}", glimpse),
            Route(f"/api/tile/{place}/{{level:int}}/{{row:int}}/{{column:int}}", tile),
        ],
        exception_handlers={
            RequestError: lambda request, error: refusal(request, 400, str(error)),
            BodyError: lambda request, error: refusal(request, error.args[0], error.args[1], {"connection": "close"}),
            # Nobody reads this: who asked has gone.
            ClientDisconnect: lambda request, error: Response(status_code=499),
            Stale: lambda request, error: refusal(request, 409, str(error)),
            LateError: lambda request, error: refusal(request, 503, str(error)),
            Busy: lambda request, error: refusal(request, 503, str(error), {"retry-after": "1"}),
            QkvError: lambda request, error: refusal(request, 422, str(error)),
            HTTPException: lambda request, error: refusal(request, error.status_code, error.detail, error.headers),
        },
        lifespan=life,
    )
    return Guard(app, port=port, keys=keys)


async def _while_there(request: Request, work: Coroutine[Any, Any, Answer]) -> Answer:
    """Wait for work; give it up if who asked goes away.

    Raises: ClientDisconnect then; whatever the work raises.
    """

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.wait((working, leaving))


def _answer(models: Mapping[str, Read], shelf: Shelf, model: str, text: str) -> bytes:
    """Let a model read a text; write what the page shows of it."""
    try:
        with Deadline(deadline.SECONDS):
            reading = models[model](text)
        # A recurrent translator attends across alone.
        tokens, maps = len(reading.labels), reading.maps or reading.cross
        if tokens > ROWS or len(maps) * maps[0].grid.heads * tokens**2 > WEIGHTS:
            labels = [label[:LONGEST_TOKEN] for label in reading.labels]
            sizes = {"layers": len(maps), "heads": maps[0].grid.heads}
            long: dict[str, object] = {"name": shelf.keep(maps), "title": text[:200], "tokens": labels, **sizes}
            answer: dict[str, object] = {"long": long}
        else:
            answer = {"views": [pack_view(view, BUDGET) for view in _views(reading)]}
    except (QkvError, MemoryError):
        raise
    except Exception as error:
        # A model of others may raise anything; its reader is told, and the rest goes on.
        print(f"qkv: {model} could not read a text: {error!r}", file=sys.stderr)
        raise QkvError(f"{model} could not read this: {type(error).__name__}: {str(error)[:300]}") from error
    return json.dumps(answer, separators=(",", ":")).encode()


def _views(reading: Reading) -> list[View]:
    views = reading.views()
    if reading.source is not None:
        return views
    words = word_ranges(reading.text, reading.spans, reading.special)
    found = look_at(reading)
    return [replace(views[0], words=words, habits=found.habits, start=(found.layer, found.head), query=found.query)]


def _asked(body: bytes, models: Mapping[str, Read]) -> dict[str, str]:
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        raise RequestError("the body must be JSON") from None
    if not isinstance(asked, dict):
        raise RequestError('the body must be an object: {"model": …, "text": …, "client": …}')
    for name in ("model", "text", "client"):
        if not isinstance(asked.get(name), str):
            raise RequestError(f"{name} must be a string")
    if len(asked["client"]) > CLIENT:
        raise RequestError(f"client must have at most {CLIENT} letters")
    if asked["model"] not in models:
        raise RequestError(f"model must be one that was opened: {', '.join(models)}")
    return asked


def _place(request: Request) -> tuple[str, int, int]:
    return tuple(request.path_params[part] for part in ("name", "layer", "head"))


def _part(name: str) -> str:
    return resources.files("qkv.lens.serve").joinpath(name).read_text(encoding="utf-8")
