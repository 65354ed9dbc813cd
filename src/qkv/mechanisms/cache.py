"""Key/value caches: what a layer has seen stays, so that a step of generation projects the new positions alone.

Attention over a cache, step by step or in chunks, equals attention over the whole sequence. A layer has its own cache:

    cache = Cache()
    first = layer(prompt, mask=causal(), cache=cache)
    after = layer(token, mask=causal(), cache=cache)
"""

import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor

from qkv.core.call import check_input
from qkv.core.checks import check_dense, check_held, check_integers, check_lengths, check_whole, is_integer
from qkv.errors import ArgumentError, KindError, ShapeError, UnsupportedError, must
from qkv.masks.algebra import Mask
from qkv.masks.padding import padding
from qkv.masks.window import window


class KeyValueCache(ABC):
    """The keys and values of one layer's past: each layer has its own. Siblings differ in what they keep.

    A cache serves inference: it writes in place, so keys and values that require gradients are refused.
    """

    def __init__(self) -> None:
        self.seen = 0
        self.key: Tensor | None = None
        self.value: Tensor | None = None
        self._layer: weakref.ref | None = None
        self._spare: Tensor | None = None

    def __getstate__(self) -> dict[str, object]:
        # A copy elsewhere serves the layer that is there.
        return self.__dict__ | {"_layer": None, "_spare": None}

    def serve(self, layer: object) -> None:
        """Belong to a layer from its first call on. Raises: ArgumentError if it belongs to another."""
        if self._layer is None:
            self._layer = weakref.ref(layer)
        elif self._layer() is not layer:
            name = type(self).__name__
            raise ArgumentError(
                must(name, "the layer", "be the one it has served", "another", f"a {name} for each layer")
            )

    @property
    def position(self) -> int | Int[Tensor, "*batch"]:
        """Where the next new key stands in its sequence."""
        return self.seen

    @property
    def offset(self) -> Int[Tensor, "*batch"] | None:
        """What masks and biases of the next call need as their `offset`; None where their default is right."""
        return None

    def positions(self, count: int, device: torch.device | str = "cpu") -> Int[Tensor, "*lead {count}"]:
        """Place the next `count` keys in their sequences: what rotary positions turn by."""
        steps = torch.arange(count, device=device)
        position = self.position
        return steps + (position if isinstance(position, int) else position.to(device)[..., None, None])

    def extend(
        self, key: Float[Tensor, "*batch key_heads new dim"], value: Float[Tensor, "*batch key_heads new value_dim"]
    ) -> tuple[
        Float[Tensor, "*batch key_heads keys dim"], Float[Tensor, "*batch key_heads keys value_dim"], Mask | None
    ]:
        """Add new keys and values; give all that the new queries may meet, and the mask that the cache asks for.

        Raises: ShapeError, KindError if they fit neither each other nor what is kept; ArgumentError beyond the
        capacity; UnsupportedError if they require gradients.
        """
        self._check(key, value)
        answer = self._extend(key, value)
        self.seen += key.shape[-2]
        return answer

    @abstractmethod
    def _extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Mask | None]:
        """Do it, all being checked; `seen` still counts what came before."""

    def reorder(self, rows: Int[Tensor, " rows"]) -> None:
        """Let batch row i become what row `rows[i]` was, as a beam search asks; rows may repeat, or go.

        Cost: a copy of what is kept, and memory for one more store.
        Raises: KindError unless the rows are a tensor of integers.
        """
        check_integers(type(self).__name__, "rows", rows)
        if self.key is not None and self.value is not None:
            self.key, self.value = (self._chosen(x, rows.to(x.device)) for x in (self.key, self.value))

    def _chosen(self, kept: Tensor, rows: Tensor) -> Tensor:
        return kept.index_select(0, rows)

    def _check(self, key: Tensor, value: Tensor) -> None:
        name = type(self).__name__
        check_input(name, "key", key)
        check_input(name, "value", value)
        if key.dtype != value.dtype or key.device != value.device:
            rule, got = f"be {key.dtype} on {key.device}, as the key", f"{value.dtype} on {value.device}"
            raise KindError(must(name, "value", rule, got))
        if key.shape[:-1] != value.shape[:-1]:
            rule = f"have the key's batch, heads and positions {list(key.shape[:-1])}"
            raise ShapeError(must(name, "value", rule, list(value.shape)))
        if torch.is_grad_enabled() and (key.requires_grad or value.requires_grad):
            raise UnsupportedError(
                must(name, "key and value", "not require gradients", True, "with torch.no_grad(): ...")
            )
        for what, new, kept in (("key", key, self.key), ("value", value, self.value)):
            if kept is None:
                continue
            if new.shape[:-2] != kept.shape[:-2] or new.shape[-1] != kept.shape[-1]:
                rule = f"have the cache's [*batch, heads] and dim {[*kept.shape[:-2]]}, {kept.shape[-1]}"
                raise ShapeError(must(name, what, rule, list(new.shape), "another sequence needs a cache of its own"))
            if new.dtype != kept.dtype or new.device != kept.device:
                rule, got = f"be {kept.dtype} on {kept.device}, as in the cache", f"{new.dtype} on {new.device}"
                raise KindError(must(name, what, rule, got))

    @contextmanager
    def unchanged_on_error(self) -> Iterator[None]:
        """Undo what a call has added if it fails. Keys written beyond `seen` do no harm: the next ones replace them."""
        before = dict(vars(self))
        try:
            yield
        except BaseException:
            vars(self).update(before)
            raise

    def __repr__(self) -> str:
        return f"{type(self).__name__}(seen={self.seen})"


