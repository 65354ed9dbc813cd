"""What `qkv see` does: read the texts, print what there is to see, write the page and the numbers."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from qkv.errors import ArgumentError, must
from qkv.files import write_whole
from qkv.lens.heads import Head, habits, links, telling
from qkv.lens.page.build import View, write_page
from qkv.lens.reading import Reading
from qkv.lens.terminal import comparison_table, console, heatmap, telling_table
from qkv.lens.words import Comparison, compare


class Layers(Sequence[np.ndarray]):
    """The weights of a reading, one layer [heads, queries, keys] computed at a time."""

    def __init__(self, reading: Reading) -> None:
        self.reading = reading

    def __len__(self) -> int:
        return len(self.reading.maps)

    def __getitem__(self, layer):  # type: ignore[no-untyped-def]
        return self.reading.weights(layer).numpy()


def see(
    readings: Sequence[Reading],
    *,
    model: str,
    layer: int | None = None,
    head: int | None = None,
    word: str | None = None,
    out: Path | None = None,
    numbers: Path | None = None,
) -> None:
    """Print the attention of texts that a model has read; write the page and the numbers if asked.

    Raises: ArgumentError if there is no such layer, head or word; FileError if a file cannot be written.
    """
    _check(readings, layer, head)
    comparison = None if word is None else compare(readings, word)
    screen = console()
    chosen = []
    for number, reading in enumerate(readings):
        measured = habits(reading)
        heads = telling(measured)
        tokens = [] if comparison is None else [place.tokens for place in comparison.places if place.reading == number]
        shown = _shown(reading, measured, layer, head, [token for place in tokens for token in place])
        chosen.append(shown)
        screen.print()
        if reading.unknown:
            screen.print(
                f"{reading.unknown} of {len(reading.labels)} tokens are not in the model's vocabulary; it sees [UNK]"
            )
        screen.print(heatmap(reading, *shown, screen.width))
        screen.print()
        screen.print(telling_table(reading, heads))
    if word is not None and comparison is not None:
        screen.print()
        screen.print(comparison_table(readings, word, comparison, screen.width))
    if numbers is not None:
        write_whole("see", numbers, _numbers(readings, model, chosen, word, comparison), overwrite=False)
        screen.print(f"\nnumbers: {numbers}", soft_wrap=True)
    if out is not None:
        views = [
            View(reading.text, reading.labels, Layers(reading), start)
            for reading, start in zip(readings, chosen, strict=True)
        ]
        size = write_page(out, views, title="Attention", subtitle=model)
        screen.print(f"\npage: {out} ({size / 1e6:.2f} MB), open it in a browser", soft_wrap=True)


def _check(readings: Sequence[Reading], layer: int | None, head: int | None) -> None:
    maps = readings[0].maps
    for name, index, size in (("layer", layer, len(maps)), ("head", head, maps[0].grid.heads)):
        if index is not None and not 0 <= index < size:
            raise ArgumentError(must("see", name, f"lie in 0..{size - 1}", index, f"the model has {size} {name}s"))


def _shown(
    reading: Reading, heads: Sequence[Head], layer: int | None, head: int | None, word: Sequence[int]
) -> tuple[int, int]:
    """Choose the head to draw: where the word looks hardest at a word further off; without a word, the sharpest."""
    among = [one for one in heads if layer in (None, one.layer) and head in (None, one.head)]
    if word:
        best = max(among, key=lambda one: _looks_afar(reading, one, word))
    else:
        best = min(among, key=lambda one: one.entropy)
    return best.layer, best.head


def _looks_afar(reading: Reading, head: Head, word: Sequence[int]) -> float:
    """Give the largest weight from a word's tokens to another word that is not beside them."""
    near = {token + step for token in word for step in (-1, 0, 1)}
    words = [any(one.isalnum() for one in label) for label in reading.labels]
    afar = [at for at, is_word in enumerate(words) if is_word and not reading.special[at] and at not in near]
    return reading.weights(head.layer)[head.head][list(word)][:, afar].max().item() if afar else 0.0


def _numbers(
    readings: Sequence[Reading],
    model: str,
    chosen: Sequence[tuple[int, int]],
    word: str | None,
    comparison: Comparison | None,
) -> bytes:
    found: dict[str, object] = {"model": model, "texts": []}
    for reading, (layer, head) in zip(readings, chosen, strict=True):
        heads = habits(reading)
        found["texts"] += [  # type: ignore[operator]
            {
                "text": reading.text,
                "tokens": reading.labels,
                "heads": [asdict(one) for one in heads],
                "telling": {
                    name: {"layer": one.layer, "head": one.head, "links": links(reading, one, 10)}
                    for name, one in telling(heads).items()
                },
                "shown": {
                    "layer": layer,
                    "head": head,
                    "weights": reading.maps[layer].head(head).dense()[0, 0].tolist(),
                },
            }
        ]
    if comparison is not None:
        found["word"] = {
            "word": word,
            "places": [asdict(place) for place in comparison.places],
            "cosine": comparison.raw.tolist(),
            "centred": comparison.centred.tolist(),
        }
    return (json.dumps(found, indent=1) + "\n").encode()
