"""The views beside the map: what each shows, in numbers given, and what hostile text cannot do in any of them."""

import re
import struct
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, replace

import numpy as np
import pytest

from qkv.lens.ablate import Loss, Prediction, Vector
from qkv.lens.heads import Head
from qkv.lens.page import Image, Projection, View
from qkv.lens.page.build import part

PWN = "</script><img src=x onerror=\"window.__pwned=1;alert(1)\"><svg onload='window.__pwned=1'>"
HOSTILE = [PWN, "", "\0", "\ud800", "שלום", "\u202eevil", "👩‍👩‍👧", "w" * 10_000_000, "]]>", "\u2028", "&lt;", "\uffff"]
TOKENS = ["[CLS]", "un", "##believ", "##able", "mice", "[SEP]"]
SVG = "{http://www.w3.org/2000/svg}"


@dataclass(frozen=True)
class Habit:
    layer: int
    head: int
    entropy: float
    previous: float
    unheard_of: float


@dataclass(frozen=True)
class Effect:
    layer: int
    head: int | None
    change: str
    loss: float


def attention(seed, queries, keys, layers=2, heads=3, dim=4):
    """Features [heads, tokens, dim] of each layer, and the weights that they make."""
    chance = np.random.default_rng(seed)
    features = [tuple(chance.standard_normal((heads, count, dim)) for count in (queries, keys)) for _ in range(layers)]
    scores = np.stack([query @ key.swapaxes(-1, -2) for query, key in features])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return features, (weights / weights.sum(-1, keepdims=True)).astype(np.float32)


def projection(word="mice", labels=("mice run", "a mice", "mice, mice")):
    points = np.array([[[0, 0], [1, 0], [0, 2]], [[3, 1], [0, 0], [1, 1]]])
    nearest, cosines = np.array([[[1], [0], [1]], [[2], [2], [0]]]), np.full((2, 3, 1), 0.75)
    return Projection(word, labels, [(0, 4), (2, 6), (0, 4)], points, [0.5, 0.9], nearest, cosines)


def full_view(tokens=TOKENS, **changes):
    """A view of everything that a page can show."""
    features, weights = attention(0, len(tokens), len(tokens))
    heads = [(layer, head) for layer in range(2) for head in range(3)]
    given = {
        "features": features,
        "words": [(1, 4)],
        "habits": [
            Habit(*at, entropy, 0.1 * i, -i)
            for i, (at, entropy) in enumerate(zip(heads, [2, 1, 3, 0.5, 4, 5], strict=True))
        ],
        "effects": [Effect(*at, "off", 1.5 - i) for i, at in enumerate(heads)] + [Effect(1, None, PWN, 9.0)],
        "projection": projection(),
        "query": 4,
    }
    return View(**{"title": "a text", "tokens": tokens, "weights": weights, "start": (1, 2), **given, **changes})


def group(source=("猫", "追", "老鼠"), target=("A", "cat", "chases", "mice")):
    lengths = {"cross": (target, source), "encoder": (source, source), "decoder": (target, target)}
    return [
        View("猫追老鼠", own, attention(i, len(own), len(keys))[1], keys=keys, group="1", part=part, query=0)
        for i, (part, (own, keys)) in enumerate(lengths.items())
    ]


def open_tab(page, name):
    page.locator(f"#tab-{name}").click()
    assert page.locator("#panel").get_attribute("data-tab") == name


def percents(text):
    return [float(number) for number in re.findall(r"([\d.]+)%", text)]


def settle(page):
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def test_tabs_are_of_what_is_there_and_answer_to_the_keyboard(visit):
    names = "() => [...document.querySelectorAll('#tabs button')].map((tab) => tab.dataset.name)"
    _, weights = attention(0, 6, 6)
    page = visit([View("plain", TOKENS, weights), full_view(), *group()])
    # A word in context is of the page, not of a sentence.
    assert page.evaluate(names) == ["map", "lines", "projection"]
    page.keyboard.press("]")
    page.wait_for_selector('html[data-drawn="1"]')
    assert page.evaluate(names) == ["map", "lines", "pair", "projection", "habits", "effects"]
    page.locator("#tab-map").focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("() => document.activeElement.id") == "tab-lines"
    page.keyboard.press("End")
    assert page.locator("#tab-effects").get_attribute("aria-selected") == "true"
    assert page.locator("#panel").get_attribute("aria-labelledby") == "tab-effects"
    page.keyboard.press("]")
    page.wait_for_selector('html[data-drawn="2"]')
    assert page.evaluate(names) == ["map", "lines", "alignment", "projection"]
    assert page.locator("#tab-map").get_attribute("aria-selected") == "true"
    assert page.locator("#merge").is_hidden()


