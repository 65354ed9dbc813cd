"""FlexAttention: on the CPU by its definition, read block by block as its kernels read it; on CUDA as it is."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from budget import assert_gradients_within, assert_within
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import Case, leaves, trees, whole
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from torch._higher_order_ops.flex_attention import math_attention
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, create_mask, flex_attention, noop_mask

import qkv
from qkv.attention import call_of
from qkv.backends.flex import BLOCK, FLEX, attend, block_mask
from qkv.backends.mods import mask_mod
from qkv.core.call import Call
from qkv.core.reference import attend as define
from qkv.core.types import Grid

NOTHING: dict[str, Any] = {"score": None, "bias": None, "mask": None, "select": None, "dropout": 0.0}
ON_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="FlexAttention's kernels run on CUDA alone")

BATCH, HEADS, QUERIES, KEYS = 2, 2, 300, 300


def as_kernels_read(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    score_mod: Callable | None,
    block_mask: BlockMask | None,
    scale: float,
    enable_gqa: bool,
) -> Tensor:
    """FlexAttention's definition, whose mask asks the tables first: a block left out is hidden, a full one not asked.

    PyTorch's own definition asks the mask of every pair, so a wrong table would change nothing; and it has no backward
    pass on the CPU, unless called by this name.
    """
    assert enable_gqa == (query.shape[1] != key.shape[1])
    inner = noop_mask if block_mask is None else block_mask.mask_mod
    if block_mask is not None:
        some, full = marked(block_mask.kv_num_blocks, block_mask.kv_indices), full_blocks(block_mask)

        def meets(batch: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
            at = (batch % some.shape[0], head % some.shape[1], row // BLOCK, column // BLOCK)
            return full[at] | (some[at] & block_mask.mask_mod(batch, head, row, column))

        inner = meets
    blocks = (*[None] * 12, inner)
    return math_attention(query, key, value, score_mod or (lambda score, *_: score), blocks, scale, {})[0]


def marked(count: Tensor, order: Tensor) -> Tensor:
    """Spell out which blocks are listed."""
    listed = torch.arange(order.shape[-1]) < count[..., None]
    return torch.zeros_like(listed).scatter(-1, order.long(), listed)


def full_blocks(mask: BlockMask) -> Tensor:
    assert mask.full_kv_num_blocks is not None and mask.full_kv_indices is not None
    return marked(mask.full_kv_num_blocks, mask.full_kv_indices)


def draw(
    dtype: torch.dtype = torch.float32,
    *,
    batch: tuple[int, ...] = (BATCH,),
    heads: int = HEADS,
    key_heads: int = HEADS,
    queries: int = QUERIES,
    keys: int = KEYS,
    width: int = 8,
    features: int = 8,
) -> list[Tensor]:
    source = torch.Generator().manual_seed(0)
    shapes = ((heads, queries, width), (key_heads, keys, width), (key_heads, keys, features))
    options: dict[str, Any] = {"generator": source, "dtype": torch.float64, "device": "cpu"}
    return [torch.randn(*batch, *shape, **options).to(torch.get_default_device(), dtype) for shape in shapes]


def run(
    tensors: list[Tensor], dtype: torch.dtype, parts: dict[str, Any], how: Callable[[Call], Tensor]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    inputs = [x.detach().to(dtype).requires_grad_() for x in tensors]
    output = how(call_of("attend", *inputs, **{**NOTHING, **parts}))
    pull = torch.linspace(-1, 1, output.numel(), dtype=torch.float64, device=output.device).view(output.shape)
    return output.detach(), torch.autograd.grad(output, inputs, pull.to(dtype))


def by_definition(call: Call) -> Tensor:
    return define(call)[0]


def by_flex(call: Call) -> Tensor:
    return attend(call, as_kernels_read)


def assert_is_the_definition(
    tensors: list[Tensor], parts: dict[str, Any], how: Callable[[Call], Tensor] = by_flex
) -> Tensor:
    """Compare output and gradients with the definition, within the budget; give the output."""
    dtype = tensors[0].dtype
    exact, exact_gradients = run(tensors, torch.float64, parts, by_definition)
    plain, plain_gradients = run(tensors, dtype, parts, by_definition)
    output, gradients = run(tensors, dtype, parts, how)
    assert output.dtype == dtype
    assert_within(output, exact, plain, torch.nan_to_num(tensors[2]))
    assert_gradients_within(gradients, exact_gradients, plain_gradients)
    return output


def flags(*shape: int, share: float = 0.5) -> Tensor:
    drawn = torch.rand(shape, generator=torch.Generator().manual_seed(1), device="cpu")
    return (drawn < share).to(torch.get_default_device())


def each_mask() -> dict[str, qkv.Mask]:
    """Every kind of mask, at a size of several blocks; some with rows that see nothing and keys that nobody sees."""
    return {
        "causal": qkv.causal(),
        "causal from the corner": qkv.causal(offset=0),
        "causal, each row its own": qkv.causal(offset=torch.tensor([0, -200])),
        "window": qkv.causal() & qkv.window(40),
        "two-sided window": qkv.window(before=20, after=130),
        "dilated window": qkv.window(20, dilation=7),
        "dilated window, each row its own": qkv.window(5, dilation=40, offset=torch.tensor([0, 150])),
        "prefix": qkv.causal() | qkv.prefix(140),
        "prefix, each row its own": qkv.prefix(torch.tensor([5, 0])),
        "key padding": qkv.padding(keys=torch.tensor([130, 0])),
        "both padded": qkv.padding(keys=torch.tensor([130, 300]), queries=torch.tensor([129, 5])),
        "left padding": qkv.padding(keys=torch.tensor([130, 300]), queries=torch.tensor([129, 5]), left=True),
        "flags": qkv.padding(keys=flags(BATCH, KEYS), queries=flags(BATCH, QUERIES)),
        "documents": qkv.documents(torch.tensor([[100, 60, 100], [256, 0, 10]])),
        "documents of two packings": qkv.documents(keys=torch.tensor([100, 160]), queries=torch.tensor([30, 260])),
        "layout": qkv.blocks(flags(HEADS, 10, 10, share=0.3), 32),
        "BigBird": qkv.bigbird(32, random=1),
        "dense": qkv.dense_mask(flags(BATCH, 1, QUERIES, KEYS, share=0.01)),
        "dense, spread": qkv.dense_mask(flags(HEADS, 1, KEYS)),
        "a combination": ~(qkv.window(before=100, after=100) & qkv.causal()) | qkv.bigbird(64, random=0),
        "nothing at all": ~qkv.prefix(400),
    }


@pytest.mark.parametrize("name", each_mask())
def test_every_mask_is_the_definition_forward_and_backward(name: str) -> None:
    mask = each_mask()[name]
    tensors = draw()
    seen = whole(mask, Grid((BATCH,), HEADS, QUERIES, KEYS))
    hidden = ~seen.any(-2)[..., None]
    output = assert_is_the_definition(tensors, {"mask": mask})
    assert (output[~seen.any(-1)] == 0).all()
    # What stands where nobody looks reaches nothing.
    poisoned = [tensors[0], *(torch.where(hidden, torch.nan, x) for x in tensors[1:])]
    poisoned[0] = torch.where(seen.any(-1)[..., None], poisoned[0], torch.inf)
    again = assert_is_the_definition(poisoned, {"mask": mask})
    assert torch.equal(output, again)


def each_choice() -> dict[str, dict[str, Any]]:
    torch.manual_seed(0)
    relative = {"buckets": 8, "max_distance": 40}
    row = torch.linspace(-1, 1, KEYS)[None]
    return {
        "soft cap": {"score": qkv.soft_cap(qkv.scaled_dot(), 0.7)},
        "two caps": {"score": qkv.soft_cap(qkv.soft_cap(qkv.dot(), 2.0), 0.3), "mask": qkv.window(40)},
        "cosine": {"score": qkv.cosine(0.2), "mask": qkv.window(40)},
        "alibi": {"bias": qkv.alibi(heads=HEADS)},
        "alibi, each row its own": {"bias": qkv.alibi(heads=HEADS, offset=torch.tensor([0, -7]))},
        "T5": {"bias": frozen(qkv.T5Relative(heads=HEADS, **relative)), "mask": qkv.causal()},
        "T5, each row its own": {"bias": frozen(qkv.T5Relative(heads=HEADS, offset=torch.tensor([3, -9]), **relative))},
        "T5 at an offset": {"bias": frozen(qkv.T5Relative(heads=HEADS, offset=11, after=False, **relative))},
        "a row of biases": {"bias": row},
        "biases": {"bias": torch.randn(BATCH, 1, QUERIES, KEYS), "mask": qkv.causal()},
        "biases of heads": {"bias": torch.randn(HEADS, QUERIES, 1)},
        "cap, bias, mask": {
            "score": qkv.soft_cap(qkv.scaled_dot(), 0.7),
            "bias": qkv.alibi(heads=HEADS),
            "mask": qkv.window(40),
        },
        "hidden by a bias": {
            "bias": torch.where(row > 0.5, -torch.inf, row),
            "mask": qkv.dense_mask(row > 0) & qkv.window(40),
        },
    }


def frozen(bias: torch.nn.Module) -> torch.nn.Module:
    return bias.requires_grad_(False)


@pytest.mark.parametrize("name", each_choice())
def test_every_score_and_bias_is_the_definition_forward_and_backward(name: str) -> None:
    assert_is_the_definition(draw(), each_choice()[name])


def test_a_key_that_a_bias_alone_hides_reaches_nothing() -> None:
    query, key, value = draw()
    bias = torch.zeros(1, KEYS).index_fill(1, torch.arange(100, KEYS), -torch.inf)
    clean = assert_is_the_definition([query, key, value], {"bias": bias, "mask": qkv.causal()})
    key[:, :, 100:], value[:, :, 100:] = torch.nan, torch.inf
    again = assert_is_the_definition([query, key, value], {"bias": bias, "mask": qkv.causal()})
    assert torch.equal(clean, again)


@pytest.mark.parametrize(
    "shape",
    [
        {"batch": ()},
        {"batch": (2, 1, 2)},
        {"heads": 6, "key_heads": 2},
        {"queries": 1},
        {"queries": 130, "keys": 513},
        {"queries": 256, "keys": 384},
        {"queries": 200, "keys": 40},
        {"width": 3, "features": 5},
        {"width": 24, "features": 40},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_every_shape_and_dtype(shape: dict[str, Any], dtype: torch.dtype) -> None:
    tensors = draw(torch.float32 if dtype == torch.float64 else dtype, **shape)
    heads = tensors[0].shape[-3]
    parts = {"bias": qkv.alibi(heads=heads), "mask": qkv.causal() & qkv.window(30)}
    assert_is_the_definition(tensors, parts)
    if dtype == torch.float64:
        doubles = draw(dtype, **shape)
        (output, gradients), (right, right_gradients) = (
            run(doubles, dtype, parts, how) for how in (by_flex, by_definition)
        )
        torch.testing.assert_close((output, gradients), (right, right_gradients), rtol=1e-9, atol=1e-9)


def of_a_pair(mask: qkv.Mask, grid: Grid) -> Callable:
    """Give the function of a pair with its four arguments in sight: PyTorch counts them, and shape checks hide them."""
    meets = mask_mod(mask, grid)
    return lambda batch, head, row, column: meets(batch, head, row, column)


@pytest.mark.parametrize("name", each_mask())
def test_the_function_of_a_pair_is_the_mask(name: str) -> None:
    mask = each_mask()[name]
    grid = Grid((BATCH,), HEADS, QUERIES, KEYS)
    asked = create_mask(of_a_pair(mask, grid), BATCH, HEADS, QUERIES, KEYS, device="cpu")
    assert torch.equal(asked, whole(mask, grid))


def tables(mask: BlockMask) -> tuple[Tensor, Tensor]:
    """Spell out which blocks are met, and which are full, for all batch rows and heads."""
    met, full = marked(mask.kv_num_blocks, mask.kv_indices), full_blocks(mask)
    assert not (met & full).any(), "a block stands in one table alone"
    met = met | full
    return met.expand(BATCH, HEADS, *met.shape[-2:]), full.expand(BATCH, HEADS, *met.shape[-2:])


EXACT = ("causal", "window", "prefix", "padding", "padded", "layout", "BigBird", "nothing")


@pytest.mark.parametrize("name", each_mask())
def test_the_blocks_are_those_that_trying_every_pair_finds(name: str) -> None:
    mask = each_mask()[name]
    grid = Grid((BATCH,), HEADS, QUERIES, KEYS)
    ours = block_mask(mask, grid)
    theirs = create_block_mask(of_a_pair(mask, grid), BATCH, HEADS, QUERIES, KEYS, device="cpu", BLOCK_SIZE=BLOCK)
    assert ours.shape[-2:] == theirs.shape[-2:] and ours.BLOCK_SIZE == theirs.BLOCK_SIZE
    (met, full), (right, right_full) = tables(ours), tables(theirs)
    assert not (right & ~met).any() and not (full & ~right_full).any()
    if any(word in name for word in EXACT) and "dilated" not in name:
        assert torch.equal(met, right) and torch.equal(full, right_full)
        assert torch.equal(ours.to_dense().expand_as(met), theirs.to_dense())
    for one, other in (("q_indices", "kv_indices"), ("full_q_indices", "full_kv_indices")):
        assert getattr(ours, one).shape == getattr(ours, other).mT.shape


@st.composite
def grids_of_blocks(data: st.DrawFn) -> Grid:
    batch = data(st.sampled_from([(), (2,), (2, 2)]))
    positions = st.sampled_from([1, 5, 127, 128, 129, 200, 256, 300])
    return Grid(batch, data(st.integers(1, 2)), data(positions), data(positions))


def assert_sound(mask: qkv.Mask, grid: Grid, exact: bool) -> None:
    mask.check(grid)
    seen = whole(mask, grid).reshape(-1, grid.heads, grid.queries, grid.keys)
    asked = create_mask(of_a_pair(mask, grid), *seen.shape, device="cpu")
    assert torch.equal(asked, seen)
    ours = block_mask(mask, grid)
    theirs = create_block_mask(of_a_pair(mask, grid), *seen.shape, device="cpu", BLOCK_SIZE=BLOCK)
    met = ours.to_dense().expand(theirs.to_dense().shape).bool()
    full, right_full = full_blocks(ours), full_blocks(theirs)
    assert not (theirs.to_dense().bool() & ~met).any()
    assert not (full & ~right_full).any()
    if exact:
        assert torch.equal(met, theirs.to_dense().bool())
        assert torch.equal(full.expand(right_full.shape), right_full)


@settings(max_examples=40)
@given(st.data())
def test_the_blocks_of_any_mask_are_sound_and_exact_where_its_runs_are(data: st.DataObject) -> None:
    grid = data.draw(grids_of_blocks())
    case: Case = data.draw(leaves(grid))
    assert_sound(case.mask, grid, case.exact_some and case.exact_every)


@settings(max_examples=40)
@given(st.data())
def test_the_blocks_of_masks_made_of_masks_are_sound(data: st.DataObject) -> None:
    grid = data.draw(grids_of_blocks())
    assert_sound(data.draw(trees(grid, 2)), grid, False)


@settings(max_examples=40)
@given(st.data())
def test_who_takes_part_is_told_exactly(data: st.DataObject) -> None:
    grid = data.draw(grids_of_blocks())
    mask = data.draw(trees(grid, 2))
    query, key, value = draw(batch=grid.batch, heads=grid.heads, key_heads=1, queries=grid.queries, keys=grid.keys)
    seen = whole(mask, grid)
    query = torch.where(seen.any(-1)[..., None], query, torch.nan)
    shown = seen.any(-2).any(-2, keepdim=True)[..., None]
    key, value = torch.where(shown, key, torch.nan), torch.where(shown, value, torch.inf)
    output, gradients = run([query, key, value], torch.float32, {"mask": mask}, by_flex)
    assert all(each.isfinite().all() for each in (output, *gradients))
    assert (output[~seen.any(-1)] == 0).all()


def test_pairs_are_looked_at_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {"mask": qkv.dense_mask(flags(BATCH, 1, QUERIES, KEYS, share=0.01)) & qkv.window(40)}
    monkeypatch.setattr("qkv.backends.flex.CHUNK", 7 * BATCH * HEADS * KEYS)
    assert_is_the_definition(draw(), parts)


def test_plans_of_numbers_are_kept_and_serve_training_after_inference() -> None:
    mask = qkv.window(37)
    tensors = draw()
    blocks = []

    def watching(*tensors: Tensor, block_mask: BlockMask, **options: Any) -> Tensor:
        blocks.append(block_mask)
        assert not block_mask.kv_indices.is_inference()
        return as_kernels_read(*tensors, block_mask=block_mask, **options)

    with torch.inference_mode():
        attend(call_of("attend", *tensors, **{**NOTHING, "mask": mask}), watching)
    run(tensors, torch.float32, {"mask": qkv.window(37)}, lambda call: attend(call, watching))
    assert blocks[0] is blocks[1]
    held = qkv.causal(offset=torch.tensor([0, 1]))
    for _ in range(2):
        attend(call_of("attend", *tensors, **{**NOTHING, "mask": held}), watching)
    assert blocks[2] is not blocks[3]


def call_on(device: str, dtype: torch.dtype = torch.float32, **parts: Any) -> Call:
    """Make a call whose grid says that it is elsewhere: refusing looks at no tensor."""
    call = call_of("attend", *draw(dtype), **{**NOTHING, **parts})
    return replace(call, grid=replace(call.grid, device=torch.device(device)))


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({}, "SDPA does as much without a dense mask"),
        ({"mask": qkv.causal()}, "SDPA does as much without a dense mask"),
        (
            {"score": qkv.Additive(8, 8, 4)},
            "it scores by dot products alone, softly capped or not, not by Additive(query=8, key=8, hidden=4)",
        ),
        ({"select": qkv.topk(1), "mask": qkv.window(2)}, "it selects by softmax alone, not by topk(1)"),
        ({"dropout": 0.5, "mask": qkv.window(2)}, "it has no dropout"),
        ({"dtype": torch.float64, "mask": qkv.window(2)}, "its kernels add up in float32"),
        (
            {"bias": torch.zeros(1, KEYS, requires_grad=True)},
            "it adds up the gradient of a learned bias by atomics, whose order and bits vary from run to run",
        ),
        (
            {"bias": qkv.T5Relative(heads=HEADS)},
            "it adds up the gradient of a learned bias by atomics, whose order and bits vary from run to run",
        ),
    ],
)
def test_it_refuses_on_cuda_what_it_cannot_do_or_sdpa_does_as_well(parts: dict[str, Any], words: str) -> None:
    assert FLEX.refuses(call_on("cuda", **parts)) == words


def test_it_refuses_a_bias_that_it_does_not_know() -> None:
    class Own:
        def check(self, grid: Grid) -> None: ...

        def tile(self, rows: Tensor, columns: Tensor, grid: Grid) -> Tensor:
            return torch.zeros(len(rows), len(columns))

        def __repr__(self) -> str:
            return "own"

    assert FLEX.refuses(call_on("cuda", bias=Own())) == "it knows ALiBi, T5's bias and dense ones, not own"


def test_it_refuses_where_there_is_nothing_or_no_cuda() -> None:
    assert FLEX.refuses(call_on("cpu", mask=qkv.window(2))) == "it runs on CUDA, not on cpu"
    call = call_of("attend", *draw(keys=0), **{**NOTHING, "mask": qkv.window(2)})
    call = replace(call, grid=replace(call.grid, device=torch.device("cuda")))
    assert FLEX.refuses(call) == "there are no pairs, or no features"


def test_it_gives_way_to_what_cannot_look_into_it() -> None:
    call = call_on("cuda", mask=qkv.window(2))
    with torch.autograd.forward_ad.dual_level():
        assert FLEX.refuses(call) == "forward-mode differentiation cannot look into its kernels"
    told = []

    def mapped(query: Tensor) -> Tensor:
        told.append(FLEX.refuses(replace(call, query=query)))
        return query

    torch.func.vmap(mapped)(torch.zeros(2, *call.query.shape))
    words = "its blocks are planned by plain Python, which torch.compile and torch.func cannot follow"
    assert told == [words]


@pytest.mark.parametrize("triton", [False, True])
def test_it_takes_the_rest_ifhas_triton(triton: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qkv.backends.flex.has_triton", lambda: triton)
    told = None if triton else "its kernels need Triton, which is not installed"
    for mask in each_mask().values():
        if mask != qkv.causal():
            assert FLEX.refuses(call_on("cuda", mask=mask)) == told
    for parts in each_choice().values():
        assert FLEX.refuses(call_on("cuda", **parts)) == told
    assert FLEX.refuses(call_on("cuda", mask=qkv.window(3), bias=torch.zeros(1, KEYS))) == told
    with torch.no_grad():
        assert FLEX.refuses(call_on("cuda", bias=torch.zeros(1, KEYS, requires_grad=True))) == told


def test_its_cost_is_the_blocks_met() -> None:
    call = call_of("attend", *draw(queries=256, keys=256), **{**NOTHING, "mask": qkv.causal()})
    assert FLEX.cost(call).pairs == BATCH * HEADS * 3 * BLOCK**2
    assert "NaN or inf" in FLEX.caveat(call)
    call = call_of("attend", *draw(), **{**NOTHING, "bias": qkv.alibi(heads=HEADS)})
    assert FLEX.cost(call).pairs == BATCH * HEADS * QUERIES * KEYS
    assert FLEX.caveat(call_of("attend", *draw(), **NOTHING)) == ""


@pytest.mark.compile
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ["a combination", "documents"])
def test_pytorchs_own_flex_attention_takes_it(name: str) -> None:
    parts = {"mask": each_mask()[name], **each_choice()["cap, bias, mask"]}
    call = call_of("attend", *draw(), **{**NOTHING, **parts})
    torch.testing.assert_close(attend(call, flex_attention), by_definition(call))


@pytest.mark.compile
def test_other_numbers_of_a_kind_need_no_other_kernel() -> None:
    counter = CompileCounter()
    compiled = torch.compile(flex_attention, fullgraph=True, backend=counter)

    def kernels(**parts: Any) -> int:
        call = call_of("attend", *draw(), **{**NOTHING, **parts})
        torch.testing.assert_close(attend(call, compiled), by_definition(call))
        return counter.frame_count

    two = torch.tensor([100, 60]), torch.tensor([10, 290])
    intervals = (qkv.window(40), qkv.window(7) & qkv.causal(offset=3), *map(qkv.documents, two), qkv.prefix(9))
    assert [kernels(mask=mask) for mask in intervals] == [1] * 5
    unions = (qkv.window(40) | qkv.prefix(3), qkv.window(50) | qkv.prefix(5))
    assert [kernels(mask=mask) for mask in unions] == [2] * 2
    assert [kernels(mask=qkv.window(5, dilation=step)) for step in (2, 3)] == [3] * 2
    capped = [qkv.soft_cap(qkv.dot(), cap) for cap in (2.0, 0.3)]
    assert [kernels(mask=qkv.window(40), score=score) for score in capped] == [4] * 2


@ON_CUDA
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", [*each_mask(), *each_choice()])
def test_on_cuda_the_compiled_kernels_are_the_definition(name: str, dtype: torch.dtype) -> None:
    with torch.device("cuda"):
        parts = {"mask": each_mask()[name]} if name in each_mask() else each_choice()[name]
        tensors = draw(dtype, key_heads=1)
        call = call_of("attend", *tensors, **{**NOTHING, **parts})
        assert FLEX.refuses(call) in (None, "SDPA does as much without a dense mask")
        assert_is_the_definition(tensors, parts, lambda call: FLEX.run(call)[0])


@ON_CUDA
def test_on_cuda_the_same_inputs_give_the_same_bits() -> None:
    with torch.device("cuda"):
        parts = {"mask": qkv.causal() & qkv.window(40), "bias": qkv.alibi(heads=6)}
        tensors = draw(torch.bfloat16, heads=6, key_heads=2, width=64, features=64)
        runs = [run(tensors, torch.bfloat16, parts, lambda call: FLEX.run(call)[0]) for _ in range(3)]
        for output, gradients in runs[1:]:
            assert torch.equal(output, runs[0][0])
            assert all(map(torch.equal, gradients, runs[0][1]))


@ON_CUDA
def test_on_cuda_the_plan_takes_it_where_sdpa_would_want_a_dense_mask() -> None:
    with torch.device("cuda"):
        tensors = draw(torch.bfloat16, width=64, features=64)
        assert qkv.explain(*tensors, mask=qkv.window(40)).backend == "flex"
        assert qkv.explain(*tensors, mask=qkv.causal()).backend == "sdpa"
        assert qkv.explain(*tensors, bias=torch.zeros(1, KEYS, requires_grad=True)).backend == "sdpa"
