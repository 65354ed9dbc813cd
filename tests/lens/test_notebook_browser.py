"""Two pages in one notebook, as iframes and as widgets: each is itself, and neither touches what is around it."""

import json

import numpy as np
import pytest

from qkv.lens.notebook import SANDBOX, WIDGET, show
from qkv.lens.page import View

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

WORDS = [["the", "cat", "sat"], ["</script><img src=x onerror=parent.pwned=1>", "b"]]

NOTEBOOK = """
<!doctype html><title>notebook</title><body>
<script type="module">
const page = %s, sandbox = %s;
window.models = page.map((one) => {
  const state = { _page: one, _height: 600, _sandbox: sandbox, layer: 0, head: 0, query: -1, key: -1 }, heard = {};
  return {
    state, heard, get: (name) => state[name], save_changes() {},
    set(name, value) { state[name] = value; },
    on: (names, act) => { heard[names] = act; }, off: (names) => { delete heard[names]; },
  };
});
const made = %s.replace("export default", "return");
const { render } = new Function(made)();
window.ends = window.models.map((model) => {
  const el = document.createElement("div");
  document.body.append(el);
  return render({ model, el });
});
</script>
"""


def view(words, seed=0):
    weights = np.random.default_rng(seed).random((2, 2, len(words), len(words)), dtype=np.float32)
    return View(" ".join(words), words, weights / weights.sum(-1, keepdims=True))


@pytest.fixture
def visit(browser, tmp_path):
    complaints, asked = [], []
    page = browser.new_page()
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("request", lambda request: asked.append(request.url))

    def open_page(content):
        path = tmp_path / "notebook.html"
        path.write_text(content, encoding="utf-8")
        page.goto(path.as_uri())
        return page

    yield open_page
    page.close()
    assert complaints == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "about:srcdoc"))] == []


def tokens(page, number):
    return page.frame_locator("iframe").nth(number).locator("#tokens .token")


def test_two_iframes_in_one_page(visit):
    frames = [show(view(words), widget=False)._repr_html_() for words in WORDS]
    page = visit(f"<!doctype html><title>notebook</title>{''.join(frames)}")
    for number, words in enumerate(WORDS):
        playwright.expect(tokens(page, number)).to_have_text(words)
    page.frame_locator("iframe").nth(0).locator("#head-on").click()
    playwright.expect(page.frame_locator("iframe").nth(0).locator("#head")).to_have_text("Head 1")
    assert page.frame_locator("iframe").nth(1).locator("#head").inner_text() == "Head 0"
    assert page.evaluate("() => window.pwned") is None


def test_two_widgets_carry_where_they_are_open(visit):
    pages = [show(view(words), widget=False).page for words in WORDS]
    inert = [json.dumps(one).replace("<", "\\u003c") for one in (pages, SANDBOX, WIDGET)]
    page = visit(NOTEBOOK % tuple(inert))
    for number, words in enumerate(WORDS):
        playwright.expect(tokens(page, number)).to_have_text(words)
    page.frame_locator("iframe").nth(0).locator("#layer-on").click()
    page.wait_for_function("() => window.models[0].state.layer === 1")
    tokens(page, 0).nth(2).click()
    page.wait_for_function("() => window.models[0].state.query === 2")
    assert page.evaluate("() => [models[1].state.layer, models[1].state.query]") == [0, 1]
    page.evaluate("() => { models[1].state.head = 1; models[1].heard['change:layer change:head'](); }")
    playwright.expect(page.frame_locator("iframe").nth(1).locator("#head")).to_have_text("Head 1")
    assert page.frame_locator("iframe").nth(0).locator("#head").inner_text() == "Head 0"
    page.evaluate("() => ends.forEach((end) => end())")
    assert page.evaluate("() => [Object.keys(models[0].heard).length, window.pwned ?? null]") == [0, None]
