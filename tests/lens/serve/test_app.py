"""What the server answers, and what it refuses: each refusal says why."""

import json
import re

import pytest
import torch
from lens.serve.tiny import MODELS
from starlette.testclient import TestClient

from qkv.lens.pyramid import Tile
from qkv.lens.serve import app as module
from qkv.lens.serve import deadline, guard
from qkv.lens.serve.app import make_app
from qkv.lens.serve.guard import Keys

ROOT = "http://127.0.0.1:8765"


@pytest.fixture
def keys():
    return Keys()


@pytest.fixture
def stranger(keys):
    app = make_app(MODELS, ["a </script> b"], port=8765, keys=keys)
    with TestClient(app, base_url=ROOT, follow_redirects=False) as client:
        yield client


@pytest.fixture
def client(stranger, keys):
    stranger.headers["authorization"] = f"Bearer {keys.token}"
    return stranger


def ask(client, text="the cat sat", model="first", **headers):
    return client.post("/api/read", json={"model": model, "text": text, "client": "c"}, headers=headers)


def test_a_text_is_read(client):
    found = ask(client)
    assert found.status_code == 200 and found.headers["content-type"] == "application/json"
    (view,) = found.json()["views"]
    assert view["tokens"] == ["the", "cat", "sat"] and (view["layers"], view["heads"]) == (2, 3)


def test_a_long_text_is_shown_by_tiles(client, monkeypatch):
    monkeypatch.setattr(module, "ROWS", 300)
    long = ask(client, "long 301").json()["long"]
    assert len(long["tokens"]) == 301 and (long["layers"], long["heads"]) == (2, 3)
    found = client.get(f"/api/map/{long['name']}/1/2").json()
    assert (found["queries"], found["keys"], found["levels"]) == (301, 301, 2)
    weights = MODELS["first"]("long 301").maps[1].dense()[0, 2]
    tile = Tile.unpacked(client.get(f"/api/tile/{long['name']}/1/2/0/1/1").content)
    torch.testing.assert_close(tile.mean, weights[256:, 256:], atol=float(weights.max()) / 131_000, rtol=0)
    small = Tile.unpacked(client.get(f"/api/small/{long['name']}/1/2").content)
    assert small.mean.shape == (64, 61) and small.read == pytest.approx(64 / 301)
    assert client.get(f"/api/small/{long['name']}/2/0").status_code == 422
    for path, status in (("2/0/0/0/0", 422), ("0/0/9/0/0", 422), ("0/0/-1/0/0", 404), ("0/0/0/0/x", 404)):
        assert client.get(f"/api/tile/{long['name']}/{path}").status_code == status
    assert "let go" in client.get("/api/tile/other/0/0/0/0/0").json()["error"]


def test_so_is_a_text_of_many_weights(client, monkeypatch):
    monkeypatch.setattr(module, "WEIGHTS", 2 * 3 * 4 * 4)
    assert "views" in ask(client, "a b c d").json() and "long" in ask(client, "a b c d e").json()


@pytest.mark.parametrize("path", ["/", "/frame", "/long"])
def test_pages_may_run_their_own_script_alone(client, path):
    found = client.get(path)
    policy = found.headers["content-security-policy"]
    assert found.status_code == 200 and "frame-ancestors 'self'" in policy and "unsafe" not in policy
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert ("connect-src 'self'" in policy) == (path != "/frame")
    assert "</script> b" not in found.text and not re.search("https?://(?!www.w3.org/2000/svg)", found.text)
    assert found.headers["x-content-type-options"] == "nosniff" and found.headers["cache-control"] == "no-store"
    assert "access-control-allow-origin" not in found.headers


def test_the_link_serves_once(stranger, keys):
    link = f"/open/{keys.ticket}"
    found = stranger.get(link)
    assert (found.status_code, found.headers["location"]) == (303, "/")
    cookie = found.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=lax" in cookie and keys.token in cookie and keys.token not in link
    assert stranger.get("/").status_code == 200
    assert stranger.get(link).status_code == 403
    assert stranger.get(f"/open/{keys.ticket}").status_code == 303


def test_without_a_token_nothing_is_answered(stranger, keys):
    paths = ["/", "/frame", "/long", "/api/map/x/0/0", "/api/tile/x/0/0/0/0/0", "/etc/passwd"]
    for path in paths:
        found = stranger.get(path)
        assert found.status_code == 401 and "open the link" in found.json()["error"]
    assert ask(stranger, origin=ROOT).status_code == 401
    for wrong in ("", "Bearer ", f"Bearer {keys.token[:-1]}", f"Bearer {keys.token}x", "Bearer ключ".encode()):
        assert stranger.get("/", headers={"authorization": wrong}).status_code == 401
    found = stranger.get("/", headers={"accept": "text/html"})
    assert found.status_code == 401 and found.text.startswith("qkv: a token is wanted")


