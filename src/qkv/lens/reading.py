"""One text read by a model: its tokens, every layer's vectors and attention. Any model, each kind by its adapter."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from tokenizers import Encoding, Tokenizer
from torch import Tensor, nn

from qkv.core.map import AttentionMap
from qkv.errors import ArgumentError, UnsupportedError, must
from qkv.lens.notebook import Shown
from qkv.lens.page import Image, View
from qkv.lens.views import MapLayers, features, translation_views
from qkv.lens.watch import Seen, watch
from qkv.models.captioner import Captioner
from qkv.models.gpt import Gpt
from qkv.models.recurrent import Recurrent
from qkv.models.transformer import Transformer
from qkv.models.translation import translate
from qkv.text.batching import Sequences
from qkv.text.corpus import encodable
from qkv.text.decoding import Decoder, token_labels
from qkv.text.tokenizer import END, START

MOST_NEW = 128
"""How many tokens an encoder with a decoder adds, at most, where no target is given."""


@runtime_checkable
class Encoded(Protocol):
    """What a model tells of one pass: the vectors before and after each layer, and each layer's attention."""

    @property
    def hidden(self) -> Sequence[Float[Tensor, "batch positions width"]]:
        """The vectors that enter the first layer, and those that leave each."""
        ...

    @property
    def maps(self) -> Sequence[AttentionMap]:
        """The attention of each layer."""
        ...


@runtime_checkable
class Encoder(Protocol):
    """A model that can be read."""

    @property
    def positions(self) -> int:
        """How many tokens it can read at once."""
        ...

    def encode(self, tokens: Int[Tensor, "batch positions"], segments: Int[Tensor, "batch positions"]) -> Encoded:
        """Run the model and keep what there is to see."""
        ...


@dataclass(frozen=True, eq=False)
class Reading(Shown):
    """One text as a model read it.

    `hidden[0]` holds the vectors that enter the first layer, `hidden[i + 1]` those that leave layer i. What an encoder
    with a decoder has written is a reading with its `source`, another reading, and with what each layer looks at in it
    (`cross`). A recurrent translator has vectors and attention across alone.
    """

    text: str
    labels: list[str]
    spans: list[tuple[int, int]]
    special: list[bool]
    unknown: list[int]
    """The tokens that the model's vocabulary does not hold: it reads all of them as one and the same."""
    hidden: list[Float[Tensor, "positions width"]]
    maps: list[AttentionMap]
    source: "Reading | None" = None
    cross: list[AttentionMap] = field(default_factory=list)
    after: list[str] = field(default_factory=list)
    """What was written after each token, where a model wrote: what a row of `cross` looks for."""
    batch: Tensor | None = None
    """What the model was called with."""
    image: Image | None = None
    """The picture whose patches the tokens are, where the text is a picture's name."""

    def weights(self, layer: int) -> Float[Tensor, "heads positions positions"]:
        """Compute all weights of one layer. Cost: O(heads·positions²)."""
        return self.maps[layer].dense()[0]

    def views(self) -> list[View]:
        """View the text for a page, and what it was made from; in a notebook it shows itself so."""
        if self.source is None:
            known = [features(seen) for seen in self.maps]
            layers = MapLayers(self.maps)
            return [View(self.text, self.labels, layers, unknown=self.unknown, features=known, image=self.image)]
        title, seen = f"{self.source.text} → {self.text}", self.source.labels
        if not self.maps:
            return [View(title, self.after, MapLayers(self.cross), keys=seen, query=0)]
        parts = {"encoder": self.source.maps, "cross": self.cross, "decoder": self.maps}
        return translation_views(title, seen, self.labels, self.after, **parts)


@torch.no_grad()
def read(model: Encoder | nn.Module, tokenizer: Tokenizer, text: str, target: str | None = None) -> Reading:
    """Let a model read a text: a Bert, a Gpt, a translator of qkv, or a model of text of transformers.

    A translator, or an encoder with a decoder, writes the target itself unless one is given.

    Raises: ArgumentError if the text holds no token, or more than the model has positions for, or for a target of a
    model that has none; UnsupportedError for a model of another kind, one whose layers cannot be seen, or one that
    computes what is no number.
    """
    for name, given in (("text", text), ("target", target)):
        if given is not None and not given.strip():
            raise ArgumentError(must("read", name, "hold something to read", repr(given)))
    if isinstance(model, Captioner):
        fix = "qkv caption RUN IMAGE --see PAGE.html shows where each word looks"
        raise UnsupportedError(must("read", "model", "be one that reads text", "Captioner", fix))
    if sees_pictures(model):
        fix = "qkv see --model FOLDER PICTURE.png, or lens.patches.read_patches(model, processor, path)"
        raise UnsupportedError(must("read", "model", "be one that reads text", type(model).__name__, fix))
    for kind, adapter in _ADAPTERS:
        if kind(model):
            made = adapter(model, tokenizer, encodable(text), None if target is None else encodable(target))
            for part in (made.source, made):
                check_finite("read", [] if part is None else part.hidden)
            return made
    fix = "a Bert, Gpt, Transformer or Recurrent of qkv, or a model of transformers"
    raise UnsupportedError(must("read", "model", "be one that reads text", type(model).__name__, fix))


