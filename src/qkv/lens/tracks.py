"""How `watch` keeps what it sees: a track of each layer's sequence, whose rows may come step by step."""

import copy
import re
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from qkv.attention import Attends, attention_map
from qkv.core.map import AttentionMap, tensors_of
from qkv.core.types import Bias, Grid
from qkv.errors import ArgumentError, must
from qkv.lens.calls import Call, Lens, Run
from qkv.lens.rows import Biases, Rows
from qkv.lens.told import Told, grid_of
from qkv.masks.algebra import Mask
from qkv.masks.dense import dense_mask
from qkv.masks.spans import Spans
from qkv.positions.dense import DenseBias
from qkv.positions.diagonals import Diagonals
from qkv.selections.sink import Sink


class Watching:
    """Takes the calls of a model, and keeps a track of each layer."""

    def __init__(self, layers: list[int] | None, heads: list[int] | None, queries: list[int] | None) -> None:
        self.layers, self.heads, self.queries = layers, heads, queries
        self.tracks: dict[tuple[int, int], Track] = {}
        self.goes_on = False
        """Whether the last self-attention went on from keys that were seen before."""
        self.moved: Int[Tensor, " rows"] | None = None
        """How it found the batch's rows moved, as a beam search moves them."""
        self._depth = 0
        self._turns: dict[int, int] = {}
        self._latest: deque[Call] = deque(maxlen=8)
        """The last calls in this pass of the module that ran last."""
        self._past = 0
        """How many keys the last self-attention had that came with no query."""
        self._lost: dict[str, str] = {}
        self._ran: set[str] = set()
        self._told: Told | None = None

    def begin(self, lens: Lens, stack: ExitStack) -> None:
        """Notice when the model, or a stack of it, begins to run, and which modules that attend do."""
        self.lens, self.attending = lens, _attending(lens.modules)
        for name, module in lens.modules.items():
            # What stands above the layers.
            if name.count(".") <= 2 and not any(word.isdecimal() for word in name.split(".")):
                stack.callback(module.register_forward_pre_hook(self._enter).remove)
                stack.callback(module.register_forward_hook(self._leave, always_call=True).remove)
        for name, module in self.attending.items():
            if not isinstance(module, Attends):
                handle = module.register_forward_pre_hook(lambda *_, name=name: self._ran.add(name))
                stack.callback(handle.remove)

    def _enter(self, *_: object) -> None:
        if not self.lens.is_here:
            return
        if self._depth == 0:
            self._turns.clear()
        self._depth += 1

    def _leave(self, *_: object) -> None:
        if self.lens.is_here:
            self._depth -= 1
            if not self._depth:
                self._latest.clear()

    def unseen(self) -> dict[str, str]:
        """Say of the modules that attend which were not seen, and why."""
        seen = {track.name for track in self.tracks.values()}
        found = {}
        for name, module in self.attending.items():
            skipped = self.layers is not None and self.lens.sites[id(module)].layer not in self.layers
            if name in seen or (skipped and name not in self.lens.refused):
                continue
            kind = type(module).__name__
            if name in self.lens.refused:
                found[name] = self.lens.refused[name]
            elif name not in self._ran and self._is_compiled(name):
                fix = "watch and run it as it was before torch.compile, such as model._orig_mod"
                found[name] = f"it is compiled, and compiled code cannot be seen ({fix})"
            elif name not in self._ran and not isinstance(module, Attends):
                found[name] = "it did not run inside the block, unless as compiled code, which cannot be seen"
            elif isinstance(module, Attends):
                found[name] = "it did not attend inside the block"
            elif isinstance(module, nn.MultiheadAttention):
                found[name] = "torch computes it in one call; qkv.MultiHead.from_torch(module) can be seen"
            elif type(module).__module__.startswith("qkv."):
                found[name] = f"{kind} computes its weights itself, and its result holds them"
            else:
                found[name] = f"{kind} computes attention itself, not by transformers' attention functions"
        return found | self._lost

    def _is_compiled(self, name: str) -> bool:
        """Say whether a module, or one that it is in, has been compiled."""
        words = name.split(".") if name else []
        above = (self.lens.modules.get(".".join(words[:count])) for count in range(len(words) + 1))
        return any(module is not None and _is_compiled(module) for module in above)

    def take(self, call: Call, run: Run) -> Tensor:
        """Keep a call, and let it run."""
        # What a checkpoint computes once more on the way back was seen on the way there.
        if torch._C._current_graph_task_id() == -1:
            with torch.no_grad():
                self._keep(call)
        return run()

    def _keep(self, call: Call) -> None:
        module = id(call.module)
        if self._depth and self._is_told(call):
            return
        # A module that is called again in one pass goes on, or serves as another layer.
        turn = self._turns.get(module, 0)
        slots = [(module, turn - 1), (module, turn)] if turn else [(module, 0)]
        known = [slot for slot in slots if slot in self.tracks]
        found = next((slot for slot in known if self.tracks[slot].joins(call, self, turn > 0)), None)
        if call.kind == "self":
            self.goes_on, self._past = found is not None, 0
        slot = slots[-1] if found is None else found
        if self._depth:
            self._turns[module] = slot[1] + 1
        if found is None:
            if not turn:
                # What the module was in a longer pass before.
                for old in [each for each in self.tracks if each[0] == module and each[1]]:
                    self._lost.pop(self.tracks.pop(old).name, None)
            track = self._begun(call, slot)
            if self.layers is not None and track.layer not in self.layers:
                return
            self._note(call, track, slot in self.tracks)
            self.tracks[slot] = track
        self.tracks[slot].add(call, self)

    def _note(self, call: Call, track: "Track", again: bool) -> None:
        """Note where a track begins in the middle of a sequence; `again` if there was one in its place."""
        self._lost.pop(track.name, None)
        if call.kind == "self":
            self._past = self.real(call) - call.query.shape[-2]
            if self._past > 0:
                why = "they are older than the block, or have changed since, or are a prefix"
                self._lost[track.name] = f"only in part: the first {self._past} keys belong to no query seen ({why})"
        elif self._past > 0 or (self.goes_on and again):
            self._lost[track.name] = "only in part: the decoder goes on, and this is not joined to what was before"

    def _is_told(self, call: Call) -> bool:
        """Say whether its module has made this map in this pass just before: of the same weights and other values."""
        if self._latest and self._latest[0].module is not call.module:
            self._latest.clear()
        told = any(_are_alike(call, other) for other in self._latest)
        if not told:
            # Detached: whoever remembers something of a tensor while it lives need not remember it longer.
            still = {name: getattr(call, name).detach() for name in ("query", "key", "value")}
            self._latest.append(replace(call, **still))
        return told

    def _begun(self, call: Call, slot: tuple[int, int]) -> "Track":
        """Begin a track: of the module's own layer, of another if layers share the module, or of neither."""
        stack, turn = _stack(call.name), slot[1]
        if turn and not self._is_shared(call):
            return Track(f"{call.name}#{turn + 1}", stack, call.kind, call.layer, False)
        layer = call.layer + turn
        taken = {
            track.layer: other
            for other, track in self.tracks.items()
            if track.is_layer and (track.stack, track.kind) == (stack, call.kind)
        }
        while taken.get(layer, slot) != slot:
            layer += 1
        return Track(call.name, stack, call.kind, layer)

    def _is_shared(self, call: Call) -> bool:
        """Say whether there are more layers than modules."""
        places = [self.lens.sites[id(module)] for module in self.attending.values()]
        count = sum((_stack(place.name), place.kind) == (_stack(call.name), call.kind) for place in places)
        layers = getattr(getattr(call.module, "config", None), "num_hidden_layers", None)
        return count <= 1 or (isinstance(layers, int) and layers > count)

    def mask(self, call: Call) -> Mask | None:
        """Give a call's mask."""
        mask = call.given.get("mask")
        return dense_mask(mask) if isinstance(mask, Tensor) else mask

    def spans(self, call: Call) -> Spans | None:
        """Tell a call's mask by spans; None if some query sees more than one."""
        if call.given.get("mask") is None:
            grid = grid_of(call)
            zero = torch.zeros(grid.queries, dtype=torch.int64, device=grid.device)
            return Spans(zero, zero + grid.keys)
        return self._tell(call).spans

    def real(self, call: Call) -> int:
        """Count a call's keys up to the last that some query sees: a static cache has room for more."""
        keys = call.key.shape[-2]
        if call.kind == "cross" or keys == call.query.shape[-2] or call.given.get("mask") is None:
            return keys
        return max(call.query.shape[-2], min(keys, self._tell(call).stop))

    def cut(self, call: Call, real: int) -> Mask | None:
        """Give a call's mask over its first keys alone."""
        mask, grid = self.mask(call), grid_of(call)
        if mask is None or real == grid.keys:
            return mask
        # Where a mask's own numbers count from the last key, they mean the last of the store.
        shown = mask.tile(grid.rows(), grid.columns()[:real], grid)
        return dense_mask(shown.expand(*shown.shape[:-2], grid.queries, real))

    def _tell(self, call: Call) -> Told:
        """Tell a mask once for all layers that share it."""
        mask, grid, told = call.given["mask"], grid_of(call), self._told
        # Masks of numbers alone are the same when their numbers are.
        same = told is not None and (told.mask is mask or (isinstance(mask, Mask) and told.mask == mask))
        if told is None or not same or told.grid != grid:
            self._told = told = Told(mask, grid)
        return told


