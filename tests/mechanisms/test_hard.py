import math
from collections.abc import Callable

import pytest
import torch
from promises import KEYS, PROMISES, QUERIES, inputs
from torch import nn

import qkv
from qkv.errors import ArgumentError, KindError, ShapeError
from qkv.mechanisms.hard import CARDS


def hard() -> qkv.HardAttention:
    torch.manual_seed(0)
    return qkv.HardAttention(qkv.Additive(8, 8, 5)).double()


def test_by_hand():
    # Scores 0, ln 2, ln 5: probabilities 1/8, 2/8, 5/8; the last is the likeliest.
    memory = torch.tensor([[0.0], [math.log(2)], [math.log(5)]])
    context, choice = qkv.HardAttention(qkv.dot())(torch.ones(1, 1), memory, sample=False)
    assert context.item() == pytest.approx(math.log(5))
    assert choice.index.tolist() == [2]
    assert choice.log_prob.item() == pytest.approx(math.log(5 / 8))
    entropy = -sum(p * math.log(p) for p in (1 / 8, 2 / 8, 5 / 8))
    assert choice.entropy.item() == pytest.approx(entropy)
    assert choice.map.dense().flatten().tolist() == pytest.approx([1 / 8, 2 / 8, 5 / 8])


@pytest.mark.parametrize("sample", [True, False])
def test_the_choice_is_of_the_softmax(sample):
    module = hard()
    query, memory = inputs()
    torch.manual_seed(3)
    context, choice = module(query, memory, sample=sample)
    weights = qkv.attention_map(query[:, None], memory[:, None], score=module.score).dense().squeeze(1)
    for row in range(3):
        for t in range(QUERIES):
            place = choice.index[row, t]
            assert torch.equal(context[row, t], memory[row, place])
            torch.testing.assert_close(choice.log_prob[row, t], weights[row, t, place].log())
            torch.testing.assert_close(choice.entropy[row, t], -(weights[row, t] * weights[row, t].log()).sum())
            assert sample or place == weights[row, t].argmax()


def test_draws_follow_the_weights():
    # χ² of 20,000 draws over 6 places: 5 degrees of freedom, the 0.999 quantile is 20.5.
    module = hard()
    query, memory = inputs(batch=())
    draws = 20_000
    torch.manual_seed(0)
    _, choice = module(query[:1].expand(draws, 8), memory)
    expected = choice.map.row(0).flatten() * draws
    counted = choice.index.bincount(minlength=KEYS)
    assert ((counted - expected) ** 2 / expected).sum() < 20.5


def test_chance_is_torch_s_and_training_changes_nothing():
    module = hard()
    query, memory = inputs()
    found = []
    for mode in (module.train, module.eval):
        mode()
        torch.manual_seed(5)
        found.append(module(query, memory)[1].index)
    assert torch.equal(*found)
    torch.manual_seed(6)
    assert not torch.equal(module(query, memory)[1].index, found[0])


def test_another_value():
    query, memory = inputs()
    value = torch.randn(3, KEYS, 2, dtype=torch.float64)
    context, choice = hard()(query, memory, value, sample=False)
    assert torch.equal(context, value.gather(1, choice.index[..., None].expand(3, QUERIES, 2)))


def test_no_key_no_choice():
    module = hard()
    query, memory = inputs()
    for context, choice in (
        module(query, memory, mask=qkv.padding(keys=torch.tensor([0, 0, 0]))),
        module(query, memory[:, :0]),
    ):
        assert context.eq(0).all()
        assert choice.index.eq(-1).all()
        assert choice.log_prob.eq(0).all() and choice.entropy.eq(0).all()


def test_what_no_query_sees_is_never_drawn():
    module = hard()
    query, memory = inputs()
    with torch.no_grad():
        memory[:, 3:] = torch.nan
    torch.manual_seed(0)
    for _ in range(50):
        context, choice = module(query, memory, mask=qkv.padding(keys=torch.tensor([3, 3, 0])))
        assert choice.index[:2].min() >= 0 and choice.index[:2].max() < 3
        assert choice.index[2].eq(-1).all() and context[2].eq(0).all()
    (choice.log_prob + choice.entropy).sum().backward()
    assert all(x.grad.isfinite().all() for x in (query, memory, *module.parameters()))


