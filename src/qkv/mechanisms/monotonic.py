"""Monotonic attention: each query goes on from where the one before it stopped, and never back."""

from dataclasses import dataclass
from typing import NoReturn

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from qkv.attention import call_of
from qkv.core.call import exact
from qkv.core.card import Card
from qkv.core.checks import check_device, check_indices, check_number
from qkv.core.reference import hide, weigh
from qkv.core.types import AdditivePair, Mask, wide
from qkv.errors import ArgumentError, ShapeError, UnsupportedError, must
from qkv.mechanisms.one_head import check_row, check_widths, pairs_seen, with_head
from qkv.scores.additive import Additive


@dataclass(frozen=True, eq=False)
class Expected:
    """Where the queries are expected to stop.

    weights: α, a row for each query; what a row lacks of 1 is the chance of having run off the end. last: α of the last
    query, which the next call goes on from.
    """

    weights: Float[Tensor, "*batch queries keys"]
    last: Float[Tensor, "*batch keys"]


@dataclass(frozen=True, eq=False)
class Stopped:
    """Where the queries stopped.

    index: the place of each query, −1 if it ran off the end or sees nothing. last: where the next call goes on from,
    the number of keys once the end is passed.
    """

    index: Int[Tensor, "*batch queries"]
    last: Int[Tensor, "*batch"]


