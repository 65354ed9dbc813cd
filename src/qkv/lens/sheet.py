"""The views of a page of readings: each with its habits, effects and projection, and what stands across a pair."""

from collections.abc import Sequence

from qkv.lens.ablate import Effect, Measure
from qkv.lens.index import Nearest
from qkv.lens.look import Look
from qkv.lens.page.view import MOST_PLACES, Projection, View
from qkv.lens.projection import project
from qkv.lens.reading import Reading
from qkv.lens.subwords import word_ranges
from qkv.lens.views import MapLayers, features
from qkv.lens.words import Comparison, vectors


def sheet(
    readings: Sequence[Reading],
    looks: Sequence[Look],
    *,
    pairs: Sequence[Reading] = (),
    effects: Sequence[tuple[Measure, Sequence[Effect]]] = (),
    word: str | None = None,
    comparison: Comparison | None = None,
    nearest: Sequence[Nearest] = (),
) -> list[View]:
    """View readings for a page, and `pairs`, those that were made from another; a `word` with its vectors' projection.

    The word is projected with its places in a corpus (`nearest`), or, without, in the readings (`comparison`).
    """
    own = None if word is None or comparison is None else _project(readings, word, comparison)
    found = [
        _view(
            reading, look, pairs, effects[number] if effects else None, _project_corpus(reading, word, nearest) or own
        )
        for number, (reading, look) in enumerate(zip(readings, looks, strict=True))
    ]
    return found + [_across(pair) for pair in pairs]


def _view(
    reading: Reading,
    look: Look,
    pairs: Sequence[Reading],
    effects: tuple[Measure, Sequence[Effect]] | None,
    projection: Projection | None,
) -> View:
    found = {id(part): (pair, name) for pair in pairs for part, name in ((pair.source, "encoder"), (pair, "decoder"))}
    pair, part = found.get(id(reading), (None, None))
    return View(
        reading.text,
        reading.labels,
        MapLayers(reading.maps),
        (look.layer, look.head),
        query=look.query,
        unknown=reading.unknown,
        image=reading.image,
        words=() if reading.image else word_ranges(reading.text, reading.spans, reading.special),
        features=[features(seen) for seen in reading.maps],
        habits=look.habits,
        effects=() if effects is None else effects[1],
        measured="" if effects is None else effects[0].unit,
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


def _project_corpus(reading: Reading, word: str | None, nearest: Sequence[Nearest]) -> Projection | None:
    """Draw the word's places in the corpus and in the text, if all layers are there."""
    for one in nearest:
        found = one.found
        whole = [layer.layer for layer in one.layers] == list(range(len(reading.hidden)))
        if word is not None and one.text == reading.text and whole and len(found.texts) > 1:
            # The text's own, which is the last, is the point that is opened.
            last = len(found.texts) - 1
            shown = [last, *range(max(0, last + 1 - MOST_PLACES), last)]
            texts, marks = ([each[at] for at in shown] for each in (found.texts, found.marks))
            return project(word, texts, marks, [each[shown] for each in found.vectors])
    return None
