"""Ablation: switch a head, a layer's attention or one edge off, or make it uniform, and see what changes.

    with qkv.ablate(model, qkv.Off(layer=3, head=5)):
        model(tokens)

    qkv.effects(model, tokens, qkv.Prediction())     # what every head does to the prediction

Weights alone are no explanation: others may give the same prediction (Jain and Wallace 2019, arXiv:1902.10186), and
what that means depends on what is asked (Wiegreffe and Pinter 2019, arXiv:1908.04626). So a head's effect stands beside
its weights' habits.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from statistics import mean
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from qkv.attention import attention_map
from qkv.core.checks import shown
from qkv.core.types import Bias, Grid
from qkv.errors import ArgumentError, KindError, must
from qkv.lens.calls import Call, Run, intercepted
from qkv.lens.heads import ORDERS, Text
from qkv.lens.heads import measure as habits_of
from qkv.lens.running import Batch, can_repeat, last_vectors, logits, repeat, run, still
from qkv.masks.dense import dense_mask
from qkv.positions.dense import dense_bias

Kind: TypeAlias = Literal["self", "cross"]

AT_ONCE = 4096
"""Tokens of the copies that run together, each with another head off."""


@dataclass(frozen=True, kw_only=True)
class Off:
    """A head, or a layer's whole attention, adds nothing: its outputs are 0 before they are projected.

    `within` is a part of the module's name, such as "decoder", where several attentions have the layer's number.
    """

    layer: int
    head: int | None = None
    kind: Kind = "self"
    within: str = ""


@dataclass(frozen=True, kw_only=True)
class Uniform:
    """A head, or a layer's whole attention, weighs all keys alike that it may see."""

    layer: int
    head: int | None = None
    kind: Kind = "self"
    within: str = ""


@dataclass(frozen=True, kw_only=True)
class CutEdge:
    """A query does not see a key, in one head or, without one, in all; its other weights make up for it."""

    layer: int
    query: int
    key: int
    head: int | None = None
    kind: Kind = "self"
    within: str = ""


Change: TypeAlias = Off | Uniform | CutEdge


@contextmanager
def ablate(model: nn.Module, changes: Change | Sequence[Change]) -> Iterator[None]:
    """Change what a model's attention does while the block runs: qkv's modules, and Hugging Face's.

    `model` is the torch.nn.Module itself, not a function that calls it. Several changes of one layer
    act together: edges are cut, then heads made uniform, then others switched off.

    Raises: KindError for what is no module or no change, or a place that is no integer; ArgumentError for a head, query
    or key that is not there, if several attentions have the layer's number, or, leaving the block, if one was never
    met.
    """
    _check_module("ablate", model)
    given = list(changes) if isinstance(changes, Sequence) and not isinstance(changes, str) else [changes]
    for change in given:
        _check_kind(change)
    met: dict[int, str] = {}
    passed: set[str] = set()

    def around(call: Call, run: Run) -> Tensor:
        passed.add(call.name)
        mine = []
        for number, change in enumerate(given):
            if (change.layer, change.kind) == (call.layer, call.kind) and change.within in call.name:
                if met.setdefault(number, call.name) != call.name:
                    rule, fix = "be of one attention", "say within= a part of its name"
                    raise ArgumentError(must("ablate", repr(change), rule, f"{met[number]} and {call.name}", fix))
                _check(change, call)
                mine.append(change)
        return _changed(call, run, mine) if mine else run()

    with intercepted(model, around) as lens:
        yield
    if missed := [change for number, change in enumerate(given) if number not in met]:
        why = "; ".join(lens.refused.values()) or "there were " + (", ".join(sorted(passed)) or "none")
        raise ArgumentError(must("ablate", repr(missed[0]), "be of an attention that ran", "none of these", why))


def _check_module(function: str, model: object) -> None:
    """Raise KindError unless it is a module."""
    if not isinstance(model, nn.Module):
        fix = "the module itself; Loss(function) measures it by a function of yours" if callable(model) else ""
        raise KindError(must(function, "model", "be a torch.nn.Module", shown(model), fix))


