"""What `qkv see` shows, as numbers that JSON can hold."""

from collections.abc import Sequence
from dataclasses import asdict, fields, is_dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from qkv.lens.ablate import Effect, Measure
from qkv.lens.flow import Flow
from qkv.lens.heads import links
from qkv.lens.index import Nearest
from qkv.lens.look import Look
from qkv.lens.reading import Reading
from qkv.lens.terminal import alignment, why
from qkv.lens.words import Comparison

OWN = b'{\n "generator": "qkv see",'
"""How the numbers that qkv writes begin."""


def numbers_of_text(
    reading: Reading,
    look: Look,
    share: Float[Tensor, "positions positions"] | None,
    flow: Sequence[Flow] | str | None = None,
    effects: tuple[Measure, Sequence[Effect]] | None = None,
) -> dict[str, Any]:
    """Give a text's tokens, heads, telling heads with links, the head shown, and how much reaches what."""
    found: dict[str, Any] = {
        "text": reading.text,
        "tokens": reading.labels,
        "unknown": reading.unknown,
        "heads": [asdict(one) for one in look.habits],
        "telling": {
            habit: {
                "layer": one.layer,
                "head": one.head,
                "links": [
                    {"query": query, "key": key, "weight": weight}
                    for query, key, weight in links(reading, one, habit, 10)
                ],
            }
            for habit, one in look.telling.items()
        },
        "shown": {
            "layer": look.layer,
            "head": look.head,
            "why": why(reading, look.link),
            "weights": reading.maps[look.layer].head(look.head).dense()[0, 0].tolist(),
        },
        "rollout": None if share is None else [[round(one, 6) for one in row] for row in share.tolist()],
    }
    if reading.image is not None:
        found["image"] = {name: getattr(reading.image, name) for name in ("rows", "columns", "before")}
    if flow is not None and not isinstance(flow, str):
        found["residual"] = [
            {"layer": one.layer, "share": [round(each, 6) for each in one.share[0].tolist()]} for one in flow
        ]
    if effects is not None:
        measure, table = effects
        found["effects"] = {"unit": measure.unit, "heads": [asdict(one) for one in table]}
    return found


def numbers_of_pair(pair: Reading) -> dict[str, Any]:
    """Give how what was written is aligned with its source."""
    return {
        "source": pair.source.text if pair.source else "",
        "target": pair.text,
        "keys": pair.source.labels if pair.source else [],
        "tokens": pair.after,
        "weights": alignment(pair).tolist(),
    }


def numbers_of_word(word: str, comparison: Comparison) -> dict[str, Any]:
    """Give the cosines of a word's vectors at its places."""
    return {
        "word": word,
        "places": [asdict(place) for place in comparison.places],
        "cosine": comparison.raw.tolist(),
        "centred": comparison.centred.tolist(),
    }


def numbers_of_nearest(nearest: Nearest) -> dict[str, Any]:
    """Give what a corpus holds nearest to a word."""
    kept = [field.name for field in fields(Nearest) if field.name != "found"]
    return {name: _plain(getattr(nearest, name)) for name in kept}


def _plain(value: object) -> object:
    """Give what JSON can hold."""
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
