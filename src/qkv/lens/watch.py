"""`qkv.watch`: the attention of a model as it runs, in linear memory, to be asked later.

    with qkv.watch(model) as seen:
        model(**batch)
    seen[3].head(5).entropy()

What is kept of a call is what its weights follow from: query, key and which pairs may meet. The model's own output is
not touched. Maps are detached: whoever wants gradients through weights calls `with_map`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TypeAlias

from torch import nn

from qkv.core.map import AttentionMap
from qkv.errors import ArgumentError, KindError, UnsupportedError, must
from qkv.lens.calls import intercepted
from qkv.lens.notebook import Shown
from qkv.lens.page.view import View
from qkv.lens.tracks import Track, Watching
from qkv.lens.views import MapLayers, features

Picked: TypeAlias = int | Sequence[int] | range | None
"""Some layers, heads or queries by their numbers, or all."""


@contextmanager
def watch(model: nn.Module, layers: Picked = None, heads: Picked = None, queries: Picked = None) -> Iterator["Seen"]:
    """See the attention of a model while it runs in this block: qkv's own models, and those of transformers.

    What is seen of a layer is its last sequence: all at once, or step by step in generation, where each step's rows
    join the map. `layers`, `heads` and `queries` say what to keep; a map's heads and rows are then those, in order. A
    layer that could not be seen, or only in part, is in `seen.unseen`, with the reason. A module's further calls of
    attention in one pass are kept by name, not as layers: `seen["layers.0.attention#2"]`.

    The output is the same to the bit, but for single tokens that a Gpt or Transformer of qkv would generate by kernels:
    they pass its modules meanwhile, equal to rounding. A row that sees no key has weights 0; eager attention of
    transformers averages all values there.

    Cost: O((queries + keys)·dim) memory for each layer, and little time: nothing is scored before something is asked.
    Raises: UnsupportedError on leaving the block if nothing was seen, with the reasons; KindError, ArgumentError for
    what is no module, or no layer, head or query.
    """
    wanted = [_numbers(name, given) for name, given in (("layers", layers), ("heads", heads), ("queries", queries))]
    seen = Seen(Watching(*wanted))
    with ExitStack() as stack:
        lens = stack.enter_context(intercepted(model, seen._watching.take))
        seen._watching.begin(lens, stack)
        yield seen
    # An exception of the block's own goes before this one.
    if not seen._watching.tracks:
        why = "; ".join(f"{name}: {reason}" for name, reason in seen.unseen.items())
        why = why or ("it has no attention" if layers is None else "it has none of these layers")
        raise UnsupportedError(must("watch", "the model", "have attention that can be recorded", f"none ({why})"))


def _numbers(name: str, given: Picked) -> list[int] | None:
    if given is None:
        return None
    numbers = [given] if isinstance(given, int) else list(given) if isinstance(given, Sequence) else given
    if not isinstance(numbers, list) or not all(isinstance(one, int) and not isinstance(one, bool) for one in numbers):
        raise KindError(must("watch", name, "be numbers, such as [0, 3]", repr(given)))
    if not numbers or min(numbers) < 0 or sorted(set(numbers)) != numbers:
        raise ArgumentError(must("watch", name, "rise from 0 on, each once", given, "all: None"))
    return numbers


# What is seen


class Stack(Mapping[int, AttentionMap]):
    """The maps of one stack of layers, by the layers' numbers."""

    def __init__(self, tracks: dict[int, Track]) -> None:
        self._tracks = tracks

    def __getitem__(self, layer: int) -> AttentionMap:
        if layer not in self._tracks:
            fix = "the layers seen: " + ", ".join(map(str, self._tracks))
            raise ArgumentError(must("Seen[…]", "layer", "be one that was seen", layer, fix))
        return self._tracks[layer].map()

    def __iter__(self) -> Iterator[int]:
        return iter(self._tracks)

    def __len__(self) -> int:
        return len(self._tracks)

    def __repr__(self) -> str:
        return f"Stack({', '.join(f'{layer}: {track.name}' for layer, track in self._tracks.items())})"


