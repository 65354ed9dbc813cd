"""Additive attention in tiles equals the definition, forward and backward, whatever the size of the numbers."""

import numpy as np
import pytest
import torch
from budget import assert_gradients_within, assert_within
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import grids, trees
from torch._subclasses.fake_tensor import FakeTensorMode

import qkv
from qkv.attention import call_of
from qkv.backends import additive
from qkv.backends.additive.tiles import BLOCK, EMPTY, FULL, TILE, _plan, plan_tiles
from qkv.core.dropout import drop
from qkv.errors import UnsupportedError

QUERIES, KEYS = 150, 300
LENGTHS = torch.tensor([37, 290])
MASKS = {
    "none": None,
    "causal": qkv.causal(),
    "window": qkv.window(20),
    "two-sided window": qkv.window(before=10, after=5),
    "dilated window": qkv.window(9, dilation=3),
    "prefix": qkv.prefix(11),
    "key padding": qkv.padding(keys=LENGTHS),
    "key and query padding": qkv.padding(keys=LENGTHS, queries=torch.tensor([0, 140])),
    "documents": qkv.documents(torch.tensor([[50, 250], [300, 0]])),
    "offsets": qkv.window(16, offset=torch.tensor([-20, 200])),
    "layout of each head": qkv.blocks(torch.rand(4, 15, 30, generator=torch.Generator().manual_seed(2)) > 0.7, 10),
    "dense": qkv.dense_mask(torch.rand(QUERIES, KEYS, generator=torch.Generator().manual_seed(3)) > 0.5),
    "dense of each head": qkv.dense_mask(torch.rand(2, 4, 1, KEYS, generator=torch.Generator().manual_seed(4)) > 0.5),
    "nothing": qkv.window(1, offset=1000),
}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Take calls that would not pay."""
    monkeypatch.setattr(additive, "FEWEST_QUERIES", 0)
    monkeypatch.setattr(additive, "FEWEST_FEATURES", 0)


class Apart:
    """An additive score whose query and key are prepared already."""

    def __init__(self, vector):
        self.vector = vector

    def check(self, query, key):
        pass

    def pair(self, query_width, key_width):
        return qkv.core.types.AdditivePair(self.vector)

    def prepare(self, query, key):
        return query, key


def tensors(dtype=torch.float32, *, heads=4, key_heads=2, queries=QUERIES, keys=KEYS, hidden=7, dim=5, scale=1.0):
    draw = torch.Generator().manual_seed(0)
    shapes = ((2, heads, queries, hidden), (2, key_heads, keys, hidden), (2, key_heads, keys, dim), (hidden,))
    found = [torch.randn(shape, generator=draw) for shape in shapes]
    return [x.to(dtype) for x in (found[0] * scale, found[1] * scale, *found[2:])]


def both(inputs, dtype, impl, **choices):
    """Attend in a dtype, and give the output and the gradients of query, key, value and vector."""
    leaves = [x.detach().to(dtype).requires_grad_() for x in inputs]
    torch.manual_seed(1)
    output = qkv.attend(*leaves[:3], score=Apart(leaves[3]), impl=impl, **choices)
    above = torch.linspace(-1, 1, output.numel()).view(output.shape).to(dtype)
    return output, torch.autograd.grad(output, leaves, above)


def gradient_of_vector(inputs, mask=None):
    """Give it from long doubles: torch sums it over all pairs in an order that errs more than what is tested."""
    query, key, value, vector = (x.numpy().astype(np.longdouble) for x in inputs)
    query = query.reshape(*key.shape[:2], -1, *query.shape[2:])
    shape = (*query.shape[:-1], key.shape[-2])
    seen = np.ones(shape, bool)
    if mask is not None:
        heads = shape[1] * shape[2]
        seen = mask.dense(*shape[3:], batch=shape[:1], heads=heads).expand(shape[0], heads, *shape[3:]).reshape(shape)
        seen = seen.numpy()
    output = torch.Size((*query.shape[:-1], value.shape[-1]))
    above = torch.linspace(-1, 1, output.numel()).view(output).numpy().astype(np.longdouble)
    met = np.tanh(query[..., None, :] + key[:, :, None, None])
    scores = np.where(seen, met @ vector, -np.inf)
    peak = scores.max(-1, keepdims=True)
    weights = np.exp(scores - np.where(np.isfinite(peak), peak, 0))
    weights = weights / np.where(seen.any(-1, keepdims=True), weights.sum(-1, keepdims=True), 1)
    slopes = above @ np.swapaxes(value, -1, -2)[:, :, None]
    slopes = weights * (slopes - (weights * slopes).sum(-1, keepdims=True))
    return torch.from_numpy((slopes[..., None] * met).sum((0, 1, 2, 3, 4)).astype(np.float64))


def assert_equals_the_definition(inputs, **choices):
    dtype = inputs[0].dtype
    output, gradients = both(inputs, dtype, "additive", **choices)
    exact, exact_gradients = both(inputs, torch.float64, "reference", **choices)
    if dtype == torch.float64:
        exact_gradients = (*exact_gradients[:3], gradient_of_vector(inputs, **choices))
    plain_dtype = torch.float32 if dtype == torch.float64 else dtype
    plain, plain_gradients = both(inputs, plain_dtype, "reference", **choices)
    assert_within(output, exact, plain, inputs[2], what="output")
    assert_gradients_within(gradients, exact_gradients, plain_gradients)
    return output, gradients


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_equals_the_definition_within_the_budget(name, dtype):
    assert_equals_the_definition(tensors(dtype), mask=MASKS[name])


@pytest.mark.parametrize("scale", [0.1, 1, 3, 10, 30, 100, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numbers_of_any_size(scale, dtype):
    assert_equals_the_definition(tensors(dtype, scale=scale, hidden=9), mask=qkv.causal())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sizes_mixed_within_one_tensor(dtype):
    query, key, value, vector = tensors(dtype, hidden=8)
    sizes = 10 ** torch.linspace(-1, 3, 20, dtype=dtype)
    draw = torch.Generator().manual_seed(5)
    query = query * sizes[torch.randint(20, query.shape, generator=draw)]
    key = key * sizes[torch.randint(20, key.shape, generator=draw)]
    assert_equals_the_definition([query, key, value, vector])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_numbers_that_cancel(dtype):
    # a + b is small while neither has an exponential: 1,000 − 999.5.
    query, key, value, vector = tensors(dtype, hidden=8)
    away = torch.tensor([1000.0, 400, 60, 43, 36, 34, 27, 24], dtype=dtype)
    inputs = [query + away, key - away, value, vector]
    assert_equals_the_definition(inputs)


VECTORS = {
    "nothing": [0.0] * 9,
    "zeros among them": [0.0, 1, 0, 0, 2, 0, 0, 0, -1],
    "tiny": [1e-30, -2e-30, 3e-30, 1e-30, 0, 1e-31, -1e-30, 2e-30, 1e-30],
    "of any size": [1e-20, -3.0, 1e-9, 2.0, -1e-3, 0.1, 1e-30, 1.0, -4.0],
}


@pytest.mark.parametrize("name", VECTORS)
@pytest.mark.parametrize("scale", [1, 30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_vectors_of_any_size(name, scale, dtype):
    # Four fractions have one denominator: a weight of 0 among them must not spoil the others.
    inputs = tensors(dtype, scale=scale, hidden=9)
    assert_equals_the_definition([*inputs[:3], torch.tensor(VECTORS[name], dtype=dtype)])


def test_the_largest_numbers():
    huge = torch.finfo(torch.float32).max
    query = torch.tensor([[[[huge, -huge, huge]]]])
    key = torch.tensor([[[[huge, huge, -huge], [-huge, 1.0, 1.0], [1.0, -huge, huge]]]])
    value, vector = torch.randn(1, 1, 3, 4), torch.tensor([0.5, 2.0, -1.0])
    for impl in ("additive", "reference"):
        output = qkv.attend(query, key, value, score=Apart(vector), impl=impl)
        scores = torch.tensor([0.5, -2 - 1, 0.5 - 2 - 1])
        torch.testing.assert_close(output[0, 0, 0], scores.softmax(-1) @ value[0, 0])


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (1, 400), (130, 1), (64, 128), (65, 129), (63, 127), (3, 256)])
@pytest.mark.parametrize(("hidden", "dim"), [(1, 1), (2, 6), (5, 4), (33, 19)])
def test_odd_sizes(queries, keys, hidden, dim):
    assert_equals_the_definition(tensors(queries=queries, keys=keys, hidden=hidden, dim=dim))


@settings(max_examples=25)
@given(st.data())
def test_random_masks_on_random_grids(data):
    grid = data.draw(grids().filter(lambda grid: grid.queries and grid.keys))
    mask = data.draw(trees(grid))
    draw = torch.Generator().manual_seed(0)
    shapes = ((grid.queries, 3), (grid.keys, 3), (grid.keys, 2))
    inputs = [torch.randn(*grid.batch, grid.heads, *shape, generator=draw) for shape in shapes]
    # Of a handful of pairs plain PyTorch's error is luck: here the masks count, the last places above.
    inputs.append(torch.randn(3, generator=draw))
    ours, plain = (both(inputs, torch.float64, impl, mask=mask) for impl in ("additive", "reference"))
    torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("rate", [0.0, 0.3, 1 - 1e-11, 1.0])
@pytest.mark.parametrize("mask", [None, qkv.causal()], ids=str)
def test_dropout_is_the_definitions(rate, mask):
    output, _ = assert_equals_the_definition(tensors(), mask=mask, dropout=rate)
    assert output.any() == (rate < 0.9)


def test_dropout_drops_the_very_same_pairs():
    # With a value that tells the keys apart, the output is the row of weights.
    query, key, _, vector = tensors(heads=2, queries=70, keys=200)
    value = torch.eye(200).expand(2, 2, 200, 200)
    torch.manual_seed(1)
    weights = qkv.attend(query, key, value, score=Apart(vector), dropout=0.4, impl="additive")
    torch.manual_seed(1)
    seed = torch.randint(1 << 62, ())
    grid = qkv.Grid((2,), 2, 70, 200)
    kept = drop(torch.ones(2, 2, 70, 200), 0.4, seed, grid.rows(), grid.columns(), grid) > 0
    assert torch.equal(weights > 0, kept)


def test_a_row_without_a_key_is_exactly_zero():
    seen = torch.ones(QUERIES, KEYS, dtype=torch.bool)
    seen[3:70] = False
    output, gradients = both(tensors(), torch.float32, "additive", mask=qkv.dense_mask(seen))
    assert not output[:, :, 3:70].any() and not gradients[0][:, :, 3:70].any()
    assert all(each.isfinite().all() for each in gradients)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("place", [1, 2])
def test_what_no_query_sees_reaches_nothing(place, bad):
    inputs, spoilt = tensors(), tensors()
    spoilt[place][0, :, 280] = bad
    mask = qkv.padding(keys=torch.tensor([279, 300]))
    clean, got = (both(each, torch.float32, "additive", mask=mask) for each in (inputs, spoilt))
    assert torch.equal(clean[0], got[0])
    assert all(torch.equal(one, other) for one, other in zip(clean[1], got[1], strict=True))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("place", [0, 1])
def test_what_is_not_finite_says_what_the_definition_says(place, bad):
    query, key, value, vector = tensors()
    (query, key)[place][0, 0, 5, 2] = bad
    outputs = [qkv.attend(query, key, value, score=Apart(vector), impl=impl) for impl in ("additive", "reference")]
    torch.testing.assert_close(*outputs, equal_nan=True)


def test_the_caveat_is_told():
    inputs = tensors()
    text = "NaN or inf in a key or value that only some queries see may reach others near them"
    assert text in str(qkv.explain(*inputs[:3], score=Apart(inputs[3]), mask=qkv.causal()))
    assert "caveat" not in str(qkv.explain(*inputs[:3], score=Apart(inputs[3])))


def test_other_pairs_change_no_bit():
    inputs, changed = tensors(hidden=9), tensors(hidden=9)
    changed[1][:, :, 200:] *= 1000
    changed[2][:, :, 200:] *= 1000
    mask = qkv.causal()
    before, after = (
        qkv.attend(*each[:3], score=Apart(each[3]), mask=mask, impl="additive") for each in (inputs, changed)
    )
    assert torch.equal(before[:, :, :50], after[:, :, :50])
    alone = qkv.attend(*(x[:1] for x in inputs[:3]), score=Apart(inputs[3]), mask=mask, impl="additive")
    assert torch.equal(alone, before[:1])


def test_the_same_bits_on_any_number_of_threads():
    inputs = tensors(queries=400)
    threads, found = torch.get_num_threads(), []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        output, gradients = both(inputs, torch.float32, "additive", mask=qkv.window(100), dropout=0.1)
        found.append([output.detach(), *gradients])
    torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(one, two) for one, two in zip(found[0], other, strict=True))


def test_no_batch_and_many_batches():
    query, key, value, vector = tensors()
    score = Apart(vector)
    whole = qkv.attend(query, key, value, score=score, impl="additive")
    assert torch.equal(qkv.attend(query[0], key[0], value[0], score=score, impl="additive"), whole[0])
    split = [x.unflatten(0, (1, 2)) for x in (query, key, value)]
    assert torch.equal(qkv.attend(*split, score=score, impl="additive")[0], whole)


def test_gradcheck():
    inputs = [x.double().requires_grad_() for x in tensors(queries=5, keys=7, hidden=3, dim=2, heads=2, key_heads=1)]

    def attend(*leaves):
        return qkv.attend(*leaves[:3], score=Apart(leaves[3]), mask=qkv.causal(), impl="additive")

    assert torch.autograd.gradcheck(attend, inputs, fast_mode=True)


def test_a_gradient_of_the_gradient_is_refused():
    leaves = [x.requires_grad_() for x in tensors()]
    output = qkv.attend(*leaves[:3], score=Apart(leaves[3]), impl="additive")
    (slope,) = torch.autograd.grad(output.sum(), leaves[0], create_graph=True)
    text = (
        r"attend: create_graph=True must have a path whose gradient has a gradient; got additive \(impl='reference'\)"
    )
    with pytest.raises(UnsupportedError, match=text):
        slope.square().sum().backward()


REFUSED = [
    ({"score": qkv.dot()}, r"it scores by v · tanh\(q \+ k\) alone, not by"),
    ({"score": qkv.soft_cap(qkv.Additive(7, 7, 3), 5.0)}, r"it scores by v · tanh\(q \+ k\) alone, not by"),
    ({"select": qkv.sparsemax()}, r"it selects by softmax alone, not by sparsemax\(\)"),
    ({"bias": qkv.alibi(heads=4)}, "it has no place for a bias"),
]


@pytest.mark.parametrize(("choices", "reason"), REFUSED)
def test_refusals(choices, reason):
    query, key, value, vector = tensors()
    with pytest.raises(UnsupportedError, match=reason):
        qkv.attend(query, key, value, **{"score": Apart(vector), **choices}, impl="additive")


def test_what_would_not_pay_is_refused(monkeypatch):
    monkeypatch.undo()
    query, key, value, vector = tensors(queries=2, heads=2)
    reason = "with 2 queries for a key, laying out the keys costs what it saves"
    assert additive.refuses(call_of("attend", query, key, value, Apart(vector), None, None, None, 0.0)) == reason
    query, key, value, vector = tensors(queries=20, keys=30, hidden=7)
    reason = "20 × 30 pairs of 7 features are too few to pay"
    assert additive.refuses(call_of("attend", query, key, value, Apart(vector), None, None, None, 0.0)) == reason


def test_nothing_to_attend_to_is_refused():
    query, key, value, vector = tensors()
    with pytest.raises(UnsupportedError, match="there are no pairs, or no features"):
        qkv.attend(query, key[:, :, :0], value[:, :, :0], score=Apart(vector), impl="additive")


def test_torch_func_is_refused_and_answered_by_the_definition():
    query, key, value, vector = tensors()
    attend = torch.func.vmap(lambda one: qkv.attend(one, key[0], value[0], score=Apart(vector)))
    torch.testing.assert_close(
        attend(query), torch.stack([qkv.attend(x, key[0], value[0], score=Apart(vector)) for x in query])
    )
    with pytest.raises(UnsupportedError, match=r"torch\.func cannot look into its kernels"):
        torch.func.vmap(lambda one: qkv.attend(one, key[0], value[0], score=Apart(vector), impl="additive"))(query)


def test_other_devices_are_refused():
    inputs = [x.to("meta") for x in tensors()]
    call = call_of("attend", *inputs[:3], Apart(inputs[3]), None, None, None, 0.0)
    assert additive.refuses(call) == "it runs on the CPU and on CUDA, not on meta"


def on_cuda(dtype=torch.float32, **parts):
    """Give a call whose tensors say that they are on CUDA; they hold nothing, so no GPU is needed."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        query, key, value, vector = (torch.empty(x.shape, dtype=dtype, device="cuda") for x in tensors())
        return call_of("attend", query, key, value, Apart(vector), None, parts.get("mask"), None, 0.0)


