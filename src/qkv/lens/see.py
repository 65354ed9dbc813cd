"""What `qkv see` does with readings: print what there is to see, write the page and the numbers."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxtyping import Float
from rich.console import RenderableType
from torch import Tensor, nn

from qkv.errors import ArgumentError, UnsupportedError, must
from qkv.files import check_writable, contains, write_whole
from qkv.lens.ablate import Effect, Measure, Prediction, Vector, effects
from qkv.lens.flow import Flow, reached, residual_share, rollout
from qkv.lens.heads import ORDERS, text_of
from qkv.lens.index import Nearest, WordIndex
from qkv.lens.language import Say, english
from qkv.lens.long import baked_size, write_map_page
from qkv.lens.look import Look, look_at
from qkv.lens.numbers import OWN, numbers_of_nearest, numbers_of_pair, numbers_of_text, numbers_of_word
from qkv.lens.page.build import check_page, write_page
from qkv.lens.progress import progress
from qkv.lens.reading import Reading
from qkv.lens.sheet import sheet
from qkv.lens.terminal import (
    alignment_table,
    comparison_table,
    console,
    effects_table,
    flow_lines,
    heads_table,
    nearest_table,
    picture_map,
    telling_table,
    text_map,
)
from qkv.lens.words import Comparison, compare, places
from qkv.text.printable import printable


def check_files(out: Path | None, numbers: Path | None) -> None:
    """Raise FileError if the page or the numbers could not be written; qkv's own are replaced, others never."""
    if out is not None:
        check_page(out)
    if numbers is not None:
        check_writable("see", numbers, overwrite=contains(numbers, OWN, within=len(OWN)))


def check_asked(
    texts: int,
    *,
    word: str | None = None,
    sort: str | None = None,
    index: object = None,
    out: Path | None = None,
    depth: int | None = None,
    numbers: Path | None = None,
) -> None:
    """Raise what is wrong with what is asked of so many texts, whatever the model: no such habit, no such file."""
    if sort is not None and sort not in ORDERS:
        raise ArgumentError(must("see", "--sort", f"be one of {', '.join(ORDERS)}", repr(sort)))
    if index is not None and word is None:
        raise ArgumentError(must("see", "--index", "come with --word", "none", "the word to look up"))
    if depth is not None:
        if depth < 1:
            raise ArgumentError(must("see", "--depth", "be >= 1", depth))
        if out is None or texts != 1:
            got = "no --out" if out is None else f"{texts} texts"
            raise ArgumentError(must("see", "--depth", "come with --out and one text", got))
    check_files(out, numbers)


def check_place(layer: int | None, head: int | None, *, layers: int | None, heads: int | None) -> None:
    """Raise ArgumentError for a layer or a head that a model of so many has not; None is not known."""
    for name, index, size in (("layer", layer, layers), ("head", head, heads)):
        if index is not None and size is not None and not 0 <= index < size:
            raise ArgumentError(must("see", name, f"lie in 0..{size - 1}", index, f"the model has {size} {name}s"))


@dataclass(frozen=True, eq=False)
class Sights:
    """What there is to see of some readings."""

    readings: list[Reading]
    """What looks at itself: texts, and the sources of those that were made from one."""
    pairs: list[Reading]
    """What was made from a source."""
    looks: list[Look]
    shares: list[Float[Tensor, " _"] | None]
    """What reaches the query that is looked at."""
    word: str | None = None
    comparison: Comparison | None = None
    nearest: list[Nearest] = field(default_factory=list)


def see(
    readings: Sequence[Reading],
    *,
    model: str,
    layer: int | None = None,
    head: int | None = None,
    word: str | None = None,
    sort: str | None = None,
    index: WordIndex | None = None,
    flows: Sequence[Sequence[Flow] | str] = (),
    effects: Sequence[tuple[Measure, Sequence[Effect]]] = (),
    out: Path | None = None,
    depth: int | None = None,
    numbers: Path | None = None,
    language: str | None = None,
    say: Say = english,
) -> None:
    """Print the attention of texts that a model has read; write the page and the numbers if asked.

    `sort` names a habit by which to list the heads; `index` holds a corpus in which to find the word's nearest.
    `flows` and `effects` are those of each text, if they were measured. With a `depth` the page is one head's map, for
    texts too long for all heads: so many levels of it, zoomed like a street map. `say` chooses the terminal's language,
    and `language` the page's ("en", "zh"; None: the browser's).

    Raises: ArgumentError if there is no such layer, head, word or habit; FileError if a file cannot be written.
    """
    pairs = [reading for reading in readings if reading.source is not None]
    # What looks at itself; a recurrent translator does not.
    selves = [part for reading in readings for part in (reading.source, reading) if part is not None and part.maps]
    maps = [part.maps for part in selves] or [pair.cross for pair in pairs]
    check_place(layer, head, layers=min(map(len, maps)), heads=min(one[0].grid.heads for one in maps))
    check_asked(len(selves), word=word, sort=sort, index=index, out=out, depth=depth, numbers=numbers)
    if depth is not None:
        # All heads of a text are as large.
        grid = selves[0].maps[0].grid
        baked = baked_size(grid.queries, grid.keys, depth, function="see", argument="--depth")
    sights = _sights(selves, pairs, layer, head, word, index)
    screen = console()
    for part in _printed(sights, sort, index, flows, effects, screen.width, say):
        screen.print()
        screen.print(part)
    if numbers is not None:
        found = _numbers(sights, model, flows, effects)
        write_whole("see", numbers, (json.dumps(found, indent=1) + "\n").encode(), overwrite=True)
        screen.print(f"\n{say('numbers: ', '数值：')}{printable(str(numbers))}", soft_wrap=True)
    if out is None:
        return
    if depth is not None:
        size = f"{baked / 1e6:.2f} MB"
        screen.print(f"\n{say(f'depth {depth}: the tiles take at most {size}', f'{depth} 级细节：图块最多占 {size}')}")
        written = _write_map(out, sights, depth, language)
    else:
        views = sheet(
            selves, sights.looks, pairs=pairs, effects=effects,
            word=word, comparison=sights.comparison, nearest=sights.nearest,
        )  # fmt: skip
        written = write_page(out, views, subtitle=model, language=language)
    place, size = printable(str(out)), f"{written / 1e6:.2f} MB"
    told = say(f"page: {place} ({size}), open it in a browser", f"网页：{place}（{size}），请用浏览器打开")
    screen.print(f"\n{told}", soft_wrap=True)


