"""The page as a file: what is in it, how exactly, how large, and how it reaches the disk."""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from qkv.errors import ArgumentError, FileError, KindError, ShapeError
from qkv.lens.page import Image, Projection, View, render_page, write_page
from qkv.lens.page.build import OTHER_PARTS, PARTS, bundle

HOSTILE = [
    "</script><img src=x onerror=alert(1)>",
    "<!--<script>",
    "{{script}}",
    "&lt;&amp;",
    "\u2028\u2029",
    "\0",
    "\ud800",
    "\u202eright to left",
    "",
    "猫",
    "👩‍👩‍👧",
    "w" * 10_000,
]


@dataclass(frozen=True)
class Row:
    layer: int
    head: int | None
    change: str
    loss: float
    vector: float
    left_out: list


def places(count=2, **changes):
    given = {"labels": ["a"] * count, "marks": [(0, 1)] * count, "points": np.zeros((1, count, 2)), "shares": [1.0]}
    given |= {"nearest": np.zeros((1, count, 1), int), "cosines": np.ones((1, count, 1))}
    return Projection(word="a", **{**given, **changes})


def softmax(shape, seed=0, spread=1.0):
    scores = spread * np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def view(length=5, **changes):
    given = {"title": "a sentence", "tokens": [f"t{i}" for i in range(length)]}
    return View(**{**given, "weights": softmax((2, 3, length, length)), **changes})


