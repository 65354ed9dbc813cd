"""The server in a browser: type, compare, follow a link, zoom; what it shows equals the model's numbers."""

import re

import pytest
from lens.serve.tiny import MODELS

from qkv.lens.look import look_at

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")


@pytest.fixture(scope="module")
def visitor(browser, server):
    """A browser that has opened the link, once for all tests."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, locale="en-US")
    context.new_page().goto(server.open())
    server.link = server.next_link()
    yield context
    context.close()


@pytest.fixture
def page(visitor, server):
    complaints, asked = [], []
    made = visitor.new_page()
    made.on("console", lambda message: complaints.append(message.text))
    made.on("pageerror", lambda error: complaints.append(str(error)))
    made.on("request", lambda request: asked.append(request.url))
    made.goto(server.root)
    yield made
    made.close()
    # The browser itself writes that a model has refused a text.
    assert [text for text in complaints if "422" not in text] == []
    assert [url for url in asked if not url.startswith((server.root, "data:"))] == []


def frame_of(page, side=0):
    return page.frame_locator("iframe").nth(side)


def bars(page, side=0):
    return [tuple(item.inner_text().split("\n")) for item in frame_of(page, side).locator("#bars li").all()]


def wait_for_tokens(page, words, side=0):
    playwright.expect(frame_of(page, side).locator("#tokens .token")).to_have_text(words)
    playwright.expect(frame_of(page, side).locator("#bars li")).to_have_count(min(10, len(words)))


def assert_row(shown, weights, words):
    order = sorted(range(len(words)), key=lambda i: -float(weights[i]))[:10]
    assert [label for label, _ in shown] == [words[i] for i in order]
    for (_, text), i in zip(shown, order, strict=True):
        assert abs(float(text.strip("<%")) - 100 * float(weights[i])) <= 0.012


def open_first(page, words):
    """Go from the telling head that is open first to layer 0, head 0."""
    found = look_at(MODELS["first"](" ".join(words)))
    for name, steps in (("layer", found.layer), ("head", found.head)):
        playwright.expect(frame_of(page).locator(f"#{name}")).to_have_text(f"{name.title()} {steps}")
        for _ in range(steps):
            frame_of(page).locator(f"#{name}-back").click()
    if found.layer or found.head:
        # The page around it has heard of the last step.
        page.wait_for_function("() => /layer%3A0\\b.*head%3A0\\b/.test(location.hash)")


def expected(model, words, layer, head, query):
    return MODELS[model](" ".join(words)).maps[layer].row(query)[0, head]


def test_typing_changes_the_map_and_its_numbers_are_the_models(page):
    wait_for_tokens(page, ["the", "cat", "sat"])
    open_first(page, ["the", "cat", "sat"])
    page.locator("textarea").first.fill("")
    page.keyboard.type("a dog ran away", delay=5)
    words = ["a", "dog", "ran", "away"]
    wait_for_tokens(page, words)
    frame_of(page).locator('#tokens .token[data-token="2"]').click()
    assert_row(bars(page), expected("first", words, 0, 0, 2), words)
    frame_of(page).locator("#layer-on").click()
    frame_of(page).locator("#head-back").click()
    playwright.expect(frame_of(page).locator("#head")).to_have_text("Head 2")
    assert_row(bars(page), expected("first", words, 1, 2, 2), words)
    # The next letter keeps the layer, the head and the token.
    page.locator("textarea").first.press_sequentially("s")
    words[-1] = "aways"
    wait_for_tokens(page, words)
    assert frame_of(page).locator("#layer").inner_text() == "Layer 1"
    assert_row(bars(page), expected("first", words, 1, 2, 2), words)


def test_a_link_reproduces_two_models_side_by_side(page, visitor):
    page.locator("#compare").click()
    words = ["the", "cat", "sat"]
    wait_for_tokens(page, words, side=1)
    assert page.locator("select").nth(1).input_value() == "second"
    # A head chosen on one side opens on the other.
    frame_of(page, 0).locator("#layer-on").click()
    playwright.expect(frame_of(page, 1).locator("#layer")).to_have_text("Layer 1")
    frame_of(page, 1).locator('#tokens .token[data-token="1"]').click()
    assert_row(bars(page, 1), expected("second", words, 1, 0, 1), words)
    page.wait_for_function("() => location.hash.includes('query%3A1')")
    other = visitor.new_page()
    other.goto(page.url)
    wait_for_tokens(other, words, side=1)
    assert bars(other, 0) == bars(page, 0) and bars(other, 1) == bars(page, 1)
    assert frame_of(other, 1).locator("#layer").inner_text() == "Layer 1"
    other.close()


def test_a_long_map_is_zoomed_to_its_weights(page):
    wait_for_tokens(page, ["the", "cat", "sat"])
    open_first(page, ["the", "cat", "sat"])
    page.locator("textarea").first.fill("long 3000")
    area = frame_of(page).locator("#area")
    area.wait_for()
    handle = page.locator("iframe").first.element_handle().content_frame()
    handle.wait_for_function("() => document.documentElement.dataset.read === '1'")
    weights = MODELS["first"]("long 3000").maps[0].dense()[0, 0]
    box = area.bounding_box()
    level = int(handle.evaluate("document.documentElement.dataset.level"))
    assert level >= 2
    page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + box["height"] * 0.6)
    reading = frame_of(page).locator("#reading")
    playwright.expect(reading).to_have_text(re.compile("highest"))
    numbers = re.fullmatch(
        r"queries (\d+)–(\d+) × keys (\d+)–(\d+): mean ([\d.]+)%, highest ([\d.]+)%", reading.inner_text()
    ).groups()
    first, last, left, right = map(int, numbers[:4])
    box_of = weights[first : last + 1, left : right + 1]
    assert last - first == right - left == 2**level - 1
    assert float(numbers[4]) == pytest.approx(100 * float(box_of.mean()), rel=0.06)
    assert float(numbers[5]) == pytest.approx(100 * float(box_of.max()), rel=0.006)
    for _ in range(9):
        page.mouse.wheel(0, -240)
    handle.wait_for_function(
        "() => (({ level, read }) => level === '0' && read === '1')(document.documentElement.dataset)"
    )
    playwright.expect(reading).to_have_text(re.compile("→"))
    query, key, value = re.fullmatch(r"(\d+) \S*w\d+\S* → (\d+) \S*w\d+\S*: <?([\d.]+)%", reading.inner_text()).groups()
    assert float(value) == pytest.approx(100 * float(weights[int(query), int(key)]), rel=0.06, abs=2e-3)
    area.press("Shift+ArrowRight")
    playwright.expect(frame_of(page).locator("#head")).to_have_text("Head 1")
    area.press("0")
    # The head before was read to its end as well: until this one is, its sign may still stand.
    playwright.expect(frame_of(page).locator("#exact")).to_contain_text("Exact", timeout=20_000)


def test_all_heads_of_a_long_map_stand_beside_it(page):
    wait_for_tokens(page, ["the", "cat", "sat"])
    open_first(page, ["the", "cat", "sat"])
    page.locator("textarea").first.fill("long 3001")
    frame_of(page).locator("#area").wait_for()
    handle = page.locator("iframe").first.element_handle().content_frame()
    handle.wait_for_function("() => document.documentElement.dataset.glanced === '6'")
    heads = frame_of(page).locator("#heads")
    assert heads.get_attribute("aria-label").startswith("2 layers of 3 heads as small maps. Open: layer 0, head 0.")
    # The last of them: layer 1, head 2.
    box = heads.bounding_box()
    page.mouse.click(box["x"] + box["width"] - 12, box["y"] + box["height"] - 12)
    playwright.expect(frame_of(page).locator("#head")).to_have_text("Head 2")
    assert frame_of(page).locator("#layer").inner_text() == "Layer 1"
    # Each is drawn with shades of its own.
    colours = handle.evaluate(
        """() => {
            const canvas = document.getElementById("heads");
            const context = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d");
            context.drawImage(canvas, 0, 0);
            const { data } = context.getImageData(canvas.width - 40, canvas.height - 40, 30, 30);
            return new Set(new Uint32Array(data.buffer)).size;
        }"""
    )
    assert colours > 5


def test_two_sides_on_a_phone_are_as_tall_as_they_are_and_no_wider(page):
    page.set_viewport_size({"width": 400, "height": 860})
    wait_for_tokens(page, ["the", "cat", "sat"])
    page.locator("#compare").click()
    wait_for_tokens(page, ["the", "cat", "sat"], 1)
    wide = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    tall = "() => document.documentElement.scrollHeight <= innerHeight + 1 && innerHeight > 500"
    assert page.evaluate(wide)
    for side in (0, 1):
        inside = page.locator("iframe").nth(side).element_handle().content_frame()
        inside.wait_for_function(tall)
        assert inside.evaluate(wide)


def test_the_language_and_the_theme_reach_every_part(page):
    wait_for_tokens(page, ["the", "cat", "sat"])
    page.locator("#language").click()
    assert page.locator("#compare").inner_text() == "对比"
    playwright.expect(frame_of(page).locator("#layer")).to_have_text("第 0 层")
    page.locator("#theme").click()
    inside = page.locator("iframe").first.element_handle().content_frame()
    theme = page.evaluate("document.documentElement.dataset.theme")
    assert theme == "dark"
    inside.wait_for_function("() => document.documentElement.dataset.theme === 'dark'")


def test_an_error_is_shown_as_text_and_typing_on_mends_it(page):
    page.locator("textarea").first.fill("fail <img src=x onerror=alert(1)>")
    state = page.locator(".state").first
    playwright.expect(state).to_have_text("first could not read this: RuntimeError: a model of others")
    page.locator("textarea").first.fill("fine again")
    wait_for_tokens(page, ["fine", "again"])
    assert page.locator("select option").nth(2).text_content() == "<b>&third"