@dataclass(eq=False)
class Track:
    """One sequence that a module attended in: its queries so far, and all keys that they met."""

    name: str
    stack: str
    kind: str
    layer: int
    is_layer: bool = True
    """False for what a module attends beside its layer's own attention."""
    queries: list[Tensor] = field(default_factory=list)
    rows: list[Rows] = field(default_factory=list)
    store: Tensor | None = None
    """All keys, and room for more."""
    total: int = 0
    read: Tensor | None = None
    """What the last call gave as its keys: a memory is known again by where it lies."""
    given: dict[str, Any] = field(default_factory=dict)
    heads: Int[Tensor, " heads"] | None = None
    _map: AttentionMap | None = None

    @property
    def seen(self) -> int:
        """How many queries there were."""
        return sum(rows.grid.queries for rows in self.rows)

    def joins(self, call: Call, watching: Watching, again: bool) -> bool:
        """Say whether a call goes on with this sequence; `again` if the module has run in this pass before."""
        key, store = call.key, self.store
        if store is None or key.shape[-3::2] != store.shape[-3::2] or key.dtype != store.dtype:
            return False
        if call.kind == "cross":
            if key.shape[:-3] != store.shape[:-3] or key.shape[-2] != self.total:
                return False
            alone = all(track.kind == "cross" for track in watching.tracks.values())
            steps = again or watching.goes_on or (alone and self.read is not None and _lie_alike(key, self.read))
            if not steps or not _equal(key, store[..., : self.total, :]):
                return False
            self._move(watching.moved)
            return True
        watching.moved = None
        held = watching.real(call) - call.query.shape[-2]
        # What a cache holds is what was seen before, or the last of it where a window slides along.
        if not 0 < held <= self.total:
            return False
        new, old = key[..., :held, :], store[..., self.total - held : self.total, :]
        if new.shape == old.shape and _equal(new, old):
            return True
        moved = _moved(new, old, self._shown() if held == self.total else None)
        if moved is None:
            return False
        if not torch.equal(moved, torch.arange(len(old), device=moved.device)):
            watching.moved = moved
            self._move(moved)
        assert self.store is not None
        # What nobody saw, as the padding of a shorter prompt, may have been overwritten.
        self.store[..., self.total - held : self.total, :] = new
        return True

    def _shown(self) -> Tensor | None:
        """Say which keys the last query saw."""
        last = self.rows[-1]
        if last.spans is None or last.grid.keys != self.total or last.spans.start.ndim < 3:
            return None
        start, stop = (last.pick(ends[..., -1:], None, 1)[:, :1] for ends in (last.spans.start, last.spans.stop))
        columns = torch.arange(self.total, device=start.device)
        return ((columns >= start) & (columns < stop))[..., None]

    def _append(self, new: Tensor) -> None:
        """Add keys, in a store that doubles when it is full."""
        assert self.store is not None
        count = self.total + new.shape[-2]
        if self.store.shape[-2] < count:
            room = self.store.new_empty((*self.store.shape[:-2], 2 * count, self.store.shape[-1]))
            room[..., : self.total, :] = self.store[..., : self.total, :]
            self.store = room
        self.store[..., self.total : count, :] = new
        self.total = count

    def _move(self, moved: Int[Tensor, " rows"] | None) -> None:
        """Let row i of the batch become what row `moved[i]` was."""
        if moved is None or len(self.queries[0]) <= int(moved.max()):
            return
        self.queries = [x.index_select(0, moved) for x in self.queries]
        self.store = None if self.store is None else self.store.index_select(0, moved)
        for rows in self.rows:
            rows.moved = moved if rows.moved is None else rows.moved.index_select(0, moved)

    def add(self, call: Call, watching: Watching) -> None:
        """Take the queries of a call in, and the keys that are new."""
        query, key = call.query.detach(), call.key.detach()
        real = watching.real(call)
        grid = Grid(tuple(query.shape[:-3]), query.shape[-3], query.shape[-2], real, query.device)
        spans = watching.spans(call)
        mask = watching.cut(call, real) if spans is None else None
        if self.store is None:
            self.store, self.total = _own(key[..., :real, :]), real
        elif call.kind == "self":
            self._append(key[..., real - grid.queries : real, :])
        self.read, first = key if call.kind == "cross" else None, self.total - real
        if not self.rows:
            self.given = {name: _still(call.given.get(name)) for name in ("score", "select")}
            if watching.heads is not None:
                self.heads = torch.tensor(watching.heads, device=query.device)
                if watching.heads[-1] >= grid.heads:
                    rule = f"lie in 0..{grid.heads - 1}"
                    raise ArgumentError(must("watch", "heads", rule, watching.heads[-1], f"all that {self.name} has"))
        kept = grid.rows()
        if watching.queries is not None:
            wanted = [at - self.seen for at in watching.queries if self.seen <= at < self.seen + grid.queries]
            kept = torch.tensor(wanted, dtype=torch.int64, device=query.device)
            query = query.index_select(-2, kept)
        if self.heads is not None:
            query = query.index_select(-3, self.heads)
        bias = call.given.get("bias")
        bias = DenseBias(bias) if isinstance(bias, Tensor) else bias
        if isinstance(bias, DenseBias) and bias.tensor.shape[-1] > real:
            # A static cache's bias reaches as far as its store does.
            bias = DenseBias(bias.tensor[..., :real])
        bias = _still(bias)
        self.queries.append(_own(query))
        self.rows.append(Rows(kept, grid, first, mask, spans, bias))
        self._map = None

    def map(self) -> AttentionMap:
        """Make the map of all queries so far."""
        if self._map is None:
            assert self.store is not None
            with torch.no_grad():
                # The store goes on to be written to.
                query, key = torch.cat(self.queries, dim=-2), self.store[..., : self.total, :].clone()
                given = self.given
                if self.heads is not None:
                    group = self.rows[0].grid.heads // key.shape[-3]
                    key = key.index_select(-3, self.heads // group)
                    if isinstance(given["select"], Sink) and given["select"].logits.numel() > 1:
                        given = given | {"select": Sink(given["select"].logits[self.heads])}
                self._map = attention_map(query, key, mask=self._mask(), bias=self._bias(), **given)
        return self._map

    def _whole(self) -> Rows | None:
        """Give the only call, if all of it is kept."""
        alone = len(self.rows) == 1 and self.heads is None and len(self.rows[0].kept) == self.rows[0].grid.queries
        return self.rows[0] if alone else None

    def _mask(self) -> Mask | None:
        whole = self._whole()
        if whole is not None and whole.spans is None:
            return whole.mask
        if any(rows.spans is None for rows in self.rows):
            dense = [rows.dense(self.total, self.heads) for rows in self.rows]
            lead = torch.broadcast_shapes(*(part.shape[:-2] for part in dense))
            return dense_mask(torch.cat([part.expand(*lead, -1, -1) for part in dense], dim=-2))
        ends = []
        for name in ("start", "stop"):
            parts = []
            for rows in self.rows:
                end = getattr(rows.spans, name).index_select(-1, rows.kept)
                parts.append(rows.pick(end, self.heads, 1) + rows.first)
            lead = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
            ends.append(torch.cat([part.expand(*lead, -1) for part in parts], dim=-1))
        return Spans(*ends)

    def _bias(self) -> Bias | None:
        whole = self._whole()
        if whole is not None:
            return whole.bias
        return None if all(rows.bias is None for rows in self.rows) else Biases(self.rows, self.heads)


def _are_alike(call: Call, other: Call) -> bool:
    """Say whether two calls have the same weights."""
    if not all(_is_same(call.given.get(name), other.given.get(name)) for name in ("mask", "bias", "score", "select")):
        return False
    pairs = [(call.query, other.query), (call.key, other.key)]
    # A decoder's step may well ask its memory the same again.
    return all(_lie_alike(x, y) or (call.kind == "self" and x.shape == y.shape and _equal(x, y)) for x, y in pairs)


def _is_same(part: Any, other: Any) -> bool:
    """Say whether two parts are one, or masks and choices of the same numbers; tensors are only themselves."""
    if part is other or isinstance(part, Mask | int | float | str):
        return bool(part is other or part == other)
    mine, theirs = getattr(part, "__dict__", {}), getattr(other, "__dict__", {})
    alike = type(part) is type(other) and bool(mine) and mine.keys() == theirs.keys()
    return alike and all(_is_same(mine[name], theirs[name]) for name in mine)


def _own(x: Tensor) -> Tensor:
    """Give a tensor that holds no other memory: a view of a larger store would keep it, and change with it."""
    return x if x.untyped_storage().nbytes() == x.numel() * x.element_size() else x.clone()


def _equal(x: Tensor, y: Tensor) -> bool:
    """Say whether tensors of one shape hold the same; what is no number is the same as itself."""
    return torch.equal(x, y) or bool(_alike(x, y).all())


def _alike(x: Tensor, y: Tensor) -> Tensor:
    return (x == y) | (x.isnan() & y.isnan())


def _lie_alike(x: Tensor, y: Tensor) -> bool:
    return x.data_ptr() == y.data_ptr() and x.shape == y.shape


def _still(part: Any) -> Any:
    """Detach what a part holds, so that it keeps no graph, and an optimiser's step does not reach it."""
    if isinstance(part, DenseBias):
        return DenseBias(part.tensor.detach())
    if isinstance(part, Diagonals):
        return Diagonals(part.table.detach(), part.above)
    if not any(tensor.requires_grad and tensor.is_leaf for tensor in tensors_of(part)):
        return part
    return copy.deepcopy(part)


def _moved(new: Tensor, old: Tensor, shown: Tensor | None) -> Int[Tensor, " rows"] | None:
    """Find which old row of the batch each new one goes on from; None if one goes on from none."""
    if new.ndim != 4 or new.shape[1:] != old.shape[1:]:
        return None
    found = []
    for row in new:
        for at, before in enumerate(old):
            same = _alike(row, before)
            if shown is not None:
                same = same | ~shown[at if len(shown) > 1 else 0]
            if bool(same.all()):
                found.append(at)
                break
        else:
            return None
    return torch.tensor(found, device=new.device)


def _stack(name: str) -> str:
    """Give the name that the layers of a stack share."""
    return re.split(r"(?:^|\.)\d+(?:\.|$)", name)[0]


_ATTENTION = re.compile("Attention|Attn|Coverage|Monotonic")


def _is_compiled(module: nn.Module) -> bool:
    forward = vars(module).get("forward")
    whole = "_orig_mod" in dict(module.named_children()) or hasattr(forward, "_torchdynamo_orig_callable")
    return whole or module._compiled_call_impl is not None


def _attending(modules: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """Find the modules that attend, by their kind or by what models call it; of those inside one another the inner."""
    named = {
        name: module
        for name, module in modules.items()
        if isinstance(module, Attends) or _ATTENTION.search(type(module).__name__)
    }
    return {
        name: module
        for name, module in named.items()
        if not any(other != name and (not name or other.startswith(f"{name}.")) for other in named)
    }
