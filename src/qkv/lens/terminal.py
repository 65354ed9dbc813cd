"""Attention in the terminal: a heatmap of a head, the telling heads, a word across sentences."""

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
from qkv.lens.printable import printable
from qkv.lens.reading import Reading
from qkv.lens.words import Comparison

SHADES = " ░▒▓█"
LABEL = 14
"""Columns that a token may take before its row."""

NARROWEST = 24
WIDEST_CELL = 8
COLUMNS = {
    "entropy": "nats", "diagonal": "self", "previous": "prev.", "following": "next", "first": "first",
    "separator": "[SEP]", "same_word": "same", "broad": "broad",
}  # fmt: skip
"""What a table calls the habits."""

ROWS = 64
"""Rows of a heatmap; a longer text is pooled."""


def heatmap(reading: Reading, layer: int, head: int, width: int, why: str = "") -> RenderableType:
    """Draw a head's weights as rows of coloured cells, queries down and keys across, at most `width` columns wide.

    Cells hold the weight in percent where there is room for it, else a shade. A text too long for that is pooled: a
    cell then shows the largest weight in its box.
    """
    seen = reading.maps[layer].head(head)
    labels = [printable(label) for label in reading.labels]
    count = len(labels)
    margin = min(LABEL, max(cell_len(label) for label in labels)) + 1
    title = Text(f"layer {layer}, head {head}: queries down, keys across", style="bold")
    title.append(f"; {why}" if why else "", style="dim")
    cell = min(WIDEST_CELL, (width - margin) // count)
    if cell >= 3 and count <= ROWS:
        weights = seen.dense()[0, 0]
        header = Text(" " * margin)
        for label in labels:
            header.append(set_cell_size(label, cell - 1) + " ", style="dim")
        lines = [_row(_fit(label, margin - 1), row, cell) for label, row in zip(labels, weights, strict=True)]
        return Group(title, header, *lines)
    columns, rows = min(count, width - margin), min(count, ROWS)
    weights = seen.pooled(rows, columns, reduce=torch.amax)[0, 0]
    first = [-(-row * count // rows) for row in range(rows)]
    lines = [_row(_fit(labels[at], margin - 1), row, max(1, cell)) for at, row in zip(first, weights, strict=True)]
    if rows < count or columns < count:
        title.append(f" ({count} tokens in {rows} × {columns} boxes, the largest weight of each)", style="dim")
    return Group(title, *lines)


def _row(label: str, weights: Float[Tensor, " keys"], cell: int) -> Text:
    line = Text(label + " ", style="none")
    for weight in weights.tolist():
        style = Style(bgcolor=_colour(weight), color="#ffffff" if weight > 0.45 else "#0b2545")
        if cell >= 3:
            percent = f"{100 * weight:.0f}" if weight >= 0.005 else ""
            line.append(f"{percent:>{cell - 1}}"[-(cell - 1) :] + " ", style=style)
        else:
            line.append(SHADES[min(len(SHADES) - 1, int(weight**0.5 * len(SHADES)))] * cell, style=style)
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


def alignment_table(pair: Reading) -> RenderableType:
    """List for each token that was written what it looked at most in the source."""
    assert pair.source is not None
    table = Table(box=None, pad_edge=False)
    for name in ("written", "looks at"):
        table.add_column(name, overflow="fold")
    labels = [printable(label) for label in pair.source.labels]
    for name, row in zip(pair.after, alignment(pair), strict=True):
        best = row.topk(min(3, len(labels)))
        shares = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        table.add_row(printable(name), ", ".join(f"{labels[at]} {share:.0%}" for at, share in shares if share >= 0.005))
    title = f"“{_short(pair.source.text)}” → “{_short(pair.text)}”: the last layer, mean of its heads"
    return Group(Text(title, style="italic"), table)


def telling_table(reading: Reading, chosen: dict[str, Head]) -> RenderableType:
    """List the telling heads, what they do in numbers, and their strongest links."""
    table = Table(box=None, pad_edge=False)
    for name in ("", "head", "in numbers", "its strongest links"):
        table.add_column(name, overflow="fold")
    for name, head in chosen.items():
        table.add_row(name, f"L{head.layer} H{head.head}", _habit(head, TELLING[name]), _links(reading, head, name))
    return Group(Text(f"Telling heads in “{_short(reading.text)}”", style="italic"), table)


def _habit(head: Head, habit: str) -> str:
    value = getattr(head, habit)
    return f"{value:.2f} nats" if habit == "entropy" else f"{value:.0%}"


def heads_table(heads: Sequence[Head], by: str, count: int = 10) -> RenderableType:
    """List the heads that have most of a habit, with all their habits."""
    table = Table(box=None, pad_edge=False)
    table.add_column("head", no_wrap=True)
    for name in ORDERS:
        table.add_column(COLUMNS[name], justify="right", style="bold" if name == by else "")
    for head in ranked(heads, by)[:count]:
        numbers = (f"{getattr(head, name):.2f}" if name == "entropy" else _habit(head, name) for name in ORDERS)
        table.add_row(f"L{head.layer} H{head.head}", *numbers)
    first = "the least" if by == "entropy" else "the most"
    title = f"Heads by {by}, {first} first: {min(count, len(heads))} of {len(heads)}"
    return Group(Text(title, style="italic"), table)


def effects_table(measure: Measure, table: Sequence[Effect], count: int = 10) -> RenderableType:
    """List what changes most without a head, or a layer's attention, with the habits of the weights beside it."""
    shown = Table(box=None, pad_edge=False)
    shown.add_column("without", no_wrap=True)
    shown.add_column("change", justify="right", style="bold")
    for name in ORDERS:
        shown.add_column(COLUMNS[name], justify="right")
    heads = sorted((one for one in table if one.head is not None), key=lambda one: -abs(one.change))[:count]
    layers = sorted((one for one in table if one.head is None), key=lambda one: -abs(one.change))[:3]
    for one in (*heads, *layers):
        what = f"L{one.layer}" + (" all" if one.head is None else f" H{one.head}")
        numbers = (f"{one.entropy:.2f}" if name == "entropy" else f"{getattr(one, name):.0%}" for name in ORDERS)
        shown.add_row(what, f"{one.change:.4f}", *numbers)
    note = "Weights alone are no explanation (Jain & Wallace 2019; Wiegreffe & Pinter 2019): a head that looks telling "
    note += "may change nothing, and others may make up for one that is off."
    return Group(Text(f"Heads switched off: {measure.unit}", style="italic"), shown, Text(note, style="dim"))


def flow_lines(
    reading: Reading, query: int, shares: Float[Tensor, "positions positions"] | None, flows: Sequence[Flow] | str
) -> RenderableType:
    """Say what reaches a token through all layers, and what share of each layer the residual has."""
    lines = []
    if shares is not None:
        best = shares[query].topk(min(5, len(reading.labels)))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        parts = ", ".join(f"{printable(reading.labels[key])} {share:.0%}" for key, share in pairs)
        lines.append(Text(f"Rollout: {printable(reading.labels[query])} after all layers holds {parts}"))
    if isinstance(flows, str):
        lines.append(Text(f"The residual's share is not known: {printable(flows)}", style="dim"))
    elif flows:
        parts = " · ".join(f"L{one.layer} {float(one.share.mean()):.0%}" for one in flows)
        lines.append(Text(f"The residual's share against attention: {parts}"))
    return Group(*lines)


def _links(reading: Reading, head: Head, habit: str) -> str:
    names = [printable(label) for label in reading.labels]
    return ", ".join(f"{names[query]}→{names[key]} {weight:.0%}" for query, key, weight in links(reading, head, habit))


def comparison_table(readings: Sequence[Reading], word: str, comparison: Comparison, width: int) -> RenderableType:
    """Show how a word's vectors compare at every two places, layer by layer: raw cosine, and centred."""
    places = comparison.places
    pairs = [(one, other) for one in range(len(places)) for other in range(one + 1, len(places))]
    shown = Text()
    for number, place in enumerate(places):
        reading = readings[place.reading]
        shown.append(f"  {_letter(number)}  ", style="bold")
        shown.append(_excerpt(reading, place.tokens, width - 6) + "\n")
    title = Text(f"“{printable(word)}” in context: the cosine of its vectors, layer by layer", style="bold")
    if not pairs:
        return Group(
            title,
            shown,
            Text(
                "it stands in one place only: give two sentences or more that hold it, or --index (qkv words)",
                style="dim",
            ),
        )
    fits = pairs[: max(1, (width - 10) // 9)]
    tables: list[RenderableType] = []
    for name, cosines in (
        ("centred (the layer's mean taken off)", comparison.centred),
        ("as they are", comparison.raw),
    ):
        table = Table(box=None, pad_edge=False)
        table.add_column("layer", no_wrap=True, min_width=10)
        for one, other in fits:
            table.add_column(f"{_letter(one)}–{_letter(other)}", justify="right", no_wrap=True, min_width=6)
        for layer in range(cosines.shape[0]):
            cells = [f"{cosines[layer, one, other]:+.3f}" for one, other in fits]
            table.add_row("embeddings" if layer == 0 else f"after L{layer - 1}", *cells)
        tables += [Text(name, style="italic"), table, Text()]
    note = "Embeddings are static: they differ by position alone. Raw cosines are all high; centred ones tell."
    if len(pairs) > len(fits):
        note += f" {len(pairs) - len(fits)} more pairs: --json FILE."
    return Group(title, shown, *tables, Text(note, style="dim"))


def _letter(number: int) -> str:
    return chr(ord("A") + number) if number < 26 else f"#{number + 1}"


def nearest_table(found: Nearest, word: str, corpus: str, width: int) -> RenderableType:
    """Show a corpus's sentence whose word is nearest, layer by layer, more after the last, and by position alone."""
    title = Text(f"“{printable(word)}” in ", style="bold").append(
        _quote(found.text, found.start, found.stop, width - 20)
    )
    room = width - 28
    table = Table(box=None, pad_edge=False)
    for name, justify in (("layer", "left"), ("centred", "right"), ("raw", "right"), ("the nearest sentence", "left")):
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for number, layer in enumerate(found.layers):
        raw = {(one.text, one.start): one.near for one in layer.raw}
        for one in layer.centred[: 3 if number == len(found.layers) - 1 else 1]:
            name = "embeddings" if layer.layer == 0 else f"after L{layer.layer - 1}"
            near = raw.get((one.text, one.start))
            shown = "" if near is None else f"{near:+.3f}"
            table.add_row(name, f"{one.near:+.3f}", shown, _quote(one.text, one.start, one.stop, room))
    for one in found.position[:1]:
        table.add_row("position", f"{abs(one.near):.0f} away", "", _quote(one.text, one.start, one.stop, room))
    others = ", ".join(f"{printable(one.text[one.start : one.stop])} {one.near:+.2f}" for one in found.others)
    note = (
        f"Of {len(found.found.texts) - 1} places in {printable(corpus)}. Embeddings know the word and where it stands, "
    )
    note += "position where it stands alone: what only later layers find comes from the context."
    last = f"Other words nearest after the last layer, centred: {others}" if others else ""
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
    text = printable(" ".join(text.split()))
    return text if cell_len(text) <= 50 else set_cell_size(text, 49).rstrip() + "…"


def console() -> Console:
    """Open the terminal, 80 columns wide where its width is not known, and wide enough for a label and some cells."""
    screen = Console(highlight=False, emoji=False, markup=False)
    screen.width = max(screen.width, NARROWEST)
    return screen
