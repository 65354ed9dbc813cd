"""A picture read by a vision model of transformers: its patches, every layer's vectors and attention."""

from math import prod
from os import PathLike, fspath
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from qkv.core.map import AttentionMap
from qkv.errors import UnsupportedError, must
from qkv.lens.page import Image
from qkv.lens.reading import Reading, check_finite, check_seen, sees_pictures
from qkv.lens.watch import watch
from qkv.text.pictures import open_picture

NAMES = {"cls_token": "CLS", "class_embedding": "CLS", "distillation_token": "DIST", "register_tokens": "REG"}
"""What stands before the patches, by the parameters that models hold it in."""

LARGEST = 512
"""Pixels of the longer side of the picture that is shown."""


@torch.no_grad()
def read_patches(model: Any, processor: Any, path: str | PathLike[str]) -> Reading:
    """Let a vision model of transformers see a picture: a ViT, a DeiT, or another that attends over all patches.

    The tokens are what stands before the patches, such as [CLS], and the patches by their rows and columns, as r3c6.
    The picture that is kept is the one that the model saw: resized and cropped as its image processor does.

    Raises: FileError for a file that is no picture; UnsupportedError for a model that takes none, whose layers cannot
    be seen, or see windows of the picture alone, or that computes what is no number.
    """
    function = "read_patches"
    if not sees_pictures(model):
        rule, fix = "be a vision model of transformers", "a ViT, a DeiT; read(model, tokenizer, text) takes text"
        raise UnsupportedError(must(function, "model", rule, type(model).__name__, fix))
    batch = processor(images=open_picture(path, function).convert("RGB"), return_tensors="pt")["pixel_values"]
    batch = batch.to(model.device, model.dtype)
    with watch(model) as seen:
        made = model(batch, output_hidden_states=True)
    check_seen(seen)
    check_finite(function, made.hidden_states)
    maps = list(seen.layers.values())
    rows, columns = _grid(model, batch)
    before = _check_whole(model, maps, rows, columns)
    labels = [*_before(model, before), *(f"r{row}c{column}" for row in range(rows) for column in range(columns))]
    return Reading(
        text=fspath(path),
        labels=labels,
        spans=[(0, 0)] * len(labels),
        special=[at < before for at in range(len(labels))],
        unknown=[],
        hidden=[layer[0] for layer in made.hidden_states],
        maps=maps,
        batch=batch,
        image=Image(_shown(batch[0], processor), rows, columns, before),
    )


def _grid(model: Any, batch: Float[Tensor, "1 channels height width"]) -> tuple[int, int]:
    """Count the rows and columns of patches."""
    size = getattr(model.config, "patch_size", None)
    high, wide = (size, size) if isinstance(size, int) else tuple(size or (0, 0))
    return (batch.shape[-2] // high, batch.shape[-1] // wide) if high and wide else (0, 0)


def _check_whole(model: Any, maps: list[AttentionMap], rows: int, columns: int) -> int:
    """Count the tokens before the patches. Raises: UnsupportedError unless every layer sees all patches."""
    patches = rows * columns
    sizes = {tuple(seen.shape) for seen in maps}
    count = maps[0].grid.queries
    is_whole = len(sizes) == 1 and maps[0].grid.keys == count and prod(maps[0].grid.batch) == 1
    if not patches or count < patches or not is_whole:
        shapes = ", ".join(str(list(size)) for size in sorted(sizes))
        rule = f"attend over all {rows} × {columns} patches of a picture in every layer"
        fix = "qkv.watch(model) shows what each of its layers sees"
        raise UnsupportedError(must("read_patches", type(model).__name__, rule, f"maps of {shapes}", fix))
    return count - patches


def _before(model: Any, count: int) -> list[str]:
    """Name the tokens before the patches."""
    names: list[str] = []
    for name, parameter in model.named_parameters():
        if found := NAMES.get(name.rpartition(".")[2]):
            many = parameter.shape[-2] if parameter.ndim > 1 else 1
            names += [f"[{found}{number or ''}]" for number in (range(1, many + 1) if many > 1 else [0])]
    return names if len(names) == count else [f"[{number}]" for number in range(count)]


def _shown(pixels: Float[Tensor, "channels height width"], processor: Any) -> np.ndarray:
    """Give the picture as the model saw it, in colours from 0 to 1, no larger than is shown."""
    pixels = pixels.detach().float().cpu()
    if getattr(processor, "do_normalize", False):
        mean, deviation = (torch.tensor(getattr(processor, f"image_{name}"))[:, None, None] for name in ("mean", "std"))
        pixels = pixels * deviation + mean
    shrink = min(1.0, LARGEST / max(pixels.shape[1:]))
    if shrink < 1:
        pixels = F.interpolate(pixels[None], scale_factor=shrink, mode="area")[0]
    return pixels[:3].expand(3, -1, -1).clamp(0, 1).permute(1, 2, 0).numpy()
