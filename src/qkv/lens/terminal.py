"""Attention in the terminal: a heatmap of a head, the telling heads, a word across sentences; English or Chinese."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group, RenderableType
from rich.style import Style
from rich.table import Table
from rich.text import Text
from torch import Tensor

from qkv.lens.ablate import Effect, Measure
from qkv.lens.flow import Flow
from qkv.lens.heads import ORDERS, TELLING, Head, links, ranked
from qkv.lens.index import Nearest
from qkv.lens.language import Say, english
from qkv.lens.look import Look
from qkv.lens.reading import Reading
from qkv.lens.words import Comparison
from qkv.text.printable import printable

SHADES = " ░▒▓█"
LABEL = 14
"""Columns that a token may take before its row."""

NARROWEST = 24
WIDEST_CELL = 8
COLUMNS = {
    "entropy": ("nats", "熵"), "diagonal": ("self", "自身"), "previous": ("prev.", "前一"),
    "following": ("next", "后一"), "first": ("first", "首位"), "separator": ("[SEP]", "[SEP]"),
    "same_word": ("same", "同词"), "broad": ("broad", "分散"),
}  # fmt: skip
"""What a table calls the habits."""

CHINESE = {
    "sharpest": "最尖锐", "most diagonal": "最关注自身", "most on the previous token": "最关注前一词元",
    "most on the next token": "最关注后一词元", "most on the same word": "最关注同一个词",
    "most on the first token": "最关注首个词元", "most on [SEP]": "最关注 [SEP]", "broadest": "最分散",
    "KL(before ‖ after) of the prediction, in nats": "预测的 KL（关闭前 ‖ 关闭后），单位 nat",
    "1 − cosine of the vector to what it was": "1 − 向量与原来的余弦",
    "growth of the loss": "损失的增量",
}  # fmt: skip
"""What Chinese calls the telling heads, and what a change is measured by."""

MOST_UNKNOWN = 20
"""How many of the tokens that a model does not know are listed."""

ROWS = 64
"""Rows of a heatmap; a longer text is pooled."""


def why(reading: Reading, link: tuple[int, int, float] | None, say: Say = english) -> str:
    """Say why a head is shown."""
    if link is None:
        return say("the sharpest", CHINESE["sharpest"])
    query, key, weight = link
    return f"{_token(reading, query)}→{_token(reading, key)} {weight:.0%}"


def text_map(reading: Reading, look: Look, width: int, say: Say = english) -> RenderableType:
    """Draw the head that is shown of a text, and say what the model's vocabulary does not hold."""
    drawn = heatmap(reading, look.layer, look.head, width, why(reading, look.link, say), say)
    if not reading.unknown:
        return drawn
    names = list(dict.fromkeys(_token(reading, token) for token in reading.unknown))
    listed = " ".join(names[:MOST_UNKNOWN])
    if (more := len(names) - MOST_UNKNOWN) > 0:
        listed += say(f" and {more} more", f"，另有 {more} 个")
    told = say("Not in the model's vocabulary, so that it sees [UNK]: ", "不在模型的词表里，模型看到的是 [UNK]：")
    return Group(Text(told + listed), drawn)


