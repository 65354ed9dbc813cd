import math
from collections.abc import Callable

import pytest
import torch
from promises import KEYS, PROMISES, QUERIES, inputs
from torch import Tensor, nn

import qkv
from qkv.errors import ArgumentError, KindError, ShapeError

SCORES = {
    "dot": qkv.dot,
    "general": lambda: qkv.Bilinear(8, 8),
    "concat": lambda: qkv.Concat(8, 8, 5),
    "location": lambda: qkv.Location(8, 10),
}


def luong(score: str = "general") -> qkv.Luong:
    torch.manual_seed(0)
    return qkv.Luong(8, 8, qkv.GlobalAttention(SCORES[score]())).double()


def feeding(cell: type[nn.RNNCellBase], score: str = "general") -> qkv.InputFeeding:
    torch.manual_seed(0)
    return qkv.InputFeeding(cell(16, 8), luong(score)).double()


def paper_score(name: str, score: object, h: Tensor, source: Tensor, place: int) -> Tensor:
    """The four scores of section 3.1, of one target state and one source state."""
    if name == "dot":
        return h @ source
    if name == "general":
        return source @ score.weight @ h
    if name == "concat":
        return score.vector @ torch.tanh(score.weight @ torch.cat((h, source)))
    return (score.weight @ h)[place]


def literal(name: str, module: qkv.Luong, h: Tensor, memory: Tensor) -> Tensor:
    """Equations 5, 7 and 8 for one target state."""
    scores = [paper_score(name, module.attention.score, h, source, s) for s, source in enumerate(memory)]
    total = sum(score.exp() for score in scores)
    context = sum(score.exp() / total * source for score, source in zip(scores, memory, strict=True))
    return torch.tanh(module.weight @ torch.cat((context, h)))


def test_by_hand():
    # Dot scores 0 and ln 3: weights 1/4 and 3/4; c = 3/4 ln 3; W_c = [1, 2].
    module = qkv.Luong(1, 1, qkv.GlobalAttention(qkv.dot()))
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[1.0, 2.0]]))
    out = module(torch.tensor([[1.0]]), torch.tensor([[0.0], [math.log(3)]]))
    assert out.item() == pytest.approx(math.tanh(0.75 * math.log(3) + 2))


@pytest.mark.parametrize("name", SCORES)
def test_the_equations(name):
    module = luong(name)
    query, memory = inputs()
    out, seen = module.with_map(query, memory)
    torch.testing.assert_close(out, module(query, memory))
    torch.testing.assert_close(seen.dense().squeeze(1) @ memory, module.attention(query, memory))
    for row in range(3):
        for t in range(QUERIES):
            torch.testing.assert_close(out[row, t], literal(name, module, query[row, t], memory[row]))


@pytest.mark.parametrize("promise", PROMISES)
@pytest.mark.parametrize("name", SCORES)
def test_promises(promise: Callable, name):
    promise(luong(name))


@pytest.mark.parametrize("promise", PROMISES)
@pytest.mark.parametrize("cell", [nn.GRUCell, nn.LSTMCell, nn.RNNCell])
def test_promises_of_input_feeding(promise: Callable, cell):
    promise(feeding(cell))


@pytest.mark.parametrize(
    "attention",
    [
        lambda: qkv.LocalMonotonic(qkv.dot(), 1),
        lambda: qkv.LocalPredictive(8, qkv.dot(), 2),
        lambda: qkv.Bahdanau(8, 8, 5),
    ],
)
def test_any_attention_makes_the_context(attention):
    torch.manual_seed(0)
    module = qkv.Luong(8, 8, attention()).double()
    query, memory = inputs()
    joined = torch.cat((module.attention(query, memory), query), dim=-1)
    torch.testing.assert_close(module(query, memory), torch.tanh(joined @ module.weight.T))
    assert module.with_map(query, memory)[1].shape == (3, 1, QUERIES, KEYS)


@pytest.mark.parametrize("cell", [nn.GRUCell, nn.LSTMCell])
def test_input_feeding_step_by_step_in_plain_words(cell):
    module = feeding(cell)
    words, memory = inputs()
    out, state = module(words, memory)
    for row in range(3):
        zero = torch.zeros(8, dtype=torch.float64)
        vector, held = zero, (zero, zero) if cell is nn.LSTMCell else zero
        for t in range(QUERIES):
            held = module.cell(torch.cat((words[row, t], vector)), held)
            h = held[0] if cell is nn.LSTMCell else held
            vector = literal("general", module.attentional, h, memory[row])
            torch.testing.assert_close(out[row, t], vector)
        torch.testing.assert_close(state.vector[row], vector)
        torch.testing.assert_close(state.cell[0][row], h)


def test_one_step_at_a_time_is_the_same():
    module = feeding(nn.LSTMCell)
    words, memory = inputs()
    mask = qkv.padding(keys=torch.tensor([6, 3, 5]))
    whole, last = module(words, memory, mask=mask)
    state, out = None, []
    for t in range(QUERIES):
        vector, state = module(words[:, t : t + 1], memory, mask=mask, state=state)
        out.append(vector)
    torch.testing.assert_close(torch.cat(out, dim=1), whole)
    torch.testing.assert_close(state.vector, last.vector)
    torch.testing.assert_close(state.cell, last.cell)


def test_local_m_under_input_feeding_is_a_mask():
    words, memory = inputs()
    module = feeding(nn.GRUCell, "dot")
    whole, _ = module(words, memory, mask=qkv.window(before=1, after=1, offset=0))
    state = None
    for t in range(QUERIES):
        near = qkv.window(before=1, after=1, offset=t)
        vector, state = module(words[:, t : t + 1], memory, mask=near, state=state)
        torch.testing.assert_close(vector[:, 0], whole[:, t])
    local = qkv.LocalMonotonic(qkv.dot(), 1)(state.cell[0][:, None], memory, position=QUERIES - 1)
    joined = torch.cat((local[:, 0], state.cell[0]), dim=-1)
    torch.testing.assert_close(state.vector, torch.tanh(joined @ module.attentional.weight.T))


