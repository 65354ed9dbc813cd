"""A real server: ten clients at once, hostile and broken ones, and a clean end."""

import asyncio
import concurrent.futures
import re
import socket
import time
from contextlib import contextmanager

import httpx
import pytest
from lens.serve.tiny import MODELS

from qkv.errors import ArgumentError, FileError, UnsupportedError
from qkv.lens.serve import run
from qkv.lens.serve.run import listen, serve


@contextmanager
def enter(server):
    """A client that has opened the link, as a browser does."""
    with httpx.Client(base_url=server.root, headers={"origin": server.root}, timeout=20) as client:
        assert client.get(server.open(), follow_redirects=True).status_code == 200
        server.link = server.next_link()
        yield client


def heads(server, client):
    """The head of a request by hand: by a stranger, and by one who has opened the link."""
    host = f"Host: {server.host}:{server.port}\r\n".encode()
    cookie = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    return host, host + f"Cookie: {cookie}\r\nOrigin: {server.root}\r\n".encode()


def ask(client, text, name="c", model="first"):
    return client.post("/api/read", json={"model": model, "text": text, "client": name})


def raw(server, *parts, wait=0.0):
    """Send bytes as they are; return the answer's first line and its body."""
    with socket.create_connection((server.host, server.port), timeout=15) as link:
        try:
            for part in parts:
                link.sendall(part)
                time.sleep(wait)
        except OSError:
            # It was told before it had finished.
            pass
        content = b""
        try:
            while part := link.recv(65536):
                content += part
                head, _, body = content.partition(b"\r\n\r\n")
                length = re.search(rb"(?i)^content-length: *(\d+)", head, re.M)
                if wait == 0 and length and len(body) >= int(length[1]):
                    break
        except ConnectionResetError:
            pass
    head, _, body = content.partition(b"\r\n\r\n")
    return head.split(b"\r\n")[0].decode(), body.decode()


def test_ten_clients_at_once_are_served(server):
    with enter(server) as client:
        begun = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            slow = pool.submit(ask, client, "slow one", "s")
            many = [pool.submit(ask, client, f"the cat number {i}", f"c{i}") for i in range(10)]
            # While a model runs, the loop still answers.
            assert client.get("/frame").status_code == 200 and not slow.done()
            answers = [one.result() for one in many]
            assert slow.result().status_code == 200
        assert [one.json()["views"][0]["tokens"][-1] for one in answers] == [str(i) for i in range(10)]
        assert time.monotonic() - begun < 5


def test_what_was_typed_over_is_dropped(server):
    with enter(server) as client, concurrent.futures.ThreadPoolExecutor(8) as pool:
        first = pool.submit(ask, client, "slow", "other")
        time.sleep(0.1)
        typed = []
        for text in ("t", "th", "the"):
            typed.append(pool.submit(ask, client, text))
            time.sleep(0.03)
        found = [one.result() for one in typed]
        assert [one.status_code for one in found] == [409, 409, 200] and first.result().status_code == 200
        assert found[0].json() == {"error": "something newer was asked for"}


def test_strangers_are_refused_by_the_real_server_too(server):
    assert httpx.get(server.root).status_code == 401
    with enter(server) as client:
        stranger, _ = heads(server, client)
        assert client.get("/", headers={"host": "evil.example"}).status_code == 421
        assert client.post("/api/read", content=b"{}", headers={"origin": "http://evil.example"}).status_code == 403
        assert client.get("/../../../etc/passwd").status_code in (403, 404)
        assert client.post("/api/read", content=b"nonsense").json() == {"error": "the body must be JSON"}
        found, _ = raw(server, b"GET /../../etc/passwd HTTP/1.1\r\n" + stranger + b"\r\n")
        assert found == "HTTP/1.1 401 Unauthorized"


def test_huge_and_malformed_requests_get_an_answer(server):
    with enter(server) as client:
        _, known = heads(server, client)
        post = b"POST /api/read HTTP/1.1\r\n" + known
        found, body = raw(server, post + b"Content-Length: 99999999999\r\n\r\nx")
        assert found.startswith("HTTP/1.1 413")
        assert body == '{"error":"a request must have at most 1,048,576 bytes"}'
        chunks = [b"10000\r\n" + b"x" * 65536 + b"\r\n"] * 20
        assert raw(server, post + b"Transfer-Encoding: chunked\r\n\r\n", *chunks)[0].startswith("HTTP/1.1 413")
        too_wide = b"GET / HTTP/1.1\r\n" + known + b"X: " + b"x" * 20000
        for nonsense in (post + b"Content-Length: -1\r\n\r\n", b"\x16\x03\x01\x02\x00" * 10 + b"\r\n\r\n", too_wide):
            assert raw(server, nonsense)[0].startswith("HTTP/1.1 400")
        # One that goes away in the middle leaves no trace: the fixture looks for one.
        with socket.create_connection((server.host, server.port)) as link:
            link.sendall(post + b"Content-Length: 50\r\n\r\nx")
        assert ask(client, "still here").status_code == 200