def _check_kind(change: object) -> None:
    """Raise KindError unless it is a change, of whole numbers."""
    if not isinstance(change, Off | Uniform | CutEdge):
        raise KindError(must("ablate", "changes", "be qkv.Off, qkv.Uniform or qkv.CutEdge", shown(change)))
    for name, index in vars(change).items():
        argument = f"{type(change).__name__}.{name}"
        if name in ("kind", "within"):
            if not isinstance(index, str):
                raise KindError(must("ablate", argument, "be a string", shown(index)))
        elif (index is not None or name != "head") and (isinstance(index, bool) or not isinstance(index, int)):
            fix = "a change for each" if isinstance(index, slice | list | tuple | range) else ""
            raise KindError(must("ablate", argument, "be an integer", shown(index), fix))
    if change.kind not in ("self", "cross"):
        raise ArgumentError(must("ablate", f"{type(change).__name__}.kind", "be 'self' or 'cross'", repr(change.kind)))


def _check(change: Change, call: Call) -> None:
    sizes = {"head": call.query.shape[-3], "query": call.query.shape[-2], "key": call.key.shape[-2]}
    for name, size in sizes.items():
        index = getattr(change, name, None)
        if index is not None and not 0 <= index < size:
            raise ArgumentError(must("ablate", f"{type(change).__name__}.{name}", f"lie in 0..{size - 1}", index))


def _changed(call: Call, run: Run, changes: Sequence[Change]) -> Tensor:
    """Compute a call with its changes."""
    edges = [change for change in changes if isinstance(change, CutEdge)]
    output = run(mask=_cut(call, edges)) if edges else run()
    for change in changes:
        if isinstance(change, CutEdge):
            continue
        other = _uniform(call, run) if isinstance(change, Uniform) else output.new_zeros(())
        heads = torch.arange(output.shape[-3], device=output.device)
        chosen = heads >= 0 if change.head is None else heads == change.head
        output = torch.where(chosen[:, None, None], other, output)
    return output


def _cut(call: Call, edges: Sequence[CutEdge]) -> Any:
    """Hide pairs from what the mask lets meet. Cost: O(heads·queries·keys) memory."""
    heads, queries, keys = call.query.shape[-3], call.query.shape[-2], call.key.shape[-2]
    keep = torch.ones(heads, queries, keys, dtype=torch.bool, device=call.query.device)
    for edge in edges:
        keep[slice(None) if edge.head is None else edge.head, edge.query, edge.key] = False
    mask = call.given.get("mask")
    if mask is None:
        return dense_mask(keep)
    return (dense_mask(mask) if isinstance(mask, Tensor) else mask) & dense_mask(keep)


def _uniform(call: Call, run: Run) -> Tensor:
    """Weigh all keys alike: scores of 0 wherever the mask, or a bias of −inf, lets a pair meet."""
    bias = call.given.get("bias")
    bias = dense_bias(bias) if isinstance(bias, Tensor) else bias
    return run(
        query=torch.zeros_like(call.query),
        key=call.key.new_zeros(*call.key.shape[:-1], call.query.shape[-1]),
        score=None,
        bias=None if bias is None else Hides(bias),
        select=None,
    )


@dataclass(frozen=True, eq=False)
class Hides:
    """What a bias hides, and nothing else of it."""

    bias: Bias

    def check(self, grid: Grid) -> None:
        """Raise as the bias does."""
        self.bias.check(grid)

    def tile(
        self, rows: Int[Tensor, " rows"], columns: Int[Tensor, " columns"], grid: Grid
    ) -> Float[Tensor, "*lead rows columns"]:
        """Answer for these queries and keys: 0, or −inf."""
        answer = self.bias.tile(rows, columns, grid)
        return torch.zeros_like(answer).masked_fill(answer == -torch.inf, -torch.inf)


# What is asked of a model