# An adapter for each kind of model


def _read_encoder(model: Encoder, tokenizer: Tokenizer, text: str, target: str | None) -> Reading:
    _check_no_target(model, target)
    encoding = _encode(tokenizer, text, model.positions)
    seen = model.encode(torch.tensor([encoding.ids]), torch.tensor([encoding.type_ids]))
    return _reading(tokenizer, encoding, text, seen.hidden, seen.maps)


def _read_gpt(model: Gpt, tokenizer: Tokenizer, text: str, target: str | None) -> Reading:
    _check_no_target(model, target)
    encoding = _encode(tokenizer, text, model.positions)
    seen = model.encode(torch.tensor([encoding.ids]))
    return _reading(tokenizer, encoding, text, seen.hidden, seen.maps)


def _read_translator(model: Transformer | Recurrent, tokenizer: Tokenizer, text: str, target: str | None) -> Reading:
    start, end = tokenizer.token_to_id(START), tokenizer.token_to_id(END)
    if start is None or end is None:
        raise ArgumentError(must("read", "the tokenizer", f"have {START} and {END}", "none"))
    encoding = _encode(tokenizer, text, None, special=False)
    source = Sequences.of([torch.tensor([*encoding.ids, end])])
    if target is None:
        (made,) = translate(model, source, start=start, stop=end, beams=1)
        written = made.tolist()
    else:
        written = _encode(tokenizer, target, None, special=False).ids
    given = Sequences.of([torch.tensor([start, *written])])
    with watch(model) as seen:
        vectors = model(source, given)
    # A recurrent one attends across alone.
    encoder, decoder = ([], []) if isinstance(model, Recurrent) else (seen.encoder.values(), seen.decoder.values())
    spans, special = [*encoding.offsets, (len(text), len(text))], [*map(bool, encoding.special_tokens_mask), True]
    before = _named(tokenizer, [*encoding.ids, end], special, text, spans, [], list(encoder))
    return _written(tokenizer, [start, *written], [vectors], list(decoder), list(seen.cross.values()), before, last=end)


def _read_transformers(model: Any, tokenizer: Tokenizer, text: str, target: str | None) -> Reading:
    encoding = _encode(tokenizer, text, _positions(model.config))
    tokens = torch.tensor([encoding.ids], device=model.device)
    if not model.config.is_encoder_decoder:
        _check_no_target(model, target)
        with watch(model) as seen:
            made = model(input_ids=tokens, output_hidden_states=True)
        check_seen(seen)
        return _reading(tokenizer, encoding, text, made.hidden_states, list(seen.layers.values()))
    if target is None:
        new = min(MOST_NEW, (_positions(model.config) or MOST_NEW + 1) - 1)
        written = model.generate(tokens, do_sample=False, num_beams=1, max_new_tokens=new)[0].tolist()
    else:
        labels = torch.tensor([_encode(tokenizer, target, None).ids], device=model.device)
        first = model.config.decoder_start_token_id
        first = model.generation_config.decoder_start_token_id if first is None else first
        written = [first, *labels[0].tolist()]
    given = torch.tensor([written[:-1]], device=model.device)
    with watch(model) as seen:
        made = model(input_ids=tokens, decoder_input_ids=given, output_hidden_states=True)
    check_seen(seen)
    source = _reading(tokenizer, encoding, text, made.encoder_hidden_states, list(seen.encoder.values()))
    hidden, maps = [layer[0] for layer in made.decoder_hidden_states], list(seen.decoder.values())
    return _written(tokenizer, written[:-1], hidden, maps, list(seen.cross.values()), source, last=written[-1])


def sees_pictures(model: object) -> bool:
    """Say whether a model, or its class, is one of transformers that takes pictures."""
    return getattr(model, "main_input_name", None) == "pixel_values"


def _is_of_transformers(model: object) -> bool:
    # Its base class, without importing it for models that are none of its.
    names = {base.__name__ for base in type(model).__mro__ if base.__module__.startswith("transformers.")}
    return "PreTrainedModel" in names


_ADAPTERS: tuple[tuple[Callable[[object], bool], Callable[..., Reading]], ...] = (
    (lambda model: isinstance(model, Gpt), _read_gpt),
    (lambda model: isinstance(model, Transformer | Recurrent), _read_translator),
    (_is_of_transformers, _read_transformers),
    (lambda model: isinstance(model, Encoder), _read_encoder),
)


# What they share


def _check_no_target(model: object, target: str | None) -> None:
    if target is not None:
        rule, fix = "be left out", f"a {type(model).__name__} reads one text"
        raise ArgumentError(must("read", "target", rule, repr(target), fix))


