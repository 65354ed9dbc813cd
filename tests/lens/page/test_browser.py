"""The page in a browser: what people can do with it, and what hostile text cannot."""

import numpy as np
import pytest

from qkv.lens.page import Image, View

PWN = "</script><img src=x onerror=\"window.__pwned=1;alert(1)\"><svg onload='window.__pwned=1'>"
WORDS = ["[CLS]", "mickey", "mouse", "is", "my", "favourite", "[SEP]"]
HANZI = list("猫在谷仓里追老鼠。")
HOSTILE = [PWN, "", "\0", "\ud800", "שלום", "\u202eevil", "👩‍👩‍👧", "w" * 5000, "&lt;", "\u2028", " ", "{{data}}"]


def softmax(shape, seed):
    weights = np.exp(2 * np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))
    return weights / weights.sum(-1, keepdims=True)


def view(title, tokens, seed=0):
    return View(title, tokens, softmax((3, 4, len(tokens), len(tokens)), seed), start=(1, 2))


SENTENCES = [view("Mickey Mouse is my favourite.", WORDS), view("猫在谷仓里追老鼠。", HANZI, seed=1)]


def bars(page):
    return [tuple(item.inner_text().split("\n")) for item in page.locator("#bars li").all()]


def expected(values, tokens):
    order = sorted(range(len(values)), key=lambda i: -values[i])[:10]
    return [(tokens[i], float(values[i])) for i in order]


def assert_shows(shown, wanted):
    assert [label for label, _ in shown] == [label for label, _ in wanted]
    for (_, text), (_, value) in zip(shown, wanted, strict=True):
        number = 0.01 if text == "<0.01%" else float(text.rstrip("%"))
        assert abs(number - 100 * value) <= 0.005 + 0.0017


def over_cell(page, query, key):
    """Move the pointer over a cell of the large map; -1 stands for its label."""
    canvas = page.locator("#map")
    box = canvas.bounding_box()
    left, top, cell = (float(canvas.get_attribute(f"data-{name}")) for name in ("left", "top", "cell"))
    x = left / 2 if key < 0 else left + (key + 0.5) * cell
    y = top / 2 if query < 0 else top + (query + 0.5) * cell
    page.mouse.move(box["x"] + x, box["y"] + y)
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def names(page):
    return page.locator("#layer").inner_text(), page.locator("#head").inner_text()


def test_hovering_a_token_shows_the_numbers_given(visit):
    page = visit(SENTENCES)
    for query in (0, 2, 6):
        page.locator(f'.token[data-token="{query}"]').hover()
        assert page.locator("#row-name").inner_text().split() == [WORDS[query], "looks", "at"]
        assert_shows(bars(page), expected(SENTENCES[0].weights[1, 2, query], WORDS))


def test_hovering_the_map_shows_a_cell_a_row_or_a_column(visit):
    page = visit(SENTENCES)
    weights = SENTENCES[0].weights[1, 2]
    over_cell(page, 3, 5)
    label, number = page.locator("#reading").inner_text().rsplit(None, 1)
    assert label == "is → favourite" and abs(float(number.rstrip("%")) - 100 * weights[3, 5]) < 0.007
    assert_shows(bars(page), expected(weights[3], WORDS))
    over_cell(page, 4, -1)
    assert_shows(bars(page), expected(weights[4], WORDS))
    over_cell(page, -1, 2)
    assert page.locator("#row-name").inner_text().split() == ["Who", "looks", "at", "mouse"]
    assert_shows(bars(page), expected(weights[:, 2], WORDS))
    page.mouse.move(5, 5)
    page.wait_for_function("() => document.getElementById('row-name').innerText.startsWith('mickey')")


