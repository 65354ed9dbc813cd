"""Pictures with captions, of a user's files: grey, of one size, kept as bytes on the disk.

table = read_captions("birds.tsv")                        # picture.png, a tab, what it shows
pixels = pixel_file("birds.npy", table.pictures, 64, 64)  # [pictures, height, width]
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from qkv.core.checks import check_whole
from qkv.errors import FileError, UnsupportedError, must
from qkv.files import whole_or_nothing
from qkv.folders import file_error
from qkv.text.bar import bar
from qkv.text.batches import Documents
from qkv.text.batching import Pictures, Sequences, generator
from qkv.text.corpus import TextPairs, identity_of, read_pairs

SPECIAL = ("[PAD]", "[START]", "[END]")
"""What a captioner's vocabulary begins with."""
PADDING, START, END = range(3)


@dataclass(frozen=True)
class Captions:
    """Pictures' files and what they show, in the order of the table; a picture may stand there several times."""

    pictures: tuple[Path, ...]
    captions: tuple[str, ...]
    places: tuple[str, ...]
    """The file and the line that each is from, for an error that is found later."""
    pairs: TextPairs

    def __len__(self) -> int:
        return len(self.pictures)

    @cached_property
    def identity(self) -> str:
        """A name that changes when the table or a picture does."""
        return identity_of((*self.pairs.files, *dict.fromkeys(self.pictures)), "captions")


def read_captions(path: str | PathLike[str]) -> Captions:
    """Read a table of pictures and captions: two columns with a tab between, or JSON with `image` and `caption`.

    A picture's name is one beside the table.

    Raises: FileError, naming the file and the line, for a pair with one side or a picture that is not there.
    """
    pairs = read_pairs(path, ("image", "caption"))
    rows = [
        (file.parent / picture, caption, f"{file}, {place}") for file, place, (picture, caption) in pairs.with_places()
    ]
    for picture, _, place in rows:
        # Unlike Path.is_file, this takes a name that is too long for one that is not there.
        if not os.path.isfile(picture):
            raise file_error("read_captions", picture, "be a picture", "no such file", place)
    pictures, captions, places = zip(*rows, strict=True)
    return Captions(pictures, captions, places, pairs)


def read_picture(
    path: str | PathLike[str], height: int, width: int, *, chalk: bool = False
) -> Float[Tensor, "1 {height} {width}"]:
    """Read a picture in grey, 0 black to 1 white, made as small as fits, in the middle.

    With `chalk`, ink on paper is turned to chalk on a board.

    Raises: FileError for what is no picture, or one whose numbers do not say what is white; KindError, ArgumentError
    for a size that is no integer of at least 1; UnsupportedError if Pillow is not installed.
    """
    check_whole("read_picture", "height", height, 1)
    check_whole("read_picture", "width", width, 1)
    grey = open_picture(path, "read_picture").convert("L")
    grey.thumbnail((width, height))
    pixels = torch.from_numpy(np.array(grey, dtype=np.float32) / 255)
    pixels = 1 - pixels if chalk and pixels.median() > 0.5 else pixels
    canvas = torch.zeros(1, height, width)
    top, left = (height - pixels.shape[0]) // 2, (width - pixels.shape[1]) // 2
    canvas[0, top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return canvas


def open_picture(path: str | PathLike[str], function: str) -> Any:
    """Open a picture with Pillow, 8 bits a shade, turned as its camera says; errors name `function`.

    Raises: FileError for what is no picture, or one whose numbers do not say what is white; UnsupportedError if Pillow
    is not installed.
    """
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ModuleNotFoundError as error:
        fix = "pip install pillow"
        raise UnsupportedError(must(function, "pillow", "be installed", "no such package", fix)) from error
    try:
        with Image.open(path) as file:
            if file.mode[0] in "IF":
                return Image.fromarray(_eight_bits(np.asarray(file)))
            return ImageOps.exif_transpose(file)
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        got = getattr(error, "strerror", None) or error
        raise file_error(function, Path(path), "be a picture", got) from error


def _eight_bits(shades: np.ndarray) -> np.ndarray:
    """Give shades of 16 bits in 8, which Pillow would cut off at 255. Raises: ValueError for others."""
    if shades.dtype.kind == "f" or shades.min() < 0 or shades.max() > 65535:
        kind = "numbers with a point" if shades.dtype.kind == "f" else f"numbers from {shades.min()} to {shades.max()}"
        raise ValueError(f"{kind}: save it with 8 or 16 bits a pixel")
    return np.round(shades / 257).astype(np.uint8)


def pixel_file(path: Path, table: Captions, height: int, width: int) -> np.ndarray:
    """Open the pixels of a table's pictures, mapped into memory [rows, height, width]; make them if they are not there.

    Raises: FileError, naming the picture and the line, for what is no picture.
    """
    if not path.is_file():
        with whole_or_nothing(path) as temporary, open(temporary, "wb") as file, bar("pictures", len(table)) as advance:
            shape = {"descr": "|u1", "fortran_order": False, "shape": (len(table), height, width)}
            np.lib.format.write_array_header_1_0(file, shape)
            for row, (picture, place) in enumerate(zip(table.pictures, table.places, strict=True), 1):
                try:
                    pixels = read_picture(picture, height, width)
                except FileError as error:
                    raise FileError(f"{error}; {place}") from error
                file.write((255 * pixels).round().byte().numpy().tobytes())
                advance(row, 1)
    return np.load(path, mmap_mode="r")


class PictureBatches:
    """Pictures with their captions, in an order of its own each epoch: batch `step` is a function of seed and step.

    `rows` are those of `pixels` and `captions` that there are to see.

    Raises: KindError, ArgumentError for a size that is no integer of at least 1.
    """

    def __init__(
        self, pixels: np.ndarray, captions: Documents, rows: Int[Tensor, " rows"], *, size: int = 64, seed: int = 0
    ) -> None:
        check_whole("PictureBatches", "size", size, 1, "pictures in a batch")
        self.pixels, self.captions, self.rows, self.size, self.seed = pixels, captions, rows, size, seed

    def __len__(self) -> int:
        return -(-len(self.rows) // self.size)

    def __getitem__(self, step: int) -> Pictures:
        epoch, place = divmod(step, len(self))
        order = torch.randperm(len(self.rows), generator=generator(self.seed, epoch))
        rows = self.rows[order[place * self.size : (place + 1) * self.size]].tolist()
        return described(self.images(rows), [self.captions[row] for row in rows])

    def images(self, rows: Sequence[int]) -> Float[Tensor, "rows 1 height width"]:
        """Give the pictures of some rows, 0 black to 1 white."""
        return torch.from_numpy(self.pixels[list(rows)]).float().unsqueeze(1) / 255


def described(images: Float[Tensor, "batch 1 height width"], captions: Sequence[Int[Tensor, " _"]]) -> Pictures:
    """Put pictures and the tokens of their captions together, as a captioner learns from them."""
    start, end = torch.tensor([START]), torch.tensor([END])
    target = Sequences.of(torch.cat((start, caption)) for caption in captions)
    return Pictures(images, target, torch.cat([torch.cat((caption, end)) for caption in captions]))
