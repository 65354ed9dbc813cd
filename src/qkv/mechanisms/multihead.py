"""Multi-head attention: several heads, each seeing the whole embedding; self or cross, with shared keys or not."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from qkv.attention import Attends
from qkv.core.card import Card
from qkv.core.checks import check_dense, check_dtype, check_part, check_rate, check_whole, check_width
from qkv.core.map import AttentionMap
from qkv.core.types import Bias, Score, Selection
from qkv.errors import ArgumentError, KindError, ShapeError, UnsupportedError, must
from qkv.masks.algebra import Mask
from qkv.masks.dense import dense_mask
from qkv.mechanisms.cache import KeyValueCache
from qkv.positions.rotary import Rotary
from qkv.scores.dot import scaled_dot
from qkv.selections.soft import softmax


@dataclass(frozen=True, eq=False)
class Memory:
    """A memory's keys and values in heads, made once by `MultiHead.read` for all the queries that are still to come."""

    key: Float[Tensor, "*batch key_heads keys dim"]
    value: Float[Tensor, "*batch key_heads keys value_dim"]


class MultiHead(Attends, nn.Module):
    """Attend in several heads: output([headₕ]ₕ), headₕ = attend(Wₕq x, Wₕk m, Wₕv m), m being x itself or a memory.

    Each head projects the whole embedding, to `dim` features (width / heads by default). With fewer `key_heads` than
    heads, neighbouring heads share a key and a value (grouped-query; one is multi-query). `memory` is the width of what
    keys and values are made of. Score and selection act on the heads; rotary `positions` turn query and key before.
    `bias` says whether the four linear layers have one. Dropout acts on the weights, while training.

    A position that the mask hides reaches no output, but it is projected like any other: a NaN there makes the
    gradients of the projections' weights NaN. Fill padding with numbers.

    Paper: Vaswani et al. 2017, arXiv:1706.03762, section 3.2.2; Shazeer 2019, arXiv:1911.02150 (multi-query);
    Ainslie et al. 2023, arXiv:2305.13245 (grouped-query).
    Cost: that of `attend` in each head, and 2·width·dim operations a position for each head of query, key and value.
    Raises: KindError, ArgumentError for a size that is no integer of at least 1 or does not divide.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        key_heads: int | None = None,
        memory: int | None = None,
        dim: int | None = None,
        value_dim: int | None = None,
        bias: bool = True,
        score: Score | None = None,
        select: Selection | None = None,
        positions: Rotary | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        for name, size in (("width", width), ("heads", heads)):
            check_whole("MultiHead", name, size, 1)
        for name, given in (("key_heads", key_heads), ("memory", memory), ("dim", dim), ("value_dim", value_dim)):
            if given is not None:
                check_whole("MultiHead", name, given, 1)
        if dim is None and width % heads:
            raise ArgumentError(must("MultiHead", "heads", f"divide the width {width}", heads, "or give dim="))
        if key_heads is not None and heads % key_heads:
            raise ArgumentError(must("MultiHead", "key_heads", f"divide the {heads} heads", key_heads))
        if not isinstance(bias, bool):
            fix = "a bias of positions goes to the call: module(x, bias=...)"
            raise KindError(must("MultiHead", "bias", "be True or False", repr(bias), fix))
        check_rate("MultiHead", "dropout", dropout)
        check_part("MultiHead", "score", score)
        check_part("MultiHead", "select", select)
        if positions is not None and not isinstance(positions, Rotary):
            fix = "such as qkv.rotary(); a bias of positions goes to the call: module(x, bias=...)"
            raise KindError(must("MultiHead", "positions", "be rotary positions", repr(positions), fix))
        self.heads = heads
        self.key_heads = heads if key_heads is None else key_heads
        self.score, self.select, self.positions, self.dropout = score, select, positions, dropout
        memory = width if memory is None else memory
        dim = width // heads if dim is None else dim
        value_dim = dim if value_dim is None else value_dim
        self.query = nn.Linear(width, self.heads * dim, bias)
        self.key = nn.Linear(memory, self.key_heads * dim, bias)
        self.value = nn.Linear(memory, self.key_heads * value_dim, bias)
        self.output = nn.Linear(self.heads * value_dim, width, bias)
        for linear in (self.query, self.key, self.value, self.output):
            nn.init.xavier_uniform_(linear.weight)
            if bias:
                nn.init.zeros_(linear.bias)

    def forward(
        self,
        x: Float[Tensor, "*batch queries width"],
        memory: Float[Tensor, "*batch keys memory_width"] | Memory | None = None,
        *,
        mask: Mask | Bool[Tensor, "..."] | None = None,
        bias: Bias | Float[Tensor, "..."] | None = None,
        cache: KeyValueCache | None = None,
    ) -> Float[Tensor, "*batch queries width"]:
        """Let x attend to the memory, or to itself and to what a cache holds of its past; the cache then holds x too.

        A memory that was `read` before is not projected again. A call that fails leaves the cache as it was.

        Raises: ShapeError, KindError for what does not fit; ArgumentError for a cache beside a memory; as `attend`.
        """
        with _unchanged_on_error(cache):
            query, key, value, mask = self._make_heads(x, memory, mask, cache)
            heads = self.attend(query, key, value, bias=bias, mask=mask, **self._choices)
            return self.output(_from_heads(heads))

    def with_map(
        self,
        x: Float[Tensor, "*batch queries width"],
        memory: Float[Tensor, "*batch keys memory_width"] | Memory | None = None,
        *,
        mask: Mask | Bool[Tensor, "..."] | None = None,
        bias: Bias | Float[Tensor, "..."] | None = None,
        cache: KeyValueCache | None = None,
    ) -> tuple[Float[Tensor, "*batch queries width"], AttentionMap]:
        """Do what a call does, and also return the map of the weights.

        Raises: as a call.
        """
        with _unchanged_on_error(cache):
            query, key, value, mask = self._make_heads(x, memory, mask, cache)
            # A cache is written in place, and a map keeps its key.
            key = key if cache is None else key.clone()
            heads, seen = self.attend_with_map(query, key, value, bias=bias, mask=mask, **self._choices)
            return self.output(_from_heads(heads)), seen

    def read(self, memory: Float[Tensor, "*batch keys memory_width"]) -> Memory:
        """Project a memory to keys and values once; calls take the result in the memory's place.

        Cost: 2·memory·dim operations a position for each head of key and value.
        Raises: ShapeError, KindError for a memory that does not fit.
        """
        self._check_input("memory", memory, self.key)
        return Memory(*self._make_memory(self.key(memory), self.value(memory), None))

    @property
    def _choices(self) -> dict[str, Any]:
        """What every call of `attend` is given."""
        dropout = self.dropout if self.training else 0.0
        return {"score": self.score, "select": self.select, "dropout": dropout}

    def _make_heads(
        self,
        x: Tensor,
        memory: Tensor | Memory | None,
        mask: Mask | Tensor | None,
        cache: KeyValueCache | None,
    ) -> tuple[Tensor, Tensor, Tensor, Mask | Tensor | None]:
        """Project, turn by position, and let the cache add its past."""
        self._check(x, memory, cache)
        query = _to_heads(self.query(x), self.heads)
        if isinstance(memory, Memory):
            key, value = memory.key, memory.value
        else:
            source = x if memory is None else memory
            key, value = self._make_memory(self.key(source), self.value(source), cache)
        if self.positions is not None:
            keys, queries = key.shape[-2], query.shape[-2]
            # The last query stands at the last key, as for every mask and bias.
            places = torch.arange(keys - queries, keys, device=x.device)
            query = self.positions(query, places if cache is None else cache.positions(keys, x.device))
        if cache is None:
            return query, key, value, mask
        mask = dense_mask(mask) if isinstance(mask, Tensor) else mask
        key, value, shown = cache.extend(key, value)
        if shown is not None:
            mask = shown if mask is None else shown & mask
        return query, key, value, mask

    def _make_memory(self, known: Tensor, told: Tensor, cache: KeyValueCache | None) -> tuple[Tensor, Tensor]:
        """Bring keys, turned by position, and values to their heads."""
        key, value = _to_heads(known, self.key_heads), _to_heads(told, self.key_heads)
        if self.positions is not None:
            keys = key.shape[-2]
            places = torch.arange(keys, device=key.device) if cache is None else cache.positions(keys, key.device)
            key = self.positions(key, places)
        return key, value

    def _check(self, x: Tensor, memory: Tensor | Memory | None, cache: KeyValueCache | None) -> None:
        self._check_input("x", x, self.query)
        if isinstance(memory, Memory):
            batch, heads, dim = memory.key.shape[:-3], memory.key.shape[-3], memory.key.shape[-1]
            if (heads, heads * dim) != (self.key_heads, self.key.out_features):
                rule = f"have {self.key_heads} heads of {self.key.out_features // self.key_heads} features"
                fix = "read it by the layer that takes it"
                raise ShapeError(must("MultiHead", "memory", rule, f"{heads} of {dim}", fix))
        else:
            source = x if memory is None else memory
            self._check_input("memory", source, self.key)
            batch = source.shape[:-2]
        if batch != x.shape[:-2]:
            raise ShapeError(must("MultiHead", "memory", f"have x's batch {list(x.shape[:-2])}", list(batch)))
        if memory is not None and cache is not None:
            raise ArgumentError(must("MultiHead", "cache", "be None beside a memory", cache, "a memory does not grow"))
        if cache is not None:
            cache.serve(self)

    def _check_input(self, name: str, tensor: Tensor, linear: nn.Linear) -> None:
        if not isinstance(tensor, Tensor):
            raise KindError(must("MultiHead", name, "be a tensor", type(tensor).__name__))
        check_dense("MultiHead", name, tensor)
        if tensor.ndim < 2:
            raise ShapeError(must("MultiHead", name, "have the shape [*batch, positions, width]", list(tensor.shape)))
        check_width("MultiHead", name, tensor, linear.in_features)
        check_dtype("MultiHead", name, tensor, linear.weight)

    @classmethod
    def from_torch(cls, module: nn.MultiheadAttention) -> "MultiHead":
        """Make one with the weights of torch's own, copied.

        Raises: UnsupportedError if that has extra keys (add_bias_kv, add_zero_attn), or kdim ≠ vdim.
        """
        if module.bias_k is not None or module.add_zero_attn or module.kdim != module.vdim:
            rule = "have kdim = vdim and neither add_bias_kv nor add_zero_attn"
            raise UnsupportedError(must("MultiHead.from_torch", "module", rule, module))
        bias = module.in_proj_bias is not None
        made = cls(module.embed_dim, module.num_heads, memory=module.kdim, bias=bias, dropout=module.dropout)
        made.to(module.out_proj.weight)
        with torch.no_grad():
            for ours, theirs in _matched(made, module):
                ours.copy_(theirs)
        return made.train(module.training)

    def to_torch(self) -> nn.MultiheadAttention:
        """Make torch's own (batch_first) with these weights, copied.

        Raises: UnsupportedError if torch has no such module.
        """
        width, dims = self.query.in_features, {self.query.out_features, self.key.out_features, self.value.out_features}
        default = self.score in (None, scaled_dot()) and self.select in (None, softmax()) and self.positions is None
        if dims != {width} or not default:
            rule = "have heads of width / heads, a key head each, scaled_dot(), softmax() and no positions"
            raise UnsupportedError(must("MultiHead.to_torch", "the module", rule, self))
        memory, bias = self.key.in_features, self.query.bias is not None
        made = nn.MultiheadAttention(
            width, self.heads, self.dropout, bias, kdim=memory, vdim=memory, batch_first=True
        ).to(self.output.weight)
        with torch.no_grad():
            for ours, theirs in _matched(self, made):
                theirs.copy_(ours)
        return made.train(self.training)

    def extra_repr(self) -> str:
        parts = [f"heads={self.heads}"]
        parts += [f"key_heads={self.key_heads}"] if self.key_heads != self.heads else []
        choices = (("score", self.score), ("select", self.select), ("positions", self.positions))
        parts += [f"{name}={part}" for name, part in choices if part is not None and not isinstance(part, nn.Module)]
        return ", ".join(parts + ([f"dropout={self.dropout:g}"] if self.dropout else []))


def _unchanged_on_error(cache: KeyValueCache | None) -> AbstractContextManager[None]:
    if cache is None:
        return nullcontext()
    if not isinstance(cache, KeyValueCache):
        raise KindError(must("MultiHead", "cache", "be a cache of qkv", repr(cache), "such as qkv.Cache()"))
    return cache.unchanged_on_error()


def _to_heads(
    x: Float[Tensor, "*batch positions features"], heads: int
) -> Float[Tensor, "*batch {heads} positions dim"]:
    return x.unflatten(-1, (heads, -1)).transpose(-3, -2)


def _from_heads(x: Float[Tensor, "*batch heads positions dim"]) -> Float[Tensor, "*batch positions features"]:
    return x.transpose(-3, -2).flatten(-2)


def _matched(ours: MultiHead, theirs: nn.MultiheadAttention) -> Iterator[tuple[Tensor, Tensor]]:
    """Pair our parameters with the parts of torch's that mean the same."""
    inner = (ours.query, ours.key, ours.value)
    if theirs.in_proj_weight is None:
        weights = (theirs.q_proj_weight, theirs.k_proj_weight, theirs.v_proj_weight)
    else:
        weights = theirs.in_proj_weight.chunk(3)
    yield from zip((linear.weight for linear in inner), weights, strict=True)
    yield ours.output.weight, theirs.out_proj.weight
    if theirs.in_proj_bias is not None:
        yield from zip((linear.bias for linear in inner), theirs.in_proj_bias.chunk(3), strict=True)
        yield ours.output.bias, theirs.out_proj.bias