def test_on_cuda_it_wants_triton(monkeypatch):
    monkeypatch.setattr(additive, "has_triton", lambda: True)
    assert additive.refuses(on_cuda()) is None
    assert additive.refuses(on_cuda(torch.float64)) == "its kernels on CUDA add up in float32"
    monkeypatch.setattr(additive, "has_triton", lambda: False)
    assert additive.refuses(on_cuda()) == "its kernels on CUDA need Triton, which is not installed"


def test_on_cuda_everything_around_the_kernels_is_there_too():
    call = on_cuda()
    with call.query.fake_mode:
        output, _ = additive.run(call)
    assert output.device.type == "cuda" and output.shape == (2, 4, QUERIES, 5)
    for name in ("qkv::additive_attention", "qkv::additive_attention_backward"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(name, "CUDA")


@pytest.mark.parametrize("name", MASKS)
def test_tables_stand_where_the_call_does(name):
    grid = qkv.Grid((2,), 4, QUERIES, KEYS)
    # What is made without a word about its place would be on meta, and meets nothing that is not.
    with torch.device("meta"):
        tiles = plan_tiles(None, grid) if name == "none" else _plan(MASKS[name], grid)
        sees, shown = tiles.sees(QUERIES), tiles.shown(KEYS)
    assert {x.device.type for x in (tiles.table, tiles.patterns, sees, shown)} == {"cpu"}


@pytest.mark.parametrize("name", [name for name in MASKS if MASKS[name] is not None])
def test_tables_say_what_the_mask_says(name):
    grid = qkv.Grid((2,), 4, QUERIES, KEYS)
    tiles = plan_tiles(MASKS[name], grid)
    blocks, count = tiles.table.shape[2:]
    spelled = (
        tiles.patterns[tiles.table].transpose(-3, -2).reshape(*tiles.table.shape[:2], blocks * BLOCK, count * TILE)
    )
    dense = MASKS[name].dense(QUERIES, KEYS, batch=(2,), heads=4).expand(2, 4, -1, -1)
    assert torch.equal(spelled[..., :QUERIES, :KEYS].expand(2, 4, -1, -1), dense)
    assert torch.equal(tiles.sees(QUERIES).expand(2, 4, -1), dense.any(-1))
    assert torch.equal(tiles.shown(KEYS).expand(2, 4, -1), dense.any(-2))


def test_what_is_full_or_empty_after_all_has_no_pattern():
    seen = torch.zeros(BLOCK, 3 * TILE, dtype=torch.bool)
    seen[:, :TILE] = True
    seen[0, TILE] = True
    tiles = plan_tiles(qkv.dense_mask(seen), qkv.Grid((), 1, BLOCK, 3 * TILE))
    assert tiles.table.flatten().tolist() == [FULL, 2, EMPTY] and len(tiles.patterns) == 3


def test_what_is_skipped_is_counted():
    grid = qkv.Grid((2,), 4, 1024, 1024)
    assert plan_tiles(None, grid).pairs(grid) == 8 * 1024 * 1024
    assert plan_tiles(qkv.causal(), grid).pairs(grid) == 8 * BLOCK * TILE * sum(range(1, 9)) * 2
    query, key, value, vector = tensors(queries=1024, keys=1024)
    told = qkv.explain(query, key, value, score=Apart(vector), mask=qkv.window(64))
    assert told.backend == "additive" and told.cost.pairs < 0.2 * told.pairs_possible


def test_plans_of_numbers_are_kept():
    grid = qkv.Grid((), 1, 100, 100)
    assert plan_tiles(qkv.window(7), grid) is plan_tiles(qkv.window(7), grid)
    lengths = qkv.padding(keys=torch.tensor(50))
    assert plan_tiles(lengths, grid) is not plan_tiles(lengths, grid)


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_the_gradients_are_those_of_differences(rate):
    query, key, value, vector = tensors(torch.float64, queries=5, keys=6, hidden=5, dim=2)
    leaves = [x.requires_grad_() for x in (query, key, value, vector)]

    def attend(query, key, value, vector):
        torch.manual_seed(1)
        parts = {"mask": qkv.causal(), "dropout": rate, "impl": "additive"}
        return qkv.attend(query, key, value, score=Apart(vector), **parts)

    assert torch.autograd.gradcheck(attend, leaves, fast_mode=True)


def test_the_operators_keep_torchs_rules():
    query, key, value, vector = (x.flatten(0, 1) if x.ndim > 1 else x for x in tensors(queries=9, keys=11, key_heads=4))
    tiles = plan_tiles(None, qkv.Grid((2,), 4, 9, 11))
    arguments = (query, key, value, vector, tiles.table, tiles.patterns, torch.zeros(8, dtype=torch.int64), 9, 4, 0.2)
    torch.library.opcheck(additive.attend, arguments)
    leaves = tuple(x.requires_grad_() if x.is_floating_point() else x for x in arguments[:4])
    torch.library.opcheck(additive.attend, (*leaves, *arguments[4:]), test_utils=("test_autograd_registration",))
    found = additive.attend(*arguments)
    backward = (torch.ones_like(found[0]), *arguments[:7], *found, *arguments[7:])
    torch.library.opcheck(additive.gradients, tuple(x.detach() if isinstance(x, torch.Tensor) else x for x in backward))


@pytest.mark.compile
def test_compiles_whole():
    query, key, value, vector = tensors(queries=9, keys=11)

    def attend(query, key, value, vector):
        return qkv.attend(query, key, value, score=Apart(vector))

    eager = [x.clone().requires_grad_() for x in (query, key, value, vector)]
    whole = torch.compile(attend, fullgraph=True)(*eager)
    torch.testing.assert_close(whole, attend(*eager))
    got = torch.autograd.grad(whole.square().sum(), eager)
    torch.testing.assert_close(got, torch.autograd.grad(attend(*eager).square().sum(), eager))


@pytest.mark.compile
def test_a_mask_is_left_to_the_definition_while_compiling():
    query, key, value, vector = tensors(queries=9, keys=11)

    def attend(query, key, value, vector):
        return qkv.attend(query, key, value, score=Apart(vector), mask=qkv.causal())

    whole = torch.compile(attend, fullgraph=True)(query, key, value, vector)
    torch.testing.assert_close(whole, attend(query, key, value, vector))


def test_under_vmap_over_what_a_mask_holds_it_gives_way() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 1, 128, 32, generator=generator) for _ in range(3))
    score, offsets = qkv.Additive(32, 32, 32), torch.tensor([[0], [-9]])

    def attend(offset: torch.Tensor) -> torch.Tensor:
        return qkv.attend(query, key, value, score=score, mask=qkv.causal(offset=offset))

    assert qkv.explain(query, key, value, score=score, mask=qkv.causal(offset=offsets[0])).backend == "additive"
    for one, offset in zip(torch.func.vmap(attend)(offsets), offsets, strict=True):
        torch.testing.assert_close(one, attend(offset), rtol=1e-4, atol=1e-5)
