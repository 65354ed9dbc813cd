"""Masks laid out in blocks: any layout of one's own, and BigBird's."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn import functional as F

from qkv.core.card import Card
from qkv.core.checks import check_dense, check_held, check_whole, shown
from qkv.core.dropout import mix
from qkv.core.runs import Runs
from qkv.core.types import Grid
from qkv.errors import ArgumentError, KindError, ShapeError, must
from qkv.masks.algebra import Mask, ends_of_blocks

_LOW = 0xFFFFFFFF
_SEEDS = 1 << 62


def _spread(
    layout: Bool[Tensor, "*lead query_blocks key_blocks"], rows: Int[Tensor, " rows"], columns: Int[Tensor, " columns"]
) -> Bool[Tensor, "*lead rows columns"]:
    """Pick the layout's rows and columns: rows copy fast, columns slowly, so these from as few rows as can be."""
    few = rows.shape[0] <= layout.shape[-2]
    if few:
        layout = layout.index_select(-2, rows)
    picked = layout.gather(-1, columns.expand(*layout.shape[:-1], -1))
    return picked if few else picked.index_select(-2, rows)


def _layout_runs(
    layout: Bool[Tensor, "*lead query_blocks key_blocks"],
    first: Int[Tensor, " blocks"],
    last: Int[Tensor, " blocks"],
    size: int,
    keys: int,
    most: tuple[int | None, int | None] = (None, None),
) -> tuple[Runs, Runs]:
    """Give the runs of blocks of queries that reach from the layout's row `first` to its row `last`."""
    before = F.pad(layout.cumsum(-2, dtype=torch.int32), (0, 0, 1, 0))
    met = before[..., last + 1, :] - before[..., first, :]
    every = met == (last + 1 - first)[:, None]
    return Runs.of_flags(met > 0, size, keys, most[0]), Runs.of_flags(every, size, keys, most[1])


