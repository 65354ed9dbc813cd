"""`qkv translate`: say a text in the other language."""

from collections.abc import Sequence
from pathlib import Path

import torch

from qkv.commands.trained import check_see, encoded, load, show
from qkv.core.checks import check_number, check_whole
from qkv.errors import ArgumentError, must
from qkv.lens.page.view import View
from qkv.lens.views import alignment_view, translation_views
from qkv.models.recurrent import Recurrent
from qkv.models.transformer import Transformer
from qkv.models.translation import translate
from qkv.text.batching import Sequences
from qkv.text.decoding import text_of, token_labels
from qkv.text.printable import printable
from qkv.text.tokenizer import END, START


def translate_texts(place: str, texts: Sequence[str], *, beams: int, length_penalty: float, see: Path | None) -> None:
    """Print the translation of each text."""
    check_see(see)
    model, tokenizer = load("translate", place, Transformer, Recurrent)
    start, end = tokenizer.token_to_id(START), tokenizer.token_to_id(END)
    if start is None or end is None:
        raise ArgumentError(must("translate", "the tokenizer", f"have {START} and {END}", "none"))
    check_whole("translate", "--beams", beams, 1)
    check_number("translate", "--length-penalty", length_penalty, "a finite number")
    sources = []
    for text in texts:
        found = encoded("translate", tokenizer, text, special=False).ids
        if not found:
            raise ArgumentError(must("translate", "TEXT", "hold a token", repr(text)))
        sources.append(torch.tensor([*found, end]))
    source = Sequences.of(sources)
    made = translate(model, source, start=start, stop=end, beams=beams, length_penalty=length_penalty)
    for row in made:
        print(printable(text_of(tokenizer, row.tolist())))
    if see is None:
        return
    views: list[View] = []
    for text, one, row in zip(texts, sources, made, strict=True):
        whole = torch.cat((torch.tensor([start]), row))
        labels = [token_labels(tokenizer, tokens.tolist()) for tokens in (one, whole)]
        views += _views(model, f"{text} → {text_of(tokenizer, row.tolist())}", one, whole, *labels)
    show(see, views, place)


@torch.no_grad()
def _views(
    model: Transformer | Recurrent,
    title: str,
    source: torch.Tensor,
    target: torch.Tensor,
    from_: list[str],
    to: list[str],
) -> list[View]:
    """View a pair. A row is the token that was read; what it looks at decides the next one."""
    pair = Sequences.of([source]), Sequences.of([target])
    # What a row decides is what a reader asks for: each is named by the token that comes after it.
    after = [*to[1:], END]
    if isinstance(model, Recurrent):
        if model.decoder.attention.fixed:
            raise ArgumentError(must("translate", "--see", "be left out", "a model without attention"))
        return [alignment_view(title, after, from_, model.with_alignment(*pair)[1][0])]
    maps = model.with_maps(*pair)
    return translation_views(title, from_, to, after, encoder=maps.encoder, cross=maps.cross, decoder=maps.decoder)