def test_slow_requests_are_ended(server):
    with enter(server) as client, concurrent.futures.ThreadPoolExecutor(4) as pool:
        _, known = heads(server, client)
        begun = time.monotonic()
        head = pool.submit(raw, server, b"GET / HT", *[b"T"] * 11, wait=0.2)
        silent = pool.submit(raw, server, b"", wait=0.1)
        start = b"POST /api/read HTTP/1.1\r\n" + known + b"Content-Length: 50\r\n\r\n"
        body = pool.submit(raw, server, start, *[b"x"] * 11, wait=0.2)
        assert ask(client, "meanwhile").status_code == 200
        late = "HTTP/1.1 408 Request Timeout"
        assert head.result() == silent.result() == (late, "qkv: a request must begin within 1 seconds\n")
        assert body.result() == (late, '{"error":"a request must come within 1 seconds"}')
        assert time.monotonic() - begun < 5
        # A kept connection whose next request is slow is ended as well.
        again = b"GET /frame HTTP/1.1\r\n" + known + b"\r\n"
        assert raw(server, again, b"GET ", wait=0.1)[1].endswith("a request must begin within 1 seconds\n")


def test_a_free_port_is_found_and_a_taken_one_said(monkeypatch):
    first = listen(0)
    port = first.getsockname()[1]
    text = rf"^serve: port must be free; got {port} \(.*in use.*: choose another with --port\)$"
    with pytest.raises(FileError, match=text):
        listen(port)
    monkeypatch.setattr(run, "PORT", port)
    second = listen(None)
    assert port < second.getsockname()[1] < port + run.TRIED
    assert {one.getsockname()[0] for one in (first, second)} == {"127.0.0.1"}
    first.close()
    second.close()
    listen(port).close()


@pytest.mark.parametrize(
    ("models", "port", "text"),
    [
        ({}, None, r"^serve: models must hold at least one model; got none$"),
        (MODELS, 65536, r"^serve: port must lie in 0\.\.65535; got 65536 \(0 takes any that is free\)$"),
        (MODELS, -1, r"^serve: port must lie in 0\.\.65535; got -1 "),
    ],
)
def test_what_cannot_be_served_is_said(models, port, text):
    with pytest.raises(ArgumentError, match=text):
        serve(models, port=port, browser=False)


def test_what_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(run.importlib.util, "find_spec", lambda name: None if name == "uvicorn" else name)
    text = r"^serve: starlette and uvicorn must be installed; got no uvicorn \(pip install 'qkv\[serve\]'\)$"
    with pytest.raises(UnsupportedError, match=text):
        serve(MODELS, browser=False)


def test_who_vanishes_leaves_no_place_taken(server):
    with enter(server) as client, concurrent.futures.ThreadPoolExecutor(1) as pool:
        _, known = heads(server, client)
        first = pool.submit(ask, client, "slow one", "s")
        time.sleep(0.1)
        links = [socket.create_connection((server.host, server.port)) for _ in range(70)]
        for number, link in enumerate(links):
            body = f'{{"model": "first", "text": "slow {number}", "client": "v{number}"}}'.encode()
            link.sendall(
                b"POST /api/read HTTP/1.1\r\n" + known + f"Content-Length: {len(body)}\r\n\r\n".encode() + body
            )
        time.sleep(0.1)
        for link in links:
            link.close()
        assert first.result().status_code == 200
        begun = time.monotonic()
        assert [ask(client, "the cat", f"n{number}").status_code for number in range(10)] == [200] * 10
        # At most the one that had been begun is ended: all 70 would take 28 seconds.
        assert time.monotonic() - begun < 10


def test_idle_strangers_shut_nobody_out(server):
    with enter(server) as client:
        links = [socket.create_connection((server.host, server.port)) for _ in range(300)]
        try:
            assert ask(client, "still here").status_code == 200
            # The oldest have made room.
            links[0].settimeout(5)
            assert links[0].recv(1) == b""
        finally:
            for link in links:
                link.close()


def test_too_many_at_once_are_told_why():
    from uvicorn import Config
    from uvicorn.server import ServerState

    from qkv.lens.serve.patience import Patience

    async def refused():
        config = Config(lambda scope: None, http=Patience, limit_concurrency=1)
        protocol = Patience(config, ServerState(), {})
        protocol.transport = None
        sent = []

        async def send(message):
            sent.append(message)

        await protocol.crowded({"type": "http"}, None, send)
        return sent

    # In a thread of its own: the browser of other tests keeps a loop in this one.
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        start, body = pool.submit(asyncio.run, refused()).result()
    assert start["status"] == 503
    assert body["body"] == b'{"error":"1 requests are being answered: try again in a moment"}'