@dataclass(frozen=True, eq=False, repr=False)
class Blocks(Mask):
    """The pairs whose block a layout marks."""

    layout: Tensor
    size: int
    is_value = False

    def check(self, grid: Grid) -> None:
        *lead, query_blocks, key_blocks = self.layout.shape
        need = [-(-grid.queries // self.size), -(-grid.keys // self.size)]
        if query_blocks < need[0] or key_blocks < need[1]:
            rule = f"cover {grid.queries} queries and {grid.keys} keys in blocks of {self.size}"
            raise ShapeError(must("blocks", "layout", rule, list(self.layout.shape), f"needs at least {need}"))
        whole = [*grid.batch, grid.heads]
        pairs = zip(reversed(lead), reversed(whole), strict=False)
        if len(lead) > len(whole) or any(size not in (1, most) for size, most in pairs):
            rule = f"broadcast to [*batch, heads] = {whole} before its blocks"
            raise ShapeError(must("blocks", "layout", rule, list(self.layout.shape)))
        check_held("blocks", "layout", self.layout, grid)

    def tile(
        self, rows: Int[Tensor, " rows"], columns: Int[Tensor, " columns"], grid: Grid
    ) -> Bool[Tensor, "*lead rows columns"]:
        return _spread(self.layout.to(grid.device), rows // self.size, columns // self.size)

    def runs(self, block: int, grid: Grid) -> tuple[Runs, Runs]:
        first, last = ends_of_blocks(block, grid)
        layout = self.layout.to(grid.device)[..., : -(-grid.keys // self.size)]
        return _layout_runs(layout, first // self.size, last // self.size, self.size, grid.keys)

    def __repr__(self) -> str:
        return f"blocks({shown(self.layout)}, {self.size})"


@dataclass(frozen=True, eq=False, repr=False)
class BigBird(Mask):
    """A window of blocks, global blocks, and for each head and query block some random ones."""

    block: int
    window: int
    global_blocks: int
    random: int
    seed: int

    def layout(self, grid: Grid) -> tuple[Bool[Tensor, "*heads query_blocks key_blocks"], int]:
        """Mark the pairs of blocks that meet, and name the block that the first query stands in."""
        origin = (grid.keys - grid.queries) // self.block
        query = torch.arange(origin, -(-grid.keys // self.block), device=grid.device)[:, None]
        key = torch.arange(-(-grid.keys // self.block), device=grid.device)
        near = (query - key).abs() <= self.window // 2
        chosen = near | (key < self.global_blocks) | ((query >= 0) & (query < self.global_blocks))
        random = min(self.random, key.shape[0])
        if not random:
            return chosen, origin
        # The `random` lowest of numbers that are all different, for they end in the key block itself.
        seed = torch.full((), self.seed, device=grid.device)
        lanes = mix(mix(mix(seed & _LOW) ^ (seed >> 32)) ^ torch.arange(grid.heads, device=grid.device))
        drawn = mix(mix(lanes[:, None, None] ^ (query & _LOW)) ^ key) * key.shape[0] + key
        drawn = drawn.masked_fill(chosen, torch.iinfo(torch.int64).max)
        index = drawn.topk(random, dim=-1, largest=False).indices
        return chosen | torch.zeros_like(drawn, dtype=torch.bool).scatter(-1, index, True), origin

    def tile(
        self, rows: Int[Tensor, " rows"], columns: Int[Tensor, " columns"], grid: Grid
    ) -> Bool[Tensor, "*lead rows columns"]:
        layout, origin = self.layout(grid)
        return _spread(layout, grid.positions(rows) // self.block - origin, columns // self.block)

    def runs(self, block: int, grid: Grid) -> tuple[Runs, Runs]:
        layout, origin = self.layout(grid)
        first, last = (grid.positions(row) // self.block - origin for row in ends_of_blocks(block, grid))
        # A row of the layout has a run of global blocks, one of its window and one of each random block. What some of
        # several rows see is the global blocks, the joined windows and the random blocks; what all see has at most as
        # many runs as they have together.
        together = (block - 1) // self.block + 2
        most = (2 + self.random * together, 1 + (1 + self.random) * together)
        return _layout_runs(layout, first, last, self.block, grid.keys, most)

    def __repr__(self) -> str:
        numbers = f"window={self.window}, global_blocks={self.global_blocks}, random={self.random}, seed={self.seed}"
        return f"bigbird({self.block}, {numbers})"


def blocks(layout: Bool[Tensor, "*lead query_blocks key_blocks"], size: int) -> Blocks:
    """Let a pair meet where the layout marks its block of `size` queries and `size` keys.

    Query i is in block `i // size` and key j in block `j // size`, both counted from the first; a layout may have a
    leading dimension for heads, and for the batch before it, and may reach past the last query and key.

    Paper: Child et al. 2019, arXiv:1904.10509, section 5.
    Cost: size² pairs for each marked block.
    Raises: KindError if the layout is not boolean or the size no integer; ArgumentError if the size is below 1;
    ShapeError if the layout has fewer than two dimensions, too few blocks, or does not broadcast to batch and heads.
    """
    if not isinstance(layout, Tensor):
        got = type(layout).__name__
        raise KindError(must("blocks", "layout", "be a boolean tensor", got, "True where a block may meet"))
    if layout.dtype != torch.bool:
        raise KindError(must("blocks", "layout", "be boolean", layout.dtype, "layout > 0, True where a block may meet"))
    check_dense("blocks", "layout", layout)
    if layout.ndim < 2:
        raise ShapeError(
            must("blocks", "layout", "have the shape [*lead, query blocks, key blocks]", list(layout.shape))
        )
    check_whole("blocks", "size", size, 1, "positions in a block")
    return Blocks(layout, size)


def bigbird(block: int, *, window: int = 3, global_blocks: int = 1, random: int = 3, seed: int = 0) -> BigBird:
    """Let blocks of queries see their neighbours, the global blocks and some random ones.

    The window counts the blocks seen around the query's own, itself included. The first `global_blocks` blocks see
    every key and are seen by every query. Each head and query block sees `random` blocks more, drawn among the other
    key blocks of the call by a hash of the seed, head, query block and key block. Query i stands at
    `keys - queries + i`.

    Paper: Zaheer et al. 2020, arXiv:2007.14062, section 2 and appendix D (internal transformer construction).
    Cost: O(queries·block·(window + global_blocks + random)) pairs, and queries·keys/block² to draw the blocks.
    Raises: ArgumentError if a count is too small or the window even; KindError if a count is no integer.
    """
    check_whole("bigbird", "block", block, 1, "positions in a block")
    check_whole("bigbird", "window", window, 1, "blocks around the query's own, itself included")
    check_whole("bigbird", "global_blocks", global_blocks, 0, "blocks that all see, and that see all")
    check_whole("bigbird", "random", random, 0, "random blocks for each query block")
    check_whole("bigbird", "seed", seed, 0, "below 2^62", below=_SEEDS)
    if window % 2 == 0:
        raise ArgumentError(must("bigbird", "window", "be odd", window, "the query's own block stands in its middle"))
    return BigBird(block, window, global_blocks, random, seed)


CARDS = (
    Card(
        name="block layout",
        kind="mask",
        equation="layout of the head at (i // size, j // size)",
        paper="Child et al. 2019, arXiv:1904.10509",
        cost="size² for each marked block",
        build=lambda: blocks(torch.arange(512).view(2, 16, 16) % 3 > 0, 1),
    ),
    Card(
        name="BigBird",
        kind="mask",
        equation="window of blocks ∪ global blocks ∪ random blocks",
        paper="Zaheer et al. 2020, arXiv:2007.14062",
        cost="queries × block × (window + global + random)",
        build=lambda: bigbird(1, random=1),
    ),
)
