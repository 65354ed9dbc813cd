"""`qkv fill`: guess the masked words of a text."""

from pathlib import Path

import torch

from qkv.commands.trained import check_see, encoded, load, show
from qkv.errors import ArgumentError, must
from qkv.lens.subwords import word_ranges
from qkv.lens.views import text_view
from qkv.models.bert import Bert
from qkv.models.generation import fill
from qkv.text.printable import printable

MASK = "[MASK]"


def fill_text(place: str, text: str, *, best: int, see: Path | None) -> None:
    """Print the likeliest words of each [MASK] of a text."""
    check_see(see)
    model, tokenizer = load("fill", place, Bert)
    masked = tokenizer.token_to_id(MASK)
    if masked is None:
        raise ArgumentError(must("fill", "the tokenizer", f"have {MASK}", "none"))
    encoding = encoded("fill", tokenizer, text)
    if masked not in encoding.ids:
        raise ArgumentError(must("fill", "TEXT", f"hold {MASK}", repr(text)))
    if len(encoding.ids) > model.positions:
        raise ArgumentError(must("fill", "TEXT", f"have at most {model.positions} tokens", len(encoding.ids)))
    tokens, segments = torch.tensor([encoding.ids]), torch.tensor([encoding.type_ids])
    found = fill(model, tokens, masked, best=best, segments=segments)
    for number, (tokens_of, shares) in enumerate(zip(found.tokens.tolist(), found.probabilities.tolist(), strict=True)):
        print(f"{MASK} {number + 1} of {len(found.places)}")
        for token, share in zip(tokens_of, shares, strict=True):
            print(f"{share:7.1%}  {printable(tokenizer.id_to_token(token) or '?')}")
    if see is not None:
        with torch.no_grad():
            seen = model.encode(tokens, segments)
        special = [bool(flag) for flag in encoding.special_tokens_mask]
        words = word_ranges(text, encoding.offsets, special)
        show(see, [text_view(text, encoding.tokens, seen.maps, query=int(found.places[0]), words=words)], place)
