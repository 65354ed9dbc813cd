"""`qkv caption`: read a picture, and show where each word looked."""

import sys
from pathlib import Path

import torch

from qkv.commands.trained import check_see, load, show
from qkv.core.checks import check_whole
from qkv.errors import ArgumentError, must
from qkv.lens.views import picture_view
from qkv.models.captioner import Captioner
from qkv.text.digits import scene
from qkv.text.digits import tokenizer as of_digits
from qkv.text.pictures import END, START, read_picture
from qkv.text.printable import printable

LONGEST = 100
"""Words of a caption that does not end."""


def caption_picture(place: str, image: str | None, *, number: int | None, see: Path | None) -> None:
    """Print the caption of a picture's file, or of the scene of that number, which no model was trained on."""
    check_see(see)
    if (image is None) == (number is None):
        rule = "be given, or --scene NUMBER in its place"
        raise ArgumentError(must("caption", "IMAGE", rule, "neither" if image is None else "both"))
    if number is not None:
        check_whole("caption", "--scene", number, 0)
    model, tokenizer = load("caption", place, Captioner)
    digits = tokenizer.get_vocab() == of_digits().get_vocab()
    if image is None:
        if not digits:
            rule, fix = "be left out", f"the model in {place} learned from other pictures: give it an IMAGE"
            raise ArgumentError(must("caption", "--scene", rule, number, fix))
        shown = scene(number or 0, held_out=True)
        picture = shown.image
    else:
        picture = read_picture(image, model.config.height, model.config.width, chalk=digits)
    state, token, words = model.start(picture[None]), torch.tensor([[START]]), []
    with torch.no_grad():
        for _ in range(LONGEST):
            token = model.step(token, state).argmax(-1, keepdim=True)
            words.append(int(token))
            if words[-1] == END:
                break
    text = tokenizer.decode(words)
    print(printable(text))
    if image is None:
        print(f"(written in scene {number}: {shown.caption})", file=sys.stderr)
    if see is not None:
        labels = [tokenizer.id_to_token(word) or "?" for word in words]
        weights = torch.stack(state.weights, 1)[0]
        show(see, [picture_view(text or "…", labels, weights, picture[0], *model.config.grid)], place)
