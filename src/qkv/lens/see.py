"""What `qkv see` does: read the texts, print what there is to see, write the page and the numbers."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from tokenizers import Tokenizer
from torch import nn

from qkv.errors import ArgumentError, UnsupportedError, must
from qkv.files import check_writable, contains, write_whole
from qkv.lens.ablate import Effect, Measure, Prediction, Vector, effects
from qkv.lens.flow import Flow, residual_share, rollout
from qkv.lens.heads import ORDERS, Head, habits, links, telling, text_of
from qkv.lens.index import Nearest, Words
from qkv.lens.long import baked_size, write_map_page
from qkv.lens.page.build import check_page, write_page
from qkv.lens.page.view import MOST_PLACES, Projection, View
from qkv.lens.printable import printable
from qkv.lens.progress import progress
from qkv.lens.projection import project
from qkv.lens.reading import Reading
from qkv.lens.subwords import word_ranges
from qkv.lens.terminal import (
    alignment,
    alignment_table,
    comparison_table,
    console,
    effects_table,
    flow_lines,
    heads_table,
    heatmap,
    nearest_table,
    telling_table,
)
from qkv.lens.views import MapLayers, features
from qkv.lens.words import Comparison, compare, places, vectors
from qkv.text.corpus import encodable

OWN = b'{\n "generator": "qkv see",'
"""How the numbers that qkv writes begin."""


def check_files(out: Path | None, numbers: Path | None) -> None:
    """Raise FileError if the page or the numbers could not be written; qkv's own are replaced, others never."""
    if out is not None:
        check_page(out)
    if numbers is not None:
        check_writable("see", numbers, overwrite=contains(numbers, OWN, within=len(OWN)))


