"""`qkv caption`: read a picture, and show where each word looked."""

from pathlib import Path

import torch
from torch import Tensor

from qkv.commands.trained import check_see, load, show
from qkv.errors import ArgumentError, FileError, UnsupportedError, must
from qkv.lens.views import picture_view
from qkv.models.captioner import Captioner, CaptionerConfig
from qkv.text.digits import END, START, scene


def caption_picture(place: str, image: str | None, *, number: int | None, see: Path | None) -> None:
    """Print the caption of a picture's file, or of the scene of that number, which no model was trained on."""
    check_see(see)
    if (image is None) == (number is None):
        rule = "be given, or --scene NUMBER in its place"
        raise ArgumentError(must("caption", "IMAGE", rule, "neither" if image is None else "both"))
    model, tokenizer = load("caption", place, Captioner)
    picture = scene(number or 0, held_out=True).image if image is None else read_picture(image, model.config)
    state, token, words = model.start(picture[None]), torch.tensor([[START]]), []
    with torch.no_grad():
        for _ in range(32):
            token = model.step(token, state).argmax(-1, keepdim=True)
            words.append(int(token))
            if words[-1] == END:
                break
    text = " ".join(tokenizer.id_to_token(word) or "?" for word in words if word != END)
    print(text)
    if see is not None:
        labels = [tokenizer.id_to_token(word) or "?" for word in words]
        weights = torch.stack(state.weights, 1)[0]
        show(see, [picture_view(text or "…", labels, weights, picture[0], *model.config.grid)], place)


def read_picture(path: str, config: CaptionerConfig) -> Tensor:
    """Read a picture as the model sees it: grey, white on black, as large as fits, in the middle.

    Raises: FileError for what is no picture; UnsupportedError if Pillow is not installed.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ModuleNotFoundError as error:
        raise UnsupportedError(
            must("caption", "pillow", "be installed", "no such package", "pip install pillow")
        ) from error
    import numpy as np

    try:
        with Image.open(path) as file:
            grey = file.convert("L")
            grey.thumbnail((config.width, config.height))
    except (OSError, UnidentifiedImageError, ValueError, Image.DecompressionBombError) as error:
        raise FileError(
            must("caption", "IMAGE", "be a picture", repr(path), getattr(error, "strerror", None) or error)
        ) from error
    pixels = torch.from_numpy(np.array(grey, dtype=np.float32) / 255)
    # Ink on paper is turned to chalk on a board.
    pixels = 1 - pixels if pixels.median() > 0.5 else pixels
    canvas = torch.zeros(1, config.height, config.width)
    top, left = (config.height - pixels.shape[0]) // 2, (config.width - pixels.shape[1]) // 2
    canvas[0, top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return canvas