class GrowingCache(KeyValueCache):
    """A cache that keeps everything, in a store with spare room."""

    def make_room(self, count: int) -> tuple[Tensor, Tensor]:
        """Give the stores [*batch, heads, room, dim], with room for `count` more positions: at `position`, unwritten.

        For code that writes there itself, and then counts what it wrote as `seen`; something must be kept already.
        """
        assert self.key is not None and self.value is not None
        self.key, self.value = (_room(x, x, self.seen, self.seen + count) for x in (self.key, self.value))
        return self.key, self.value

    def _chosen(self, kept: Tensor, rows: Tensor) -> Tensor:
        filled = kept[..., : self.seen, :]
        if rows.shape[0] != kept.shape[0]:
            return filled.index_select(0, rows)
        # What is left of one reordering takes the next: rows are copied once, and the spare room stays.
        spare = self._spare
        if spare is None or (spare.shape, spare.dtype, spare.device) != (kept.shape, kept.dtype, kept.device):
            spare = torch.zeros_like(kept)
        torch.index_select(filled, 0, rows, out=spare[..., : self.seen, :])
        self._spare = kept
        return spare


class Cache(GrowingCache):
    """The keys and values of one layer's past, all of them.

    With a capacity its memory is taken once, and going beyond is an error.

    Cost: O(1) copies a position (memory doubles when it is full); memory grows with the sequence.
    Raises: KindError, ArgumentError unless the capacity is an integer of at least 1; UnsupportedError in use, if keys
    or values require gradients.
    """

    def __init__(self, capacity: int | None = None) -> None:
        super().__init__()
        if capacity is not None:
            check_whole(type(self).__name__, "capacity", capacity, 1)
        self.capacity = capacity

    def _check(self, key: Tensor, value: Tensor) -> None:
        super()._check(key, value)
        total = self.seen + key.shape[-2]
        if self.capacity is not None and total > self.capacity:
            rule = f"fit in the capacity {self.capacity}"
            raise ArgumentError(must("Cache", "the keys", rule, total, f"{self.seen} kept, {key.shape[-2]} new"))

    def _extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Mask | None]:
        start, stop = self.seen, self.seen + key.shape[-2]
        self.key = _room(self.key, key, start, self.capacity or stop)
        self.value = _room(self.value, value, start, self.capacity or stop)
        self.key[..., start:stop, :], self.value[..., start:stop, :] = key, value
        return self.key[..., :stop, :], self.value[..., :stop, :], None


