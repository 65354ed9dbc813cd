"""Selections: known examples, bisection, exact zeros, ties, and derivatives."""

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import qkv

INF = torch.inf


def weigh(select: qkv.Selection, scores: Tensor) -> Tensor:
    """Weigh rows [rows, keys] of one head."""
    scores = scores[None]
    weights = select.weights(scores, select.summary(scores), torch.arange(scores.shape[-1]))
    return weights.squeeze(0)


def bisect(scores: Tensor, power: float, scale: float) -> Tensor:
    """Find max(scale · s − τ, 0)^power with sum 1, by halving in float64."""
    s = scores.double() * scale
    low, high = s.amax(-1, keepdim=True) - 1, s.amax(-1, keepdim=True)
    for _ in range(100):
        middle = (low + high) / 2
        more = ((s - middle).clamp(min=0) ** power).sum(-1, keepdim=True) > 1
        low, high = torch.where(more, middle, low), torch.where(more, high, middle)
    return (s - low).clamp(min=0) ** power


SPARSE = [(qkv.sparsemax(), 1.0, 1.0), (qkv.entmax15(), 2.0, 0.5)]
BY_SPARSE = pytest.mark.parametrize(("select", "power", "scale"), SPARSE, ids=["sparsemax", "entmax15"])


def test_sparse_examples() -> None:
    assert weigh(qkv.sparsemax(), torch.tensor([[1.0, 0.5, 0.0]])).tolist() == [[0.75, 0.25, 0]]
    assert weigh(qkv.sparsemax(), torch.tensor([[3.0, 1.0, 0.0]])).tolist() == [[1, 0, 0]]
    # s/2 = (.5, .25, 0), support of all three: τ solves Σ (s/2 − τ)² = 1.
    three = weigh(qkv.entmax15(), torch.tensor([[1.0, 0.5, 0.0]], dtype=torch.float64))
    tau = 0.25 - ((1 - 0.125) / 3) ** 0.5
    torch.testing.assert_close(three, (torch.tensor([[0.5, 0.25, 0.0]], dtype=torch.float64) - tau) ** 2)
    assert weigh(qkv.entmax15(), torch.tensor([[2.0, 0.0]])).tolist() == [[1, 0]]


@BY_SPARSE
@pytest.mark.parametrize("offset", [0.0, 1e4, -1e4])
def test_sparse_weights_by_bisection(select: qkv.Selection, power: float, scale: float, offset: float) -> None:
    draw = torch.Generator().manual_seed(0)
    for spread in (0.1, 1.0, 10.0):
        scores = torch.randn(50, 30, generator=draw) * spread + offset
        weights = weigh(select, scores)
        torch.testing.assert_close(weights.double(), bisect(scores, power, scale), rtol=0, atol=2e-6)
        torch.testing.assert_close(weights.sum(-1), torch.ones(50), rtol=0, atol=2e-6)
    assert ((weights == 0).sum(-1) > 20).all()


