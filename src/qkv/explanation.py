"""What a call would do: which backend runs, why not a faster one, and what it costs."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from qkv.attention import call_of
from qkv.core.backend import Cost, all_pairs
from qkv.core.call import Call
from qkv.core.map import tensors_of
from qkv.core.types import Bias, Mask, Score, Selection
from qkv.plan import make_plan


@dataclass(frozen=True)
class Explanation:
    """What a call would do. Printing it tells it all."""

    backend: str
    refused: tuple[tuple[str, str], ...]
    caveat: str
    choices: str
    cost: Cost
    pairs_possible: int
    pairs_alive: int

    def __str__(self) -> str:
        share = self.cost.pairs / max(1, self.pairs_possible)
        alive = self.pairs_alive / max(1, self.pairs_possible)
        lines = [
            self.choices,
            f"backend   {self.backend}",
            *(f"not       {name}: {reason}" for name, reason in self.refused),
            f"pairs     {self.cost.pairs:,} computed of {self.pairs_possible:,} possible ({share:.0%})",
            f"may meet  {self.pairs_alive:,} at most ({alive:.1%})",
            f"work      {self.cost.flops:,} FLOPs, {self.cost.bytes:,} bytes moved (estimates)",
        ]
        return "\n".join([*lines, f"caveat    {self.caveat}"] if self.caveat else lines)


def explain(
    query: Float[Tensor, "*batch heads queries dim"],
    key: Float[Tensor, "*batch key_heads keys key_dim"],
    value: Float[Tensor, "*batch key_heads keys value_dim"],
    *,
    score: Score | None = None,
    bias: Bias | Float[Tensor, "..."] | None = None,
    mask: Mask | Bool[Tensor, "..."] | None = None,
    select: Selection | None = None,
    dropout: float = 0.0,
    impl: str = "auto",
) -> Explanation:
    """Tell what `attend` would do with the same arguments; print the answer.

    FLOPs count a multiply and an add as two. Bytes are those of the inputs, the output and what is stored for each
    pair, each written once and read once.

    Cost: planning alone; nothing is computed.
    Raises: as `attend`.
    """
    call = call_of("explain", query, key, value, score, bias, mask, select, dropout)
    plan = make_plan("explain", call, impl)
    backend = plan.backend
    bias_text = "" if call.bias is None else f" + {call.bias}"
    mask_text = "" if call.mask is None else f" · {call.mask}"
    drop_text = f" · dropout {call.dropout:g}" if call.dropout else ""
    return Explanation(
        backend=backend.name,
        refused=plan.refused,
        caveat=backend.caveat(call),
        choices=f"{call.score}{bias_text}{mask_text} → {call.select}{drop_text}",
        cost=backend.cost(call),
        pairs_possible=all_pairs(call),
        pairs_alive=_alive(call),
    )


def _alive(call: Call) -> int:
    """Count the pairs that the mask lets meet, row by row; runs with holes count whole."""
    grid = call.grid
    if call.mask is None or not grid.queries:
        return all_pairs(call)
    if grid.device.type == "meta":
        # What a mask hides is told by its numbers, wherever the query is; but not by tensors that hold nothing.
        if any(held.is_meta for held in tensors_of(call.mask)):
            return all_pairs(call)
        grid = replace(grid, device=torch.device("cpu"))
    some, _ = call.mask.runs(1, grid)
    each = some.count().sum(-1)
    lanes = all_pairs(call) // max(1, grid.queries * grid.keys)
    return int(each.sum()) * lanes // max(1, each.numel())
