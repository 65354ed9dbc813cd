"""Luong's attention: a context, the attentional vector made of it, and that vector fed into the next step."""

from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from qkv.attention import Attends
from qkv.core.card import Card
from qkv.core.checks import check_dtype, check_width
from qkv.core.map import AttentionMap
from qkv.core.types import Mask, Score
from qkv.errors import ArgumentError, KindError, ShapeError, must
from qkv.masks.dense import dense_mask
from qkv.mechanisms.bahdanau import Bahdanau
from qkv.mechanisms.local import LocalMonotonic, LocalPredictive
from qkv.mechanisms.one_head import check_widths, pairs_seen, with_head
from qkv.scores.bilinear import Bilinear
from qkv.scores.dot import dot


class GlobalAttention(Attends, nn.Module):
    """The context c_t = Σₛ softmax(score(h_t, h̄))ₛ h̄_s over the whole memory.

    The paper's scores are `dot()`, `Bilinear` ("general"), `Concat` and `Location`; any other will do.

    Paper: Luong et al. 2015, arXiv:1508.04025, section 3.1.
    Cost: O(queries·keys) scores.
    """

    def __init__(self, score: Score) -> None:
        super().__init__()
        self.score = score

    def forward(
        self,
        query: Float[Tensor, "*batch queries query_width"],
        memory: Float[Tensor, "*batch keys memory_width"],
        *,
        mask: Mask | Bool[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "*batch queries memory_width"]:
        """Give the contexts. Raises: ShapeError, KindError for what does not fit."""
        one, states = with_head("GlobalAttention", query=query, memory=memory)
        return self.attend(one, states, states, score=self.score, mask=mask).squeeze(-3)

    def with_map(
        self,
        query: Float[Tensor, "*batch queries query_width"],
        memory: Float[Tensor, "*batch keys memory_width"],
        *,
        mask: Mask | Bool[Tensor, "..."] | None = None,
    ) -> tuple[Float[Tensor, "*batch queries memory_width"], AttentionMap]:
        """Give the contexts and the map of the weights, which has one head."""
        one, states = with_head("GlobalAttention", query=query, memory=memory)
        context, seen = self.attend_with_map(one, states, states, score=self.score, mask=mask)
        return context.squeeze(-3), seen


Contexts: TypeAlias = GlobalAttention | LocalMonotonic | LocalPredictive | Bahdanau
"""What makes contexts: called as `attention(query, memory, mask=...)`, and the same with a map by `with_map`."""


class Luong(nn.Module):
    """The attentional vector h̃_t = tanh(W_c [c_t; h_t]), as wide as the query.

    `attention` makes the context c: GlobalAttention, LocalMonotonic or LocalPredictive (or Bahdanau's). A query to
    which the mask shows nothing gets exactly 0.

    Paper: Luong et al. 2015, arXiv:1508.04025, equation 5.
    Cost: the attention's, and O(queries·query·(query + memory)) time.
    Raises: KindError, ArgumentError if a width is not an integer of at least 1.
    """

    def __init__(self, query: int, memory: int, attention: Contexts) -> None:
        super().__init__()
        check_widths("Luong", query=query, memory=memory)
        if not isinstance(attention, Contexts):
            rule = "be GlobalAttention, LocalMonotonic, LocalPredictive or Bahdanau"
            fix = "a score goes in one: qkv.GlobalAttention(qkv.dot())"
            raise KindError(must("Luong", "attention", rule, type(attention).__name__, fix))
        self.query_width, self.memory_width = query, memory
        self.attention = attention
        self.weight = nn.Parameter(torch.empty(query, memory + query))
        nn.init.xavier_uniform_(self.weight)

    def forward(
        self,
        query: Float[Tensor, "*batch queries query_width"],
        memory: Float[Tensor, "*batch keys memory_width"],
        *,
        mask: Mask | Bool[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "*batch queries query_width"]:
        """Give the attentional vectors. Raises: ShapeError, KindError for what does not fit."""
        self._check(query, memory)
        return self._join(query, memory, mask, self.attention(query, memory, mask=mask))

    def with_map(
        self,
        query: Float[Tensor, "*batch queries query_width"],
        memory: Float[Tensor, "*batch keys memory_width"],
        *,
        mask: Mask | Bool[Tensor, "..."] | None = None,
    ) -> tuple[Float[Tensor, "*batch queries query_width"], AttentionMap]:
        """Give the attentional vectors and the map of the weights."""
        self._check(query, memory)
        context, seen = self.attention.with_map(query, memory, mask=mask)
        return self._join(query, memory, mask, context), seen

    def _check(self, query: Tensor, memory: Tensor) -> None:
        with_head("Luong", query=query, memory=memory)
        check_width("Luong", "query", query, self.query_width)
        check_width("Luong", "memory", memory, self.memory_width)
        check_dtype("Luong", "query", query, self.weight)

    def _join(self, query: Tensor, memory: Tensor, mask: Mask | Tensor | None, context: Tensor) -> Tensor:
        sees = pairs_seen("Luong", query, memory, mask).any(-1, keepdim=True)
        joined = torch.cat((context, torch.where(sees, query, 0)), dim=-1)
        return torch.where(sees, torch.tanh(nn.functional.linear(joined, self.weight)), 0)

    def extra_repr(self) -> str:
        return f"query={self.query_width}, memory={self.memory_width}"


@dataclass(frozen=True, eq=False)
class Fed:
    """What one step of InputFeeding leaves to the next: the cell's state (h, or h and c) and h̃."""

    cell: tuple[Tensor, ...]
    vector: Tensor


class InputFeeding(nn.Module):
    """A recurrent decoder whose cell reads each input together with the attentional vector of the step before.

    h_t = cell([x_t; h̃_{t−1}], h_{t−1}),  h̃_t = attentional(h_t, memory),  h̃_0 = 0.

    The cell's input is as wide as x and h̃ together. For local-m, give GlobalAttention the mask
    `window(before=D, after=D, offset=0)`, for single steps with the step's number as its offset. A step to which the
    mask shows nothing gives 0 and leaves the state as it was.

    Paper: Luong et al. 2015, arXiv:1508.04025, section 3.3.
    Cost: one cell and one attention a step, one step after the other.
    Raises: KindError, ArgumentError if the parts are not what they should be, or do not fit each other.
    """

    def __init__(self, cell: nn.RNNCellBase, attentional: Luong) -> None:
        super().__init__()
        if not isinstance(cell, nn.RNNCellBase):
            fix = "such as torch.nn.LSTMCell"
            raise KindError(must("InputFeeding", "cell", "be a recurrent cell", type(cell).__name__, fix))
        if not isinstance(attentional, Luong):
            rule = "be a qkv.Luong"
            raise KindError(must("InputFeeding", "attentional", rule, type(attentional).__name__))
        if isinstance(attentional.attention, LocalMonotonic):
            fix = "every step would be step 0; GlobalAttention with mask=window(before=D, after=D, offset=0) is local-m"
            raise ArgumentError(must("InputFeeding", "attention", "not count steps itself", "LocalMonotonic", fix))
        if cell.hidden_size != attentional.query_width:
            rule = f"have the attentional vector's width {attentional.query_width}"
            raise ArgumentError(must("InputFeeding", "cell.hidden_size", rule, cell.hidden_size))
        if cell.input_size <= attentional.query_width:
            rule = f"be > {attentional.query_width}"
            fix = "the cell reads the input and the attentional vector together"
            raise ArgumentError(must("InputFeeding", "cell.input_size", rule, cell.input_size, fix))
        self.cell = cell
        self.attentional = attentional

    def start(self, inputs: Float[Tensor, "*batch steps input_width"]) -> Fed:
        """Make the state before the first step: zeros."""
        zero = inputs.new_zeros(*inputs.shape[:-2], self.cell.hidden_size)
        return Fed((zero, zero) if isinstance(self.cell, nn.LSTMCell) else (zero,), zero)

    def forward(
        self,
        inputs: Float[Tensor, "*batch steps input_width"],
        memory: Float[Tensor, "*batch keys memory_width"],
        *,
        mask: Mask | Bool[Tensor, "..."] | None = None,
        state: Fed | None = None,
    ) -> tuple[Float[Tensor, "*batch steps query_width"], Fed]:
        """Give the attentional vector of every step, teacher forced, and the state after the last.

        One step at a time, with what `state` carries, gives the same.

        Raises: ShapeError, KindError for what does not fit.
        """
        with_head("InputFeeding", inputs=inputs, memory=memory)
        check_width("InputFeeding", "inputs", inputs, self.cell.input_size - self.cell.hidden_size)
        check_dtype("InputFeeding", "inputs", inputs, self.cell.weight_ih)
        seen = pairs_seen("InputFeeding", inputs, memory, mask)
        sees = seen.any(-1, keepdim=True)
        inputs = torch.where(sees, inputs, 0)
        state = self.start(inputs) if state is None else self._continue(state, inputs)
        vectors = [inputs.new_zeros(*inputs.shape[:-2], 0, self.cell.hidden_size)]
        for step in range(inputs.shape[-2]):
            row = None if mask is None else dense_mask(seen[..., None, step : step + 1, :])
            state = self._step(inputs[..., step, :], memory, row, state, sees[..., step, :])
            vectors.append(torch.where(sees[..., step, :], state.vector, 0).unsqueeze(-2))
        return torch.cat(vectors, dim=-2), state

    def _continue(self, state: Fed, inputs: Tensor) -> Fed:
        """Check that a state goes on as `start` begins."""
        if not isinstance(state, Fed):
            rule, fix = "be the state of a call before", "the second result, or module.start(inputs)"
            raise KindError(must("InputFeeding", "state", rule, type(state).__name__, fix))
        shapes, wanted = ([list(part.shape) for part in (*one.cell, one.vector)] for one in (state, self.start(inputs)))
        if shapes != wanted:
            rule = f"hold tensors of the shapes {wanted}"
            raise ShapeError(must("InputFeeding", "state", rule, shapes, "the cell's, and the attentional vector's"))
        return state

    def _step(self, one: Tensor, memory: Tensor, row: Mask | None, before: Fed, sees: Tensor) -> Fed:
        lanes = one.shape[:-1].numel()
        read = torch.cat((one, before.vector), dim=-1).reshape(lanes, self.cell.input_size)
        held = tuple(part.reshape(lanes, self.cell.hidden_size) for part in before.cell)
        made = self.cell(read, held if len(held) > 1 else held[0])
        made = made if isinstance(made, tuple) else (made,)
        cell = tuple(part.reshape(*one.shape[:-1], self.cell.hidden_size) for part in made)
        vector = self.attentional(cell[0].unsqueeze(-2), memory, mask=row).squeeze(-2)
        pairs = zip((*cell, vector), (*before.cell, before.vector), strict=True)
        *cell_after, vector = (torch.where(sees, new, old) for new, old in pairs)
        return Fed(tuple(cell_after), vector)


CARDS = (
    Card(
        name="Luong",
        kind="mechanism",
        equation="h̃ = tanh(W_c [c; h]),  c = Σₛ softmax(score(h, h̄))ₛ h̄ₛ",
        paper="Luong et al. 2015, arXiv:1508.04025",
        cost="n·m scores",
        build=lambda: Luong(8, 8, GlobalAttention(Bilinear(8, 8))),
    ),
    Card(
        name="input feeding",
        kind="mechanism",
        equation="h_t = cell([x_t; h̃_{t−1}], h_{t−1}),  h̃_t = tanh(W_c [c_t; h_t])",
        paper="Luong et al. 2015, arXiv:1508.04025",
        cost="n steps of m scores",
        build=lambda: InputFeeding(nn.RNNCell(16, 8), Luong(8, 8, GlobalAttention(dot()))),
    ),
)