def test_a_translation_shows_what_each_word_looks_at(visit):
    source, target = [*"猫追老鼠。", "</s>"], ["<s>", "The", "cat", "chases", "a", "mouse", "."]
    weights = softmax((1, 2, 7, 6), 3)
    page = visit([View("猫追老鼠。", target, weights, keys=source)])
    page.locator('#tokens .token[data-token="2"]').hover()
    assert_shows(bars(page), expected(weights[0, 0, 2], source))
    page.locator('#keys-seen .token[data-token="3"]').click()
    assert page.locator("#row-name").inner_text().split() == ["Who", "looks", "at", "鼠"]
    assert_shows(bars(page), expected(weights[0, 0, :, 3], target))
    page.keyboard.press("ArrowLeft")
    assert_shows(bars(page), expected(weights[0, 0, :, 2], target))
    over_cell(page, 6, 5)
    label, number = page.locator("#reading").inner_text().rsplit(None, 1)
    assert label == ". → </s>" and abs(float(number.rstrip("%")) - 100 * weights[0, 0, 6, 5]) < 0.007
    assert page.locator("#image").is_hidden()


def test_a_caption_shows_where_it_looks_in_the_picture(visit):
    weights = np.zeros((1, 1, 2, 6), np.float32)
    weights[0, 0, 0, 1] = weights[0, 0, 1, 5] = 1
    image = Image(np.full((20, 30), 0.5), rows=2, columns=3)
    page = visit([View("two words", ["two", "words"], weights, keys=list("abcdef"), image=image)])
    page.locator("#tab-map").click()
    assert page.locator("#keys-seen").is_hidden()
    # There is nothing to choose of one head.
    assert page.locator("#heads").is_hidden() and page.locator("#steppers").is_hidden()
    brightest = """() => {
        const canvas = document.getElementById("image"), context = new OffscreenCanvas(canvas.width, canvas.height)
            .getContext("2d", { willReadFrequently: true }), sums = [];
        context.drawImage(canvas, 0, 0);
        for (let part = 0; part < 6; part++) {
            const x = ((part % 3) + 0.5) * canvas.width / 3, y = (Math.floor(part / 3) + 0.5) * canvas.height / 2;
            sums.push(context.getImageData(x, y, 1, 1).data.slice(0, 3).reduce((a, b) => a + b));
        }
        return sums.indexOf(Math.max(...sums));
    }"""
    assert page.evaluate(brightest) == 1
    page.locator('#tokens .token[data-token="1"]').click()
    assert page.evaluate(brightest) == 5
    box = page.locator("#image").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 6, box["y"] + box["height"] * 0.75)
    page.wait_for_function("() => document.getElementById('reading').innerText.startsWith('words → d')")


def light(page, box):
    """How bright the middle of each part of a 2 × 3 picture is that stands at a box of the stage, in its pixels."""
    return page.evaluate(
        """([left, top, wide, high]) => {
            const canvas = document.querySelector("#panel-over canvas"), found = [];
            const context = new OffscreenCanvas(canvas.width, canvas.height)
                .getContext("2d", { willReadFrequently: true });
            context.drawImage(canvas, 0, 0);
            for (let part = 0; part < 6; part++) {
                const x = left + (((part % 3) + 0.5) * wide) / 3, y = top + ((Math.floor(part / 3) + 0.5) * high) / 2;
                found.push(context.getImageData(x, y, 1, 1).data.slice(0, 3).reduce((a, b) => a + b));
            }
            return found.indexOf(Math.max(...found));
        }""",
        box,
    )