def test_lines_of_one_token_and_of_several_heads(visit):
    view = full_view()
    page = visit([view])
    open_tab(page, "lines")
    page.locator("#panel-lines .stage").focus()
    for _ in range(3):
        page.keyboard.press("ArrowDown")
    said = page.locator("#lines-reading").inner_text()
    row = np.sort(view.weights[1, 2, 2])[::-1][:5]
    assert said.startswith("##believ looks at: ") and percents(said) == pytest.approx(100 * row, abs=0.007)
    page.keyboard.press("ArrowRight")
    said = page.locator("#live").inner_text()
    assert said.startswith("##believ is looked at by: ")
    assert percents(said) == pytest.approx(100 * np.sort(view.weights[1, 2, :, 2])[::-1][:5], abs=0.007)

    page.locator("#lines-heads button").click()
    page.keyboard.press("Shift+ArrowLeft")
    page.wait_for_function("() => document.querySelectorAll('#lines-heads button').length === 2")
    said = page.locator("#lines-reading").inner_text()
    assert said.startswith("layer 1, head 2: ") and " · layer 1, head 1: " in said
    page.locator("#heads").click(modifiers=["Control"], position={"x": 40, "y": 40})
    page.wait_for_function("() => document.querySelectorAll('#lines-heads button').length === 3")
    box = page.locator("#panel-lines canvas").bounding_box()
    page.mouse.move(box["x"] + 30, box["y"] + 38)
    settle(page)
    assert "layer 1, head 1: un looks at: " in page.locator("#lines-reading").inner_text()


def test_features_sum_to_the_score(visit):
    view = full_view()
    page = visit([view])
    open_tab(page, "pair")
    query, key = (part[2] for part in view.features[1])
    page.locator("#pair-query").select_option("1")
    page.locator("#pair-key").select_option("5")
    products = query[1] * key[5]
    said = page.locator("#pair-reading").inner_text().replace("−", "-")
    score = float(re.search(r"is (-?[\d.]+),", said)[1])
    assert score == pytest.approx(products.sum(), abs=0.01)
    assert percents(said) == pytest.approx([100 * view.weights[1, 2, 1, 5]], abs=0.007)
    page.locator("#pair-sort").click()
    page.locator("#panel-pair .stage").focus()
    for _ in range(4):
        page.keyboard.press("ArrowLeft")
    feature, *numbers = re.findall(r"-?[\d.]*\d", page.locator("#live").inner_text().replace("−", "-"))
    largest = int(np.abs(products).argmax())
    assert int(feature) == largest
    expected = [query[1][largest], key[5][largest], products[largest], products[largest]]
    assert [float(number) for number in numbers] == pytest.approx(expected, abs=0.01)


def test_features_that_do_not_fit_are_left_out_and_it_is_said(visit):
    tokens = [f"t{i}" for i in range(60)]
    features, weights = attention(0, 60, 60, dim=64)
    page = visit([View("long", tokens, weights, start=(1, 0), features=features)], budget=130_000)
    open_tab(page, "pair")
    assert page.locator("#pair-held").inner_text().startswith("The page holds queries and keys of L1 H0.")
    page.keyboard.press("Shift+ArrowRight")
    page.wait_for_function("() => document.getElementById('pair-reading').innerText.includes('left out')")


def test_the_alignment_marks_a_token_in_all_maps(visit):
    views = group()
    page = visit(views)
    open_tab(page, "alignment")
    page.locator("#panel-alignment .stage").focus()
    page.keyboard.press("ArrowDown")
    said = page.locator("#live").inner_text()
    assert said.startswith("cat looks at: ")
    assert percents(said) == pytest.approx(100 * np.sort(views[0].weights[0, 0, 1])[::-1], abs=0.007)
    page.keyboard.press("ArrowRight")
    page.wait_for_function("() => document.getElementById('head').innerText === 'Head 1'")
    said = page.locator("#alignment-reading").inner_text()
    assert percents(said) == pytest.approx(100 * np.sort(views[0].weights[0, 1, 1])[::-1], abs=0.007)


def test_a_word_in_context(visit):
    page = visit([full_view()])
    open_tab(page, "projection")
    assert "90% of the variance" in page.locator("#projection-method").inner_text()
    assert page.locator("#nearest li").all_inner_texts() == ["mice, mice\n0.750"]
    page.locator("#panel-projection .stage").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#projection-shown").inner_text() == "a mice"
    assert page.locator("#projection-shown mark").inner_text() == "mice"
    page.locator("#projection-layer").fill("0")
    assert page.locator("#projection-layer-name").inner_text() == "before any attention"
    assert "50% of the variance" in page.locator("#projection-method").inner_text()
    page.locator("#nearest button").click()
    assert page.locator("#projection-shown").inner_text() == "mice run"


