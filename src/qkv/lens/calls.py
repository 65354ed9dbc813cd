"""Every attention call of a model, intercepted while a context lives: qkv's own modules, and Hugging Face's.

    def around(call, run):
        print(call.name, call.kind, call.layer, list(call.query.shape))
        return run()

    with intercepted(model, around):
        model(tokens)

Nothing else in qkv patches a model.
"""

import re
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial, reduce
from operator import and_
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable
from weakref import WeakKeyDictionary, ref

import torch
from jaxtyping import Float
from torch import Tensor, nn

from qkv.attention import Attends, attend, attend_with_map, attention_map
from qkv.core.types import Bias
from qkv.errors import ArgumentError, KindError, QkvError, UnsupportedError, must
from qkv.integrations.huggingface import ClosedMask, asked_of
from qkv.masks.algebra import Mask
from qkv.masks.causal import causal
from qkv.masks.dense import dense_mask
from qkv.masks.padding import padding
from qkv.masks.spans import spans_of
from qkv.masks.window import window
from qkv.mechanisms.multihead import MultiHead
from qkv.positions.dense import DenseBias
from qkv.positions.diagonals import diagonals_of

PARTS = ("query", "key", "value", "score", "bias", "mask", "select", "dropout")
"""What a call can be made with otherwise: `run(mask=…)`."""


@dataclass(frozen=True, eq=False)
class Call:
    """One attention of a model that is about to be computed; `given` holds what `attend` takes beside the tensors."""

    module: nn.Module
    name: str
    layer: int
    kind: Literal["self", "cross"]
    query: Float[Tensor, "*batch heads queries dim"]
    key: Float[Tensor, "*batch key_heads keys key_dim"]
    value: Float[Tensor, "*batch key_heads keys value_dim"]
    given: dict[str, Any]


@runtime_checkable
class Run(Protocol):
    """Computes the heads' outputs [*batch, heads, queries, value_dim] as the model would, or with changed parts."""

    def __call__(self, **changed: Any) -> Tensor:
        """`run()` is bit for bit what the model computes; changed parts go through qkv's `attend`."""
        ...


Around: TypeAlias = Callable[[Call, Run], Tensor]
"""What is called in the place of each attention; what it returns is what the model goes on with."""


@dataclass(frozen=True)
class Site:
    """Where a module stands in its model."""

    name: str
    layer: int
    kind: Literal["self", "cross"]


@dataclass(frozen=True, eq=False)
class Lens:
    """One `intercepted` that lives: what it calls, the modules it knows, and the calls that it could not read."""

    around: Around
    modules: dict[str, nn.Module]
    sites: dict[int, Site]
    refused: dict[str, str] = field(default_factory=dict)
    """Names of modules whose calls say what qkv does not know, and why; they run untouched."""

    @property
    def is_here(self) -> bool:
        """Whether this thread, or task, is the one that looks."""
        return any(lens is self for lens in _LENSES.get())


# The lenses of this thread, or task: a model that another one runs meanwhile is not seen, and not changed.
_LENSES: ContextVar[tuple[Lens, ...]] = ContextVar("lenses", default=())
_LOCK = threading.RLock()


@contextmanager
def intercepted(model: nn.Module, around: Around) -> Iterator[Lens]:
    """Call `around(call, run)` in the place of each attention of the model, wherever in this thread it runs.

    Contexts nest: the `run` of an outer one calls the inner one's `around`. What leaves the block, by its end or by any
    exception, finds the model as it was. A Gpt or Transformer of qkv that generates passes its modules meanwhile, not
    its kernels for single tokens: equal to rounding.

    Raises: KindError unless it is a module and something to call.
    """
    if not isinstance(model, nn.Module):
        raise KindError(must("intercepted", "model", "be a torch.nn.Module", type(model).__name__))
    if not callable(around):
        raise KindError(must("intercepted", "around", "be a function of call and run", type(around).__name__))
    modules = dict(model.named_modules())
    lens = Lens(around, modules, {id(module): _site(name, module) for name, module in modules.items()})
    with _inserted(list(modules.values())):
        token = _LENSES.set((*_LENSES.get(), lens))
        try:
            yield lens
        finally:
            _LENSES.reset(token)
            _LAST.set(None)
            _LAST_BIAS.set(None)


def _site(name: str, module: nn.Module) -> Site:
    number = vars(module).get("layer_idx")
    if not isinstance(number, int):
        number = next((int(word) for word in name.split(".") if word.isdecimal()), 0)
    return Site(name, number, "cross" if _is_cross(name, module) else "self")


def _is_cross(name: str, module: nn.Module) -> bool:
    """Say whether a module attends to another sequence, by what models call it."""
    told = vars(module).get("is_cross_attention")
    if isinstance(told, bool):
        return told
    if isinstance(module, Attends) and not isinstance(module, MultiHead):
        return True
    return _CROSS.search(f"{type(module).__name__} {name.rpartition('.')[2]}") is not None


_CROSS = re.compile("cross|encoder_att|enc_?dec_?att", re.IGNORECASE)