@runtime_checkable
class Measure(Protocol):
    """What a change is measured by."""

    unit: str
    """What the change is, in a few words."""
    by_example: bool
    """Whether it tells of each example of a batch, so that copies can run together."""

    def read(self, model: nn.Module, batch: Batch) -> Tensor:
        """Run the model, and give what is compared."""
        ...

    def compare(self, before: Tensor, after: Tensor) -> tuple[float, float, float]:
        """Give the change, and a number before and after it."""
        ...


@dataclass(frozen=True)
class Prediction:
    """The prediction at a place: KL(before ‖ after), and the probability of the token that was likeliest before."""

    place: int = -1
    unit = "KL(before ‖ after) of the prediction, in nats"
    by_example = True

    def read(self, model: nn.Module, batch: Batch) -> Float[Tensor, "batch vocabulary"]:
        """Give the log probabilities."""
        return logits(model, batch)[:, self.place].double().log_softmax(-1)

    def compare(
        self, before: Float[Tensor, "batch vocabulary"], after: Float[Tensor, "batch vocabulary"]
    ) -> tuple[float, float, float]:
        """Give the divergence, and the probability before and after."""
        divergence = F.kl_div(after, before, log_target=True, reduction="none").sum(-1).mean()
        top = before.argmax(-1, keepdim=True)
        was, now = (each.gather(-1, top).exp().mean() for each in (before, after))
        return float(divergence.clamp(min=0)), float(was), float(now)


@dataclass(frozen=True)
class Vector:
    """A word's vector after the last layer, the mean of its tokens' (of all without any): 1 − its cosine to before."""

    tokens: tuple[int, ...] = ()
    unit = "1 − cosine of the vector to what it was"
    by_example = True

    def read(self, model: nn.Module, batch: Batch) -> Float[Tensor, "batch width"]:
        """Give the vectors."""
        found = last_vectors(model, batch)
        return (found[:, list(self.tokens)] if self.tokens else found).double().mean(1)

    def compare(
        self, before: Float[Tensor, "batch width"], after: Float[Tensor, "batch width"]
    ) -> tuple[float, float, float]:
        """Give 1 − cosine, and the norm before and after."""
        cosine = F.cosine_similarity(before, after, dim=-1).mean()
        return float((1 - cosine).clamp(min=0)), float(before.norm(dim=-1).mean()), float(after.norm(dim=-1).mean())


def _own_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Give what a model itself calls its loss. Raises: ArgumentError if it tells none."""
    loss = getattr(run(model, batch), "loss", None)
    if loss is None:
        got = f"no loss from {type(model).__name__}"
        fix = "give labels in the batch, or measure another: Loss(lambda model, batch: …)"
        raise ArgumentError(must("Loss", "model", "tell its loss", got, fix))
    return loss


@dataclass(frozen=True)
class Loss:
    """A loss: how much it grows. By default what the model itself calls `loss`, as Hugging Face's do with labels.

    `of(model, batch)` gives one number as a tensor.

    Raises: KindError when it is read, if `of` gives none; ArgumentError if the model tells no loss, as without labels.
    """

    of: Callable[[nn.Module, Batch], Tensor] = _own_loss
    unit = "growth of the loss"
    by_example = False

    def read(self, model: nn.Module, batch: Batch) -> Float[Tensor, ""]:
        """Give the loss."""
        loss = self.of(model, batch)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            fix = "reduce it: loss.mean()" if isinstance(loss, Tensor) else ""
            raise KindError(must("Loss", "of(model, batch)", "give a tensor of one number", shown(loss), fix))
        return loss.detach().double().reshape(())

    def compare(self, before: Float[Tensor, ""], after: Float[Tensor, ""]) -> tuple[float, float, float]:
        """Give the growth, and the loss before and after."""
        return float(after - before), float(before), float(after)


# The table


@dataclass(frozen=True)
class Effect:
    """What changes without a head, or without a layer's attention (`head` None), beside what its weights look like.

    The habits are those of `lens.heads.Head`; a layer's are its heads' means.
    """

    layer: int
    head: int | None
    name: str
    """The attention's name in the model."""
    change: float
    before: float
    after: float
    entropy: float
    diagonal: float
    previous: float
    following: float
    first: float
    separator: float
    same_word: float
    broad: float


