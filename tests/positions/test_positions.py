"""Positions: the papers' numbers, and other people's code."""

import math

import pytest
import torch
from torch import Tensor

import qkv
from qkv.core.types import Grid
from qkv.positions.alibi import slopes


def tile(bias: object, queries: int, keys: int, heads: int, batch: tuple[int, ...] = ()) -> Tensor:
    grid = Grid(batch, heads, queries, keys)
    return bias.tile(grid.rows(), grid.columns(), grid)  # type: ignore[attr-defined]


def test_slopes_of_the_paper() -> None:
    assert slopes(8) == [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]
    assert slopes(1) == [1 / 256]
    # 12 heads, by the authors' own recipe: the slopes of 8, then every other one of 16.
    sixteen = [2 ** (-(head + 1) / 2) for head in range(16)]
    assert slopes(12) == pytest.approx([*slopes(8), *sixteen[0::2][:4]])


def test_alibi_by_hand() -> None:
    near = tile(qkv.alibi(heads=8), 2, 3, 8)[0]
    assert near.tolist() == [[-0.5, 0, -0.5], [-1, -0.5, 0]]
    far = tile(qkv.alibi(heads=8, offset=torch.tensor([0, 1])), 2, 3, 8, (2,))
    assert far.shape == (2, 8, 2, 3) and far[0, 0].tolist() == [[0, -0.5, -1], [-0.5, 0, -0.5]]
    assert torch.equal(far[1, 0], near)


@pytest.mark.parametrize("after", [True, False])
@pytest.mark.parametrize(("buckets", "furthest"), [(32, 128), (8, 16), (64, 500)])
def test_t5_buckets_are_those_of_transformers(after: bool, buckets: int, furthest: int) -> None:
    from transformers.models.t5.modeling_t5 import T5Attention

    ahead = torch.arange(-300, 301)
    expected = T5Attention._relative_position_bucket(ahead, after, buckets, furthest)
    made = qkv.T5Relative(2, buckets=buckets, max_distance=furthest, after=after)
    assert torch.equal(made.bucket(ahead), expected)


def test_t5_offsets() -> None:
    made = qkv.T5Relative(2, buckets=8, max_distance=16, offset=torch.tensor([2, 0]))
    whole = tile(made, 2, 4, 2, (2,))
    assert whole.shape == (2, 2, 2, 4)
    corner = qkv.T5Relative(2, buckets=8, max_distance=16)
    corner.weight = made.weight
    assert torch.equal(whole[0], tile(corner, 2, 4, 2))


def test_dense_bias_spreads_and_picks() -> None:
    column = qkv.dense_bias(torch.tensor([[1.0], [2.0]]))
    assert tile(column, 2, 3, 1).tolist() == [[1, 1, 1], [2, 2, 2]]
    grid = Grid((), 1, 2, 3)
    whole = qkv.dense_bias(torch.arange(6.0).view(2, 3))
    assert whole.tile(torch.tensor([1]), torch.tensor([2, 0]), grid).tolist() == [[5, 3]]
    assert repr(whole) == "dense_bias([2, 3])"


def test_rotary_sees_the_distance_alone() -> None:
    query, key = torch.randn(2, 1, 8, dtype=torch.float64)
    for turn in (qkv.rotary(), qkv.rotary(interleaved=True), qkv.rotary(base=100.0, dim=4)):
        met = [turn(query, torch.tensor([at])) @ turn(key, torch.tensor([at + 7])).T for at in (0, 1, 100, 10_000)]
        for other in met[1:]:
            torch.testing.assert_close(other, met[0])
        assert torch.equal(turn(query), query)


def test_rotary_half_split_is_llamas() -> None:
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    query, key = torch.randn(2, 1, 3, 5, 8, dtype=torch.float64)
    angle = torch.arange(5)[:, None] * 10000.0 ** (-torch.arange(0, 8, 2, dtype=torch.float64) / 8)
    angle = torch.cat((angle, angle), -1)[None]
    expected = apply_rotary_pos_emb(query, key, angle.cos(), angle.sin())
    turn = qkv.rotary()
    torch.testing.assert_close((turn(query), turn(key)), expected)


def test_rotary_interleaved_is_gpt_js() -> None:
    from transformers.models.gptj.modeling_gptj import apply_rotary_pos_emb

    x = torch.randn(1, 5, 3, 8, dtype=torch.float64)
    angle = torch.arange(5)[:, None] * 10000.0 ** (-torch.arange(0, 8, 2, dtype=torch.float64) / 8)
    expected = apply_rotary_pos_emb(x, angle.sin()[None], angle.cos()[None])
    torch.testing.assert_close(qkv.rotary(interleaved=True)(x.transpose(1, 2)).transpose(1, 2), expected)


def test_rotary_turns_the_first_features_alone() -> None:
    x = torch.randn(3, 5, 8)
    out = qkv.rotary(dim=4)(x)
    assert torch.equal(out[..., 4:], x[..., 4:])
    torch.testing.assert_close(out[..., :4], qkv.rotary()(x[..., :4]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rotary_far_out_is_as_exact_as_near(dtype: torch.dtype) -> None:
    x = torch.randn(1, 64).to(dtype)
    at = torch.tensor([100_000])
    torch.testing.assert_close(
        qkv.rotary()(x, at).double(), qkv.rotary()(x.double(), at), rtol=0, atol=4 * torch.finfo(dtype).eps
    )


def test_sinusoidal_is_the_papers_formula() -> None:
    out = qkv.sinusoidal(6)(torch.tensor([[0, 3], [50_000, 7]]))
    assert out.shape == (2, 2, 6) and out.dtype == torch.float32
    for row, position in zip(out.view(-1, 6).tolist(), (0, 3, 50_000, 7), strict=True):
        expected = []
        for i in range(3):
            angle = position / 10000 ** (2 * i / 6)
            expected += [math.sin(angle), math.cos(angle)]
        assert row == pytest.approx(expected, abs=1e-6)


def test_learned_tables() -> None:
    positions, segments = qkv.LearnedPositions(4, 3), qkv.Segments(2, 3)
    assert torch.equal(positions(torch.tensor([3, 0])), positions.weight[[3, 0]])
    assert torch.equal(segments(torch.tensor([[1], [0]])), segments.weight[torch.tensor([[1], [0]])])
    assert repr(positions) == "LearnedPositions(positions=4, width=3)"


def test_alibi_is_float32_whatever_the_default() -> None:
    torch.set_default_dtype(torch.bfloat16)
    try:
        near = tile(qkv.alibi(heads=6), 2, 300, 6)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(near, tile(qkv.alibi(heads=6), 2, 300, 6)) and near.dtype == torch.float32


@pytest.mark.unhooked
@pytest.mark.parametrize("dtype", [torch.int16, torch.uint8, torch.int8, torch.int32])
def test_tables_take_every_integer(dtype: torch.dtype) -> None:
    table = qkv.LearnedPositions(4, 3)
    assert torch.equal(table(torch.tensor([3, 0], dtype=dtype)), table.weight[[3, 0]])


@pytest.mark.parametrize("offset", [(1 << 63) - 1, -(1 << 63)])
def test_a_bias_of_an_offset_beyond_every_grid_is_finite(offset: int) -> None:
    at = torch.tensor([offset])
    for bias in (qkv.alibi(heads=2, offset=at), qkv.T5Relative(2, offset=at)):
        assert tile(bias, 2, 3, 2, (1,)).isfinite().all()
