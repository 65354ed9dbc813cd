"""Caches: step by step and in chunks, attention over the past equals attention over the whole sequence."""

import copy
import pickle

import pytest
import torch

import qkv
from qkv import Cache, MultiHead, RaggedCache, RollingCache, errors

LENGTH, WIDTH, HEADS = 11, 8, 4

STEPS = {
    "one by one": [1] * LENGTH,
    "chunks": [4, 1, 3, 0, 2, 1],
    "prompt, then steps": [7, 1, 1, 1, 1],
    "all": [LENGTH],
}


@pytest.fixture(autouse=True)
def inference():
    with torch.no_grad():
        yield


def layer_of(key_heads=HEADS, **choices):
    torch.manual_seed(0)
    return MultiHead(WIDTH, HEADS, key_heads=key_heads, **choices).double()


def sequence(length=LENGTH, batch=(2,)):
    return torch.randn(*batch, length, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def in_steps(layer, x, cache, sizes, **choices):
    return torch.cat([layer(part, cache=cache, **choices) for part in x.split(sizes, dim=-2)], dim=-2)


def assert_same(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("sizes", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("positions", [None, qkv.rotary(), qkv.rotary(interleaved=True)], ids=["none", "half", "pairs"])
@pytest.mark.parametrize("bias", [None, qkv.alibi(heads=HEADS)], ids=["no bias", "alibi"])
@pytest.mark.parametrize(
    "mask",
    [qkv.causal(), qkv.window(4), qkv.causal() & (qkv.window(3) | qkv.prefix(2))],
    ids=["causal", "window", "window and prefix"],
)
def test_steps_equal_the_whole(mask, bias, positions, sizes):
    layer, x = layer_of(positions=positions), sequence()
    assert_same(in_steps(layer, x, Cache(), sizes, mask=mask, bias=bias), layer(x, mask=mask, bias=bias))


@pytest.mark.parametrize("sizes", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("key_heads", [2, 1])
@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_steps_equal_the_whole_with_grouped_heads(batch, key_heads, sizes):
    layer, x = layer_of(key_heads, value_dim=3), sequence(batch=batch)
    assert_same(in_steps(layer, x, Cache(), sizes, mask=qkv.causal()), layer(x, mask=qkv.causal()))


def test_a_learned_bias_and_a_dense_mask_work_beside_a_cache():
    layer, x = layer_of(select=qkv.sparsemax()), sequence()
    bias = qkv.T5Relative(HEADS, buckets=8, max_distance=9, after=False).double()
    cache = Cache()
    layer(x[:, :8], mask=qkv.causal(), bias=bias, cache=cache)
    allowed = torch.ones(3, LENGTH, dtype=torch.bool).tril(8)
    assert_same(layer(x[:, 8:], mask=allowed, bias=bias, cache=cache), layer(x, mask=qkv.causal(), bias=bias)[:, 8:])


def test_a_given_capacity_is_taken_once():
    layer, x, cache = layer_of(), sequence(), Cache(capacity=LENGTH)
    layer(x[:, :1], cache=cache)
    first = cache.key.data_ptr()
    assert_same(in_steps(layer, x[:, 1:], cache, 1, mask=qkv.causal())[:, -1], layer(x)[:, -1])
    assert cache.key.data_ptr() == first and cache.key.shape[-2] == LENGTH


def test_memory_doubles_when_full():
    layer, x, cache = layer_of(), sequence(), Cache()
    sizes = []
    for part in x.split(1, dim=-2):
        layer(part, cache=cache)
        sizes.append(cache.key.shape[-2])
    assert sizes == [1, 2, 4, 4, 8, 8, 8, 8, 16, 16, 16]


def test_a_map_of_a_step_stays_what_it_was():
    layer, x = layer_of(), sequence()
    for cache in (Cache(), RollingCache(5), RaggedCache(torch.tensor([3, 3]), 3)):
        layer(x[:, :3], cache=cache)
        _, seen = layer.with_map(x[:, 3:4], cache=cache)
        before = seen.dense().clone()
        in_steps(layer, x[:, 4:], cache, 1)
        assert_same(seen.dense(), before)


def test_a_map_keeps_the_keys_it_was_made_of():
    layer, x = layer_of(), sequence()
    for cache in (Cache(), RollingCache(5), RaggedCache(torch.tensor([3, 3]), 3)):
        layer(x[:, :3], cache=cache)
        _, seen = layer.with_map(x[:, 3:4], cache=cache)
        before = seen.dense().clone()
        cache.key.zero_()
        assert_same(seen.dense(), before)


@pytest.mark.parametrize("call", ["__call__", "with_map"])
@pytest.mark.parametrize("filled", [0, 2, 4], ids="after {}".format)
@pytest.mark.parametrize("make", [Cache, lambda: RollingCache(3), lambda: RaggedCache(torch.tensor([1, 2]), 2)])
def test_a_call_that_fails_leaves_the_cache_as_it_was(make, filled, call):
    layer, x, cache, other = layer_of(), sequence(6), make(), make()
    for part in x[:, :filled].split(2, dim=1):
        layer(part, cache=cache), layer(part, cache=other)
    with pytest.raises(errors.ShapeError, match=r"^alibi: heads must equal the query's 4; got 3$"):
        getattr(layer, call)(x[:, filled : filled + 2] + 9, cache=cache, bias=qkv.alibi(3))
    assert cache.seen == filled
    for part in x[:, filled:].split(2, dim=1):
        assert torch.equal(layer(part, cache=cache), layer(part, cache=other))


# Rolling


@pytest.mark.parametrize("sizes", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("width", [1, 2, 4, LENGTH, LENGTH + 5])
@pytest.mark.parametrize("positions", [None, qkv.rotary()], ids=["none", "rotary"])
@pytest.mark.parametrize("bias", [None, qkv.alibi(heads=HEADS)], ids=["no bias", "alibi"])
def test_rolling_equals_a_window_over_the_whole(bias, positions, width, sizes):
    layer, x = layer_of(2, positions=positions), sequence()
    expected = layer(x, mask=qkv.window(width), bias=bias)
    for mask in (None, qkv.causal(), qkv.window(width)):
        assert_same(in_steps(layer, x, RollingCache(width), sizes, mask=mask, bias=bias), expected)


def test_rolling_keeps_a_fixed_memory():
    layer, cache = layer_of(), RollingCache(4)
    for size in (1, 1, 9, 1, 1, 1):
        layer(sequence(size), cache=cache)
        assert cache.key.shape[-2] <= 3
        assert cache.key.untyped_storage().nbytes() <= 2 * HEADS * 7 * 2 * 8
    assert cache.position == 14


# Ragged


@pytest.mark.parametrize("chunks", [[6], [4, 2], [1] * 6, [3, 3]], ids=str)
@pytest.mark.parametrize("steps", [[1] * 5, [3, 2]], ids=str)
@pytest.mark.parametrize("positions", [None, qkv.rotary()], ids=["none", "rotary"])
@pytest.mark.parametrize(
    "make",
    [
        lambda offset: {"mask": qkv.causal(offset=offset)},
        lambda offset: {"mask": qkv.window(3, offset=offset)},
        lambda offset: {"mask": qkv.causal(offset=offset), "bias": qkv.alibi(heads=HEADS, offset=offset)},
        lambda offset: {"mask": qkv.causal(offset=offset) & (qkv.window(3, offset=offset) | qkv.prefix(1))},
    ],
    ids=["causal", "window", "alibi", "prefix"],
)
def test_ragged_rows_equal_each_row_alone(make, positions, steps, chunks):
    layer, lengths, width = layer_of(2, positions=positions), torch.tensor([6, 2, 0, 5]), 6
    prompts, after = sequence(width, (4,)), sequence(sum(steps), (4,)) + 1
    prompts[torch.arange(width) >= lengths[:, None]] = 1e3
    cache = RaggedCache(lengths, width)
    outputs = [layer(part, cache=cache, **make(cache.offset)) for part in prompts.split(chunks, dim=1)]
    grown = [layer(part, cache=cache, **make(cache.offset)) for part in after.split(steps, dim=1)]
    prefilled, grown = torch.cat(outputs, dim=1), torch.cat(grown, dim=1)
    for row, length in enumerate(lengths.tolist()):
        whole = torch.cat((prompts[row, :length], after[row]))
        expected = layer(whole, **make(0))
        assert_same(prefilled[row, :length], expected[:length])
        assert_same(grown[row], expected[length:])
    assert torch.equal(cache.position, lengths + sum(steps))


def test_ragged_padding_that_is_nan_reaches_nobody():
    layer, lengths = layer_of(), torch.tensor([3, 1])
    prompts, token = sequence(3), sequence(1) + 1
    prompts[1, 1:] = torch.nan
    cache = RaggedCache(lengths, 3)
    first = layer(prompts, mask=qkv.causal(offset=cache.offset), cache=cache)
    after = layer(token, mask=qkv.causal(offset=cache.offset), cache=cache)
    assert first[0].isfinite().all() and first[1, :1].isfinite().all() and after.isfinite().all()


# Errors


def filled(cache, batch=2, heads=2, new=3, dim=4, dtype=torch.float32):
    cache.extend(torch.ones(batch, heads, new, dim, dtype=dtype), torch.ones(batch, heads, new, dim, dtype=dtype))
    return cache


@pytest.mark.parametrize("make", [Cache, lambda: RollingCache(4)], ids=["growing", "rolling"])
@pytest.mark.parametrize(
    "other, kind, text",
    [
        ({"batch": 3}, errors.ShapeError, "must have the cache's [*batch, heads] and dim [2, 2], 4; got [3, 2, 3, 4]"),
        ({"heads": 1}, errors.ShapeError, "must have the cache's [*batch, heads] and dim [2, 2], 4; got [2, 1, 3, 4]"),
        ({"dim": 5}, errors.ShapeError, "must have the cache's [*batch, heads] and dim [2, 2], 4; got [2, 2, 3, 5]"),
        (
            {"dtype": torch.float64},
            errors.KindError,
            "must be torch.float32 on cpu, as in the cache; got torch.float64 on cpu",
        ),
    ],
)
def test_what_does_not_fit_the_cache(make, other, kind, text):
    cache = filled(make())
    name = type(cache).__name__
    with pytest.raises(kind) as raised:
        filled(cache, **other)
    fix = " (another sequence needs a cache of its own)" if kind is errors.ShapeError else ""
    assert str(raised.value) == f"{name}: key {text}{fix}"
    assert cache.seen == 3


@pytest.mark.unhooked
@pytest.mark.parametrize(
    "make, kind, text",
    [
        (lambda: Cache(0), errors.ArgumentError, "Cache: capacity must be >= 1; got 0"),
        (lambda: Cache(2.0), errors.KindError, "Cache: capacity must be an integer; got float"),
        (
            lambda: filled(filled(Cache(4))),
            errors.ArgumentError,
            "Cache: the keys must fit in the capacity 4; got 6 (3 kept, 3 new)",
        ),
        (
            lambda: RollingCache(0),
            errors.ArgumentError,
            "RollingCache: window must be >= 1; got 0 (it counts the query itself)",
        ),
        (
            lambda: Cache().extend(torch.ones(2, 1, 3, 4), torch.ones(2, 1, 2, 4)),
            errors.ShapeError,
            "Cache: value must have the key's batch, heads and positions [2, 1, 3]; got [2, 1, 2, 4]",
        ),
        (
            lambda: Cache().extend(None, torch.ones(2, 1, 3, 4)),
            errors.KindError,
            "Cache: key must be a tensor; got NoneType",
        ),
        (
            lambda: RollingCache(4).extend(torch.ones(2, 1, 3, 4), torch.ones(4)),
            errors.ShapeError,
            "RollingCache: value must have the shape [*batch, heads, positions, dim]; got [4] (positions and heads: "
            "view(1, 1, dim))",
        ),
        (
            lambda: filled(Cache(), dtype=torch.long),
            errors.KindError,
            "Cache: key must be a floating tensor; got torch.int64 (key.float())",
        ),
        (
            lambda: Cache().extend(torch.ones(2, 1, 3, 4), torch.ones(2, 1, 3, 4).double()),
            errors.KindError,
            "Cache: value must be torch.float32 on cpu, as the key; got torch.float64 on cpu",
        ),
        (
            lambda: RaggedCache([1, 2], 3),
            errors.KindError,
            "RaggedCache: lengths must be a tensor of integers; got list (one for each row)",
        ),
        (
            lambda: RaggedCache(torch.tensor([1.0]), 3),
            errors.KindError,
            "RaggedCache: lengths must be a tensor of integers; got torch.float32 (one for each row)",
        ),
        (
            lambda: RaggedCache(torch.tensor([1, 4]), 3),
            errors.ArgumentError,
            "RaggedCache: lengths must lie in 0..3; got 4 (there are 3 positions in a prompt)",
        ),
        (
            lambda: RaggedCache(torch.tensor([1, 2]), -1),
            errors.ArgumentError,
            "RaggedCache: width must be >= 0; got -1 (the padded length of the prompts)",
        ),
        (
            lambda: filled(RaggedCache(torch.tensor([1]), 3)),
            errors.ShapeError,
            "RaggedCache: key must have the batch [1]; got [2, 2, 3, 4]",
        ),
        (
            lambda: filled(RaggedCache(torch.tensor([1, 2], device="meta"), 3)),
            errors.KindError,
            "RaggedCache: lengths must hold numbers, as the query on cpu does; got a meta tensor",
        ),
        (
            lambda: filled(filled(RaggedCache(torch.tensor([1, 4]), 4))),
            errors.ArgumentError,
            "RaggedCache: new keys must end with the prompts, at 4, or before; got 6 (then go on in a new call)",
        ),
    ],
)
def test_errors(make, kind, text):
    with pytest.raises(kind) as raised:
        make()
    assert str(raised.value) == text


@pytest.mark.unhooked
def test_a_mask_that_is_none_is_refused():
    with pytest.raises(errors.KindError, match="&: the other side must be a mask; got str"):
        layer_of()(sequence(), mask="causal", cache=RollingCache(4))
    cache = Cache()
    with pytest.raises(errors.KindError, match=r"dense_mask: tensor must be boolean; got torch\.float64"):
        layer_of()(sequence(), mask=sequence(), cache=cache)
    assert cache.seen == 0


def test_gradients_are_refused():
    with torch.enable_grad(), pytest.raises(errors.UnsupportedError) as raised:
        layer_of()(sequence(), cache=Cache())
    text = "Cache: key and value must not require gradients; got True (with torch.no_grad(): ...)"
    assert str(raised.value) == text


def test_repr():
    assert repr(filled(RollingCache(4))) == "RollingCache(seen=3)"


def test_a_copy_of_a_cache_serves_the_layer_that_is_there() -> None:
    x = torch.randn(1, 3, 8)
    layer, cache = qkv.MultiHead(8, 2).eval(), qkv.Cache()
    with torch.no_grad():
        layer(x, mask=qkv.causal(), cache=cache)
        for copied in (pickle.loads(pickle.dumps(cache)), copy.deepcopy(cache)):
            there = copy.deepcopy(layer)
            expected = layer(x[:, :1], mask=qkv.causal(), cache=copy.deepcopy(cache))
            torch.testing.assert_close(there(x[:, :1], mask=qkv.causal(), cache=copied), expected)


@pytest.mark.parametrize(
    "make",
    [lambda: Cache(), lambda: Cache(9), lambda: RollingCache(3), lambda: RaggedCache(torch.tensor([4, 1, 2]), 4)],
)
@pytest.mark.parametrize("rows", [[2, 0, 1], [1, 1, 1], [0, 2, 2, 1], [2]])
def test_reordered_rows_go_on_as_those_they_became(make, rows):
    first, then = torch.randn(2, 3, 2, 4, 5), torch.randn(2, 4, 2, 1, 5)[:, : len(rows)]
    cache, straight = make(), make()
    cache.extend(*first)
    cache.reorder(torch.tensor(rows))
    if isinstance(straight, RaggedCache):
        straight.lengths = straight.lengths[rows]
    straight.extend(*first[:, rows])
    for got, expected in zip(cache.extend(*then)[:2], straight.extend(*then)[:2], strict=True):
        assert torch.equal(got, expected)
    assert torch.equal(torch.as_tensor(cache.position), torch.as_tensor(straight.position))


@pytest.mark.parametrize("make", [Cache, lambda: RaggedCache(torch.tensor([4, 2, 3]), 4)])
def test_a_reordering_copies_once_and_its_stores_take_turns(make):
    cache, straight = make(), make()
    first = torch.randn(2, 3, 2, 4, 5)
    cache.extend(*first)
    straight.extend(*first)
    cache.reorder(torch.tensor([0, 1, 2]))
    stores = {x.data_ptr() for x in (cache.key, cache.value, cache._spare)}
    with torch.profiler.profile() as ran:
        cache.reorder(torch.tensor([2, 2, 0]))
    names = [event.name for event in ran.events()]
    # One for the key, one for the value, and one of the lengths where they differ.
    assert names.count("aten::index_select") == 2 + isinstance(cache, RaggedCache) and "aten::copy_" not in names
    assert {x.data_ptr() for x in (cache.key, cache.value, cache._spare)} == stores
    assert torch.equal(cache.key[..., :4, :], first[0][[2, 2, 0]])
    assert torch.equal(cache.value[..., :4, :], first[1][[2, 2, 0]])


def test_a_reordering_that_fails_leaves_the_cache_as_it_was():
    cache, first = Cache(), torch.randn(2, 2, 2, 4, 5)
    cache.extend(*first)
    cache.reorder(torch.tensor([0, 1]))
    for _ in range(2):
        with pytest.raises(IndexError):
            cache.reorder(torch.tensor([0, 5]))
    cache.reorder(torch.tensor([1, 0]))
    assert torch.equal(cache.key[..., :4, :], first[0].flip(0)) and torch.equal(
        cache.value[..., :4, :], first[1].flip(0)
    )


def test_an_empty_cache_has_nothing_to_reorder():
    cache = Cache()
    cache.reorder(torch.tensor([1, 0]))
    assert cache.seen == 0 and cache.key is None


@pytest.mark.unhooked
def test_rows_are_integers():
    with pytest.raises(errors.KindError) as raised:
        Cache().reorder(torch.tensor([0.0]))
    assert str(raised.value) == "Cache: rows must be a tensor of integers; got torch.float32"


def test_what_is_written_into_room_is_kept():
    key, value = torch.randn(2, 3, 2, 4, 5)
    cache, straight = Cache(), Cache()
    cache.extend(key, value)
    straight.extend(key, value)
    more = torch.randn(2, 3, 2, 1, 5)
    for store, new in zip(cache.make_room(1), more, strict=True):
        assert store.shape[-2] >= 5
        store[..., 4:5, :] = new
    cache.seen += 1
    last = torch.randn(2, 3, 2, 1, 5)
    straight.extend(*more)
    for got, expected in zip(cache.extend(*last)[:2], straight.extend(*last)[:2], strict=True):
        assert torch.equal(got, expected)