def see(
    readings: Sequence[Reading],
    *,
    model: str,
    layer: int | None = None,
    head: int | None = None,
    word: str | None = None,
    sort: str | None = None,
    index: Words | None = None,
    flows: Sequence[Sequence[Flow] | str] = (),
    effects: Sequence[tuple[Measure, Sequence[Effect]]] = (),
    out: Path | None = None,
    depth: int | None = None,
    numbers: Path | None = None,
) -> None:
    """Print the attention of texts that a model has read; write the page and the numbers if asked.

    `sort` names a habit by which to list the heads; `index` holds a corpus in which to find the word's nearest.
    `flows` and `effects` are those of each text, if they were measured. With a `depth` the page is one head's map, for
    texts too long for all heads: so many levels of it, zoomed like a street map.

    Raises: ArgumentError if there is no such layer, head, word or habit; FileError if a file cannot be written.
    """
    pairs = [reading for reading in readings if reading.source is not None]
    # What looks at itself; a recurrent translator does not.
    readings = [part for reading in readings for part in (reading.source, reading) if part is not None and part.maps]
    _check(readings, pairs, layer, head)
    if sort is not None and sort not in ORDERS:
        raise ArgumentError(must("see", "--sort", f"be one of {', '.join(ORDERS)}", repr(sort)))
    if depth is not None and (out is None or len(readings) != 1):
        got = "no --out" if out is None else f"{len(readings)} texts"
        raise ArgumentError(must("see", "--depth", "come with --out and one text", got))
    check_files(out, numbers)
    baked = 0
    if depth is not None:
        # All heads of a text are as large.
        grid = readings[0].maps[0].grid
        baked = baked_size(grid.queries, grid.keys, depth, function="see", argument="--depth")
    comparison = None if word is None else compare(readings, word)
    nearest = _nearest(readings, word, index)
    shares = [rollout(reading.maps)[-1, 0] if _is_stack(reading) else None for reading in readings]
    found = [
        look_at(reading, layer, head, [] if comparison is None else _tokens(comparison, number))
        for number, reading in enumerate(readings)
    ]
    screen = console()
    for number, (reading, seen) in enumerate(zip(readings, found, strict=True)):
        screen.print()
        if reading.unknown:
            names = " ".join(printable(reading.labels[token]) for token in reading.unknown)
            screen.print(f"Not in the model's vocabulary, so that it sees [UNK]: {names}")
        screen.print(heatmap(reading, seen.layer, seen.head, screen.width, seen.why))
        screen.print()
        screen.print(telling_table(reading, seen.telling))
        if sort is not None:
            screen.print()
            screen.print(heads_table(seen.habits, sort))
        screen.print()
        screen.print(flow_lines(reading, seen.query or 0, shares[number], flows[number] if flows else ()))
        if effects:
            screen.print()
            screen.print(effects_table(*effects[number]))
    for pair in pairs:
        screen.print()
        screen.print(alignment_table(pair))
    if word is not None and comparison is not None and (index is None or len(comparison.places) > 1):
        screen.print()
        screen.print(comparison_table(readings, word, comparison, screen.width))
    for one in nearest:
        screen.print()
        screen.print(nearest_table(one, str(word), index.path.name if index else "", screen.width))
    if numbers is not None:
        found_numbers = _numbers(readings, pairs, model, found, word, comparison)
        for number, entry in enumerate(found_numbers["texts"]):
            share = shares[number]
            entry["rollout"] = None if share is None else [[round(one, 6) for one in row] for row in share.tolist()]
            if flows and not isinstance(flows[number], str):
                entry["residual"] = [
                    {"layer": one.layer, "share": [round(each, 6) for each in one.share[0].tolist()]}
                    for one in cast(Sequence[Flow], flows[number])
                ]
            if effects:
                measure, table = effects[number]
                entry["effects"] = {"unit": measure.unit, "heads": [asdict(one) for one in table]}
        if nearest:
            kept = [field.name for field in fields(Nearest) if field.name != "found"]
            found_numbers["nearest"] = [{name: _plain(getattr(one, name)) for name in kept} for one in nearest]
        write_whole("see", numbers, (json.dumps(found_numbers, indent=1) + "\n").encode(), overwrite=True)
        screen.print(f"\nnumbers: {printable(str(numbers))}", soft_wrap=True)
    if out is not None and depth is not None:
        (reading,), (shown,) = readings, found
        drawn = reading.maps[shown.layer].head(shown.head)
        screen.print(f"\ndepth {depth}: the tiles take at most {baked / 1e6:.2f} MB")
        size = write_map_page(
            out, drawn, title=reading.text, tokens=reading.labels, depth=depth, layer=shown.layer, head=shown.head
        )
        screen.print(f"page: {printable(str(out))} ({size / 1e6:.2f} MB), open it in a browser", soft_wrap=True)
    elif out is not None:
        projected = None if word is None or comparison is None else _project(readings, word, comparison)
        views = [
            replace(
                _view(reading, seen, _project_corpus(reading, str(word), nearest) or projected, pairs),
                effects=effects[number][1] if effects else (),
            )
            for number, (reading, seen) in enumerate(zip(readings, found, strict=True))
        ]
        views += [_across(pair) for pair in pairs]
        size = write_page(out, views, title="Attention", subtitle=model)
        screen.print(f"\npage: {printable(str(out))} ({size / 1e6:.2f} MB), open it in a browser", soft_wrap=True)


def _nearest(readings: Sequence[Reading], word: str | None, index: Words | None) -> list[Nearest]:
    """Find what is nearest to the word in each text that holds it."""
    if index is None:
        return []
    if word is None:
        raise ArgumentError(must("see", "--index", "come with --word", "none", "the word to look up"))
    holding = sorted({place.reading for place in places(readings, word)})
    return [index.nearest(readings[number], word) for number in holding]


def _is_stack(reading: Reading) -> bool:
    return all(one.grid.queries == one.grid.keys for one in reading.maps)


def flows_of(model: nn.Module, tokenizer: Tokenizer, readings: Sequence[Reading]) -> list[list[Flow] | str]:
    """Measure the residual's share in each text, or say why it cannot be; none for an encoder with a decoder."""
    if any(reading.source is not None for reading in readings):
        return []
    found: list[list[Flow] | str] = []
    for reading in readings:
        try:
            found.append(residual_share(model, _batch(tokenizer, reading)))
        except UnsupportedError as error:
            found.append(str(error))
    return found