def test_log_prob_and_entropy_are_differentiable():
    query, memory = inputs(batch=())
    module = hard()

    def run(query, memory):
        _, choice = module(query, memory, mask=qkv.padding(keys=torch.tensor(4)), sample=False)
        return choice.log_prob, choice.entropy

    assert torch.autograd.gradcheck(run, (query, memory))


def test_the_output_teaches_the_values_alone():
    query, memory = inputs()
    value = torch.randn_like(memory, requires_grad=True)
    context, choice = hard()(query, memory, value, sample=False)
    grads = torch.autograd.grad(context.sum(), [value, memory, query], allow_unused=True)
    assert grads[1:] == (None, None)
    counted = torch.stack([row.bincount(minlength=KEYS) for row in choice.index])
    assert torch.equal(grads[0], counted[..., None].expand_as(value).double())


@pytest.mark.parametrize("baseline", [0.0, 0.7])
def test_reinforce_is_right_on_average(baseline):
    # E = Σ pⱼ rⱼ. Its gradient against the mean of 40,000 single-sample estimates, in standard errors of that mean;
    # over 8 numbers, 4.5 is passed by chance once in 18,000 runs.
    module = qkv.HardAttention(qkv.dot())
    query, memory = inputs(batch=())
    one, samples = query[:1].detach(), 40_000
    rewards = torch.tensor([1.0, 0.0, 0.3, -0.5, 0.8, 0.2], dtype=torch.float64)
    exact = one.clone().requires_grad_()
    (grad,) = torch.autograd.grad((torch.softmax(exact @ memory.T, -1) @ rewards).sum(), exact)

    torch.manual_seed(0)
    many = one.expand(samples, 8).clone().requires_grad_()
    _, choice = module(many, memory)
    loss = qkv.reinforce(choice, rewards[choice.index], baseline)
    (estimates,) = torch.autograd.grad(-loss * samples, many)
    error = estimates.std(0) / samples**0.5
    assert ((estimates.mean(0) - grad[0]) / error).abs().max() < 4.5


def test_a_baseline_makes_the_estimates_steadier():
    module = qkv.HardAttention(qkv.dot())
    query, memory = inputs(batch=())
    rewards = torch.tensor([5.1, 5.0, 5.2, 5.0, 5.1, 5.0], dtype=torch.float64)
    spread = []
    for baseline in (0.0, 5.0):
        torch.manual_seed(0)
        many = query[:1].detach().expand(1000, 8).clone().requires_grad_()
        _, choice = module(many, memory)
        qkv.reinforce(choice, rewards[choice.index], baseline).backward()
        spread.append(many.grad.std(0).mean())
    assert spread[1] < spread[0] / 10


def test_the_loss_by_hand():
    query, memory = inputs()
    _, choice = hard()(query, memory)
    reward = torch.rand(3, QUERIES, dtype=torch.float64, requires_grad=True)
    loss = qkv.reinforce(choice, reward, 0.5, entropy=0.01)
    by_hand = -((reward - 0.5) * choice.log_prob).mean() - 0.01 * choice.entropy.mean()
    torch.testing.assert_close(loss, by_hand)
    loss.backward()
    assert reward.grad is None
    whole = qkv.reinforce(choice, reward[:, :1], torch.tensor(0.5))
    torch.testing.assert_close(whole, -((reward[:, :1] - 0.5) * choice.log_prob).mean())


def test_the_moving_baseline():
    baseline = qkv.MovingBaseline(decay=0.9)
    for k, reward in enumerate((1.0, 3.0)):
        assert baseline.value.item() == pytest.approx([0.0, 0.1][k])
        baseline.update(torch.tensor([reward - 0.5, reward + 0.5]))
    assert baseline.value.item() == pytest.approx(0.9 * 0.1 + 0.1 * 3)
    again = qkv.MovingBaseline()
    again.load_state_dict(baseline.state_dict())
    assert torch.equal(again.value, baseline.value)
    assert repr(baseline) == "MovingBaseline(decay=0.9)"
    assert not list(baseline.parameters())