class RollingCache(KeyValueCache):
    """Keeps what a sliding window reaches: a query sees the last `window` keys, its own included; older ones are gone.

    Keys stay in the order of their positions, so masks and biases of distance need no offset; one that names the first
    keys (a prefix) has no meaning here.

    Cost: memory for `window` keys (and, during a call, the new ones); a step copies them once.
    Raises: KindError, ArgumentError unless the window is an integer of at least 1.
    """

    def __init__(self, window: int) -> None:
        super().__init__()
        check_whole(type(self).__name__, "window", window, 1, "it counts the query itself")
        self.window = window

    def _extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Mask | None]:
        new = key.shape[-2]
        if self.key is not None and self.value is not None:
            key, value = torch.cat((self.key, key), dim=-2), torch.cat((self.value, value), dim=-2)
        self.key, self.value = _last(key, self.window - 1), _last(value, self.window - 1)
        # One query alone has only the window before it.
        return key, value, None if new == 1 else window(self.window)


class RaggedCache(GrowingCache):
    """Keeps everything of rows that differ in length: right-padded prompts, and then each row grows at its own place.

    The first `width` positions given, in one call or several, are prompts of these lengths, padded on the right; all
    later ones are real. Keys stand in the column of their position, so masks and biases need the rows' own places,
    `causal(offset=cache.offset)`; what is padding the cache hides itself.

    Cost: as `Cache`, for `width` positions and the steps.
    Raises: KindError unless the lengths are a tensor of integers; ArgumentError unless they lie in 0..width.
    """

    def __init__(self, lengths: Int[Tensor, "*batch"], width: int) -> None:
        super().__init__()
        check_whole("RaggedCache", "width", width, 0, "the padded length of the prompts")
        if not isinstance(lengths, Tensor) or not is_integer(lengths):
            got = lengths.dtype if isinstance(lengths, Tensor) else type(lengths).__name__
            raise KindError(must("RaggedCache", "lengths", "be a tensor of integers", got, "one for each row"))
        check_dense("RaggedCache", "lengths", lengths)
        check_lengths("RaggedCache", "lengths", lengths, width, "positions in a prompt")
        self.lengths, self.width = lengths, width

    @property
    def position(self) -> Int[Tensor, "*batch"]:
        if self.seen < self.width:
            return torch.full_like(self.lengths, self.seen)
        return self.lengths + (self.seen - self.width)

    @property
    def offset(self) -> Int[Tensor, "*batch"]:
        return self.position

    def reorder(self, rows: Int[Tensor, " rows"]) -> None:
        super().reorder(rows)
        self.lengths = self.lengths.index_select(0, rows.to(self.lengths.device))

    def _check(self, key: Tensor, value: Tensor) -> None:
        super()._check(key, value)
        check_held("RaggedCache", "lengths", self.lengths, key)
        if key.shape[:-3] != self.lengths.shape:
            raise ShapeError(must("RaggedCache", "key", f"have the batch {list(self.lengths.shape)}", list(key.shape)))
        if self.seen < self.width < self.seen + key.shape[-2]:
            rule = f"end with the prompts, at {self.width}, or before"
            raise ArgumentError(
                must("RaggedCache", "new keys", rule, self.seen + key.shape[-2], "then go on in a new call")
            )

    def _extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Mask | None]:
        new = key.shape[-2]
        stop = self.seen + new
        columns = self.positions(new, key.device).expand(*self.lengths.shape, 1, new)[..., None]
        self.key, self.value = _room(self.key, key, self.seen, stop), _room(self.value, value, self.seen, stop)
        self.key.scatter_(-2, columns.expand(key.shape), key)
        self.value.scatter_(-2, columns.expand(value.shape), value)
        real = self.lengths + (stop - self.width) if stop > self.width else self.lengths.clamp(max=stop)
        return self.key[..., :stop, :], self.value[..., :stop, :], padding(keys=real)


def _room(kept: Tensor | None, new: Tensor, filled: int, size: int) -> Tensor:
    """Give a store of at least `size` positions that holds what is kept: the same one, or one twice as large."""
    if kept is not None and kept.shape[-2] >= size:
        return kept
    size = size if kept is None else max(size, 2 * kept.shape[-2])
    store = new.new_zeros(*new.shape[:-2], size, new.shape[-1])
    if kept is not None:
        store[..., :filled, :] = kept[..., :filled, :]
    return store


def _last(x: Tensor, count: int) -> Tensor:
    """Keep the last positions, and of a long chunk nothing more."""
    start = max(0, x.shape[-2] - count)
    return x[..., start:, :].clone() if start > count else x[..., start:, :]