def test_heads_are_sorted_by_each_habit_and_open(visit):
    page = visit([full_view()])
    open_tab(page, "habits")

    def rows():
        return page.locator("#panel-habits tbody th").all_inner_texts()

    page.get_by_role("button", name="Entropy").click()
    assert rows()[:3] == ["Layer 1 · Head 0", "Layer 0 · Head 1", "Layer 0 · Head 0"]
    assert page.locator("th[aria-sort]").get_attribute("aria-sort") == "ascending"
    page.get_by_role("button", name="Previous").click()
    assert rows()[0] == "Layer 1 · Head 2"
    page.get_by_role("button", name="Previous").click()
    assert rows()[0] == "Layer 0 · Head 0"
    # A number that this page has no name for is shown by its own.
    assert "unheard of" in page.locator("#panel-habits thead").inner_text()
    page.locator("#panel-habits tbody tr").nth(1).click()
    assert page.locator("#panel").get_attribute("data-tab") == "map"
    assert (page.locator("#layer").inner_text(), page.locator("#head").inner_text()) == ("Layer 0", "Head 1")


def test_effects_stand_beside_their_patterns(visit):
    page = visit([full_view()])
    open_tab(page, "effects")
    page.get_by_role("button", name="loss").click()
    rows = page.locator("#panel-effects tbody tr")
    assert rows.nth(0).locator("th, td").all_inner_texts() == ["Layer 1", "9.00", PWN]
    assert rows.nth(1).locator("th, td").all_inner_texts() == ["Layer 0 · Head 0", "1.50", "off"]
    assert (rows.nth(0).locator("canvas").count(), rows.nth(1).locator("canvas").count()) == (0, 1)


def test_what_a_change_is_measured_by_is_said_in_both_languages(visit):
    page = visit([replace(full_view(), measured=Vector.unit)])
    open_tab(page, "effects")
    assert "Change: 1 − the cosine of the vector" in page.locator("#effects-note").inner_text()
    page.locator("#language").click()
    assert "变化：1 − 向量与原来的余弦" in page.locator("#effects-note").inner_text()
    assert {Prediction.unit, Vector.unit, Loss.unit} == set(re.findall('^  "(.+)": {', part("script/effects.js"), re.M))


def test_a_page_without_a_title_is_named_in_both_languages(visit):
    page = visit([full_view()], title=None)
    assert page.locator("#title").inner_text() == "Attention"
    page.locator("#language").click()
    assert page.locator("#title").inner_text() == "注意力"


def test_a_number_that_is_exactly_nothing_is_so_however_coarse_the_weights(visit):
    view = full_view()
    rows = [Head(0, 0, 1.0, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0, 1.0)]
    page = visit([replace(view, habits=rows, features=(), effects=())], budget=460)
    open_tab(page, "habits")
    shown = page.locator("#panel-habits tbody").inner_text().split()
    assert float(re.search(r"±([\d.]+)", page.locator("#exact").inner_text())[1]) > 0.01
    assert "0%" in shown and "50.0%" in shown and not any("<" in one for one in shown)


def test_words_are_merged(visit):
    view = full_view()
    page = visit([view])
    page.locator("#merge").click()
    page.wait_for_function("() => document.querySelectorAll('#tokens .token').length === 4")
    assert page.locator("#tokens .token").all_inner_texts() == ["[CLS]", "unbelievable", "mice", "[SEP]"]
    head = view.weights[1, 2]
    merged = np.concatenate([head[:, :1], head[:, 1:4].sum(1, keepdims=True), head[:, 4:]], axis=1)
    merged = np.concatenate([merged[:1], merged[1:4].mean(0, keepdims=True), merged[4:]])
    for query in range(4):
        page.locator(f'#tokens .token[data-token="{query}"]').hover()
        shown = percents(page.locator("#bars").inner_text())
        assert shown == pytest.approx(100 * np.sort(merged[query])[::-1], abs=0.06)
    page.keyboard.press("ArrowRight")
    assert page.locator("#head").inner_text() == "Head 0"
    open_tab(page, "pair")
    assert page.locator("#pair-query option").count() == 6
    assert page.locator("#merge").is_hidden()
    open_tab(page, "map")
    page.locator("#merge").click()
    page.wait_for_function("() => document.querySelectorAll('#tokens .token').length === 6")
    assert page.locator("#head").inner_text() == "Head 0"