CARDS = (
    Card(
        name="multi-head self-attention",
        kind="mechanism",
        equation="W · [attend(Wₕq x, Wₕk x, Wₕv x)]ₕ",
        paper="Vaswani et al. 2017, arXiv:1706.03762",
        cost="n·m·d, and 4·n·d² for the projections",
        build=lambda: MultiHead(8, 2),
    ),
    Card(
        name="multi-head cross-attention",
        kind="mechanism",
        equation="W · [attend(Wₕq x, Wₕk m, Wₕv m)]ₕ",
        paper="Vaswani et al. 2017, arXiv:1706.03762",
        cost="n·m·d, and 2·(n + m)·d² for the projections",
        build=lambda: MultiHead(8, 2, memory=8),
    ),
    Card(
        name="multi-query attention",
        kind="mechanism",
        equation="W · [attend(Wₕq x, Wk m, Wv m)]ₕ",
        paper="Shazeer 2019, arXiv:1911.02150",
        cost="n·m·d; keys and values of one head alone",
        build=lambda: MultiHead(8, 2, key_heads=1),
    ),
    Card(
        name="grouped-query attention",
        kind="mechanism",
        equation="W · [attend(Wₕq x, W₍g₎k m, W₍g₎v m)]ₕ,  g = h's group",
        paper="Ainslie et al. 2023, arXiv:2305.13245",
        cost="n·m·d; keys and values of the groups",
        build=lambda: MultiHead(8, 4, key_heads=2),
    ),
)
