"""A page shows itself in a notebook, as a widget or in an iframe, and needs nothing from outside."""

import importlib.util
import re
from html.parser import HTMLParser

import numpy as np
import pytest

import qkv
from qkv.errors import ArgumentError, KindError, UnsupportedError
from qkv.lens import notebook
from qkv.lens.notebook import WIDGET, Framed, show
from qkv.lens.page import View
from qkv.lens.reading import read

needs_anywidget = pytest.mark.skipif(importlib.util.find_spec("anywidget") is None, reason="anywidget is not installed")
HOSTILE = ["</script>", '"><img src=x onerror=alert(1)>', "'", "&quot;"]


def view(tokens=("a", "b", "c"), title="t"):
    count = len(tokens)
    return View(title, list(tokens), np.full((1, 2, count, count), 1 / count, np.float32), start=(0, 1))


class Frames(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.found, self.tags = [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag == "iframe":
            self.found.append(dict(attributes))


def test_an_iframe_holds_the_whole_page():
    shown = show(view(HOSTILE, title=HOSTILE[1]), widget=False, height=500)
    made = Frames(shown._repr_html_())
    assert made.tags == ["iframe"]
    (frame,) = made.found
    assert frame["srcdoc"] == shown.page and "500px" in frame["style"]
    assert frame["sandbox"] == "allow-scripts allow-downloads"
    assert "src" not in frame and shown._mime_() == ("text/html", shown._repr_html_())
    inside = Frames(frame["srcdoc"])
    assert inside.tags.count("script") == 2 and "img" not in inside.tags
    assert not re.search(r"https?://(?!www.w3.org/2000/svg)", frame["srcdoc"])


def test_a_reading_shows_itself(model, tokenizer, monkeypatch):
    reading = read(model, tokenizer, "the cat")
    monkeypatch.setattr(notebook.importlib.util, "find_spec", lambda name: None)
    found = reading._repr_mimebundle_(include=None, exclude=None)
    assert set(found) == {"text/plain", "text/html"}
    (frame,) = Frames(found["text/html"]).found
    assert '"the","cat"' in frame["srcdoc"]
    assert isinstance(show([view(), view()]), Framed) and isinstance(qkv.show(reading), Framed)


@needs_anywidget
def test_a_widget_carries_the_page_and_where_it_is_open():
    shown = show(view())
    assert (shown.layer, shown.head) == (0, 1) and shown._esm == WIDGET
    page = shown._page
    shown.head = 0
    assert page == shown._page == show(view(), widget=False).page
    bundle, _ = shown._repr_mimebundle_()
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"] == shown.model_id
    assert show(view()).model_id != shown.model_id
    shown.close()


def test_the_widgets_script_asks_nobody():
    assert not re.search(r"https?:|//[a-z]|import\s*\(|import .* from|fetch|innerHTML|eval", WIDGET)


@pytest.mark.unhooked
@pytest.mark.parametrize(
    ("what", "options", "error", "text"),
    [
        (3, {}, KindError, r"^show: what must be a reading, what was watched, or views; got int$"),
        ("text", {}, KindError, r"^show: what must be a reading, what was watched, or views; got str$"),
        ([], {}, KindError, r"^show: what must be a reading, what was watched, or views; got list$"),
        (view(), {"height": 10}, ArgumentError, r"^show: height must be an integer >= 100; got 10 \(pixels\)$"),
        (view(), {"height": "5em"}, ArgumentError, r"^show: height must be an integer >= 100; got '5em' \(pixels\)$"),
    ],
)
def test_what_cannot_be_shown_is_said(what, options, error, text):
    with pytest.raises(error, match=text):
        show(what, **options)


def test_a_widget_without_anywidget_is_an_error(monkeypatch):
    monkeypatch.setattr(notebook.importlib.util, "find_spec", lambda name: None)
    text = r"^show: anywidget must be installed; got no anywidget \(pip install 'qkv\[notebook\]', or widget=False\)$"
    with pytest.raises(UnsupportedError, match=text):
        show(view(), widget=True)
