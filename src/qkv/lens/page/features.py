"""Queries and keys of the heads whose features a page has room for, in float16."""

import base64
from typing import Any

import numpy as np

from qkv.errors import KindError, ShapeError, must
from qkv.lens.page.view import View
from qkv.lens.page.weights import Measured


def pack_features(view: View, measured: Measured, budget: int) -> tuple[dict[str, Any] | None, int]:
    """Pack heads while they fit in `budget` bytes: the one that opens first, then the sharpest; also give their size.

    Raises: ShapeError, KindError for features that are not [heads, queries, dim] and [heads, keys, dim].
    """
    if not view.features:
        return None, 0
    for layer, given in enumerate(view.features):
        _check(view, layer, given, measured.heads)
    if len(view.features) != measured.layers:
        raise ShapeError(must("View", "features", f"be of {measured.layers} layers", len(view.features)))
    first = view.start[0] * measured.heads + view.start[1]
    order = sorted(range(len(measured.peaks)), key=lambda head: (head != first, -measured.peaks[head]))
    packed: dict[str, list[str]] = {}
    size, dim = 0, {}
    for index in order:
        layer, head = divmod(index, measured.heads)
        given = view.features[layer]
        if given is None:
            continue
        both = [_pack(np.asarray(part[head])) for part in given]
        if (size := size + sum(map(len, both))) > budget:
            size -= sum(map(len, both))
            break
        packed[str(index)], dim[str(index)] = both, given[0].shape[-1]
    return ({"heads": packed, "dim": dim} if packed else None), size


def _check(view: View, layer: int, given: Any, heads: int) -> None:
    if given is None:
        return
    query, key = (np.asarray(part) for part in given)
    (queries, keys), dim = view.shape, query.shape[-1] if query.ndim else 0
    if query.shape != (heads, queries, dim) or key.shape != (heads, keys, dim) or not dim:
        rule = f"be [{heads}, {queries}, dim] and [{heads}, {keys}, dim]"
        raise ShapeError(must("View", "features", rule, f"{list(query.shape)}, {list(key.shape)} in layer {layer}"))
    if not all(np.issubdtype(part.dtype, np.floating) for part in (query, key)):
        raise KindError(must("View", "features", "be floating point", f"{query.dtype}, {key.dtype}"))


def _pack(values: np.ndarray) -> str:
    """Write as float16, low bytes first; what is too large for it is as large as it can be, and NaN is 0."""
    largest = float(np.finfo(np.float16).max)
    kept = np.nan_to_num(values, nan=0, posinf=largest, neginf=-largest).clip(-largest, largest).astype("<f2")
    return base64.b64encode(kept.tobytes()).decode()