@BY_SPARSE
def test_sparse_ties_share(select: qkv.Selection, power: float, scale: float) -> None:
    torch.testing.assert_close(weigh(select, torch.tensor([[2.0, 2.0, -9, -INF]])), torch.tensor([[0.5, 0.5, 0, 0]]))
    torch.testing.assert_close(weigh(select, torch.zeros(1, 1000)), torch.full((1, 1000), 1e-3))
    assert weigh(select, torch.tensor([[-INF, 1e30, -1e30], [-INF, -INF, -INF]])).tolist() == [[0, 1, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    "select",
    [qkv.softmax(), qkv.sparsemax(), qkv.entmax15(), qkv.topk(3), qkv.sigmoid(-1.0), qkv.sink(torch.tensor([0.3]))],
    ids=str,
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_first_and_second_derivatives(select: qkv.Selection) -> None:
    scores = torch.randn(4, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    scores[1, 2:], scores[2] = -INF, scores[2] + 1e3
    hidden = scores == -INF
    moving = torch.where(hidden, 0, scores).requires_grad_()

    def run(moving: Tensor) -> Tensor:
        return weigh(select, torch.where(hidden, -INF, moving))

    assert gradcheck(run, [moving])
    assert gradgradcheck(run, [moving])


@pytest.mark.parametrize("offset", [0.0, 1e4, -3e4])
def test_large_scores_lose_nothing(offset: float) -> None:
    scores = torch.tensor([[0.0, 0.5, -1.0, 2.0]])
    for select in (qkv.softmax(), qkv.sparsemax(), qkv.entmax15(), qkv.topk(2), qkv.sink(torch.tensor(-4e4))):
        torch.testing.assert_close(weigh(select, scores + offset), weigh(select, scores), rtol=1e-6, atol=1e-6)
        assert weigh(select, scores + offset).sum() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("card", ["softmax", "sparsemax", "entmax15", "hard", "sigmoid"])
def test_a_nan_is_not_an_empty_row(card: str) -> None:
    for select in (getattr(qkv, card)(), qkv.topk(1), qkv.sink(torch.zeros(()))):
        assert weigh(select, torch.tensor([[1.0, torch.nan, 2.0]])).isnan().any()
    level = qkv.softmax().logsumexp(qkv.softmax().summary(torch.tensor([[1.0, torch.nan], [-INF, -INF]])))
    assert level[0].isnan() and level[1] == -INF


def test_topk_ties_go_to_the_lower_key() -> None:
    assert weigh(qkv.topk(2), torch.tensor([[1.0, 3, 1, 1]]))[0, [2, 3]].tolist() == [0, 0]
    assert weigh(qkv.topk(2), torch.zeros(1, 4)).tolist() == [[0.5, 0.5, 0, 0]]
    assert weigh(qkv.topk(3), torch.tensor([[0.0, -INF, 0.0]])).tolist() == [[0.5, 0, 0.5]]
    torch.testing.assert_close(weigh(qkv.topk(9), torch.eye(3)), torch.eye(3).softmax(-1))


def test_sigmoid_by_hand() -> None:
    torch.testing.assert_close(
        weigh(qkv.sigmoid(1.0), torch.tensor([[-1.0, 0, -INF]])), torch.tensor([[0.5, 0.7310586, 0]])
    )


def test_a_sink_scales_the_output() -> None:
    query, key, value = torch.randn(3, 2, 4, 5, dtype=torch.float64)
    logits = torch.tensor([0.5, -2.0], dtype=torch.float64)
    plain, seen = qkv.attend_with_map(query, key, value)
    share = torch.sigmoid(seen.logsumexp() - logits[:, None])
    torch.testing.assert_close(qkv.attend(query, key, value, select=qkv.sink(logits)), plain * share[..., None])
    seen = qkv.attention_map(query, key, select=qkv.sink(logits))
    torch.testing.assert_close(seen.head(1).dense()[0], seen.dense()[1])


def test_hard_is_one_hot_with_the_gradient_of_softmax() -> None:
    scores = torch.randn(5, 7, dtype=torch.float64).requires_grad_()
    pull = torch.randn(5, 7, dtype=torch.float64)
    for select in (qkv.hard(), qkv.hard(sample=True)):
        weights = weigh(select, scores)
        assert torch.equal(weights.sort(-1).values[:, -2:], torch.tensor([[0.0, 1.0]]).double().expand(5, 2))
        got, soft = (torch.autograd.grad((w * pull).sum(), scores)[0] for w in (weights, scores.softmax(-1)))
        torch.testing.assert_close(got, soft)
    assert torch.equal(weigh(qkv.hard(), scores).argmax(-1), scores.argmax(-1))
    assert weigh(qkv.hard(), torch.zeros(1, 3)).tolist() == [[1, 0, 0]]


def test_hard_draws_from_the_softmax() -> None:
    torch.manual_seed(0)
    scores, draws = torch.tensor([0.0, 1.0, 2.0, -INF, -1.0]), 40_000
    counts = weigh(qkv.hard(sample=True), scores.expand(draws, 5)).sum(0)
    expected = scores.softmax(-1) * draws
    assert counts[3] == 0
    alive = expected > 0
    # Chi-square with 3 degrees of freedom: more than 16.3 once in a thousand.
    assert ((counts - expected)[alive] ** 2 / expected[alive]).sum() < 16.3


def test_a_map_keeps_what_chance_drew() -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 9, 4).requires_grad_()
    output, seen = qkv.attend_with_map(query, key, value, select=qkv.hard(sample=True))
    torch.testing.assert_close(seen.dense() @ value, output)
    fresh = qkv.attention_map(query, key, select=qkv.hard(sample=True))
    assert torch.equal(fresh.row(4), fresh.row(4)) and torch.equal(fresh[..., :3, 2], fresh.dense()[..., :3, 2])