HOSTS = ["evil.example", "127.0.0.1", "127.0.0.1:80", "127.0.0.1.evil.example:8765", "", "[::1]:8765"]


@pytest.mark.parametrize("host", HOSTS)
def test_a_foreign_host_is_refused(client, host):
    found = client.get("/", headers={"host": host})
    assert found.status_code == 421 and found.json()["error"].startswith("Host must be 127.0.0.1:8765; got ")


def test_two_hosts_are_refused(client):
    assert client.get("/", headers=[("host", "127.0.0.1:8765"), ("host", "evil.example")]).status_code == 421


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:3000", "https://127.0.0.1:8765"])
def test_a_foreign_origin_is_refused(client, origin):
    found = ask(client, origin=origin)
    assert found.status_code == 403 and found.json()["error"].startswith("Origin must be this server; got ")


def test_a_page_beside_us_is_refused_too(client, keys):
    for site in ("cross-site", "same-site"):
        assert client.get("/frame", headers={"sec-fetch-site": site, "sec-fetch-mode": "no-cors"}).status_code == 403
    assert client.get("/", headers={"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}).status_code == 200
    del client.headers["authorization"]
    client.cookies.set("qkv-8765", keys.token)
    assert ask(client).json()["error"] == "Origin must be this server; got none"
    assert ask(client, origin=ROOT).status_code == 200


def test_other_methods_are_refused(client):
    found = client.request("DELETE", "/")
    assert (found.status_code, found.headers["allow"]) == (405, "GET, HEAD, POST")
    assert client.post("/").status_code == 405 and client.get("/api/read").status_code == 405
    assert client.request("OPTIONS", "/api/read", headers={"origin": ROOT}).status_code == 405


PATHS = ["/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/frame/../../x", "//etc/passwd", "/open", "/api", "/x.js"]


@pytest.mark.parametrize("path", PATHS)
def test_there_are_no_files(client, path):
    assert client.get(path).status_code in (403, 404)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"{", "the body must be JSON"),
        (b"\xff", "the body must be JSON"),
        (b"[" * 100_000, "the body must be JSON"),
        (b"[]", 'the body must be an object: {"model": …, "text": …, "client": …}'),
        (b"{}", "model must be a string"),
        (b'{"model": "first", "text": 3}', "text must be a string"),
        (b'{"model": "first", "text": "a"}', "client must be a string"),
        (
            b'{"model": "first", "text": "a", "client": "%s"}' % (b"c" * 65),
            "client must have at most 64 letters",
        ),
        (
            b'{"model": "../../etc", "text": "a", "client": "c"}',
            "model must be one that was opened: first, second, <b>&third",
        ),
    ],
)
def test_what_is_wrong_with_a_request_is_said(client, body, text):
    found = client.post("/api/read", content=body)
    assert (found.status_code, found.json()) == (400, {"error": text})


def test_a_model_may_refuse_or_fail(client, capsys):
    found = ask(client, " ")
    assert (found.status_code, found.json()["error"]) == (422, "read: text must hold something to read; got ' '")
    found = ask(client, "fail")
    assert found.status_code == 422
    assert found.json()["error"] == "first could not read this: RuntimeError: a model of others"
    assert "first could not read a text" in capsys.readouterr().err
    assert ask(client).status_code == 200


@pytest.mark.parametrize("text", ["\ud800", "\0", "</script><img src=x onerror=alert(1)>", "w" * 100_000, "‮evil"])
def test_any_text_may_be_read(client, text):
    body = json.dumps({"model": "first", "text": text, "client": "c"}).encode()
    assert client.post("/api/read", content=body).status_code == 200


def test_a_model_that_does_not_end_is_ended(client, monkeypatch):
    monkeypatch.setattr(deadline, "SECONDS", 0.1)
    found = ask(client, "endless")
    assert (found.status_code, found.json()["error"]) == (
        503,
        "the model took more than 0.1 seconds: try a shorter text",
    )
    assert ask(client).status_code == 200


def test_a_huge_body_is_refused(client, monkeypatch):
    monkeypatch.setattr(guard, "BODY", 1000)
    assert client.post("/api/read", content=b"x" * 1001).json()["error"] == "a request must have at most 1,000 bytes"
    assert client.post("/api/read", content=(b"x" * 100 for _ in range(11))).status_code == 413