def effects(
    model: nn.Module,
    batch: Batch,
    measure: Measure,
    *,
    text: Text | None = None,
    tell: Callable[[int, int], None] | None = None,
) -> list[Effect]:
    """Switch every head off, one at a time, and every layer's attention; give what each changes, by `measure`.

    `model` is a torch.nn.Module, called with `batch`: a tensor, a dict of keywords or a tuple of arguments. `measure`
    is Prediction(), Vector(), Loss() or another `Measure`; a plain function of model and batch that gives a loss is
    `Loss(function)`. Dropout is off. `text` lets the habits tell separators and words that come again. `tell` is told
    how many of how many changes are measured.

    Paper: Michel et al. 2019, arXiv:1905.10650 (heads switched off one at a time).
    Cost: a pass for each head and layer, on copies of the batch that run together where the measure allows it.
    Raises: KindError for what is no module, no batch or no measure; ArgumentError if no attention of the model can be
    met; as the measure.
    """
    _check_module("effects", model)
    if not isinstance(measure, Measure) or isinstance(measure, type):
        rule, fix = "be Prediction(), Vector(), Loss() or another Measure", "a function is one as Loss(function)"
        raise KindError(must("effects", "measure", rule, shown(measure), fix))
    sites: dict[str, list[Effect]] = {}
    tokens = 1

    def look(call: Call, run: Run) -> Tensor:
        nonlocal tokens
        if call.name not in sites:
            sites[call.name] = _habits(call, text)
            tokens = max(tokens, call.query.shape[:-3].numel() * call.query.shape[-2])
        return run()

    with still(model):
        with intercepted(model, look) as lens:
            before = measure.read(model, batch)
        if not sites:
            why = "; ".join(lens.refused.values())
            raise ArgumentError(must("effects", "model", "have attention that qkv can meet", "none", why))
        rows = [row for some in sites.values() for row in some]
        copies = max(1, AT_ONCE // tokens) if measure.by_example and can_repeat(batch) else 1
        found: list[Effect] = []
        for some in (rows[start : start + copies] for start in range(0, len(rows), copies)):
            with intercepted(model, _switch(some)):
                after = measure.read(model, repeat(batch, len(some)) if len(some) > 1 else batch)
            parts = after.unflatten(0, (len(some), -1)) if copies > 1 else [after]
            for row, part in zip(some, parts, strict=True):
                change, was, now = measure.compare(before, part)
                found.append(Effect(**asdict(row) | {"change": change, "before": was, "after": now}))
            if tell is not None:
                tell(len(found), len(rows))
    return found


def _habits(call: Call, text: Text | None) -> list[Effect]:
    """Measure a call's heads, and their mean; the effects are still to come."""
    told = {name: part for name, part in call.given.items() if name != "dropout"}
    seen = attention_map(call.query, call.key, **told)
    fits = text is not None and call.kind == "self" and len(text.word) == seen.grid.keys
    heads = habits_of(seen, text if fits else None, layer=call.layer)
    nothing: dict[str, Any] = {"layer": call.layer, "name": call.name, "change": 0.0, "before": 0.0, "after": 0.0}
    rows = [Effect(head=one.head, **nothing, **{name: getattr(one, name) for name in ORDERS}) for one in heads]
    means: dict[str, Any] = {name: mean(getattr(one, name) for one in heads) for name in ORDERS}
    return [*rows, Effect(head=None, **nothing, **means)]


def _switch(rows: Sequence[Effect]) -> Callable[[Call, Run], Tensor]:
    """Switch off another head in each copy of a batch."""

    def around(call: Call, run: Run) -> Tensor:
        output = run()
        if all(row.name != call.name for row in rows):
            return output
        copies = output.unflatten(0, (len(rows), -1)).clone()
        for copy, row in zip(copies, rows, strict=True):
            if row.name == call.name:
                copy[..., slice(None) if row.head is None else row.head, :, :] = 0
        return copies.flatten(0, 1)

    return around
