"""One text read by a model: its tokens, every layer's vectors and attention."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from tokenizers import Tokenizer
from torch import Tensor

from qkv.core.map import AttentionMap
from qkv.errors import ArgumentError, must
from qkv.lens.notebook import Shown
from qkv.lens.page import View
from qkv.lens.views import MapLayers, features


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

    `hidden[0]` holds the vectors that enter the first layer, `hidden[i + 1]` those that leave layer i.
    """

    text: str
    labels: list[str]
    spans: list[tuple[int, int]]
    special: list[bool]
    unknown: list[int]
    """The tokens that the model's vocabulary does not hold: it reads all of them as one and the same."""
    hidden: list[Float[Tensor, "positions width"]]
    maps: list[AttentionMap]

    def weights(self, layer: int) -> Float[Tensor, "heads positions positions"]:
        """Compute all weights of one layer. Cost: O(heads·positions²)."""
        return self.maps[layer].dense()[0]

    def views(self) -> list[View]:
        """View the text for a page; in a notebook it shows itself so."""
        known = [features(seen) for seen in self.maps]
        return [View(self.text, self.labels, MapLayers(self.maps), unknown=self.unknown, features=known)]


@torch.no_grad()
def read(model: Encoder, tokenizer: Tokenizer, text: str) -> Reading:
    """Let a model read a text.

    Raises: ArgumentError if the text holds no token, or more than the model has positions for.
    """
    if not text.strip():
        raise ArgumentError(must("read", "text", "hold something to read", repr(text)))
    encoding = tokenizer.encode(text.encode("utf-8", "replace").decode("utf-8"))
    if not encoding.ids:
        fix = "the model's tokenizer makes no token of it"
        raise ArgumentError(must("read", "text", "hold a token", repr(text), fix))
    if len(encoding.ids) > model.positions:
        rule = f"have at most {model.positions} tokens"
        raise ArgumentError(must("read", "text", rule, len(encoding.ids), "all that the model has positions for"))
    tokens, segments = torch.tensor([encoding.ids]), torch.tensor([encoding.type_ids])
    seen = model.encode(tokens, segments)
    special = [bool(flag) for flag in encoding.special_tokens_mask]
    return Reading(
        text=text,
        labels=[
            token if flag else label(token, text[start:stop])
            for token, flag, (start, stop) in zip(encoding.tokens, special, encoding.offsets, strict=True)
        ],
        spans=list(encoding.offsets),
        special=special,
        unknown=[
            at for at, token in enumerate(encoding.tokens) if token == getattr(tokenizer.model, "unk_token", None)
        ],
        hidden=[layer[0] for layer in seen.hidden],
        maps=list(seen.maps),
    )


def label(token: str, written: str) -> str:
    """Name a token as it was written in the text; the second and later parts of a word keep their ##."""
    return f"##{written}" if token.startswith("##") else written or token