def picture_map(reading: Reading, look: Look, width: int, say: Say = english) -> RenderableType:
    """Draw what a token of a picture looks at in the head that is shown: a cell for each patch, as they lie."""
    image, query = reading.image, look.query or 0
    assert image is not None
    weights = reading.maps[look.layer].head(look.head)[..., query : query + 1, image.before :]
    cell = max(1, min(4, (width - 1) // image.columns))
    name = _token(reading, query)
    title = Text(f"{printable(reading.text)}\n", style="italic")
    told = say(
        f"layer {look.layer}, head {look.head}: where {name} looks in {image.rows} × {image.columns} patches",
        f"第 {look.layer} 层第 {look.head} 头：{name} 在 {image.rows} × {image.columns} 个图块中关注哪里",
    )
    title.append(told, style="bold not italic").append(
        say("; ", "；") + why(reading, look.link, say), style="dim not italic"
    )
    top = float(weights.max()) or 1.0
    rows = weights.reshape(image.rows, image.columns)
    note = say(
        f"percent; the deepest blue is {top:.1%}; r3c6 is row 3, column 6, from 0",
        f"单位为百分比；最深的蓝为 {top:.1%}；r3c6 指第 3 行第 6 列，从 0 起",
    )
    return Group(title, *(_row("", row, cell, top) for row in rows), Text(note, style="dim"))


def heatmap(reading: Reading, layer: int, head: int, width: int, why: str = "", say: Say = english) -> RenderableType:
    """Draw a head's weights as rows of coloured cells, queries down and keys across, at most `width` columns wide.

    Cells hold the weight in percent where there is room for it, else a shade. A text too long for that is pooled: a
    cell then shows the largest weight in its box.
    """
    seen = reading.maps[layer].head(head)
    labels = [_token(reading, token) for token in range(len(reading.labels))]
    count = len(labels)
    margin = min(LABEL, max(cell_len(label) for label in labels)) + 1
    told = f"layer {layer}, head {head}: queries down, keys across"
    title = Text(say(told, f"第 {layer} 层第 {head} 头：纵向为查询，横向为键"), style="bold")
    title.append(say("; ", "；") + why if why else "", style="dim")
    cell = min(WIDEST_CELL, (width - margin) // count)
    if cell >= 3 and count <= ROWS:
        weights = seen.dense()[0, 0]
        header = Text(" " * margin)
        # In two or three columns a letter says more than the sign that some are left out.
        fit = _fit if cell > 4 else set_cell_size
        for label in labels:
            header.append(fit(label, cell - 1) + " ", style="dim")
        lines = [_row(_fit(label, margin - 1), row, cell) for label, row in zip(labels, weights, strict=True)]
        return Group(title, header, *lines)
    columns, rows = min(count, width - margin), min(count, ROWS)
    weights = seen.pooled(rows, columns, reduce=torch.amax)[0, 0]
    first = [-(-row * count // rows) for row in range(rows)]
    lines = [_row(_fit(labels[at], margin - 1), row, max(1, cell)) for at, row in zip(first, weights, strict=True)]
    if rows < count or columns < count:
        pooled = f" ({count} tokens in {rows} × {columns} boxes, the largest weight of each)"
        chinese = f"（{count} 个词元分到 {rows} × {columns} 格，每格取最大权重）"
        title.append(say(pooled, chinese), style="dim")
    return Group(title, *lines)


def _row(label: str, weights: Float[Tensor, " keys"], cell: int, top: float = 1.0) -> Text:
    line = Text(label + " " if label else "", style="none")
    for weight in weights.tolist():
        style = Style(bgcolor=_colour(weight / top), color="#ffffff" if weight > 0.45 * top else "#0b2545")
        if cell >= 3:
            percent = f"{100 * weight:.0f}" if weight >= 0.005 else ""
            line.append(f"{percent:>{cell - 1}}"[-(cell - 1) :] + " ", style=style)
        else:
            line.append(SHADES[min(len(SHADES) - 1, int((weight / top) ** 0.5 * len(SHADES)))] * cell, style=style)
    return line


def _fit(text: str, width: int) -> str:
    """Cut or pad a text to a number of columns; wide characters take two."""
    if cell_len(text) > width:
        text = set_cell_size(text, width - 1) + "…" if width > 1 else set_cell_size(text, width)
    return set_cell_size(text, width)


def _colour(weight: float) -> str:
    """Give the colour of a weight, from near white to deep blue; the root lets small weights be seen."""
    share = min(1.0, max(0.0, weight)) ** 0.5
    pale, deep = (247, 250, 253), (8, 64, 129)
    return "#" + "".join(f"{round(low + (high - low) * share):02x}" for low, high in zip(pale, deep, strict=True))


def alignment(pair: Reading) -> Float[Tensor, "target source"]:
    """Give where each token that was written looked in the source: the mean of the last layer's heads."""
    return pair.cross[-1].dense()[0].mean(0)


def alignment_table(pair: Reading, say: Say = english) -> RenderableType:
    """List for each token that was written what it looked at most in the source."""
    assert pair.source is not None
    table = Table(box=None, pad_edge=False)
    for name in (say("written", "写出"), say("looks at", "关注")):
        table.add_column(name, overflow="fold")
    labels = [_short(label) for label in pair.source.labels]
    for name, row in zip(pair.after, alignment(pair), strict=True):
        best = row.topk(min(3, len(labels)))
        shares = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        table.add_row(_short(name), ", ".join(f"{labels[at]} {share:.0%}" for at, share in shares if share >= 0.005))
    title = f"“{_short(pair.source.text)}” → “{_short(pair.text)}”"
    title += say(": the last layer, mean of its heads", "：最后一层，各头平均")
    return Group(Text(title, style="italic"), table)


def telling_table(reading: Reading, chosen: dict[str, Head], say: Say = english) -> RenderableType:
    """List the telling heads, what they do in numbers, and their strongest links."""
    table = Table(box=None, pad_edge=False)
    titles = say("head", "头"), say("in numbers", "数值"), say("its strongest links", "最强的连接")
    for title in ("", *titles):
        table.add_column(title, overflow="fold")
    for name, head in chosen.items():
        table.add_row(
            _name(reading, name, say),
            f"L{head.layer} H{head.head}",
            _habit(head, TELLING[name]),
            _links(reading, head, name),
        )
    text = _short(reading.text)
    return Group(Text(say(f"Telling heads in “{text}”", f"“{text}”中有特点的头"), style="italic"), table)


def _name(reading: Reading, habit: str, say: Say) -> str:
    """Name what a head is telling for; a picture's tokens before its patches are called as they are."""
    if reading.image is not None and TELLING[habit] in ("first", "separator"):
        names = [label for label, special in zip(reading.labels, reading.special, strict=True) if special]
        named = names[:1] if TELLING[habit] == "first" else names[1:]
        if named:
            return say(f"most on {', '.join(named)}", f"最关注 {'、'.join(named)}")
    return say(habit, CHINESE[habit])


def _habit(head: Head, habit: str) -> str:
    value = getattr(head, habit)
    return f"{value:.2f} nats" if habit == "entropy" else f"{value:.0%}"


def heads_table(heads: Sequence[Head], by: str, say: Say = english, count: int = 10) -> RenderableType:
    """List the heads that have most of a habit, with all their habits."""
    table = Table(box=None, pad_edge=False)
    table.add_column(say("head", "头"), no_wrap=True)
    for name in ORDERS:
        table.add_column(say(*COLUMNS[name]), justify="right", style="bold" if name == by else "")
    for head in ranked(heads, by)[:count]:
        numbers = (f"{getattr(head, name):.2f}" if name == "entropy" else _habit(head, name) for name in ORDERS)
        table.add_row(f"L{head.layer} H{head.head}", *numbers)
    first = say("the least", "从小到大") if by == "entropy" else say("the most", "从大到小")
    shown_, all_ = min(count, len(heads)), len(heads)
    title = say(
        f"Heads by {by}, {first} first: {shown_} of {all_}", f"按 {by} 排列的头，{first}：{all_} 个中的 {shown_} 个"
    )
    return Group(Text(title, style="italic"), table)


def effects_table(measure: Measure, table: Sequence[Effect], say: Say = english, count: int = 10) -> RenderableType:
    """List what changes most without a head, or a layer's attention, with the habits of the weights beside it."""
    shown = Table(box=None, pad_edge=False)
    shown.add_column(say("without", "关闭"), no_wrap=True)
    shown.add_column(say("change", "变化"), justify="right", style="bold")
    for name in ORDERS:
        shown.add_column(say(*COLUMNS[name]), justify="right")
    heads = sorted((one for one in table if one.head is not None), key=lambda one: -abs(one.change))[:count]
    layers = sorted((one for one in table if one.head is None), key=lambda one: -abs(one.change))[:3]
    for one in (*heads, *layers):
        what = f"L{one.layer}" + (say(" all", " 整层") if one.head is None else f" H{one.head}")
        numbers = (f"{one.entropy:.2f}" if name == "entropy" else f"{getattr(one, name):.0%}" for name in ORDERS)
        shown.add_row(what, f"{one.change:.4f}", *numbers)
    note = say(
        "Weights alone are no explanation (Jain & Wallace 2019; Wiegreffe & Pinter 2019): a head that looks telling "
        "may change nothing, and others may make up for one that is off.",
        "权重本身不是解释（Jain & Wallace 2019；Wiegreffe & Pinter 2019）：看上去有特点的头，关闭后可能毫无变化；"
        "关闭一个头，其余的头也可能补上。",
    )
    title = say(f"Heads switched off: {measure.unit}", f"逐个关闭注意力头：{CHINESE.get(measure.unit, measure.unit)}")
    return Group(Text(title, style="italic"), shown, Text(note, style="dim"))


def flow_lines(
    reading: Reading,
    query: int,
    share: Float[Tensor, " positions"] | None,
    flows: Sequence[Flow] | str,
    say: Say = english,
) -> RenderableType:
    """Say what reaches a token through all layers, and what share of each layer the residual has."""
    lines = []
    if share is not None:
        best = share.topk(min(5, len(reading.labels)))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        parts = ", ".join(f"{_token(reading, key)} {part:.0%}" for key, part in pairs)
        name = _token(reading, query)
        told = say(f"Rollout: {name} after all layers holds {parts}", f"注意力流：经过所有层后，{name} 中含有 {parts}")
        lines.append(Text(told))
    if isinstance(flows, str):
        told = say("The residual's share is not known: ", "残差所占比例未知：")
        lines.append(Text(told + printable(flows), style="dim"))
    elif flows:
        parts = " · ".join(f"L{one.layer} {float(one.share.mean()):.0%}" for one in flows)
        lines.append(Text(say("The residual's share against attention: ", "残差相对注意力所占比例：") + parts))
    return Group(*lines)


def _links(reading: Reading, head: Head, habit: str) -> str:
    found = links(reading, head, habit)
    return ", ".join(f"{_token(reading, query)}→{_token(reading, key)} {weight:.0%}" for query, key, weight in found)


def _token(reading: Reading, token: int) -> str:
    return _short(reading.labels[token])


def comparison_table(
    readings: Sequence[Reading], word: str, comparison: Comparison, width: int, say: Say = english
) -> RenderableType:
    """Show how a word's vectors compare at every two places, layer by layer: raw cosine, and centred."""
    places = comparison.places
    pairs = [(one, other) for one in range(len(places)) for other in range(one + 1, len(places))]
    shown = Text()
    for number, place in enumerate(places):
        reading = readings[place.reading]
        shown.append(f"  {_letter(number)}  ", style="bold")
        shown.append(_excerpt(reading, place.tokens, width - 6) + "\n")
    name = _short(word)
    told = say(f"“{name}” in context: the cosine of its vectors, layer by layer", f"语境中的“{name}”：逐层向量的余弦")
    title = Text(told, style="bold")
    if not pairs:
        once = say(
            "it stands in one place only: give two sentences or more that hold it, or --index (qkv words)",
            "它只出现一次：请给出两个或更多含有它的句子，或用 --index（qkv words）",
        )
        return Group(title, shown, Text(once, style="dim"))
    fits = pairs[: max(1, (width - 10) // 9)]
    tables: list[RenderableType] = []
    for name, cosines in (
        (say("centred (the layer's mean taken off)", "中心化（减去该层均值）"), comparison.centred),
        (say("as they are", "原始值"), comparison.raw),
    ):
        table = Table(box=None, pad_edge=False)
        table.add_column(say("layer", "层"), no_wrap=True, min_width=10)
        for one, other in fits:
            table.add_column(f"{_letter(one)}–{_letter(other)}", justify="right", no_wrap=True, min_width=6)
        for layer in range(cosines.shape[0]):
            cells = [f"{cosines[layer, one, other]:+.3f}" for one, other in fits]
            table.add_row(_after(layer, say), *cells)
        tables += [Text(name, style="italic"), table, Text()]
    note = say(
        "Embeddings are static: they differ by position alone. Raw cosines are all high; centred ones tell.",
        "嵌入是静态的：只因位置而不同。原始余弦都很高，中心化之后才有区分。",
    )
    if more := len(pairs) - len(fits):
        note += say(f" {more} more pairs: --json FILE.", f"另有 {more} 对：--json FILE。")
    return Group(title, shown, *tables, Text(note, style="dim"))


def _letter(number: int) -> str:
    return chr(ord("A") + number) if number < 26 else f"#{number + 1}"


def _after(layer: int, say: Say) -> str:
    return say("embeddings", "嵌入") if layer == 0 else say(f"after L{layer - 1}", f"L{layer - 1} 之后")


def nearest_table(found: Nearest, word: str, corpus: str, width: int, say: Say = english) -> RenderableType:
    """Show a corpus's sentence whose word is nearest, layer by layer, more after the last, and by position alone."""
    title = Text(say(f"“{printable(word)}” in ", f"“{printable(word)}”，见 "), style="bold")
    title.append(_quote(found.text, found.start, found.stop, width - 20))
    room = width - 28
    table = Table(box=None, pad_edge=False)
    nearest = say("the nearest sentence", "最近的句子")
    table.add_column(say("layer", "层"), no_wrap=True)
    for name in (say("centred", "中心化"), say("raw", "原始")):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column(nearest, no_wrap=True)
    for number, layer in enumerate(found.layers):
        raw = {(one.text, one.start): one.near for one in layer.raw}
        for one in layer.centred[: 3 if number == len(found.layers) - 1 else 1]:
            near = raw.get((one.text, one.start))
            shown = "" if near is None else f"{near:+.3f}"
            table.add_row(
                _after(layer.layer, say), f"{one.near:+.3f}", shown, _quote(one.text, one.start, one.stop, room)
            )
    for one in found.position[:1]:
        away = f"{abs(one.near):.0f}"
        table.add_row(
            say("position", "位置"),
            say(f"{away} away", f"相距 {away}"),
            "",
            _quote(one.text, one.start, one.stop, room),
        )
    others = ", ".join(f"{printable(one.text[one.start : one.stop])} {one.near:+.2f}" for one in found.others)
    count, name = len(found.found.texts) - 1, printable(corpus)
    note = say(
        f"Of {count} places in {name}. Embeddings know the word and where it stands, position where it stands alone: "
        "what only later layers find comes from the context.",
        f"取自 {name} 中的 {count} 处。嵌入只知道这个词和它的位置，位置只知道它在哪里：后面的层才找到的，来自语境。",
    )
    last = say("Other words nearest after the last layer, centred: ", "最后一层之后最近的其他词（中心化）：") + others
    last = last if others else ""
    return Group(title, table, Text(last), Text(note, style="dim"))


def _excerpt(reading: Reading, tokens: Sequence[int], width: int) -> Text:
    """Quote a text with its word marked."""
    return _quote(reading.text, reading.spans[tokens[0]][0], reading.spans[tokens[-1]][1], width)


def _quote(text: str, start: int, stop: int, width: int) -> Text:
    """Quote a text with a word marked, cut around it where it is too long for the width."""
    # Of a text without end, what could be shown.
    text, start, stop = text[max(0, start - width) : stop + width], min(start, width), stop - max(0, start - width)
    before, word, after = (printable(part) for part in (text[:start], text[start:stop], text[stop:]))
    room = max(10, width - cell_len(word) - 4)
    left = min(cell_len(before), max(room // 2, room - cell_len(after)))
    while cell_len(before) > left:
        before = "…" + before.lstrip("…")[1:]
    if cell_len(after) > room - left:
        after = set_cell_size(after, room - left - 1).rstrip() + "…"
    return Text(before).append(f"«{word}»", style="bold").append(after)


def _short(text: str) -> str:
    # Of a text without end, what could be shown.
    text = printable(" ".join(text[:200].split()) or text[:200])
    return text if cell_len(text) <= 50 else set_cell_size(text, 49).rstrip() + "…"


def console() -> Console:
    """Open the terminal, 80 columns wide where its width is not known, and wide enough for a label and some cells."""
    screen = Console(highlight=False, emoji=False, markup=False)
    screen.width = max(screen.width, NARROWEST)
    return screen