def _sights(
    readings: list[Reading],
    pairs: list[Reading],
    layer: int | None,
    head: int | None,
    word: str | None,
    index: WordIndex | None,
) -> Sights:
    """Find what there is to see."""
    comparison = None if word is None else compare(readings, word)
    looks = []
    for number, reading in enumerate(readings):
        here = [] if comparison is None else [place for place in comparison.places if place.reading == number]
        looks.append(look_at(reading, layer, head, [token for place in here for token in place.tokens]))
    shares = [
        reached(reading.maps, look.query or 0).flatten(0, -2)[0] if _is_stack(reading) else None
        for reading, look in zip(readings, looks, strict=True)
    ]
    nearest = [] if index is None or word is None else _nearest(readings, word, index)
    return Sights(readings, pairs, looks, shares, word, comparison, nearest)


def _nearest(readings: Sequence[Reading], word: str, index: WordIndex) -> list[Nearest]:
    """Find what is nearest to the word in each text that holds it."""
    holding = sorted({place.reading for place in places(readings, word)})
    return [index.nearest(readings[number], word) for number in holding]


def _is_stack(reading: Reading) -> bool:
    return all(one.grid.queries == one.grid.keys for one in reading.maps)


def _printed(
    sights: Sights,
    sort: str | None,
    index: WordIndex | None,
    flows: Sequence[Sequence[Flow] | str],
    effects: Sequence[tuple[Measure, Sequence[Effect]]],
    width: int,
    say: Say,
) -> Iterator[RenderableType]:
    """Give what is printed, one thing after another."""
    for number, (reading, look) in enumerate(zip(sights.readings, sights.looks, strict=True)):
        draw = text_map if reading.image is None else picture_map
        yield draw(reading, look, width, say)
        yield telling_table(reading, look.telling, say)
        if sort is not None:
            yield heads_table(look.habits, sort, say)
        yield flow_lines(reading, look.query or 0, sights.shares[number], flows[number] if flows else (), say)
        if effects:
            yield effects_table(*effects[number], say)
    for pair in sights.pairs:
        yield alignment_table(pair, say)
    word, comparison = sights.word, sights.comparison
    if word is not None and comparison is not None and (index is None or len(comparison.places) > 1):
        yield comparison_table(sights.readings, word, comparison, width, say)
    for one in sights.nearest:
        yield nearest_table(one, str(word), index.path.name if index else "", width, say)


def _numbers(
    sights: Sights,
    model: str,
    flows: Sequence[Sequence[Flow] | str],
    effects: Sequence[tuple[Measure, Sequence[Effect]]],
) -> dict[str, Any]:
    """Give everything as JSON holds it."""
    texts = [
        numbers_of_text(
            reading,
            sights.looks[number],
            rollout(reading.maps)[-1, 0] if _is_stack(reading) else None,
            flows[number] if flows else None,
            effects[number] if effects else None,
        )
        for number, reading in enumerate(sights.readings)
    ]
    found: dict[str, Any] = {"generator": "qkv see", "model": model, "texts": texts}
    if sights.pairs:
        found["pairs"] = [numbers_of_pair(pair) for pair in sights.pairs]
    if sights.word is not None and sights.comparison is not None:
        found["word"] = numbers_of_word(sights.word, sights.comparison)
    if sights.nearest:
        found["nearest"] = [numbers_of_nearest(one) for one in sights.nearest]
    return found


def _write_map(out: Path, sights: Sights, depth: int, language: str | None) -> int:
    """Write the head that is shown of the one text, in so many levels of detail."""
    (reading,), (look,) = sights.readings, sights.looks
    return write_map_page(
        out, reading.maps[look.layer].head(look.head), title=reading.text, tokens=reading.labels, depth=depth,
        layer=look.layer, head=look.head, language=language,
    )  # fmt: skip


# What is measured of a model besides


def flows_of(model: nn.Module, readings: Sequence[Reading]) -> list[list[Flow] | str]:
    """Measure the residual's share in each text, or say why it cannot be; none for an encoder with a decoder."""
    if any(reading.source is not None for reading in readings):
        return []
    found: list[list[Flow] | str] = []
    for reading in readings:
        try:
            found.append(residual_share(model, _batch(reading)))
        except UnsupportedError as error:
            found.append(str(error))
    return found


def effects_of(
    model: nn.Module, readings: Sequence[Reading], word: str | None, say: Say = english
) -> list[tuple[Measure, list[Effect]]]:
    """Switch the heads off in each text: what becomes of the word, or of the prediction, or of all vectors.

    Raises: UnsupportedError for an encoder with a decoder.
    """
    if any(reading.source is not None for reading in readings):
        rule, fix = "be left out with an encoder and a decoder", "qkv.effects(model, batch, measure) can tell"
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
        with progress(say("heads", "头"), say=say) as tell:
            found.append((measure, effects(model, _batch(reading), measure, text=text_of(reading), tell=tell)))
    return found


def _batch(reading: Reading) -> Tensor:
    assert reading.batch is not None
    return reading.batch