def test_every_head_lies_over_the_picture(visit):
    # Head h of layer l: [CLS] looks at part 2l + h alone, part p at part 5 − p.
    weights = np.zeros((2, 2, 7, 7), np.float32)
    for layer, head in np.ndindex(2, 2):
        weights[layer, head, 0, 1 + 2 * layer + head] = 1
        weights[layer, head, range(1, 7), range(6, 0, -1)] = 1
    tokens, pixels = ["[CLS]", *"abcdef"], np.full((20, 30, 3), 0.5)
    image = Image(pixels, rows=2, columns=3, before=1)
    page = visit([View("a picture", tokens, weights, (1, 0), query=0, image=image)])
    stage = page.locator("#panel-over canvas").bounding_box()
    # Large at the left, and the heads in rows of layers.
    rem = page.evaluate("parseFloat(getComputedStyle(document.documentElement).fontSize)")
    across = min(0.4 * stage["width"], 30 * rem)
    large = [1, 1, across, across * 2 / 3]
    assert light(page, large) == 2
    assert page.locator("#over-reading").inner_text().startswith("[CLS] looks at: c 100")
    assert page.locator("#over-tokens button").all_inner_texts() == ["[CLS]"]
    page.keyboard.press("ArrowRight")
    page.wait_for_function(
        "() => document.getElementById('over-reading').innerText.startsWith('[CLS] looks at: d 100')"
    )
    assert light(page, large) == 3
    # A part of the picture looks at others; pointing at one gives its weight.
    page.mouse.click(stage["x"] + across / 6, stage["y"] + across / 6)
    page.mouse.move(stage["x"] + across * 5 / 6, stage["y"] + across / 2)
    page.wait_for_function("() => document.getElementById('over-reading').innerText.startsWith('a looks at f: 100')")
    assert light(page, large) == 5
    # A small one opens its head: this is the second of the first row.
    page.locator("#over-tokens button").click()
    page.mouse.click(stage["x"] + across + 15 * rem, stage["y"] + 5 * rem)
    page.wait_for_function("() => document.getElementById('layer').innerText === 'Layer 0'")
    assert names(page) == ("Layer 0", "Head 1") and light(page, large) == 1
    page.locator("#panel-over .stage").focus()
    page.keyboard.press("ArrowRight")
    assert "a looks at: f" in page.locator("#live").inner_text()


def test_every_word_lies_over_the_picture(visit):
    weights = np.zeros((1, 1, 2, 6), np.float32)
    weights[0, 0, 0, 1] = weights[0, 0, 1, 5] = 1
    image = Image(np.full((20, 30), 0.5), rows=2, columns=3)
    page = visit([View("two words", ["two", "words"], weights, keys=list("abcdef"), image=image)])
    assert page.locator("#steppers").is_hidden() and page.locator("#over-tokens").is_hidden()
    assert page.locator("#over-reading").inner_text().startswith("two looks at: b 100")
    page.locator("#panel-over .stage").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#over-reading").inner_text().startswith("words looks at: f 100")


def test_the_keyboard_chooses_layer_head_cell_and_sentence(visit):
    page = visit(SENTENCES)
    assert names(page) == ("Layer 1", "Head 2")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowUp")
    assert names(page) == ("Layer 0", "Head 3")
    page.keyboard.press("ArrowRight")
    assert names(page) == ("Layer 0", "Head 0")
    page.keyboard.press("ArrowUp")
    assert names(page) == ("Layer 2", "Head 0")
    assert "Layer 2, Head 0. mickey looks at: " in page.locator("#live").inner_text()
    assert_shows(bars(page), expected(SENTENCES[0].weights[2, 0, 1], WORDS))

    page.locator("#scroll").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    assert "is looks at mouse: " in page.locator("#live").inner_text()
    assert names(page) == ("Layer 2", "Head 0")
    page.keyboard.press("Shift+ArrowRight")
    assert names(page) == ("Layer 2", "Head 1")

    page.keyboard.press("]")
    page.wait_for_selector('html[data-drawn="1"]')
    assert page.locator("#sentence").inner_text() == "猫在谷仓里追老鼠。"
    assert_shows(bars(page), expected(SENTENCES[1].weights[1, 2, 0], HANZI))


def test_tokens_answer_to_focus_and_to_touch(visit):
    page = visit(SENTENCES, has_touch=True)
    page.locator('.token[tabindex="0"]').focus()
    page.keyboard.press("ArrowRight")
    assert "mouse looks at" in page.locator("#live").inner_text()
    assert page.evaluate("() => document.activeElement.dataset.token") == "2"
    page.locator('.token[data-token="5"]').tap()
    assert_shows(bars(page), expected(SENTENCES[0].weights[1, 2, 5], WORDS))


def test_zooming_scrolls_and_comes_back(visit):
    tokens = [f"token{i}" for i in range(200)]
    page = visit([view("many", tokens)])
    size = "() => [document.getElementById('scroll').scrollWidth > document.getElementById('scroll').clientWidth]"
    assert page.evaluate(size) == [False]
    for _ in range(6):
        page.keyboard.press("+")
    assert page.evaluate(size) == [True]
    page.locator("#scroll").focus()
    for _ in range(3):
        page.keyboard.press("ArrowDown")
    over_cell(page, 2, 2)
    assert page.locator("#reading b").count() == 1
    page.keyboard.press("0")
    assert page.evaluate(size) == [False]