class Monotonic(nn.Module):
    """Walk along the memory from where the last query stopped, and stop at place j with probability p_ij = σ(e_ij).

    e_ij = g · v/‖v‖ · tanh(W s_i + V h_j + b) + r. Called, it gives the expectation over all walks, to train by:
    α_ij = p_ij q_ij, q_ij = (1 − p_i,j−1) q_i,j−1 + α_i−1,j, with all of α_0 at the first place. `decode` walks.

    g starts at 1/√hidden, r at `offset`: the longer the memory, the more negative it should be.

    Paper: Raffel et al. 2017, arXiv:1704.00784, equations 11 to 14, sections 2.4 and 2.5.
    Cost: O(queries·keys·(hidden + log keys)) time; one step a query.
    Raises: KindError, ArgumentError if a width is not an integer of at least 1, or offset not a finite number.
    """

    def __init__(self, query: int, memory: int, hidden: int, *, offset: float = -1.0) -> None:
        super().__init__()
        check_widths("Monotonic", query=query, memory=memory, hidden=hidden)
        self.score = Additive(query, memory, hidden)
        check_number("Monotonic", "offset", offset, "a finite number")
        self.bias = nn.Parameter(torch.zeros(hidden))
        self.gain = nn.Parameter(torch.tensor(hidden**-0.5))
        self.offset = nn.Parameter(torch.tensor(float(offset)))

    def forward(
        self,
        query: Float[Tensor, "*batch queries query_width"],
        memory: Float[Tensor, "*batch keys memory_width"],
        *,
        mask: Mask | Bool[Tensor, "..."] | None = None,
        noise: float = 0.0,
        previous: Float[Tensor, "*batch keys"] | None = None,
    ) -> tuple[Float[Tensor, "*batch queries memory_width"], Expected]:
        """Give the expected contexts, and the weights.

        `noise` is the deviation of Gaussian noise on e, which while training drives p to 0 or 1. `previous` is the
        `last` of the call before. Hidden places are walked past. A query that sees nothing gets exactly 0 and moves
        nothing.

        Raises: ShapeError, KindError, ArgumentError for what does not fit.
        """
        check_number("Monotonic", "noise", noise, "a number >= 0")
        if noise < 0:
            raise ArgumentError(must("Monotonic", "noise", "be a number >= 0", noise, "a standard deviation"))
        energy, values, seen = self._energies(query, memory, mask)
        if noise:
            energy = energy + noise * torch.randn_like(energy)
        if previous is None:
            previous = F.pad(energy.new_ones(*memory.shape[:-2], 1), (0, memory.shape[-2] - 1))
        else:
            check_row("Monotonic", "previous", previous, memory)
        stop = torch.where(seen, torch.sigmoid(energy), 0)
        walk = torch.where(seen, torch.sigmoid(-energy), 1)
        sees = seen.any(-1, keepdim=True)
        rows = [energy[..., :0, :]]
        for step in range(query.shape[-2]):
            row = stop[..., step, :] * _reach(walk[..., step, :], previous)
            previous = torch.where(sees[..., step, :], row, previous)
            rows.append(row.unsqueeze(-2))
        weights = torch.cat(rows, dim=-2)
        with exact(memory.device):
            context = weigh(weights.unsqueeze(-3), values, seen.unsqueeze(-3)).squeeze(-3).to(values.dtype)
        return context, Expected(weights, previous)

    @torch.no_grad()
    def decode(
        self,
        query: Float[Tensor, "*batch queries query_width"],
        memory: Float[Tensor, "*batch keys memory_width"],
        *,
        mask: Mask | Bool[Tensor, "..."] | None = None,
        start: Int[Tensor, "*batch"] | None = None,
    ) -> tuple[Float[Tensor, "*batch queries memory_width"], Stopped]:
        """Walk: give what stands where each query stops, the first place from the last stop on where p > 1/2.

        A query that finds none has run off the end: it gets 0, and so do all after it. `start` is the `last` of the
        call before. Not differentiable.

        Paper: Raffel et al. 2017, arXiv:1704.00784, section 2.2 and algorithm 1.
        Cost: O(queries·keys·hidden) time: all places are scored at once, where the algorithm stops reading.
        Raises: ShapeError, KindError, ArgumentError for what does not fit.
        """
        energy, values, seen = self._energies(query, memory, mask)
        keys = memory.shape[-2]
        if start is None:
            start = torch.zeros(memory.shape[:-2], dtype=torch.long, device=memory.device)
        check_indices("Monotonic.decode", "start", start, keys + 1)
        check_device("Monotonic.decode", "start", start, memory)
        if start.shape != memory.shape[:-2]:
            raise ShapeError(must("Monotonic.decode", "start", "have the shape [*batch]", list(start.shape)))
        start = start.long()
        places = torch.arange(keys, device=memory.device)
        stops, sees = seen & (energy > 0), seen.any(-1)
        found = [start[..., None][..., :0]]
        for step in range(query.shape[-2]):
            here = stops[..., step, :] & (places >= start[..., None])
            # One more place, after the last, stops everyone.
            first = F.pad(here.int(), (0, 1), value=1).argmax(-1)
            start = torch.where(sees[..., step], first, start)
            found.append(torch.where(sees[..., step], first, keys)[..., None])
        index = torch.cat(found, dim=-1)
        beyond = F.pad(values.squeeze(-3), (0, 0, 0, 1))
        context = beyond.gather(-2, index[..., None].expand(*index.shape, beyond.shape[-1]))
        return context, Stopped(torch.where(index < keys, index, -1), start)

    def with_map(self, *_: object, **__: object) -> NoReturn:
        """Raise: an AttentionMap computes each row by itself, and here a row follows from the one before it."""
        rule = "have weights that are defined row by row"
        fix = "a row follows from the one before; the module's second result holds all weights"
        raise UnsupportedError(must("Monotonic.with_map", "the mechanism", rule, "monotonic attention", fix))

    def _energies(self, query: Tensor, memory: Tensor, mask: Mask | Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Compute e, the memory with its head and what nobody sees emptied, and what each query sees."""
        one, states = with_head("Monotonic", query=query, memory=memory)
        call = call_of("Monotonic", one, states, states, self.score, None, mask, None, 0.0)
        seen = pairs_seen("Monotonic", query, memory, mask)
        queries, keys, values = hide(call.query, call.key, call.value, seen.unsqueeze(-3))
        queries, keys = (side.squeeze(-3) for side in self.score.prepare(queries, keys))
        dtype = wide(call.query.dtype)
        with exact(memory.device):
            pair = AdditivePair(self.gain.to(dtype) * F.normalize(self.score.vector.to(dtype), dim=0))
            energy = pair.scores(queries.to(dtype), keys.to(dtype) + self.bias.to(dtype)) + self.offset.to(dtype)
        return energy, values, seen


def _reach(walk: Float[Tensor, "*batch keys"], previous: Float[Tensor, "*batch keys"]) -> Float[Tensor, "*batch keys"]:
    """Give the chance q of coming to each place: q_j = walk_j−1 · q_j−1 + previous_j.

    The paper's closed form divides by a product of probabilities, which vanishes. Steps of doubling length only
    multiply and add numbers of [0, 1].

    Cost: O(keys·log keys) time, in log₂ keys steps.
    """
    reach, walk, length = previous, F.pad(walk, (1, 0))[..., :-1], 1
    while length < walk.shape[-1]:
        reach = reach + walk * F.pad(reach, (length, 0))[..., :-length]
        walk = walk * F.pad(walk, (length, 0))[..., :-length]
        length *= 2
    return reach


CARDS = (
    Card(
        name="monotonic",
        kind="mechanism",
        equation="α_ij = p_ij q_ij,  q_ij = (1 − p_i,j−1) q_i,j−1 + α_i−1,j,  p = σ(e)",
        paper="Raffel et al. 2017, arXiv:1704.00784",
        cost="n·m·hidden tanh, n steps",
        build=lambda: Monotonic(query=8, memory=8, hidden=5),
    ),
)