def test_padded_steps_leave_the_state_alone():
    module = feeding(nn.LSTMCell)
    words, memory = inputs()
    whole, last = module(words, memory, mask=qkv.padding(keys=torch.tensor([6] * 3), queries=torch.tensor([2, 4, 0])))
    _, short = module(words[:1, :2], memory[:1])
    torch.testing.assert_close(last.vector[0], short.vector[0])
    torch.testing.assert_close(last.cell[1][0], short.cell[1][0])
    assert whole[0, 2:].eq(0).all() and whole[2].eq(0).all()
    left = qkv.padding(queries=torch.tensor([2, 4, 0]), left=True)
    shifted, _ = module(words[:1].roll(2, 1), memory[:1], mask=qkv.padding(queries=torch.tensor([2]), left=True))
    torch.testing.assert_close(shifted[0, 2:], whole[0, :2])
    assert module(words, memory, mask=left)[0][2].eq(0).all()


def test_no_step_and_no_memory():
    module = feeding(nn.GRUCell)
    words, memory = inputs()
    none, state = module(words[:, :0], memory)
    assert none.shape == (3, 0, 8) and state.vector.eq(0).all()
    assert module(words, memory[:, :0])[0].eq(0).all()


@pytest.mark.unhooked
@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: qkv.Luong(0, 8, qkv.GlobalAttention(qkv.dot())), ArgumentError, "Luong: query must be >= 1; got 0"),
        (lambda: qkv.Luong(8, 0, qkv.GlobalAttention(qkv.dot())), ArgumentError, "Luong: memory must be >= 1; got 0"),
        (
            lambda: qkv.Luong(8, 8, qkv.dot()),
            KindError,
            "Luong: attention must be GlobalAttention, LocalMonotonic, LocalPredictive or Bahdanau; got Dot "
            "(a score goes in one: qkv.GlobalAttention(qkv.dot()))",
        ),
        (
            lambda: luong().float()(torch.ones(2, 7), torch.ones(2, 8)),
            ShapeError,
            "Luong: query must have the width 8; got 7 ([2, 7])",
        ),
        (
            lambda: luong().float()(torch.ones(2, 8), torch.ones(2, 7)),
            ShapeError,
            "Luong: memory must have the width 8; got 7 ([2, 7])",
        ),
        (
            lambda: luong()(torch.ones(2, 8), torch.ones(2, 8)),
            KindError,
            "Luong: query must have the weights' dtype torch.float64; got torch.float32 (module.to(torch.float32))",
        ),
        (
            lambda: qkv.GlobalAttention(qkv.dot())(torch.ones(8), torch.ones(2, 8)),
            ShapeError,
            "GlobalAttention: query must have the shape [*batch, positions, width]; got [8]",
        ),
        (
            lambda: qkv.InputFeeding(nn.GRU(16, 8), luong()),
            KindError,
            "InputFeeding: cell must be a recurrent cell; got GRU (such as torch.nn.LSTMCell)",
        ),
        (
            lambda: qkv.InputFeeding(nn.GRUCell(16, 8), qkv.GlobalAttention(qkv.dot())),
            KindError,
            "InputFeeding: attentional must be a qkv.Luong; got GlobalAttention",
        ),
        (
            lambda: qkv.InputFeeding(nn.GRUCell(16, 8), qkv.Luong(8, 8, qkv.LocalMonotonic(qkv.dot(), 2))),
            ArgumentError,
            "InputFeeding: attention must not count steps itself; got LocalMonotonic (every step would be step 0; "
            "GlobalAttention with mask=window(before=D, after=D, offset=0) is local-m)",
        ),
        (
            lambda: qkv.InputFeeding(nn.GRUCell(16, 9), luong()),
            ArgumentError,
            "InputFeeding: cell.hidden_size must have the attentional vector's width 8; got 9",
        ),
        (
            lambda: qkv.InputFeeding(nn.GRUCell(8, 8), luong()),
            ArgumentError,
            "InputFeeding: cell.input_size must be > 8; got 8 (the cell reads the input and the attentional vector "
            "together)",
        ),
        (
            lambda: feeding(nn.GRUCell)(torch.ones(2, 7), torch.ones(2, 8)),
            ShapeError,
            "InputFeeding: inputs must have the width 8; got 7 ([2, 7])",
        ),
        (
            lambda: feeding(nn.GRUCell).float()(torch.ones(2, 8), torch.ones(2, 8), state=torch.zeros(8)),
            KindError,
            "InputFeeding: state must be the state of a call before; got Tensor (the second result, or "
            "module.start(inputs))",
        ),
        (
            lambda: feeding(nn.GRUCell).float()(
                torch.ones(2, 8), torch.ones(2, 8), state=feeding(nn.LSTMCell).start(torch.ones(2, 8))
            ),
            ShapeError,
            "InputFeeding: state must hold tensors of the shapes [[8], [8]]; got [[8], [8], [8]] (the cell's, and the "
            "attentional vector's)",
        ),
        (
            lambda: feeding(nn.GRUCell)(torch.ones(2, 8), torch.ones(2, 8)),
            KindError,
            "InputFeeding: inputs must have the weights' dtype torch.float64; got torch.float32 "
            "(module.to(torch.float32))",
        ),
    ],
)
def test_what_does_not_fit(make, error, text):
    with pytest.raises(error) as raised:
        make()
    assert str(raised.value) == text
