"""Masks inside torch.compile(fullgraph=True), and under vmap."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from qkv.core.types import Grid
from qkv.masks.algebra import Mask, Not
from qkv.masks.blocks import bigbird, blocks
from qkv.masks.causal import causal
from qkv.masks.dense import dense_mask
from qkv.masks.documents import documents
from qkv.masks.padding import padding
from qkv.masks.prefix import prefix
from qkv.masks.window import window

OUTSIDE = causal() & (~window(2) | prefix(1) | bigbird(2, random=1))


def answers(mask: Mask, grid: Grid) -> tuple[Tensor, ...]:
    mask.check(grid)
    some, every = mask.runs(2, grid)
    return mask.tile(grid.rows(), grid.columns(), grid), some.start, some.stop, every.start, every.stop


@pytest.mark.compile
@pytest.mark.parametrize("dynamic", [False, True])
def test_masks_are_made_and_planned_inside_a_compiled_function(dynamic: bool) -> None:
    def plan(query: Tensor, lengths: Tensor, keep: Tensor, layout: Tensor, dense: Tensor) -> tuple[Tensor, ...]:
        grid = Grid(tuple(query.shape[:-3]), query.shape[-3], query.shape[-2], keep.shape[-1], query.device)
        packed = documents(lengths[:, None]) & Not(window(2, dilation=2))
        drawn = padding(keys=keep, queries=lengths - 2) & prefix(lengths) | blocks(layout, 2) & dense_mask(dense)
        return answers(causal() & window(4) & padding(keys=lengths) | packed | drawn | OUTSIDE, grid)

    generator = torch.Generator().manual_seed(0)
    flags = [torch.rand(shape, generator=generator) < 0.5 for shape in ((2, 7), (2, 4, 4), (2, 5, 7))]
    given = (torch.zeros(2, 2, 5, 8), torch.tensor([4, 7]), *flags)
    torch.compiler.reset()
    compiled = torch.compile(plan, fullgraph=True, backend="eager", dynamic=dynamic)(*given)
    for found, wanted in zip(compiled, plan(*given), strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.compile
def test_a_mask_is_turned_round_by_a_name_inside_a_compiled_function() -> None:
    def dense(query: Tensor) -> Tensor:
        return (causal() & window(2).complement()).dense(query.shape[-2], 9)

    torch.compiler.reset()
    query = torch.zeros(1, 1, 5, 2)
    expected = (causal() & ~window(2)).dense(5, 9)
    assert torch.equal(torch.compile(dense, fullgraph=True, backend="eager")(query), expected)


@pytest.mark.parametrize(
    "build",
    [
        lambda number: causal(offset=number),
        lambda number: window(3, offset=number) | prefix(number),
        lambda number: padding(keys=number, queries=number, left=True),
        lambda number: padding(keys=torch.arange(7, device=number.device) != number),
        lambda number: ~documents(torch.stack([number, number - 1])),
    ],
)
@pytest.mark.filterwarnings("ignore:.*searchsorted:UserWarning")
@pytest.mark.unhooked
def test_vmap_over_the_tensor_of_a_mask(build: Callable[[Tensor], Mask]) -> None:
    numbers, grid = torch.tensor([1, 3, 4]), Grid((), 1, 7, 7)
    mapped = torch.vmap(lambda number: answers(build(number), grid))(numbers)
    for index, number in enumerate(numbers):
        for found, wanted in zip(mapped, answers(build(number), grid), strict=True):
            assert torch.equal(found[index], wanted)