class Seen(Shown):
    """What a `watch` has seen: `seen[3]` is layer 3's map, `seen["decoder.layers.3.cross_attn"]` that of a module.

    With an encoder and a decoder: `seen.encoder[3]`, `seen.decoder[3]`, `seen.cross[3]`.
    """

    def __init__(self, watching: Watching) -> None:
        self._watching = watching

    @property
    def names(self) -> list[str]:
        """The modules that were seen, in the order in which they first ran."""
        return list(dict.fromkeys(track.name for track in self._watching.tracks.values()))

    @property
    def unseen(self) -> dict[str, str]:
        """The modules that attend but were not seen, or only in part, and why."""
        return self._watching.unseen()

    @property
    def stacks(self) -> dict[tuple[str, str], Stack]:
        """All stacks, by the name that their layers share and their kind, "self" or "cross"."""
        found: dict[tuple[str, str], dict[int, Track]] = {}
        for track in self._watching.tracks.values():
            if track.is_layer:
                found.setdefault((track.stack, track.kind), {})[track.layer] = track
        return {name: Stack(dict(sorted(tracks.items()))) for name, tracks in found.items()}

    @property
    def encoder(self) -> Stack:
        """The encoder's self-attention."""
        return self._only("encoder", lambda stack, kind: kind == "self" and _part(stack) == "encoder")

    @property
    def decoder(self) -> Stack:
        """The decoder's self-attention."""
        return self._only("decoder", lambda stack, kind: kind == "self" and _part(stack) == "decoder")

    @property
    def cross(self) -> Stack:
        """The decoder's attention to its source."""
        return self._only("cross", lambda stack, kind: kind == "cross")

    @property
    def layers(self) -> Stack:
        """The layers of a model of one stack."""
        every = len(self.stacks) == 1
        return self._only("layers", lambda stack, kind: every or kind == "self")

    def views(self) -> list[View]:
        """View the first example for a page: a view for each stack, its tokens numbered."""
        found = []
        for (stack, kind), layers in self.stacks.items():
            maps = list(layers.values())
            # Layers of another size, as those of a picture seen coarsely, are another view.
            for shape in dict.fromkeys(seen.shape for seen in maps):
                alike = [seen for seen in maps if seen.shape == shape]
                tokens, keys = ([str(at) for at in range(count)] for count in shape[-2:])
                title = f"{kind} attention" + (f" in {stack}" if stack else "")
                known = [features(seen) for seen in alike]
                square = kind == "self" and len(tokens) == len(keys)
                found.append(View(title, tokens, MapLayers(alike), keys=None if square else keys, features=known))
        return found

    def _only(self, asked: str, fits: Callable[[str, str], bool]) -> Stack:
        found = [name for name in self.stacks if fits(*name)]
        if len(found) != 1:
            rule = f"have one stack for seen.{asked}"
            got = ", ".join(f"{kind} attention in {stack!r}" for stack, kind in (found or self.stacks)) or "none yet"
            fix = "seen.encoder[i], seen.decoder[i], seen.cross[i], or a module's name: seen[seen.names[0]]"
            raise ArgumentError(must("Seen[…]", "the model", rule, got, fix))
        return self.stacks[found[0]]

    def __getitem__(self, layer: int | str) -> AttentionMap:
        if isinstance(layer, str):
            for track in self._watching.tracks.values():
                if track.name == layer:
                    return track.map()
            fix = "the names seen: " + ", ".join(self.names[:8]) + (", …" if len(self.names) > 8 else "")
            raise ArgumentError(must("Seen[…]", "name", "be one that was seen", repr(layer), fix))
        return self.layers[layer]

    def __len__(self) -> int:
        return len(self._watching.tracks)

    def __repr__(self) -> str:
        parts = [f"{kind} {stack or 'attention'}: {list(layers)}" for (stack, kind), layers in self.stacks.items()]
        return f"Seen({'; '.join(parts)})"


def _part(stack: str) -> str:
    words = stack.split(".")
    for part in ("decoder", "encoder"):
        if any(word.startswith(part) for word in words):
            return part
    return ""
