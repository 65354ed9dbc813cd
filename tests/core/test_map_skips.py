"""What the mask hides from a whole block of queries is never scored, and nothing that is asked tells the difference."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import qkv
from qkv.attention import call_of
from qkv.core import map as map_module

MASKS = {
    "window": lambda: qkv.causal() & qkv.window(5),
    "two runs": lambda: qkv.causal() & (qkv.window(5) | qkv.prefix(2)),
    "far window": lambda: qkv.window(3, offset=-9),
    "lengths": lambda: qkv.padding(keys=torch.tensor([7, 30]), queries=torch.tensor([29, 3])),
    "documents": lambda: qkv.documents(torch.tensor([9, 0, 15, 16])),
    "by head": lambda: qkv.dense_mask(torch.rand(2, 4, 40, 40, generator=torch.Generator().manual_seed(0)) < 0.05),
    "nothing": lambda: ~qkv.prefix(40),
}
QUESTIONS: dict[str, Callable[[qkv.AttentionMap], tuple[Tensor, ...]]] = {
    "dense": lambda seen: (seen.dense(),),
    "entropy": lambda seen: (seen.entropy(),),
    "received": lambda seen: (seen.received(),),
    "top weights": lambda seen: (seen.top_keys(6)[0],),
    "mean": lambda seen: (seen.pooled(7, 9),),
    "most": lambda seen: (seen.pooled(7, 9, reduce=torch.amax),),
    "statistics": lambda seen: (
        seen.statistics(6).top_weights,
        seen.statistics(6).entropy,
        seen.statistics(6).received,
    ),
}
SELECTIONS = (qkv.softmax(), qkv.sparsemax(), qkv.entmax15(), qkv.sigmoid(), qkv.hard(), qkv.topk(3))


def draw(positions: int = 40, heads: int = 4, batch: int = 2) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, heads, positions, 8), torch.randn(batch, heads // 2 or 1, positions, 8)


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the pairs that maps score."""
    pairs, plain = [], map_module.score_tile

    def counted(*parts: object) -> Tensor:
        scores = plain(*parts)
        pairs.append(scores.numel())
        return scores

    monkeypatch.setattr(map_module, "score_tile", counted)
    return pairs


@pytest.mark.parametrize("select", SELECTIONS, ids=str)
@pytest.mark.parametrize("name", MASKS)
def test_skipping_changes_no_answer(name: str, select: qkv.Selection, monkeypatch: pytest.MonkeyPatch) -> None:
    query, key = draw()
    mask = MASKS[name]()
    # A bias that hides the same pairs has no runs: everything is scored.
    hidden = torch.zeros(()).masked_fill(~mask.dense(40, 40, batch=(2,), heads=4), -torch.inf)
    monkeypatch.setattr(map_module, "BLOCK", 8)
    seen = qkv.attention_map(query, key, mask=mask, select=select)
    whole = qkv.attention_map(query, key, bias=hidden, select=select)
    for question, ask in QUESTIONS.items():
        for ours, plain in zip(ask(seen), ask(whole), strict=True):
            assert_close(ours, plain, msg=lambda text, question=question: f"{question}: {text}")
    assert_close(seen.head(3).example(1).dense(), whole.dense()[1:, 3:])


@pytest.mark.parametrize("name", MASKS)
def test_skipping_changes_no_gradient(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(map_module, "BLOCK", 8)
    tensors, mask = [x.requires_grad_() for x in draw()], MASKS[name]()
    hidden = torch.zeros(()).masked_fill(~mask.dense(40, 40, batch=(2,), heads=4), -torch.inf)
    found = []
    for choice in ({"mask": mask}, {"bias": hidden}):
        told = qkv.attention_map(*tensors, **choice).statistics(1)
        loss = told.entropy.square().sum() + told.received.square().sum()
        found.append(torch.autograd.grad(loss, tensors))
    assert_close(*found)


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_window_costs_in_proportion_to_what_it_sees(question: str, scored: list[int]) -> None:
    costs = []
    for positions in (1024, 2048):
        scored.clear()
        map_of_window = qkv.attention_map(*draw(positions, heads=1, batch=1), mask=qkv.window(65))
        QUESTIONS[question](map_of_window)
        costs.append(sum(scored) / (3 if question == "statistics" else 1))
    # Each block of 128 rows scores the 128 + 64 keys that some row of it sees; the first has none before it.
    assert costs == [1024 * 192 - 128 * 64, 2048 * 192 - 128 * 64]


def test_documents_are_scored_among_themselves(scored: list[int]) -> None:
    query, key = draw(1024, heads=1, batch=1)
    qkv.attention_map(query, key, mask=qkv.documents(torch.tensor([256] * 4))).entropy()
    assert sum(scored) == 4 * 256**2


def test_keys_between_two_runs_are_not_scored(scored: list[int]) -> None:
    query, key = draw(1024, heads=1, batch=1)
    mask = qkv.causal() & (qkv.window(1) | qkv.prefix(4))
    qkv.attention_map(query, key, mask=mask).received()
    assert sum(scored) == 128 * (128 + 7 * 132)


def test_a_head_scores_what_that_head_sees(scored: list[int]) -> None:
    query, key = draw(512, heads=2, batch=1)
    apart = torch.zeros(2, 512, 512, dtype=torch.bool)
    apart[0, :, :64] = apart[1, :, 448:] = True
    seen = qkv.attention_map(query, key, mask=qkv.dense_mask(apart))
    seen.entropy()
    assert sum(scored) == 2 * 512 * 128
    scored.clear()
    seen.head(1).entropy()
    assert sum(scored) == 512 * 64


@pytest.mark.parametrize("name", MASKS)
def test_who_sees_and_who_is_shown(name: str) -> None:
    query, key = draw()
    mask = MASKS[name]()
    sees, shown = map_module.reach(call_of("map", query, key, key, None, None, mask, None, 0.0))
    whole = mask.dense(40, 40, batch=(2,), heads=4)
    assert torch.equal(sees.expand(2, 4, 40), whole.any(-1).expand(2, 4, 40))
    assert torch.equal(shown.expand(2, 4, 40), whole.any(-2).expand(2, 4, 40))


def test_a_key_chosen_among_few_keeps_its_place() -> None:
    query = torch.randn(1, 300, 8)
    seen = qkv.attention_map(query, query, mask=qkv.window(1), select=qkv.hard(sample=True))
    assert seen.received().tolist() == [[1.0] * 300]
    assert seen.top_keys(1)[1].squeeze(-1).tolist() == [list(range(300))]
    # The second time the choice is the one kept.
    assert torch.equal(seen.dense()[0], torch.eye(300))