# Insertion: what is patched while some lens lives, in whichever thread

_SHADOWED: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
_INTERFACE = {"lenses": 0}


@contextmanager
def _inserted(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Shadow the methods of qkv's own modules, and the way to transformers' attention functions."""
    own = [module for module in modules if isinstance(module, Attends) or hasattr(type(module), "rows_of_kernels")]
    with _LOCK:
        for module in own:
            if not _SHADOWED.get(module, 0):
                vars(module).update(_shadows(module))
            _SHADOWED[module] = _SHADOWED.get(module, 0) + 1
        interface = _interface()
        if interface is not None:
            if not _INTERFACE["lenses"]:
                interface.get_interface = _lensed(interface.get_interface)
            _INTERFACE["lenses"] += 1
    try:
        yield
    finally:
        with _LOCK:
            for module in own:
                _SHADOWED[module] -= 1
                if not _SHADOWED[module]:
                    del _SHADOWED[module]
                    for name in _shadows(module):
                        vars(module).pop(name, None)
            if interface is not None:
                _INTERFACE["lenses"] -= 1
                if not _INTERFACE["lenses"]:
                    interface.get_interface = interface.get_interface.inner


def _shadows(module: nn.Module) -> dict[str, Any]:
    """Give what an instance shadows of its class."""
    # A module that refers to itself would not be freed at once.
    found = ref(module)
    shadows: dict[str, Any] = {}
    if isinstance(module, Attends):
        shadows = {"attend": partial(_attend, found), "attend_with_map": partial(_attend_with_map, found)}
    if hasattr(type(module), "rows_of_kernels"):
        shadows["rows_of_kernels"] = 0
    return shadows


def _interface() -> Any:
    """Give transformers' interface, if transformers is at work at all."""
    modeling = sys.modules.get("transformers.modeling_utils")
    return getattr(modeling, "AttentionInterface", None)


def _lensed(inner: Callable[..., Any]) -> Callable[..., Any]:
    def get_interface(self: Any, implementation: str, default: Callable[..., Any]) -> Callable[..., Any]:
        function = inner(self, implementation, default)
        return partial(_theirs, function, implementation) if _LENSES.get() else function

    get_interface.inner = inner  # type: ignore[attr-defined]
    return get_interface


# Calls on their way

Compute: TypeAlias = Callable[[dict[str, Any] | None], Tensor]
"""Computes a call with other parts, or with None as the model does."""


def _lenses_at(module: nn.Module | None) -> list[Lens]:
    return [lens for lens in _LENSES.get() if id(module) in lens.sites]


def _pass(lenses: list[Lens], module: nn.Module, parts: dict[str, Any], compute: Compute, changed: bool) -> Tensor:
    """Hand a call from lens to lens, and compute what the last one asks for."""
    if not lenses:
        return compute(parts if changed else None)
    lens, *others = lenses
    site = lens.sites[id(module)]
    given = {name: part for name, part in parts.items() if name not in ("query", "key", "value")}

    def run(**other: Any) -> Tensor:
        if unknown := [name for name in other if name not in PARTS]:
            raise ArgumentError(must("run", "what is changed", "be of " + ", ".join(PARTS), ", ".join(unknown)))
        return _pass(others, module, parts | other, compute, changed or bool(other))

    call = Call(module, site.name, site.layer, site.kind, parts["query"], parts["key"], parts["value"], given)
    return lens.around(call, run)


def _attend(found: "ref[nn.Module]", query: Tensor, key: Tensor, value: Tensor, **given: Any) -> Tensor:
    module = found()
    lenses = _lenses_at(module)
    parts = {"query": query, "key": key, "value": value, **given}
    if module is None or not lenses:
        return attend(**parts)
    return _pass(lenses, module, parts, lambda other: attend(**(other or parts)), False)


def _attend_with_map(found: "ref[nn.Module]", query: Tensor, key: Tensor, value: Tensor, **given: Any) -> Any:
    module = found()
    lenses = _lenses_at(module)
    parts = {"query": query, "key": key, "value": value, **given}
    if module is None or not lenses:
        return attend_with_map(**parts)
    made = []

    def compute(other: dict[str, Any] | None) -> Tensor:
        output, seen = attend_with_map(**(other or parts))
        made.append(seen)
        return output

    output = _pass(lenses, module, parts, compute, False)
    if not made:
        # Whoever put something else in its place has computed no map.
        told = {name: part for name, part in given.items() if name != "dropout"}
        made.append(attention_map(query, key, **told))
    return output, made[-1]


def _theirs(
    function: Callable[..., Any],
    implementation: str,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any = None,
    *more: Any,
    **asked: Any,
) -> tuple[Tensor, Tensor | None]:
    """Hand a call of transformers on, in `attend`'s words; what cannot be said in them runs untouched."""
    lenses = _lenses_at(module)
    try:
        given = _given(implementation, module, query, key, attention_mask, more, asked) if lenses else {}
    except QkvError as error:
        for lens in lenses:
            lens.refused[lens.sites[id(module)].name] = str(error)
        lenses = []
    if not lenses:
        return function(module, query, key, value, attention_mask, *more, **asked)
    weights: list[Tensor | None] = []

    def compute(other: dict[str, Any] | None) -> Tensor:
        if other is None:
            output, found = function(module, query, key, value, attention_mask, *more, **asked)
            weights.append(found)
            return output.transpose(1, 2)
        if not asked.get("output_attentions"):
            return attend(**other)
        output, seen = attend_with_map(**other)
        weights.append(seen.dense())
        return output

    output = _pass(lenses, module, {"query": query, "key": key, "value": value, **given}, compute, False)
    return output.transpose(1, 2), weights[-1] if weights else None


# What transformers' calls say


def _given(
    implementation: str, module: nn.Module, query: Tensor, key: Tensor, mask: Any, more: tuple, asked: dict[str, Any]
) -> dict[str, Any]:
    """Say it in `attend`'s words, with masks in O(queries) memory where that is possible."""
    if more or query.ndim != 4 or key.ndim != 4 or "cache" in asked:
        rule, got = "be query, key and value [batch, heads, positions, dim], a mask and keywords", list(query.shape)
        raise UnsupportedError(must("intercepted", f"what {type(module).__name__} passes", rule, got))
    told = {name: part for name, part in asked.items() if name != "output_attentions"}
    if implementation in ("eager", "flex_attention") and mask is None:
        # They take a mask by its word alone.
        told["is_causal"] = False
    elif implementation == "sdpa" and told.get("is_causal") is None:
        told["is_causal"] = getattr(module, "is_causal", True)
    found: Mask | None = None
    if "flash" in implementation:
        mask, found = None, _flash_mask(module, key, mask, told)
    elif mask is not None and not isinstance(mask, Tensor):
        mask = _spelled_blocks(mask, query, key)
    if isinstance(mask, Tensor) and not isinstance(mask, ClosedMask):
        mask = mask[..., : key.shape[2]] if mask.shape[-1] > key.shape[2] else mask
        found = _told_by_spans(mask)
    given = asked_of(module, query, key, None if found is not None else mask, **told)
    bias = told.get("position_bias")
    if isinstance(bias, Tensor) and given["bias"] is bias:
        given["bias"] = _told_by_diagonals(bias)
    return given if found is None else given | {"mask": found}


def _flash_mask(module: nn.Module, key: Tensor, kept: Tensor | None, told: dict[str, Any]) -> Mask | None:
    """Read the flags of real keys that flash attention takes, and what else it is told."""
    is_causal = told.get("is_causal")
    is_causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    masks: list[Mask] = [causal()] if is_causal else []
    if told.get("sliding_window") is not None:
        # The window there counts the keys before the query's own.
        before = told["sliding_window"] - 1
        masks.append(window(before=before, after=0 if is_causal else before))
    if kept is not None:
        masks.append(padding(keys=kept[:, -key.shape[2] :].bool()))
    told["is_causal"] = False
    return reduce(and_, masks) if masks else None


def _spelled_blocks(blocks: Any, query: Tensor, key: Tensor) -> Tensor:
    """Spell FlexAttention's block mask out."""
    from torch.nn.attention.flex_attention import create_mask

    sizes = (query.shape[0], 1, query.shape[2], key.shape[2])
    return create_mask(blocks.mask_mod, *sizes, device=str(query.device))


# A model hands one mask, and one bias of positions, to all its layers.
_LAST: ContextVar[tuple["ref[Tensor]", int, Mask | None] | None] = ContextVar("last", default=None)
_LAST_BIAS: ContextVar[tuple["ref[Tensor]", int, Bias] | None] = ContextVar("last_bias", default=None)


def _told_by_diagonals(bias: Tensor) -> Bias:
    """Tell relative positions by their diagonals, where they are that."""
    version = 0 if bias.is_inference() else bias._version
    last = _LAST_BIAS.get()
    if last is None or last[0]() is not bias or last[1] != version:
        last = (ref(bias), version, diagonals_of(bias) or DenseBias(bias))
        _LAST_BIAS.set(last)
    return last[2]


def _told_by_spans(mask: Tensor) -> Mask | None:
    """Tell a mask of booleans, or of 0 and the lowest number, by spans; None if it is no such mask."""
    version = 0 if mask.is_inference() else mask._version
    last = _LAST.get()
    if last is not None and last[0]() is mask and last[1] == version:
        return last[2]
    flags = mask if mask.dtype == torch.bool else _flags(mask)
    found: Mask | None = None
    if flags is not None:
        found = spans_of(flags)
        if found is None and mask.dtype != torch.bool:
            found = dense_mask(flags)
    _LAST.set((ref(mask), version, found))
    return found


def _flags(mask: Tensor) -> Tensor | None:
    """Read an additive mask as flags, unless it holds other numbers than 0 and the lowest."""
    with torch.no_grad():
        shown = mask == 0
        lowest = (mask == torch.finfo(mask.dtype).min) | (mask == -torch.inf)
        return shown if bool((shown | lowest).all()) else None
