"""Flow: what reaches a position through all layers, not through one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from qkv.core.map import DENSE_BYTES, AttentionMap
from qkv.core.types import wide
from qkv.errors import ArgumentError, ShapeError, UnsupportedError, must
from qkv.lens.calls import Call, Run, intercepted
from qkv.lens.heads import tiles
from qkv.lens.running import Batch, run, still


@torch.no_grad()
def rollout(
    maps: Sequence[AttentionMap], *, limit: int = DENSE_BYTES
) -> Float[Tensor, "layers *batch positions positions"]:
    """Follow attention through the layers: Rₗ = (½ Āₗ + ½ I) Rₗ₋₁, with Āₗ the mean over the heads and R₋₁ = I.

    Row i of Rₗ says what share of each input token stands at position i after layer l, if attention moved vectors as
    they are and the residual connection were half of all. Rows of Āₗ are scaled to sum 1; one without any weight keeps
    what it has. That is a model of the model: it knows neither values nor norms, nor the feed-forward layers.

    Paper: Abnar and Zuidema 2020, arXiv:2005.00928, section 3.
    Cost: O(layers·positions³) time; what is returned, and tiles.
    Raises: ArgumentError without a map, or if it would take more than `limit` bytes; ShapeError unless the maps are
    those of layers that attend to themselves.
    """
    batch, count = _check_stack("rollout", maps)
    dtype = wide(maps[0].query.dtype)
    shape = (len(maps), *batch, count, count)
    if (bytes_ := torch.Size(shape).numel() * dtype.itemsize) > limit:
        fix = f"rollout(limit={bytes_}), or a shorter text"
        raise ArgumentError(must("rollout", "the shares", f"fit in {limit:,} bytes", f"{bytes_:,}", fix))
    shares = torch.empty(shape, dtype=dtype, device=maps[0].grid.device)
    before = torch.eye(count, dtype=dtype, device=shares.device).expand(shares[0].shape)
    for after, seen in zip(shares, maps, strict=True):
        for rows, weights in tiles(seen):
            mean = weights.mean(-3)
            total = mean.sum(-1, keepdim=True)
            moved = (mean / torch.where(total == 0, 1, total)) @ before
            kept = before[..., rows, :]
            after[..., rows, :] = torch.where(total == 0, kept, (moved + kept) / 2)
        before = after
    return shares


@torch.no_grad()
def reached(maps: Sequence[AttentionMap], query: int) -> Float[Tensor, "*batch positions"]:
    """Follow attention to one position alone: the row of `rollout`'s last layer, e (½ Āₗ + ½ I) … (½ Ā₁ + ½ I).

    Cost: O(layers·heads·positions²·dim) time, linear memory: of a text of any length, where `rollout` holds a square a
    layer.
    Raises: as `rollout`; ArgumentError for a query that is not there.
    """
    batch, count = _check_stack("reached", maps)
    if not 0 <= query < count:
        raise ArgumentError(must("reached", "query", f"lie in 0..{count - 1}", query))
    share = torch.zeros((*batch, count), dtype=wide(maps[0].query.dtype), device=maps[0].grid.device)
    share[..., query] = 1
    for seen in reversed(maps):
        moved, kept = torch.zeros_like(share), share.clone()
        for rows, weights in tiles(seen):
            mean = weights.mean(-3)
            total = mean.sum(-1)
            half = torch.where(total == 0, 0, share[..., rows] / 2)
            kept[..., rows] -= half
            moved += ((half / torch.where(total == 0, 1, total))[..., None, :] @ mean)[..., 0, :]
        share = kept + moved
    return share


def _check_stack(function: str, maps: Sequence[AttentionMap]) -> tuple[tuple[int, ...], int]:
    """Give the batch and the positions of layers that attend to themselves, or raise what is wrong with them."""
    if not maps:
        raise ArgumentError(must(function, "maps", "hold a map for each layer", "none"))
    batch, count = maps[0].grid.batch, maps[0].grid.queries
    for layer, seen in enumerate(maps):
        if (*seen.grid.batch, seen.grid.queries, seen.grid.keys) != (*batch, count, count):
            rule = f"have {count} queries and as many keys, of the batch {list(batch)}"
            raise ShapeError(must(function, f"maps[{layer}]", rule, list(seen.shape)))
    return batch, count


@dataclass(frozen=True, eq=False)
class Flow:
    """What an attention adds, beside the stream that it is added to: the norms at each position."""

    name: str
    layer: int
    stream: Float[Tensor, "*batch positions"]
    added: Float[Tensor, "*batch positions"]

    @property
    def share(self) -> Float[Tensor, "*batch positions"]:
        """The residual's share, ‖x‖ / (‖x‖ + ‖attention(x)‖): 1 where attention adds nothing."""
        total = self.stream + self.added
        return torch.where(total > 0, self.stream / torch.where(total > 0, total, 1), 1)


def residual_share(model: nn.Module, batch: Batch) -> list[Flow]:
    """Run a model and measure, for each self-attention, what it adds beside the residual stream.

    Dropout is off. The stream is what enters the layer that holds the attention, an item of the model's list of layers;
    what is added leaves the first linear layer after the heads, its bias included.

    Paper: Kobayashi et al. 2021, arXiv:2109.07152 (norms, where weights alone mislead).
    Raises: UnsupportedError if an attention's layer or output projection is not found, or there is no attention.
    """
    modules = dict(model.named_modules())
    layers = {name for name in modules if isinstance(modules.get(name.rpartition(".")[0]), nn.ModuleList)}
    entered: dict[str, Tensor] = {}
    waiting: list[tuple[Call, Float[Tensor, "*batch positions"], int]] = []
    found: list[Flow] = []

    def enter(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            given = [part for part in (*inputs, *keywords.values()) if isinstance(part, Tensor)]
            if given and given[0].is_floating_point():
                entered[name] = given[0].detach().float().norm(dim=-1)

        return hook

    def leave(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        # The heads side by side: as many numbers at each position.
        if waiting and isinstance(output, Tensor) and inputs and inputs[0].shape[-1] == waiting[-1][2]:
            call, stream, _ = waiting.pop()
            added = output.detach().float().norm(dim=-1)
            found.append(Flow(call.name, call.layer, stream, added.reshape(stream.shape)))

    def look(call: Call, run_: Run) -> Tensor:
        output = run_()
        if call.kind == "self":
            holding = [name for name in layers if call.name == name or call.name.startswith(f"{name}.")]
            stream = entered.get(max(holding, key=len, default=""))
            if waiting or stream is None:
                raise _unknown(waiting[-1][0].name if waiting else call.name)
            waiting.append((call, stream, output.shape[-3] * output.shape[-1]))
        return output

    hooks = [modules[name].register_forward_pre_hook(enter(name), with_kwargs=True) for name in layers]
    hooks += [
        one.register_forward_hook(leave) for one in modules.values() if type(one).__name__ in ("Linear", "Conv1D")
    ]
    try:
        with still(model), intercepted(model, look):
            run(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    if waiting or not found:
        raise _unknown(waiting[-1][0].name if waiting else type(model).__name__)
    return found


def _unknown(name: str) -> UnsupportedError:
    rule = "hold self-attention in a list of layers, each with a linear layer after its heads"
    return UnsupportedError(must("residual_share", "model", rule, name))