def effects_of(
    model: nn.Module, tokenizer: Tokenizer, readings: Sequence[Reading], word: str | None
) -> list[tuple[Measure, list[Effect]]]:
    """Switch the heads off in each text: what becomes of the word, or of the prediction, or of all vectors.

    Raises: UnsupportedError for an encoder with a decoder.
    """
    if any(reading.source is not None for reading in readings):
        rule, fix = (
            "be left out with an encoder and a decoder",
            "qkv.effects(model, batch, measure) can tell",
        )
        raise UnsupportedError(must("see", "--ablate", rule, type(model).__name__, fix))
    found = []
    for number, reading in enumerate(readings):
        here = [] if word is None else [place for place in places(readings, word) if place.reading == number]
        measure: Measure = Vector()
        if here:
            measure = Vector(here[0].tokens)
        elif "[MASK]" in reading.labels and getattr(model, "masked", None) is not None:
            measure = Prediction(reading.labels.index("[MASK]"))
        elif hasattr(model, "step") or "LMHead" in type(model).__name__ or "CausalLM" in type(model).__name__:
            measure = Prediction()
        batch = _batch(tokenizer, reading)
        with progress("heads") as tell:
            found.append((measure, effects(model, batch, measure, text=text_of(reading), tell=tell)))
    return found


def _batch(tokenizer: Tokenizer, reading: Reading) -> torch.Tensor:
    return torch.tensor([tokenizer.encode(encodable(reading.text)).ids])


@dataclass(frozen=True)
class Look:
    """What is shown of a reading: its heads' habits, and one head, opened at a query, and why."""

    habits: list[Head]
    telling: dict[str, Head]
    layer: int
    head: int
    query: int | None
    why: str


def _check(readings: Sequence[Reading], pairs: Sequence[Reading], layer: int | None, head: int | None) -> None:
    maps = readings[0].maps if readings else pairs[0].cross
    for name, index, size in (("layer", layer, len(maps)), ("head", head, maps[0].grid.heads)):
        if index is not None and not 0 <= index < size:
            raise ArgumentError(must("see", name, f"lie in 0..{size - 1}", index, f"the model has {size} {name}s"))


def _tokens(comparison: Comparison, number: int) -> list[int]:
    return [token for place in comparison.places if place.reading == number for token in place.tokens]


def look_at(reading: Reading, layer: int | None = None, head: int | None = None, word: Sequence[int] = ()) -> Look:
    """Choose the head to draw, of those asked for: where a word, or the word, looks hardest at another further off."""
    measured = habits(reading)
    among = [one for one in measured if layer in (None, one.layer) and head in (None, one.head)]
    is_word = [
        not special and any(one.isalnum() for one in label)
        for label, special in zip(reading.labels, reading.special, strict=True)
    ]
    rows = torch.arange(len(is_word))
    words = torch.tensor(is_word)
    near = (rows[:, None] - rows).abs() <= 1
    allowed = words[:, None] & words & ~near
    if word:
        # The word's own tokens are as near to it as its neighbours are.
        own = torch.isin(rows, torch.tensor(word))
        allowed &= own[:, None] & ~own
    if not allowed.any():
        best = min(among, key=lambda one: one.entropy)
        return Look(measured, telling(measured), best.layer, best.head, word[0] if word else None, "the sharpest")
    layers = sorted({one.layer for one in among})
    peaks = {number: torch.where(allowed, reading.weights(number), -1).flatten(1).max(-1) for number in layers}
    best = max(among, key=lambda one: peaks[one.layer].values[one.head].item())
    query, key = divmod(int(peaks[best.layer].indices[best.head]), len(is_word))
    names = (printable(reading.labels[token]) for token in (query, key))
    why = f"{'→'.join(names)} {peaks[best.layer].values[best.head]:.0%}"
    return Look(measured, telling(measured), best.layer, best.head, query, why)


