"""Views for the page of what models read and made: texts, translations, captions."""

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from qkv.core.map import AttentionMap
from qkv.core.types import DotPair
from qkv.lens.page.view import Image, View
from qkv.lens.subwords import word_ranges


class MapLayers(Sequence[np.ndarray]):
    """The weights of maps of one row each, a layer [heads, queries, keys] computed at a time."""

    def __init__(self, maps: Sequence[AttentionMap]) -> None:
        self.maps = maps

    def __len__(self) -> int:
        return len(self.maps)

    def __getitem__(self, layer):  # type: ignore[no-untyped-def]
        return self.maps[layer].dense().flatten(0, -4)[0].detach().float().cpu().numpy()


def features(seen: AttentionMap) -> tuple[np.ndarray, np.ndarray] | None:
    """Give a layer's queries and keys, whose products sum to the scores; None unless it scores by a dot product."""
    if not isinstance(seen.pair, DotPair):
        return None
    query, key = (part.detach().flatten(0, -4)[0].float() for part in (seen.query, seen.key))
    key = key.repeat_interleave(query.shape[0] // key.shape[0], 0)
    return (query * seen.pair.scale).cpu().numpy(), key.cpu().numpy()


def words_of(labels: Sequence[str]) -> list[tuple[int, int]]:
    """Find the words of tokens that spell a text one after another: the first of each, and the one after its last."""
    stops = list(itertools.accumulate(map(len, labels)))
    return word_ranges("".join(labels), list(zip([0, *stops], stops, strict=False)), [False] * len(labels))


def text_view(
    title: str,
    labels: Sequence[str],
    maps: Sequence[AttentionMap],
    *,
    query: int | None = None,
    words: Sequence[tuple[int, int]] = (),
    group: str | None = None,
    part: str | None = None,
) -> View:
    """View a text that looks at itself, layer by layer; `query` is the token that is shown first."""
    known = [features(seen) for seen in maps]
    weights = MapLayers(maps)
    return View(title, labels, weights, query=query, words=words, features=known, group=group, part=part)


def translation_views(
    title: str,
    source: Sequence[str],
    target: Sequence[str],
    after: Sequence[str],
    *,
    encoder: Sequence[AttentionMap],
    cross: Sequence[AttentionMap],
    decoder: Sequence[AttentionMap],
) -> list[View]:
    """View a pair: the target that looks at its source, by what comes `after` each token, and both at themselves."""
    across = View(
        title,
        after,
        MapLayers(cross),
        keys=source,
        query=0,
        words=words_of(after),
        key_words=words_of(source),
        features=[features(seen) for seen in cross],
        group=title,
        part="cross",
    )
    return [
        across,
        text_view(f"{title} · source", source, encoder, words=words_of(source), group=title, part="encoder"),
        text_view(f"{title} · target", target, decoder, words=words_of(target), group=title, part="decoder"),
    ]


def alignment_view(
    title: str, target: Sequence[str], source: Sequence[str], weights: Float[Tensor, "target source"]
) -> View:
    """View the one alignment of a recurrent translator."""
    return View(title, target, weights[None, None].detach().float().cpu().numpy(), keys=source, query=0)


def picture_view(
    title: str,
    words: Sequence[str],
    weights: Float[Tensor, "words parts"],
    picture: Float[Tensor, "height width"],
    rows: int,
    columns: int,
) -> View:
    """View where each word of a caption looks in a picture, cut into rows × columns."""
    parts = [f"r{row}c{column}" for row in range(rows) for column in range(columns)]
    image = Image(picture.detach().cpu().numpy().clip(0, 1), rows, columns)
    found = torch.as_tensor(weights)[None, None].detach().float().cpu().numpy()
    return View(title, words, found, keys=parts, image=image, query=0)