def saved(page, kind):
    with page.expect_download() as download:
        page.locator(f"#export-{kind}").click()
    return download.value.path().read_bytes()


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_every_view_is_saved(visit, kind):
    # Chromium holds back a page that saves more than ten files at once.
    image = Image(np.random.default_rng(0).random((4, 6)), rows=2, columns=3)
    page = visit([full_view(keys=list("abcdef"), image=image), *group()])
    names = "(all) => all.map((one) => one.dataset.name ?? one.value)"
    found = []
    for sentence in ("0", "1"):
        page.locator("#views").select_option(sentence)
        page.wait_for_selector(f'html[data-drawn="{sentence}"]')
        tabs = page.locator("#tabs button").evaluate_all(names)
        for tab in tabs if sentence == "0" else ["alignment"]:
            open_tab(page, tab)
            for picture in page.locator("#export-what option").evaluate_all(names):
                if page.locator("#export-what").is_visible():
                    page.locator("#export-what").select_option(picture)
                page.locator("#export-width").fill("700")
                (assert_drawing if kind == "svg" else assert_image)(saved(page, kind), picture)
                found.append(picture)
    assert found == ["over", "image", "heads", "map", "lines", "pair", "words", "habits", "effects", "alignment"]


def assert_drawing(written, picture):
    """It is of shapes and of text that is text, and as wide as asked."""
    drawn = ElementTree.fromstring(written)
    assert drawn.tag == f"{SVG}svg" and drawn.get("width") == "700"
    assert {one.tag.removeprefix(SVG) for one in drawn.iter()} <= {"svg", "g", "path", "rect", "text"}
    assert len([one for name in ("path", "rect") for one in drawn.iter(SVG + name)]) > 3
    texts = {(one.text or "").strip("\u2068\u2069") for one in drawn.iter(f"{SVG}text")}
    assert picture != "map" or set(TOKENS) <= texts
    assert picture == "image" or texts


def assert_image(written, picture):
    """It is as wide as asked."""
    assert written[:8] == b"\x89PNG\r\n\x1a\n" and struct.unpack(">I", written[16:20]) == (700,), picture


def test_both_languages_name_everything(visit):
    english, chinese = (visit([full_view(), *group()], locale=locale) for locale in ("en-US", "zh-CN"))
    for page in (english, chinese):
        for sentence in ("0", "1"):
            page.locator("#views").select_option(sentence)
            page.wait_for_selector(f'html[data-drawn="{sentence}"]')
            for tab in page.locator("#tabs button").all():
                tab.click()
                shown = page.locator("#tabs, .toolbar, #panel").all_inner_texts()
                has_chinese = re.search("[\u4e00-\u9fff]", re.sub("猫|追|老鼠", "", " ".join(shown))) is not None
                assert has_chinese == (page is chinese), tab.inner_text()
    chinese.locator("#language").click()
    assert chinese.locator("#tab-map").inner_text() == "Map"


def test_every_control_has_a_name_for_screen_readers(visit):
    page = visit([full_view(), *group()])
    nameless = """() => [...document.querySelectorAll("button, select, input, [role=img], [role=option], .scroll")]
        .filter((e) => e.checkVisibility() && !e.ariaLabel && !e.innerText.trim() && !e.labels?.[0]?.innerText.trim())
        .map((e) => e.outerHTML)"""
    for sentence in ("0", "1"):
        page.locator("#views").select_option(sentence)
        page.wait_for_selector(f'html[data-drawn="{sentence}"]')
        for tab in page.locator("#tabs button").all():
            tab.click()
            assert page.evaluate(nameless) == []
    assert page.locator('#tokens .token[data-token="2"]').get_attribute("aria-label") == "chases"


def test_hostile_text_stays_text_and_nothing_overflows(visit):
    hostile = full_view(
        HOSTILE, title=PWN, words=[(0, 3), (4, 6)], projection=projection(PWN, [PWN, "\ud800\0", "\u202ex"])
    )
    pair = [replace(view, title=PWN, group=PWN) for view in group(HOSTILE, HOSTILE[::-1])]
    page = visit([hostile, *pair], title=PWN)
    overflow = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
    for sentence in ("0", "1"):
        page.locator("#views").select_option(sentence)
        page.wait_for_selector(f'html[data-drawn="{sentence}"]')
        for tab in page.locator("#tabs button").all():
            tab.click()
            for width in (400, 1280):
                page.set_viewport_size({"width": width, "height": 800})
                settle(page)
                assert page.evaluate(overflow) <= 0
            stage = page.locator(".stage:visible")
            if stage.count():
                stage.hover()
                stage.press("ArrowDown")
            if sentence == "0" or tab.get_attribute("data-name") == "alignment":
                ElementTree.fromstring(saved(page, "svg"))
    page.locator("#views").select_option("0")
    page.locator("#merge").click()
    settle(page)
    assert page.evaluate("() => window.__pwned") is None
    assert page.evaluate("() => document.querySelectorAll('img, svg, iframe, object').length") == 0