def check_seen(seen: Seen) -> None:
    """Raise UnsupportedError unless every layer was seen, and wholly."""
    if seen.unseen:
        why = "; ".join(f"{name}: {reason}" for name, reason in seen.unseen.items())
        fix = "qkv.watch(model) shows what can be seen, and tells the rest in seen.unseen"
        if "only in part" in why:
            fix = "load the model without its prefix, or see with qkv.watch(model) what the queries see beside it"
        raise UnsupportedError(must("read", "every layer", "attend where it can be seen, and wholly", why, fix))


def check_finite(function: str, hidden: Sequence[Tensor]) -> None:
    """Raise UnsupportedError for NaN or infinity, of which no attention can be told."""
    for layer, vectors in enumerate(hidden):
        if not bool(vectors.isfinite().all()):
            where = "before layer 0" if layer == 0 else f"after layer {layer - 1}"
            fix = "its weights may be broken, or too large for their type"
            raise UnsupportedError(must(function, "model", "give finite vectors", f"NaN or infinity {where}", fix))


def _positions(config: Any) -> int | None:
    """Count the places that a model of transformers has vectors for; None if it tells no number."""
    most = getattr(config, "max_position_embeddings", None)
    # RoBERTa and its kin number places from behind their padding's number.
    taken = config.pad_token_id + 1 if "roberta" in config.model_type or config.model_type == "camembert" else 0
    return most - taken if isinstance(most, int) and most > 0 else None


def _encode(tokenizer: Tokenizer, text: str, most: int | None, special: bool = True) -> Encoding:
    encoding = tokenizer.encode(text, add_special_tokens=special)
    if not encoding.ids:
        fix = "the model's tokenizer makes no token of it"
        raise ArgumentError(must("read", "text", "hold a token", repr(text), fix))
    if most is not None and len(encoding.ids) > most:
        rule = f"have at most {most} tokens"
        fix = "the model has no more positions: a shorter text, or a model with more"
        raise ArgumentError(must("read", "text", rule, len(encoding.ids), fix))
    return encoding


def _reading(
    tokenizer: Tokenizer, encoding: Encoding, text: str, hidden: Sequence[Tensor], maps: Sequence[AttentionMap]
) -> Reading:
    special = [bool(flag) for flag in encoding.special_tokens_mask]
    return _named(tokenizer, encoding.ids, special, text, encoding.offsets, [layer[0] for layer in hidden], maps)


def _written(
    tokenizer: Tokenizer,
    ids: list[int],
    hidden: list[Tensor],
    maps: Sequence[AttentionMap],
    cross: Sequence[AttentionMap],
    source: Reading,
    last: int,
) -> Reading:
    """Name what a model wrote, or was given to write: the text is what its tokens spell."""
    known = {one for one, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    labels = token_labels(tokenizer, [*ids, last])
    decoder, text, spans = Decoder(tokenizer), "", []
    for one in ids:
        start = len(text)
        text += "" if one in known else decoder.feed([one])
        spans.append((start, len(text)))
    return Reading(
        text=text,
        labels=labels[:-1],
        spans=spans,
        special=[one in known for one in ids],
        unknown=unknown_tokens(tokenizer, ids),
        hidden=hidden,
        maps=list(maps),
        source=source,
        cross=list(cross),
        after=labels[1:],
    )


def _named(
    tokenizer: Tokenizer,
    ids: list[int],
    special: list[bool],
    text: str,
    spans: Sequence[tuple[int, int]],
    hidden: list[Tensor],
    maps: Sequence[AttentionMap],
) -> Reading:
    """Name the tokens of a text as they are written in it."""
    labels: list[str] = []
    part = 1
    for at, (one, flag, (start, stop)) in enumerate(zip(ids, special, spans, strict=True)):
        token = tokenizer.id_to_token(one) or "?"
        # One letter may be several tokens, each some of its bytes.
        part = part + 1 if at and start < stop and spans[at - 1] == (start, stop) else 1
        name = token if flag else label(token, text[start:stop].strip() or text[start:stop])
        labels.append(name if part == 1 else name + str(part).translate(_BELOW))
    return Reading(
        text=text,
        labels=labels,
        spans=list(spans),
        special=special,
        unknown=unknown_tokens(tokenizer, ids),
        hidden=hidden,
        maps=list(maps),
        batch=torch.tensor([ids]),
    )


def unknown_tokens(tokenizer: Tokenizer, ids: list[int]) -> list[int]:
    """Find the places of what is not in a tokenizer's vocabulary."""
    name = getattr(tokenizer.model, "unk_token", None)
    return [at for at, one in enumerate(ids) if name is not None and tokenizer.id_to_token(one) == name]


_BELOW = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def label(token: str, written: str) -> str:
    """Name a token as it was written in the text; the second and later parts of a word keep their ##."""
    return f"##{written}" if token.startswith("##") else written or token
