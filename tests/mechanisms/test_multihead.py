"""Multi-head attention: the definition by hand, torch's own module both ways, grouped heads, the choices, errors."""

import math

import pytest
import torch
from budget import assert_within
from torch import nn

import qkv
from qkv import MultiHead, errors

SEEN = torch.tensor([[True] * 7, [True] * 4 + [False] * 3])


def draw(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def scramble(module):
    """Give every parameter its own numbers: biases start at 0, which would hide a mistake."""
    with torch.no_grad():
        for index, parameter in enumerate(module.parameters()):
            parameter.copy_(draw(*parameter.shape, seed=100 + index) * 0.4)
    return module


def by_hand(layer, x, memory):
    """Head by head, position by position."""
    dim = layer.query.out_features // layer.heads
    group = layer.heads // layer.key_heads
    outputs = []
    for head in range(layer.heads):
        rows = slice(head * dim, (head + 1) * dim)
        shared = slice(head // group * dim, (head // group + 1) * dim)
        query = x @ layer.query.weight[rows].T + layer.query.bias[rows]
        key = memory @ layer.key.weight[shared].T + layer.key.bias[shared]
        value = memory @ layer.value.weight[shared].T + layer.value.bias[shared]
        outputs.append((query @ key.mT / math.sqrt(dim)).softmax(-1) @ value)
    return torch.cat(outputs, -1) @ layer.output.weight.T + layer.output.bias


@pytest.mark.parametrize("key_heads", [4, 2, 1])
@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_is_its_definition(batch, key_heads):
    layer = scramble(MultiHead(8, 4, key_heads=key_heads).double())
    x = draw(*batch, 5, 8)
    torch.testing.assert_close(layer(x), by_hand(layer, x, x), rtol=0, atol=1e-14)


def test_cross_attention_reads_a_memory_of_its_own_width():
    layer = scramble(MultiHead(8, 2, memory=6).double())
    x, memory = draw(2, 5, 8), draw(2, 7, 6, seed=1)
    torch.testing.assert_close(layer(x, memory), by_hand(layer, x, memory), rtol=0, atol=1e-14)


@pytest.mark.parametrize("choices", [{}, {"key_heads": 1, "value_dim": 3}, {"positions": qkv.rotary()}])
def test_a_memory_read_before_is_as_good_and_projected_once(choices):
    layer = scramble(MultiHead(8, 2, memory=6, **choices).double())
    x, memory = draw(2, 5, 8), draw(2, 7, 6, seed=1)
    calls = []
    layer.key.register_forward_hook(lambda *_: calls.append(1))
    read = layer.read(memory)
    mask = qkv.padding(keys=torch.tensor([7, 3]))
    found = layer(x, read, mask=mask), layer.with_map(x, read, mask=mask)[0]
    assert len(calls) == 1
    for each in found:
        torch.testing.assert_close(each, layer(x, memory, mask=mask), rtol=0, atol=0)


def test_each_head_projects_the_whole_embedding():
    layer = MultiHead(8, 2).double()
    x = draw(1, 3, 8).requires_grad_()
    _, seen = layer.with_map(x)
    seen.head(0).dense().square().sum().backward()
    assert (x.grad.abs() > 0).all()


def test_parameters_do_not_depend_on_the_number_of_heads():
    counts = {sum(p.numel() for p in MultiHead(12, heads).parameters()) for heads in (1, 2, 3, 12)}
    assert counts == {4 * 12 * 12 + 4 * 12}


def test_head_widths_can_be_given():
    layer = MultiHead(8, 3, dim=5, value_dim=2, bias=False)
    assert layer.query.out_features == 15 and layer.output.in_features == 6 and layer.output.bias is None
    assert layer(torch.ones(2, 4, 8)).shape == (2, 4, 8)


@pytest.mark.parametrize("memory", [None, 6])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("direction", ["from_torch", "to_torch"])
def test_equals_torch_both_ways(direction, dtype, bias, memory):
    if direction == "from_torch":
        theirs = nn.MultiheadAttention(8, 2, bias=bias, kdim=memory, vdim=memory, batch_first=True, dtype=dtype)
        ours = MultiHead.from_torch(scramble(theirs))
    else:
        ours = scramble(MultiHead(8, 2, memory=memory, bias=bias).to(dtype))
        theirs = ours.to_torch()
    x = draw(2, 5, 8, dtype=dtype)
    source = x if memory is None else draw(2, 7, memory, dtype=dtype, seed=1)
    keep = SEEN[:, : source.shape[1]]
    allowed = draw(5, source.shape[1]) > -0.8
    mask = qkv.padding(keys=keep) & qkv.dense_mask(allowed)
    exact = MultiHead.from_torch(theirs).double()(x.double(), source.double(), mask=mask)
    plain = theirs(x, source, source, key_padding_mask=~keep, attn_mask=~allowed, need_weights=False)[0]
    assert_within(
        ours(x, source, mask=mask),
        exact,
        theirs.float()(
            x.float(), source.float(), source.float(), key_padding_mask=~keep, attn_mask=~allowed, need_weights=False
        )[0],
    )
    assert ours.query.weight.dtype == dtype and plain.dtype == dtype


def test_the_map_is_torchs_weights():
    theirs = scramble(nn.MultiheadAttention(8, 2, batch_first=True, dtype=torch.float64))
    ours, x = MultiHead.from_torch(theirs), draw(2, 7, 8)
    output, seen = ours.with_map(x, mask=qkv.padding(keys=SEEN))
    expected, weights = theirs(x, x, x, key_padding_mask=~SEEN, average_attn_weights=False)
    torch.testing.assert_close(seen.dense(), weights, rtol=0, atol=1e-14)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-14)


def test_copied_weights_are_copies_and_keep_the_mode():
    theirs = nn.MultiheadAttention(8, 2, dropout=0.1).eval()
    ours = MultiHead.from_torch(theirs)
    with torch.no_grad():
        ours.query.weight.zero_()
    assert theirs.in_proj_weight[:8].abs().sum() > 0
    assert not ours.training and ours.dropout == 0.1 and not ours.to_torch().training


@pytest.mark.parametrize(
    "choices",
    [
        {"score": qkv.cosine()},
        {"score": qkv.Additive(query=4, key=4, hidden=3)},
        {"score": qkv.soft_cap(qkv.Bilinear(query=4, key=4), cap=2.0)},
        {"select": qkv.sparsemax()},
        {"select": qkv.topk(2)},
        {"select": qkv.sink(nn.Parameter(torch.tensor([0.5, -0.5])))},
    ],
    ids=lambda choices: str(next(iter(choices.values()))).split("(")[0],
)
@pytest.mark.parametrize("key_heads", [2, 1])
def test_heads_work_with_any_score_and_selection(choices, key_heads):
    layer = scramble(MultiHead(8, 2, key_heads=key_heads, **choices).double())
    x, mask, bias = draw(2, 5, 8), qkv.causal(), qkv.alibi(heads=2)
    heads = [
        linear(x).unflatten(-1, (count, 4)).transpose(1, 2)
        for linear, count in ((layer.query, 2), (layer.key, key_heads), (layer.value, key_heads))
    ]
    expected = layer.output(qkv.attend(*heads, mask=mask, bias=bias, **choices).transpose(1, 2).flatten(-2))
    assert torch.equal(layer(x, mask=mask, bias=bias), expected)


def test_parts_with_parameters_are_trained_with_it():
    layer = MultiHead(8, 2, score=qkv.Additive(query=4, key=4, hidden=3))
    assert {"score.weight", "score.vector"} < dict(layer.named_parameters()).keys()


def test_rotary_turns_query_and_key_before_the_score():
    layer = scramble(MultiHead(8, 2, positions=qkv.rotary()).double())
    x, turn = draw(2, 5, 8), qkv.rotary()
    query, key, value = (
        linear(x).unflatten(-1, (2, 4)).transpose(1, 2) for linear in (layer.query, layer.key, layer.value)
    )
    expected = layer.output(qkv.attend(turn(query), turn(key), value).transpose(1, 2).flatten(-2))
    assert torch.equal(layer(x), expected)


def test_rotary_queries_stand_at_the_end_of_the_memory():
    layer, x = scramble(MultiHead(8, 2, positions=qkv.rotary()).double()), draw(2, 7, 8)
    torch.testing.assert_close(layer(x[:, 4:], x), layer(x)[:, 4:], rtol=0, atol=1e-14)
    assert layer(x, x[:, :0]).shape == (2, 7, 8)


def test_drops_only_while_training():
    layer, x = MultiHead(8, 2, dropout=0.5), draw(2, 5, 8, dtype=torch.float32)
    kept = layer.eval()(x)
    torch.testing.assert_close(layer(x), kept, rtol=0, atol=0)
    assert not torch.equal(layer.train()(x), kept)
    output, seen = layer.with_map(x)
    assert not torch.equal(output, kept)
    torch.testing.assert_close(seen.dense().sum(-1), torch.ones(2, 2, 5))


def test_a_row_without_a_key_gives_the_outputs_bias():
    layer = scramble(MultiHead(8, 2).double())
    output = layer(draw(2, 7, 8), mask=qkv.padding(keys=torch.tensor([7, 0])))
    assert torch.equal(output[1], layer.output.bias.expand(7, 8))


def test_gradients():
    layer = scramble(MultiHead(4, 2, key_heads=1, memory=3).double())
    x, memory = draw(1, 3, 4).requires_grad_(), draw(1, 4, 3, seed=1).requires_grad_()
    parameters = list(layer.parameters())

    def call(x, memory, *values):
        named = dict(zip(dict(layer.named_parameters()), values, strict=True))
        return torch.func.functional_call(layer, named, (x, memory), {"mask": qkv.causal()})

    assert torch.autograd.gradcheck(call, (x, memory, *parameters))


def test_repr_tells_the_choices():
    layer = MultiHead(8, 4, key_heads=2, select=qkv.sparsemax(), dropout=0.1)
    assert layer.extra_repr() == "heads=4, key_heads=2, select=sparsemax(), dropout=0.1"
    assert MultiHead(8, 4).extra_repr() == "heads=4"


@pytest.mark.unhooked
@pytest.mark.parametrize(
    "make, kind, text",
    [
        (lambda: MultiHead(8, 0), errors.ArgumentError, "MultiHead: heads must be >= 1; got 0"),
        (lambda: MultiHead(8.0, 2), errors.KindError, "MultiHead: width must be an integer; got float"),
        (lambda: MultiHead(8, 2, dim=0), errors.ArgumentError, "MultiHead: dim must be >= 1; got 0"),
        (
            lambda: MultiHead(8, 3),
            errors.ArgumentError,
            "MultiHead: heads must divide the width 8; got 3 (or give dim=)",
        ),
        (
            lambda: MultiHead(8, 4, key_heads=3),
            errors.ArgumentError,
            "MultiHead: key_heads must divide the 4 heads; got 3",
        ),
        (
            lambda: MultiHead(8, 2, bias=qkv.alibi(heads=2)),
            errors.KindError,
            "MultiHead: bias must be True or False; got alibi(heads=2) (a bias of positions goes to the call: "
            "module(x, bias=...))",
        ),
        (lambda: MultiHead(8, 2, dropout=2), errors.ArgumentError, "MultiHead: dropout must lie in [0, 1]; got 2"),
        (lambda: MultiHead(8, 2)([1.0]), errors.KindError, "MultiHead: x must be a tensor; got list"),
        (
            lambda: MultiHead(8, 2)(torch.ones(8)),
            errors.ShapeError,
            "MultiHead: x must have the shape [*batch, positions, width]; got [8]",
        ),
        (
            lambda: MultiHead(8, 2)(torch.ones(2, 5, 6)),
            errors.ShapeError,
            "MultiHead: x must have the width 8; got 6 ([2, 5, 6])",
        ),
        (
            lambda: MultiHead(8, 2, memory=6)(torch.ones(2, 5, 8)),
            errors.ShapeError,
            "MultiHead: memory must have the width 6; got 8 ([2, 5, 8])",
        ),
        (
            lambda: MultiHead(8, 2)(torch.ones(2, 5, 8), torch.ones(3, 5, 8)),
            errors.ShapeError,
            "MultiHead: memory must have x's batch [2]; got [3]",
        ),
        (
            lambda: MultiHead(8, 2)(torch.ones(2, 5, 8), MultiHead(8, 2).read(torch.ones(3, 5, 8))),
            errors.ShapeError,
            "MultiHead: memory must have x's batch [2]; got [3]",
        ),
        (
            lambda: MultiHead(8, 2)(torch.ones(2, 5, 8), MultiHead(8, 4).read(torch.ones(2, 5, 8))),
            errors.ShapeError,
            "MultiHead: memory must have 2 heads of 4 features; got 4 of 2 (read it by the layer that takes it)",
        ),
        (
            lambda: MultiHead(8, 2).read(torch.ones(2, 5, 6)),
            errors.ShapeError,
            "MultiHead: memory must have the width 8; got 6 ([2, 5, 6])",
        ),
        (
            lambda: MultiHead(8, 2)(torch.ones(2, 5, 8).double()),
            errors.KindError,
            "MultiHead: x must have the weights' dtype torch.float32; got torch.float64 (module.to(torch.float64))",
        ),
        (
            lambda: MultiHead(8, 2)(torch.ones(2, 5, 8).to_sparse()),
            errors.KindError,
            "MultiHead: x must be a dense tensor; got torch.sparse_coo (.to_dense())",
        ),
        (
            lambda: MultiHead(8, 2)(torch.ones(2, 5, 8), cache=5),
            errors.KindError,
            "MultiHead: cache must be a cache of qkv; got 5 (such as qkv.Cache())",
        ),
        (
            lambda: MultiHead(8, 2)(torch.ones(2, 5, 8), torch.ones(2, 5, 8), cache=qkv.Cache()),
            errors.ArgumentError,
            "MultiHead: cache must be None beside a memory; got Cache(seen=0) (a memory does not grow)",
        ),
    ],
)
def test_errors(make, kind, text):
    with pytest.raises(kind) as raised:
        make()
    assert str(raised.value) == text


@pytest.mark.parametrize(
    "module",
    [
        nn.MultiheadAttention(8, 2, add_bias_kv=True),
        nn.MultiheadAttention(8, 2, add_zero_attn=True),
        nn.MultiheadAttention(8, 2, kdim=4, vdim=6),
    ],
)
def test_what_ours_cannot_be_is_refused(module):
    with pytest.raises(
        errors.UnsupportedError, match="from_torch: module must have kdim = vdim and neither add_bias_kv"
    ):
        MultiHead.from_torch(module)


@pytest.mark.parametrize(
    "module",
    [
        MultiHead(8, 2, key_heads=1),
        MultiHead(8, 2, dim=3),
        MultiHead(8, 2, value_dim=3),
        MultiHead(8, 2, select=qkv.sparsemax()),
        MultiHead(8, 2, score=qkv.cosine()),
        MultiHead(8, 2, positions=qkv.rotary()),
    ],
)
def test_what_torch_cannot_be_is_refused(module):
    with pytest.raises(
        errors.UnsupportedError, match=r"to_torch: the module must have heads of width / heads, a key head"
    ):
        module.to_torch()


@pytest.mark.compile
def test_compiles_in_one_graph():
    layer, x = MultiHead(8, 4, key_heads=2, positions=qkv.rotary()), draw(2, 5, 8, dtype=torch.float32)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, mask=qkv.causal()), layer(x, mask=qkv.causal()))