def test_as_it_is_used():
    torch.manual_seed(0)
    align = qkv.Additive(query=16, key=32, hidden=8)
    state, regions = torch.randn(2, 1, 16), torch.randn(2, 9, 32)
    moving = qkv.MovingBaseline()
    reward, baseline = torch.rand(2, 1), moving.value
    context, choice = qkv.HardAttention(align)(state, regions)
    loss = -(choice.log_prob * (reward - baseline)).mean() - 0.01 * choice.entropy.mean()
    loss.backward()
    moving.update(reward)
    assert context.shape == (2, 1, 32)
    assert all(parameter.grad.ne(0).any() for parameter in align.parameters())


def test_it_learns_where_to_look():
    # The reward is 1 where the first feature of the place is largest; the query has to find that out.
    torch.manual_seed(0)
    align = nn.ModuleList([qkv.Bilinear(1, 4)])
    attention, baseline = qkv.HardAttention(align[0]), qkv.MovingBaseline()
    optimiser = torch.optim.Adam(align.parameters(), lr=0.05)
    for _ in range(200):
        memory = torch.randn(32, 5, 4)
        _, choice = attention(torch.ones(32, 1, 1), memory)
        reward = (choice.index == memory[..., :1].argmax(1)).float()
        optimiser.zero_grad()
        qkv.reinforce(choice, reward, baseline.value, entropy=0.001).backward()
        optimiser.step()
        baseline.update(reward)
    _, choice = attention(torch.ones(500, 1, 1), memory := torch.randn(500, 5, 4), sample=False)
    assert (choice.index == memory[..., :1].argmax(1)).float().mean() > 0.9


@pytest.mark.parametrize("promise", PROMISES)
def test_promises(promise: Callable):
    torch.manual_seed(0)
    promise(CARDS[0].build().double())


@pytest.mark.unhooked
@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (
            lambda: hard()(torch.ones(2, 8), torch.ones(3, 8), sample=1),
            KindError,
            "HardAttention: sample must be True or False; got 1",
        ),
        (
            lambda: hard()(torch.ones(2, 8), torch.ones(3, 8), torch.ones(8)),
            ShapeError,
            "HardAttention: value must have the shape [*batch, positions, width]; got [8]",
        ),
        (
            lambda: hard().float()(torch.ones(2, 8), torch.ones(3, 8), torch.ones(2, 8)),
            ShapeError,
            "HardAttention: value must have the key's 3 positions; got 2 (value is [1, 2, 8])",
        ),
        (lambda: qkv.MovingBaseline(1.5), ArgumentError, "MovingBaseline: decay must lie in [0, 1]; got 1.5"),
        (
            lambda: qkv.reinforce(hard()(*inputs())[1], torch.ones(3)),
            ShapeError,
            "reinforce: reward must have the shape [3, 4], or 1 in place of the last; got [3] "
            "(one for each sequence: reward.unsqueeze(-1))",
        ),
        (
            lambda: qkv.reinforce(hard()(*inputs())[1], torch.ones(3, 4), entropy=math.nan),
            ArgumentError,
            "reinforce: entropy must be a finite number; got nan",
        ),
        (
            lambda: qkv.reinforce(hard()(*inputs()), torch.ones(3, 4)),
            KindError,
            "reinforce: choice must be a qkv.Choice; got tuple (the second result of HardAttention)",
        ),
        (
            lambda: qkv.reinforce(hard()(*inputs())[1], [1.0]),
            KindError,
            "reinforce: reward must be a floating tensor; got list",
        ),
        (
            lambda: qkv.reinforce(hard()(*inputs())[1], torch.ones(3, 4), None),
            KindError,
            "reinforce: baseline must be a finite number or a floating tensor; got NoneType",
        ),
        (
            lambda: qkv.reinforce(hard()(*inputs())[1], torch.ones(3, 4), torch.ones(4)),
            ShapeError,
            "reinforce: baseline must have the shape [3, 4], or 1 in place of the last; got [4] "
            "(or one number for all)",
        ),
        (
            lambda: qkv.MovingBaseline().update(torch.ones(2).long()),
            KindError,
            "MovingBaseline.update: reward must be a floating tensor; got torch.int64",
        ),
        (
            lambda: qkv.MovingBaseline().update(torch.ones(0)),
            ArgumentError,
            "MovingBaseline.update: reward must hold at least one number; got [0]",
        ),
    ],
)
def test_what_does_not_fit(make, error, text):
    with pytest.raises(error) as raised:
        make()
    assert str(raised.value) == text
