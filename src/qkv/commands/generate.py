"""`qkv generate`: continue a text, as it comes."""

from pathlib import Path

import torch

from qkv.commands.trained import check_see, load, show
from qkv.errors import ArgumentError, must
from qkv.lens.views import text_view, words_of
from qkv.models.generation import NO_TOKEN, beam_search, generate, greedy, sample
from qkv.models.gpt import Gpt
from qkv.text.corpus import encodable
from qkv.text.decoding import Decoder, token_labels


def continue_text(
    place: str,
    text: str,
    *,
    new: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    beams: int,
    seed: int | None,
    see: Path | None,
) -> None:
    """Print a text and what a GPT adds to it; with a temperature of 0 the likeliest token each time."""
    check_see(see)
    model, tokenizer = load("generate", place, Gpt)
    prompt = tokenizer.encode(encodable(text), add_special_tokens=False).ids
    if not prompt:
        if model.config.end is None:
            raise ArgumentError(must("generate", "TEXT", "hold a token", repr(text)))
        # What a text begins after.
        prompt = [model.config.end]
    room = model.positions - len(prompt)
    if room < 1:
        raise ArgumentError(must("generate", "TEXT", f"have less than {model.positions} tokens", len(prompt)))
    tokens, stop = torch.tensor([prompt]), () if model.config.end is None else (model.config.end,)
    decoder = Decoder(tokenizer)
    print(decoder.feed(prompt), end="", flush=True)
    made: list[int] = []
    if beams > 1:
        found = beam_search(model, model.start(), tokens, new=min(new, room), stop=stop, beams=beams)
        made = [token for token in found.tokens[0, 0].tolist() if token != NO_TOKEN]
        print(decoder.feed(made), end="")
    else:
        choose = greedy() if temperature == 0 else sample(temperature=temperature, top_k=top_k, top_p=top_p)
        chance = None if seed is None else torch.Generator().manual_seed(seed)
        for (token,) in generate(
            model, model.start(), tokens, new=min(new, room), choose=choose, stop=stop, generator=chance
        ):
            made.append(int(token))
            print(decoder.feed(made[-1:]), end="", flush=True)
    print()
    if see is not None:
        whole = [*prompt, *made]
        with torch.no_grad():
            seen = model.encode(torch.tensor([whole]))
        labels = token_labels(tokenizer, whole)
        view = text_view(text or "…", labels, seen.maps, query=len(prompt) - 1, words=words_of(labels))
        show(see, [view], place)
