"""Dropout: a function of (seed, batch, head, query, key), in any tile, that looks like chance."""

import torch
from torch import Tensor

import qkv
from qkv.core.dropout import drop, keep, mix
from qkv.core.types import Grid

GRID = Grid((2, 2), 3, 64, 80)


def kept(rate: float, seed: int, grid: Grid = GRID) -> Tensor:
    return keep(rate, torch.tensor(seed), grid.rows(), grid.columns(), grid)


def test_the_hash_is_one_to_one() -> None:
    low = mix(torch.arange(1 << 16))
    assert low.unique().numel() == 1 << 16 and low.min() >= 0 and low.max() < 1 << 32


def test_the_rate_is_kept() -> None:
    for rate in (0.1, 0.5, 0.9):
        share = 1 - kept(rate, 5).double().mean()
        # Six standard deviations.
        assert abs(share - rate) < 6 * (rate * (1 - rate) / kept(rate, 5).numel()) ** 0.5
    assert kept(0.0, 5).all() and not kept(1.0, 5).any()


def test_a_tile_is_a_slice_of_the_whole() -> None:
    whole, rows, columns = kept(0.5, 7), torch.tensor([60, 3, 4]), torch.tensor([0, 79, 17])
    tile = keep(0.5, torch.tensor(7), rows, columns, GRID)
    assert torch.equal(tile, whole[..., rows, :][..., columns])


def test_streams_look_independent() -> None:
    signs = kept(0.5, 11).double() * 2 - 1
    limit = 6 / (64 * 80) ** 0.5
    lanes = torch.stack([*signs.flatten(0, 2).flatten(1), (kept(0.5, 12).double() * 2 - 1)[0, 0, 0].flatten()])
    met = lanes @ lanes.T / lanes.shape[1]
    assert (met - torch.eye(len(lanes))).abs().max() < limit
    rows = signs[0, 0, 0]
    for along in (rows, rows.T):
        assert (along @ along.T / along.shape[1] - torch.eye(len(along))).abs().max() < 6 / along.shape[1] ** 0.5


def test_the_expectation_is_kept() -> None:
    ones = torch.ones(2, 2, 3, 64, 80)
    dropped = drop(ones, 0.3, torch.tensor(3), GRID.rows(), GRID.columns(), GRID)
    assert set(dropped.unique().tolist()) == {0.0, torch.tensor(1 / 0.7).item()}
    assert abs(dropped.mean() - 1) < 0.02
    assert (drop(ones, 1.0, torch.tensor(3), GRID.rows(), GRID.columns(), GRID) == 0).all()


def test_the_seed_comes_from_torch_and_maps_show_weights_before() -> None:
    query, key, value = torch.randn(3, 2, 5, 8)

    def run(rate: float) -> Tensor:
        torch.manual_seed(4)
        return qkv.attend(query, key, value, dropout=rate)

    assert torch.equal(run(0.5), run(0.5)) and not torch.equal(run(0.5), run(0.0))
    assert (run(1.0) == 0).all()
    torch.manual_seed(4)
    first, second = (qkv.attend(query, key, value, dropout=0.5) for _ in range(2))
    assert not torch.equal(first, second)
    _, seen = qkv.attend_with_map(query, key, value, dropout=0.5)
    torch.testing.assert_close(seen.dense().sum(-1), torch.ones(2, 5))