def _view(reading: Reading, seen: Look, projection: Projection | None, pairs: Sequence[Reading]) -> View:
    found = {id(part): (pair, name) for pair in pairs for part, name in ((pair.source, "encoder"), (pair, "decoder"))}
    pair, part = found.get(id(reading), (None, None))
    return View(
        reading.text,
        reading.labels,
        MapLayers(reading.maps),
        (seen.layer, seen.head),
        query=seen.query,
        unknown=reading.unknown,
        words=word_ranges(reading.text, reading.spans, reading.special),
        features=[features(seen) for seen in reading.maps],
        habits=seen.habits,
        projection=projection,
        group=None if pair is None else _name(pair),
        part=part,
    )


def _across(pair: Reading) -> View:
    assert pair.source is not None
    return View(
        _name(pair),
        pair.after,
        MapLayers(pair.cross),
        keys=pair.source.labels,
        query=0,
        features=[features(seen) for seen in pair.cross],
        group=_name(pair),
        part="cross",
    )


def _name(pair: Reading) -> str:
    return f"{pair.source.text if pair.source else ''} → {pair.text}"


def _project(readings: Sequence[Reading], word: str, comparison: Comparison) -> Projection | None:
    """Draw the word's places, if there are two."""
    places = comparison.places
    if len(places) < 2:
        return None
    spans = [[readings[place.reading].spans[token] for token in place.tokens] for place in places]
    return project(
        word,
        [readings[place.reading].text for place in places],
        [(span[0][0], span[-1][1]) for span in spans],
        [vectors(readings, places, layer) for layer in range(len(readings[0].hidden))],
    )


def _project_corpus(reading: Reading, word: str, nearest: Sequence[Nearest]) -> Projection | None:
    """Draw the word's places in the corpus and in the text, if all layers are there."""
    for one in nearest:
        found = one.found
        whole = [layer.layer for layer in one.layers] == list(range(len(reading.hidden)))
        if one.text == reading.text and whole and len(found.texts) > 1:
            # The text's own, which is the last, is the point that is opened.
            last = len(found.texts) - 1
            shown = [last, *range(max(0, last + 1 - MOST_PLACES), last)]
            texts, marks = ([each[at] for at in shown] for each in (found.texts, found.marks))
            return project(word, texts, marks, [each[shown] for each in found.vectors])
    return None


def _numbers(
    readings: Sequence[Reading],
    pairs: Sequence[Reading],
    model: str,
    found: Sequence[Look],
    word: str | None,
    comparison: Comparison | None,
) -> dict[str, Any]:
    """Give the numbers as JSON holds them: each text's tokens, heads, telling heads with links, and the head shown."""
    texts = []
    for reading, seen in zip(readings, found, strict=True):
        weights = reading.maps[seen.layer].head(seen.head).dense()[0, 0].tolist()
        texts.append(
            {
                "text": reading.text,
                "tokens": reading.labels,
                "unknown": reading.unknown,
                "heads": [asdict(one) for one in seen.habits],
                "telling": {
                    habit: {
                        "layer": one.layer,
                        "head": one.head,
                        "links": [
                            {"query": query, "key": key, "weight": weight}
                            for query, key, weight in links(reading, one, habit, 10)
                        ],
                    }
                    for habit, one in seen.telling.items()
                },
                "shown": {"layer": seen.layer, "head": seen.head, "why": seen.why, "weights": weights},
            }
        )
    numbers: dict[str, Any] = {"generator": "qkv see", "model": model, "texts": texts}
    if pairs:
        numbers["pairs"] = [
            {
                "source": pair.source.text if pair.source else "",
                "target": pair.text,
                "keys": pair.source.labels if pair.source else [],
                "tokens": pair.after,
                "weights": alignment(pair).tolist(),
            }
            for pair in pairs
        ]
    if comparison is not None:
        numbers["word"] = {
            "word": word,
            "places": [asdict(place) for place in comparison.places],
            "cosine": comparison.raw.tolist(),
            "centred": comparison.centred.tolist(),
        }
    return numbers


def _plain(value: object) -> object:
    """Give what JSON can hold."""
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