def test_light_and_dark_follow_the_system_and_the_switch(visit):
    background = "() => getComputedStyle(document.body).backgroundColor"
    page = visit(SENTENCES, color_scheme="light")
    light = page.evaluate(background)
    page.emulate_media(color_scheme="dark")
    page.wait_for_selector("html[data-theme=dark]")
    assert (light, page.evaluate(background)) == ("rgb(250, 249, 246)", "rgb(16, 18, 24)")
    page.locator("#theme").click()
    assert page.evaluate(background) == light
    corner = "() => [...document.getElementById('map').getContext('2d').getImageData(3, 3, 1, 1).data]"
    assert page.evaluate(corner) == [255, 255, 255, 255]
    page.emulate_media(color_scheme="light")
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(background) == light


def test_both_languages(visit):
    page = visit(SENTENCES)
    assert page.locator("#heads-name").inner_text().startswith("All heads")
    page.locator("#language").click()
    assert page.locator("html").get_attribute("lang") == "zh-Hans"
    assert page.locator("#heads-name").inner_text().startswith("全部注意力头")
    assert names(page) == ("第 1 层", "第 2 头")
    assert page.locator("#row-name").inner_text().split() == ["mickey", "关注"]
    chinese = visit(SENTENCES, locale="zh-CN")
    assert chinese.locator("html").get_attribute("lang") == "zh-Hans"
    words = "() => document.body.innerText"
    english = {"All heads", "Layer", "Head", "Hover", "zoom", "Numbered", "Sentence", "Fit", "Dark"}
    assert not [word for word in english if word in chinese.evaluate(words)]


def test_hostile_text_stays_text(visit):
    page = visit([view(PWN, HOSTILE), view("one", ["x"])], title=PWN)
    tokens = page.locator(".token")
    for i in range(len(HOSTILE)):
        tokens.nth(i).hover()
        over_cell(page, i, 0)
    page.locator("#language").click()
    page.locator("#theme").click()
    page.keyboard.press("+")
    assert page.evaluate("() => window.__pwned") is None
    assert page.evaluate("() => document.querySelectorAll('img, svg, iframe, object').length") == 0
    assert page.locator("#sentence").inner_text() == PWN
    shown = [token.inner_text() for token in tokens.all()]
    assert shown[:4] == [PWN, "∅", "\\x00", "\ufffd"]
    page.keyboard.press("]")
    page.wait_for_selector('html[data-drawn="1"]')
    assert bars(page) == [("x", "100.00%")]


@pytest.mark.parametrize("views", [SENTENCES, [view(PWN, HOSTILE)], [view("long", ["word"] * 300)]])
def test_no_width_overflows(visit, views):
    page = visit(views)
    for width in (400, 861, 3840):
        page.set_viewport_size({"width": width, "height": 900})
        page.reload()
        page.wait_for_selector("html[data-drawn]")
        overflow = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.evaluate(overflow) <= 0
        assert page.locator("#map").bounding_box()["width"] >= 300


def test_a_page_that_grows_without_an_event_is_laid_out_anew(visit):
    page = visit(SENTENCES[:1])
    page.set_viewport_size({"width": 400, "height": 900})
    # A frame that a notebook shows late has its size, but may have told of it before anybody listened.
    page.add_init_script("addEventListener('resize', (event) => event.stopImmediatePropagation(), true)")
    page.reload()
    page.wait_for_selector("html[data-drawn]")
    before = page.locator("#map").bounding_box()["width"]
    page.set_viewport_size({"width": 800, "height": 900})
    page.wait_for_function(f"() => document.getElementById('map').clientWidth > {before + 200}", timeout=5000)


@pytest.mark.slow
def test_512_tokens_and_72_heads_appear_within_a_second(visit):
    tokens = [f"t{i}" for i in range(512)]
    page = visit([View("long", tokens, softmax((6, 12, 512, 512), 0))])
    first = [int(page.locator("html").get_attribute("data-first"))]
    for _ in range(2):
        page.reload()
        page.wait_for_selector("html[data-drawn]")
        first.append(int(page.locator("html").get_attribute("data-first")))
    assert min(first) <= 1000
