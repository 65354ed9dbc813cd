"""A long map baked into a file: its size is told before, and its tiles are the pyramid's."""

import base64
import json
import re
import zlib

import pytest
import torch

import qkv
from qkv.errors import ArgumentError, FileError, ShapeError
from qkv.lens.long import baked_size, write_map_page
from qkv.lens.pyramid import Pyramid, Tile


def seen(tokens=700):
    query, key = torch.randn(2, 1, 1, tokens, 8, generator=torch.Generator().manual_seed(0))
    return qkv.attention_map(3 * query, key, mask=qkv.causal())


def data_of(path):
    return json.loads(re.search(r'id="data">(.*?)</script>', path.read_text())[1])


def test_what_is_baked_is_the_pyramid_and_no_larger_than_told(tmp_path):
    path, given = tmp_path / "map.html", seen()
    size = write_map_page(path, given, title="a </script> b", depth=2, layer=3, head=4)
    assert size == path.stat().st_size
    data = data_of(path)
    assert sorted(data["tiles"]) == ["1/0/0", "1/0/1", "1/1/0", "1/1/1", "2/0/0"]
    assert 0 < sum(map(len, data["tiles"].values())) <= baked_size(700, 700, 2)
    assert (data["layer"], data["head"], data["finest"], data["map"]["levels"]) == (3, 4, 1, 3)
    made = Pyramid(given)
    for name, packed in data["tiles"].items():
        tile = Tile.unpacked(zlib.decompress(base64.b64decode(packed), -15))
        expected = made.tile(*map(int, name.split("/")))
        torch.testing.assert_close(tile.most, expected.most, rtol=0, atol=float(expected.most.max()) / 131_000)
        torch.testing.assert_close(tile.mean, expected.mean, rtol=0, atol=float(expected.mean.max()) / 131_000)
        assert tile.read == 1


def test_noise_that_cannot_be_packed_fits_what_was_told():
    noise = Tile(torch.rand(256, 256), torch.rand(256, 256)).packed()
    assert len(base64.b64encode(zlib.compress(noise, 6))) <= baked_size(256, 256, 1)


@pytest.mark.unhooked
def test_what_cannot_be_baked_is_said(tmp_path):
    path = tmp_path / "map.html"
    with pytest.raises(ArgumentError, match=r"^baked_size: depth must be <= 3; got 4 \(all levels"):
        baked_size(700, 700, 4)
    with pytest.raises(ArgumentError, match=r"^write_map_page: depth must be >= 1; got 0$"):
        write_map_page(path, seen(), title="t", depth=0)
    text = r"^write_map_page: tokens must be one for each query and key; got 1 for 700 × 700 \(leave them out"
    with pytest.raises(ShapeError, match=text):
        write_map_page(path, seen(), title="t", tokens=["a"])
    path.write_text("mine")
    with pytest.raises(FileError, match="another program wrote it"):
        write_map_page(path, seen(), title="t")
    assert path.read_text() == "mine"


def test_a_file_shows_its_weights_and_says_where_it_ends(browser, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path, given, words = tmp_path / "map.html", seen(), [f"w{i}" for i in range(700)]
    words[5] = "</script><img src=x onerror=window.pwned=1>"
    write_map_page(path, given, title="a map", tokens=words, depth=3)
    weights = given.dense()[0, 0]
    page = browser.new_page(locale="en-US")
    complaints, asked = [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_function("() => document.documentElement.dataset.read === '1'")
    for _ in range(5):
        page.locator("#in").click()
    page.wait_for_function("() => document.documentElement.dataset.level === '0'")
    page.wait_for_function("() => document.documentElement.dataset.read === '1'")
    box = page.locator("#area").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2 - 60, box["y"] + box["height"] / 2 + 60)
    playwright.expect(page.locator("#reading")).to_have_text(re.compile("→"))
    shown = re.fullmatch(r"(\d+) \S+ → (\d+) \S+: ([\d.]+)%", page.locator("#reading").inner_text())
    query, key, value = shown.groups()
    assert float(value) == pytest.approx(100 * float(weights[int(query), int(key)]), rel=0.06, abs=2e-3)
    page.locator("#language").click()
    assert page.locator("#layer").inner_text() == "第 0 层"
    assert page.evaluate("() => window.pwned") is None
    page.close()
    assert complaints == [] and [url for url in asked if not url.startswith(("file:", "data:,"))] == []