class Elements(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.found, self.text, self.open = [], {}, -1
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        self.open = len(self.found) - 1

    def handle_endtag(self, tag):
        self.open = -1

    def handle_data(self, data):
        self.text[self.open] = self.text.get(self.open, "") + data

    def all(self, tag):
        return [(attributes, self.text.get(i, "")) for i, (name, attributes) in enumerate(self.found) if name == tag]


def data_of(page):
    [text] = [text for attributes, text in Elements(page).all("script") if attributes.get("id") == "data"]
    return json.loads(text)


def decode(view_data):
    """The weights as the page's script sees them."""
    queries, keys = len(view_data["tokens"]), len(view_data["keys"] or view_data["tokens"])
    heads = []
    for packed, step in zip(view_data["packed"], view_data["steps"], strict=True):
        planes = np.frombuffer(zlib.decompress(base64.b64decode(packed), -15), np.uint8).astype(np.int64)
        size = queries * keys
        numbers = planes[:size] + (256 * planes[size:] if len(planes) > size else 0)
        heads.append(numbers.reshape(keys, queries).T * step)
    return np.stack(heads).reshape(view_data["layers"], view_data["heads"], queries, keys)


@pytest.mark.parametrize("tokens", [1, 2, 7, 64, 130])
@pytest.mark.parametrize("spread", [0.0, 1.0, 8.0])
def test_weights_come_back_within_the_stated_error(tokens, spread):
    weights = softmax((2, 2, tokens, tokens), spread=spread)
    weights[0, 0, 0] = 0
    data = data_of(render_page([view(tokens, weights=weights)], title="t"))["views"][0]
    assert np.abs(decode(data) - weights).max() <= data["error"] < 2e-5
    assert (decode(data)[0, 0, 0] == 0).all()


@pytest.mark.parametrize("queries, keys", [(1, 3), (90, 4), (4, 90), (80, 130)])
def test_a_target_looks_at_a_source(queries, keys):
    weights, names = softmax((2, 2, queries, keys)), [f"k{i}" for i in range(keys)]
    data = data_of(render_page([view(queries, weights=weights, keys=names)], title="t"))["views"][0]
    assert data["keys"] == names
    assert np.abs(decode(data) - weights).max() <= data["error"] < 2e-5


def pixels_of(packed):
    """Undo what the page undoes: each pixel is how it differs from the one to its left."""
    steps = np.frombuffer(zlib.decompress(base64.b64decode(packed["pixels"]), -15), np.uint8)
    shape = packed["height"], packed["width"], *([3] if packed["colours"] else [])
    return np.cumsum(steps.reshape(shape), axis=1, dtype=np.uint8)


def test_a_picture_takes_of_the_budget():
    noise = np.random.default_rng(0).random((300, 300, 3))
    pictured = view(64, weights=softmax((4, 4, 64, 64)), image=Image(noise, rows=8, columns=8))
    budget = 500_000
    (found,) = data_of(render_page([pictured], budget=budget))["views"]
    taken = len(found["image"]["pixels"])
    assert taken > 300_000 and taken + sum(map(len, found["packed"])) <= budget


def test_a_page_without_a_title_is_named_in_its_readers_language():
    page = render_page([view(3)])
    assert data_of(page)["title"] is None and "<title>Attention</title>" in page


def test_a_picture_comes_back():
    pixels = softmax((4, 6))
    image = Image(pixels, rows=2, columns=3)
    data = data_of(render_page([view(5, weights=softmax((1, 1, 5, 6)), keys=list("abcdef"), image=image)], title="t"))
    packed = data["views"][0]["image"]
    bytes_ = pixels_of(packed)
    assert (packed["rows"], packed["columns"]) == (2, 3)
    assert np.abs(bytes_ / 255 - pixels).max() <= 0.5 / 255 + 1e-7


def test_a_picture_in_colours_comes_back():
    pixels = np.random.default_rng(0).random((4, 6, 3)).astype(np.float32)
    image = Image(pixels, rows=2, columns=2, before=1)
    data = data_of(render_page([view(5, weights=softmax((1, 1, 5, 5)), image=image)], title="t", language="zh"))
    packed = data["views"][0]["image"]
    bytes_ = pixels_of(packed)
    assert packed["colours"] and packed["before"] == 1 and data["language"] == "zh"
    assert np.abs(bytes_ / 255 - pixels).max() <= 0.5 / 255 + 1e-7


def halves(packed, dim):
    return np.frombuffer(base64.b64decode(packed), "<f2").reshape(-1, dim)


def test_features_come_back_of_the_heads_that_fit():
    chance = np.random.default_rng(0)
    features = [(chance.standard_normal((3, 5, 4)), chance.standard_normal((3, 5, 4))) for _ in range(2)]
    features[0][0][1, 0] = [1e9, -np.inf, np.nan, 0.5]
    packed = data_of(render_page([view(features=features)], title="t"))["views"][0]["features"]
    assert sorted(packed["heads"]) == list("012345") and set(packed["dim"].values()) == {4}
    for head, both in packed["heads"].items():
        for part, given in zip(both, features[int(head) // 3], strict=True):
            if head != "1":
                np.testing.assert_allclose(halves(part, 4), given[int(head) % 3], rtol=1e-3, atol=1e-6)
    assert halves(packed["heads"]["1"][0], 4)[0].tolist() == [65504, -65504, 0, 0.5]
    room = data_of(render_page([view(features=features, start=(1, 1))], title="t", budget=1500))["views"][0]["features"]
    assert next(iter(room["heads"])) == "4" and len(room["heads"]) == 2
    assert data_of(render_page([view(features=[None, None])], title="t"))["views"][0]["features"] is None


def test_tables_hold_numbers_and_words():
    rows = [Row(0, None, "off", 1 / 3, float("nan"), [1]), Row(1, 2, "x" * 10_000, 0.0, 1.0, [])]
    found = data_of(render_page([view(effects=rows)], title="t"))["views"][0]["effects"]
    assert found[0] == {"layer": 0, "head": None, "change": "off", "loss": 0.333333, "vector": None}
    assert len(found[1]["change"]) == 200


def test_only_words_of_parts_are_merged():
    data = data_of(render_page([view(words=[(0, 1), (1, 3)])], title="t"))["views"][0]
    assert (data["words"], data["keyWords"]) == ([[1, 3]], [])


def test_a_word_in_context_is_cut_around_the_word():
    labels, marks = ["a" * 1000 + "word" + "b" * 1000, "word"], [(1000, 1004), (0, 4)]
    seen = Projection("word", labels, marks, np.zeros((1, 2, 2)), [1.0], np.array([[[1], [0]]]), np.ones((1, 2, 1)))
    data = data_of(render_page([view(projection=seen)], title="t"))["views"][0]["projection"]
    assert data["places"] == [["a" * 200, "word", "b" * 200], ["", "word", ""]]


@pytest.mark.parametrize(
    ("image", "error", "text"),
    [
        (
            Image(np.zeros((2, 2, 4)), 2, 3),
            ShapeError,
            r"floating point \[height, width\] or \[height, width, 3\], at ",
        ),
        (
            Image(np.zeros((2, 2)), 2, 2, before=1),
            ShapeError,
            "Image: rows × columns must have a part for each of the 5 keys after the first; got 2 × 2",
        ),
        (Image(np.zeros((2, 2), int), 2, 3), ShapeError, r"Image: pixels must be floating point .* got int64 \[2, 2\]"),
        (Image(np.full((2, 2), 2.0), 2, 3), ArgumentError, "Image: pixels must lie between 0 and 1; got 2.0 to 2.0"),
        (Image(np.full((2, 2), np.nan), 2, 3), ArgumentError, "Image: pixels must lie between 0 and 1; got nan to nan"),
        (
            Image(np.zeros((2, 2)), 2, 2),
            ShapeError,
            "Image: rows × columns must have a part for each of the 6 keys; got 2 × 2",
        ),
    ],
)
def test_pictures_that_are_refused(image, error, text):
    with pytest.raises(error, match=text):
        render_page([view(5, weights=softmax((1, 1, 5, 6)), keys=list("abcdef"), image=image)], title="t")


def test_a_small_budget_costs_exactness_and_says_so():
    weights = softmax((2, 2, 128, 128))
    exact, coarse = (
        data_of(render_page([view(128, weights=weights)], title="t", budget=budget))["views"][0]
        for budget in (2_800_000, 40_000)
    )
    assert exact["error"] < coarse["error"] < 0.05
    assert np.abs(decode(coarse) - weights).max() <= coarse["error"]
    assert sum(map(len, coarse["packed"])) <= 40_000


def test_a_diffuse_head_keeps_its_shades_beside_a_sharp_one():
    weights = np.stack([np.full((256, 256), 1 / 256, np.float32), softmax((256, 256), spread=6)])[None]
    data = data_of(render_page([view(256, weights=weights)], title="t", budget=60_000))["views"][0]
    np.testing.assert_allclose(decode(data)[0, 0], 1 / 256, rtol=0.05)


def test_layers_may_be_computed_when_asked_for():
    weights = softmax((3, 2, 9, 9))

    class Lazy(Sequence):
        asked = 0

        def __len__(self):
            return 3

        def __getitem__(self, layer):
            if layer >= 3:
                raise IndexError
            self.asked += 1
            return weights[layer]

    lazy = Lazy()
    page = render_page([view(9, weights=lazy)], title="t")
    assert page == render_page([view(9, weights=weights)], title="t")
    assert lazy.asked <= 12


@pytest.mark.slow
@pytest.mark.parametrize("spread", [1.0, 3.0])
def test_512_tokens_and_72_heads_fit_the_budget(tmp_path, spread):
    weights = softmax((6, 12, 512, 512), spread=spread)
    # The processor's time: what else runs beside the tests says nothing of this.
    start = time.process_time()
    size = write_page(tmp_path / "page.html", [view(512, weights=weights)], title="t")
    assert time.process_time() - start <= 3
    assert size == (tmp_path / "page.html").stat().st_size <= 3_000_000
    data = data_of((tmp_path / "page.html").read_text())["views"][0]
    assert np.abs(decode(data) - weights).max() <= data["error"] < 0.01


def test_hostile_text_adds_no_element():
    tame = Elements(render_page([view(len(HOSTILE))], title="t", subtitle="s"))
    page = render_page(
        [view(len(HOSTILE), title=HOSTILE[0] * 2, tokens=HOSTILE)], title=f"</title>{HOSTILE[0]}", subtitle=HOSTILE[0]
    )
    page.encode("utf-8")
    wild = Elements(page)
    assert [tag for tag, _ in wild.found] == [tag for tag, _ in tame.found]
    assert [attributes for attributes, _ in wild.all("script")] == [{"type": "application/json", "id": "data"}, {}]
    [(_, data)] = [script for script in wild.all("script") if script[0]]
    assert data.isascii() and not re.search(r"[<>&\x00-\x1f]", data)
    tokens = json.loads(data)["views"][0]["tokens"]
    assert tokens[:-1] == HOSTILE[:-1]
    assert tokens[-1] == "w" * 199 + "…"


def test_the_policy_allows_only_the_pages_own_script_and_style():
    elements = Elements(render_page([view()], title="t"))
    [policy] = [a["content"] for a, _ in elements.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    scripts = [text for attributes, text in elements.all("script") if not attributes]
    for rule, [text] in (("script-src", scripts), ("style-src", [text for _, text in elements.all("style")])):
        assert rules[rule] == f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert not any(name.startswith("on") or name == "style" for _, given in elements.found for name in given)


def test_the_page_names_no_address():
    page = render_page([view()], title="t")
    # The name of SVG, which looks like an address and is never asked for.
    page = page.replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert "http://" not in page and "https://" not in page and "@import" not in page and "url(" not in page
    assert {a["href"] for _, a in Elements(page).found if "href" in a} == {"data:,"}
    assert not [a for _, a in Elements(page).found if "src" in a]


def test_nothing_from_the_page_inserts_markup():
    forbidden = r"(inner|outer|insertAdjacent)HTML|document\.write|\beval\(|new Function|fetch\("
    assert not re.search(forbidden, bundle())


def test_every_part_of_the_script_is_joined():
    files = resources.files("qkv.lens.page").joinpath("script").iterdir()
    assert sorted([*PARTS, *OTHER_PARTS]) == sorted(file.name.removesuffix(".js") for file in files)


def test_writing_twice_replaces_a_page_of_qkvs_own(tmp_path):
    path = tmp_path / "page.html"
    write_page(path, [view()], title="first")
    path.chmod(0o640)
    write_page(path, [view()], title="second")
    assert "second" in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_a_foreign_file_is_refused_unless_told(tmp_path):
    path = tmp_path / "mine.html"
    path.write_text("<p>mine</p>")
    with pytest.raises(FileExistsError, match=r"write_page: path must be new or a page of qkv's own; got .*mine.html"):
        write_page(path, [view()], title="t")
    assert path.read_text() == "<p>mine</p>"
    write_page(path, [view()], title="t", overwrite=True)
    assert "qkv" in path.read_text()


def test_a_write_killed_half_way_leaves_the_old_page(tmp_path):
    path = tmp_path / "page.html"
    write_page(path, [view()], title="old")
    old = path.read_bytes()
    program = (
        "import os, sys, numpy as np\n"
        "from qkv.lens.page import Image, View, write_page\n"
        "os.fsync = lambda handle: os._exit(9)\n"
        "write_page(sys.argv[1], [View('new', ['a'], np.ones((1, 1, 1, 1), 'f4'))], title='new')\n"
    )
    source = Path(__file__).parents[3] / "src"
    run = subprocess.run([sys.executable, "-c", program, path], env={**os.environ, "PYTHONPATH": str(source)})
    assert run.returncode == 9
    assert path.read_bytes() == old


def test_a_failed_write_leaves_no_rubbish(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(FileError, match=r"write_page: path must be writable; got .*Permission denied"):
        write_page(tmp_path / "page.html", [view()], title="t")
    assert not list(tmp_path.iterdir())


def test_a_link_is_written_through(tmp_path):
    write_page(tmp_path / "real.html", [view()], title="t")
    (tmp_path / "link.html").symlink_to("real.html")
    write_page(tmp_path / "link.html", [view()], title="through")
    assert (tmp_path / "link.html").is_symlink() and "through" in (tmp_path / "real.html").read_text()


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("no/page.html", r"write_page: path must lie in a folder that exists; got '.*page\.html' \(create .*\)"),
        (".", r"write_page: path must be a file; got .* \(it is a folder or a device\)"),
        ("x" * 300, r"write_page: path must be writable; got .* \(File name too long\)"),
    ],
)
def test_paths_that_cannot_be_a_page(tmp_path, place, text):
    with pytest.raises(FileError, match=text):
        write_page(tmp_path / place, [view()], title="t")


def nan():
    weights = softmax((1, 2, 5, 5))
    weights[0, 1, 2, 3] = np.nan
    return weights


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"tokens": []}, ShapeError, "View: tokens must hold at least one token; got none"),
        ({"weights": []}, ShapeError, "View: weights must hold at least one layer; got none"),
        (
            {"weights": softmax((1, 1, 4, 5))},
            ShapeError,
            r"View: weights must be \[layers, heads, 5, 5\]; got \[1, 4, 5\] in layer 0",
        ),
        (
            {"weights": softmax((1, 5, 5))},
            ShapeError,
            r"got \[5, 5\] in layer 0 \(a row for each token, a column for each key\)",
        ),
        (
            {"weights": [softmax((2, 5, 5)), softmax((1, 5, 5))]},
            ShapeError,
            r"View: weights must have as many heads in each layer; got \[2, 1\]",
        ),
        (
            {"weights": np.ones((1, 1, 5, 5), int)},
            KindError,
            r"View: weights must be floating point; got int64 \(use astype",
        ),
        ({"weights": nan()}, ArgumentError, r"View: weights must lie between 0 and 1; got NaN \(layer 0, head 1; pass"),
        ({"weights": -softmax((1, 1, 5, 5))}, ArgumentError, "View: weights must lie between 0 and 1; got -"),
        ({"query": 5}, ArgumentError, r"View: query must lie in 0\.\.4; got 5 \(counted from 0\)"),
        ({"unknown": [5]}, ArgumentError, r"View: unknown must number tokens, 0\.\.4; got \[5\]"),
        ({"words": [(3, 6)]}, ArgumentError, r"View: words must be ranges in order within 0\.\.5; got \[\(3, 6\)\]"),
        ({"words": [(2, 4), (1, 3)]}, ArgumentError, r"View: words must be ranges in order within 0\.\.5"),
        ({"key_words": [(1, 1)]}, ArgumentError, r"View: key_words must be ranges in order .*; got \[\(1, 1\)\]"),
        ({"part": "middle"}, ArgumentError, "View: part must be one of encoder, decoder, cross; got 'middle'"),
        (
            {"features": [None]},
            ShapeError,
            "View: features must be of 2 layers; got 1",
        ),
        (
            {"features": [None, (np.ones((3, 5, 4)), np.ones((3, 4, 4)))]},
            ShapeError,
            r"View: features must be \[3, 5, dim\] and \[3, 5, dim\]; got \[3, 5, 4\], \[3, 4, 4\] in layer 1",
        ),
        (
            {"features": [None, (np.ones((3, 5, 4), int), np.ones((3, 5, 4)))]},
            KindError,
            "View: features must be floating point; got int64, float64",
        ),
        (
            {"projection": places(1)},
            ArgumentError,
            "Projection: labels must be of 2 to 1,000 places; got 1",
        ),
        (
            {"projection": places(marks=[])},
            ShapeError,
            "Projection: marks must be one for each of the 2 labels; got 0",
        ),
        (
            {"projection": places(points=np.zeros((2, 2, 2)))},
            ShapeError,
            r"Projection: points, nearest and cosines must be \[1, 2, 2\], \[1, 2, k\] and \[1, 2, k\]; got \[\[2, 2,",
        ),
        (
            {"projection": places(cosines=np.full((1, 2, 1), np.nan))},
            ArgumentError,
            "Projection: points and cosines must be finite; got NaN or inf",
        ),
        (
            {"start": (0, 9)},
            ArgumentError,
            r"View: start must be a layer and a head; got \(0, 9\) \(2 layers of 3 heads",
        ),
    ],
)
def test_views_that_are_refused(changes, error, text):
    with pytest.raises(error, match=text):
        render_page([view(**changes)], title="t")


@pytest.mark.parametrize(
    ("views", "options", "error", "text"),
    [
        ([], {"title": "t"}, ArgumentError, "render_page: views must hold at least one view; got none"),
        (
            [view()],
            {"title": "t", "budget": 10},
            ArgumentError,
            "render_page: budget must hold 2 layers of 3 heads over 5 tokens; got 10 bytes",
        ),
    ],
)
def test_pages_that_are_refused(views, options, error, text):
    with pytest.raises(error, match=text):
        render_page(views, **options)
