"""`qkv generate`: continue a text, as it comes."""

import sys
from collections.abc import Iterable
from pathlib import Path

import torch

from qkv.commands.trained import check_see, encoded, load, show
from qkv.core.checks import check_whole
from qkv.errors import ArgumentError, must
from qkv.lens.views import text_view, words_of
from qkv.models.generation import NO_TOKEN, beam_search, generate, greedy, sample
from qkv.models.gpt import Gpt
from qkv.text.decoding import Decoder, token_labels
from qkv.text.printable import LINES, printable

TEMPERATURE = 0.8
"""Where none is asked for."""


def continue_text(
    place: str,
    text: str,
    *,
    new: int,
    temperature: float | None,
    top_k: int | None,
    top_p: float | None,
    beams: int,
    seed: int | None,
    see: Path | None,
) -> None:
    """Print a text and what a GPT adds to it; with a temperature of 0 the likeliest token each time."""
    check_see(see)
    check_whole("generate", "--new", new, 1)
    check_whole("generate", "--beams", beams, 1)
    asked = {"--temperature": temperature, "--top-k": top_k, "--top-p": top_p}
    for option, value in asked.items():
        if beams > 1 and value is not None:
            raise ArgumentError(must("generate", option, "be left out beside --beams", value, "a search draws nothing"))
    temperature = TEMPERATURE if temperature is None else temperature
    choose = greedy() if temperature == 0 else sample(temperature=temperature, top_k=top_k, top_p=top_p)
    model, tokenizer = load("generate", place, Gpt)
    prompt = encoded("generate", tokenizer, text, special=False).ids
    if not prompt:
        if model.config.end is None:
            raise ArgumentError(must("generate", "TEXT", "hold a token", repr(text)))
        # What a text begins after.
        prompt = [model.config.end]
    room = model.positions - len(prompt)
    if room < 1:
        raise ArgumentError(must("generate", "TEXT", f"have less than {model.positions} tokens", len(prompt)))
    tokens, stop = torch.tensor([prompt]), () if model.config.end is None else (model.config.end,)
    coming: Iterable[int]
    if beams > 1:
        found = beam_search(model, model.start(), tokens, new=min(new, room), stop=stop, beams=beams)
        coming = (token for token in found.tokens[0, 0].tolist() if token != NO_TOKEN)
    else:
        chance = None if seed is None else torch.Generator().manual_seed(seed)
        steps = generate(model, model.start(), tokens, new=min(new, room), choose=choose, stop=stop, generator=chance)
        coming = (int(token) for (token,) in steps)
    decoder = Decoder(tokenizer)
    print(printable(decoder.feed(prompt), keep=LINES), end="", flush=True)
    made: list[int] = []
    for token in coming:
        made.append(token)
        print(printable(decoder.feed([token]), keep=LINES), end="", flush=True)
    print()
    if len(made) == room < new and made[-1] not in stop:
        told = f"generate: {room} of {new} new tokens: the model's {model.positions} positions end here"
        print(told, file=sys.stderr)
    if see is not None:
        whole = [*prompt, *made]
        with torch.no_grad():
            seen = model.encode(torch.tensor([whole]))
        labels = token_labels(tokenizer, whole)
        view = text_view(text or "…", labels, seen.maps, query=len(prompt) - 1, words=words_of(labels))
        show(see, [view], place)
