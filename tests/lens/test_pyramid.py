"""Tiles of a large map: what each level shows is what the dense weights say, pooled."""

import pytest
import torch

import qkv
from qkv.errors import ArgumentError, KindError, ShapeError
from qkv.lens import pyramid
from qkv.lens.pyramid import HEADER, Pyramid, Tile, peak_of

SIDE = 4


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Tiles of 4 × 4 pixels, a kept picture of 64, and 400 pairs at once: every way is taken by a map of 37 × 53."""
    monkeypatch.setattr(pyramid, "SIDE", SIDE)
    monkeypatch.setattr(pyramid, "BASE", 64)
    monkeypatch.setattr(pyramid, "PAIRS", 400)
    monkeypatch.setattr("qkv.core.map.TILE_NUMBERS", 53 * 5)


def make(queries=37, keys=53, mask=None, select=None, dim=3):
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(1, 1, n, dim, generator=generator) * 2 for n in (queries, keys))
    return qkv.attention_map(query, key, mask=mask, **({"select": select} if select else {}))


def pooled(weights, level, row, column):
    """The definition: the mean and the highest of each box of 2ⁿ × 2ⁿ weights; the last may be smaller."""
    side = 1 << level
    mean, most = [], []
    for top in range(row * SIDE * side, min(weights.shape[0], (row + 1) * SIDE * side), side):
        boxes = [
            weights[top : top + side, left : left + side]
            for left in range(column * SIDE * side, min(weights.shape[1], (column + 1) * SIDE * side), side)
        ]
        mean.append([float(box.mean()) for box in boxes])
        most.append([float(box.max()) for box in boxes])
    return torch.tensor(mean), torch.tensor(most)


def places(made):
    for level in range(made.levels):
        height, width = made.shape(level)
        for row in range(-(-height // SIDE)):
            for column in range(-(-width // SIDE)):
                yield level, row, column


MASKS = {
    "none": None,
    "causal": qkv.causal(),
    "window with a gap": qkv.window(3) | qkv.prefix(4),
    "padding": qkv.padding(keys=torch.tensor([20]), queries=torch.tensor([30])),
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_every_tile_is_the_weights_pooled(mask):
    seen = make(mask=mask)
    weights = seen.dense()[0, 0]
    made = Pyramid(make(mask=mask))
    assert not made.done and 0 < made.base < made.levels - 1
    for _ in made.steps():
        pass
    assert made.done and made.bytes <= 8 * 64
    for place in places(made):
        tile = made.tile(*place)
        mean, most = pooled(weights, *place)
        assert tile.read == 1 and tile.mean.shape == mean.shape
        torch.testing.assert_close(tile.mean, mean, atol=2e-6, rtol=0)
        torch.testing.assert_close(tile.most, most, atol=2e-6, rtol=0)


@pytest.mark.parametrize("select", [qkv.sparsemax(), qkv.hard(), qkv.hard(sample=True)])
def test_other_selections_are_pooled_too(select):
    seen = make(select=select)
    made = Pyramid(seen)
    before = made.tile(0, 1, 2)
    for _ in made.steps():
        pass
    weights = seen.dense()[0, 0]
    for place in [(0, 1, 2), (2, 0, 1), (made.levels - 1, 0, 0)]:
        torch.testing.assert_close(made.tile(*place).mean, pooled(weights, *place)[0], atol=2e-6, rtol=0)
    torch.testing.assert_close(before.mean, pooled(weights, 0, 1, 2)[0], atol=2e-6, rtol=0)


def test_a_tile_looked_at_early_is_exact_or_says_how_much_it_read():
    weights = make().dense()[0, 0]
    made = Pyramid(make())
    exact = made.tile(0, 2, 3)
    assert exact.read == 1
    torch.testing.assert_close(exact.mean, pooled(weights, 0, 2, 3)[0], atol=2e-6, rtol=0)
    early = made.tile(3, 0, 0)
    # 4 boxes at 53 keys are 212 pairs, more than half of 400, even with one query of each, the middle one.
    assert early.read == 1 / 8
    torch.testing.assert_close(early.mean, weights[4:32:8, :32].unflatten(1, (4, 8)).mean(2))
    torch.testing.assert_close(early.most, weights[4:32:8, :32].unflatten(1, (4, 8)).amax(2))


def test_a_last_box_without_its_middle_query_is_read_from_its_last():
    weights = make(queries=50).dense()[0, 0]
    last = Pyramid(make(queries=50)).tile(3, 1, 1)
    assert last.read == 1 / 8
    # The last boxes hold the queries 32…39, 40…47 and 48, 49, and the keys 32…39, 40…47 and 48…52.
    for row, query in enumerate((36, 44, 49)):
        boxes = weights[query, 32:].split(8)
        torch.testing.assert_close(last.mean[row], torch.stack([box.mean() for box in boxes]))
        torch.testing.assert_close(last.most[row], torch.stack([box.amax() for box in boxes]))


def test_what_has_been_read_is_exact_before_the_rest_is():
    weights = make(queries=90).dense()[0, 0]
    made = Pyramid(make(queries=90))
    steps = made.steps()
    assert made.tile(made.base, 0, 0).read < 1
    while made.read < SIDE << made.base:
        next(steps)
    tile = made.tile(made.base, 0, 0)
    assert not made.done and tile.read == 1
    torch.testing.assert_close(tile.mean, pooled(weights, made.base, 0, 0)[0], atol=2e-6, rtol=0)
    assert made.tile(made.base, 1, 0).read < 1


def test_a_tile_is_written_and_read_back_within_its_step():
    torch.manual_seed(0)
    tile = Tile(torch.rand(3, 5) * 1e-5, torch.rand(3, 5), 0.25)
    content = tile.packed()
    assert len(content) == HEADER.size + 2 * 2 * 15
    again = Tile.unpacked(content)
    assert again.read == 0.25
    for plane in ("mean", "most"):
        wanted = getattr(tile, plane)
        # Half a step of 65,535 in the largest, and float32's rounding of it.
        torch.testing.assert_close(getattr(again, plane), wanted, rtol=0, atol=float(wanted.max()) / 130_000)
    assert torch.equal(Tile.unpacked(Tile(torch.zeros(1, 1), torch.zeros(1, 1)).packed()).most, torch.zeros(1, 1))


def test_a_map_smaller_than_a_tile_has_one():
    made = Pyramid(make(queries=1, keys=1))
    assert (made.levels, made.shape(0)) == (1, (1, 1))
    assert made.tile(0, 0, 0).mean.tolist() == [[1.0]]


def test_a_map_that_shows_nothing_has_shades():
    hidden = qkv.attention_map(*torch.randn(2, 1, 1, 3, 4).unbind(), mask=qkv.padding(keys=torch.tensor([0])))
    assert peak_of(hidden) == 1


def test_bfloat16_and_double_are_shown_as_float():
    for dtype in (torch.bfloat16, torch.float64):
        query = torch.randn(1, 9, 4, dtype=dtype)
        assert Pyramid(qkv.attention_map(query, query)).tile(1, 0, 0).mean.dtype == torch.float32


@pytest.mark.unhooked
@pytest.mark.parametrize(
    ("place", "error", "text"),
    [
        ((5, 0, 0), ArgumentError, r"^Pyramid\.tile: level must lie in 0\.\.4; got 5$"),
        ((0, 10, 0), ArgumentError, r"^Pyramid\.tile: row must lie in 0\.\.9; got 10 \(level 0\)$"),
        ((4, 0, 1), ArgumentError, r"^Pyramid\.tile: column must lie in 0\.\.0; got 1 \(level 4\)$"),
        ((0, -1, 0), ArgumentError, r"^Pyramid\.tile: row must be >= 0; got -1$"),
        ((0, 0, 1.5), KindError, r"^Pyramid\.tile: column must be an integer; got float$"),
    ],
)
def test_a_tile_that_is_not_there_is_an_error(place, error, text):
    with pytest.raises(error, match=text):
        Pyramid(make()).tile(*place)


def test_one_head_at_a_time():
    text = r"^Pyramid: the map must hold one head of one example, and a pair; got \[2, 5, 5\] "
    query = torch.randn(2, 5, 4)
    with pytest.raises(ShapeError, match=text):
        Pyramid(qkv.attention_map(query, query))
    with pytest.raises(ShapeError, match="and a pair"):
        Pyramid(qkv.attention_map(torch.randn(1, 0, 4), torch.randn(1, 3, 4)))


def test_a_small_map_is_some_queries_pooled_over_the_keys():
    seen = qkv.attention_map(torch.randn(1, 1, 37, 3), torch.randn(1, 1, 53, 3), mask=qkv.causal())
    made, weights = pyramid.small(seen, 8), seen.dense()[0, 0]
    # Eight queries, each the middle of its share; seven keys a pixel, the last of four.
    rows = [(2 * at + 1) * 37 // 16 for at in range(8)]
    boxes = [weights[rows, start : start + 7] for start in range(0, 53, 7)]
    torch.testing.assert_close(made.mean, torch.stack([box.mean(1) for box in boxes], 1))
    torch.testing.assert_close(made.most, torch.stack([box.amax(1) for box in boxes], 1))
    assert made.read == 8 / 37
    whole = pyramid.small(seen, 64)
    torch.testing.assert_close(whole.mean, weights)
    assert whole.read == 1
