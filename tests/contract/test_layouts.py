"""However tensors come (strided, half by autocast, without values, traced, mapped), the result is right or refused."""

import copy
import shutil
from collections.abc import Callable

import pytest
import torch
from budget import assert_within
from cases import PARTS, STRAIGHT_THROUGH, Case, case_of, inputs
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn import functional as F
from torch.testing import assert_close

import qkv
from qkv.core.card import Card

each_part = pytest.mark.parametrize("card", PARTS, ids=lambda card: card.name)
each_smooth_part = pytest.mark.parametrize(
    "card", [card for card in PARTS if card.name not in STRAIGHT_THROUGH], ids=lambda card: card.name
)
each_fused_part = pytest.mark.parametrize(
    "card",
    [card for card in PARTS if qkv.explain(*inputs(), **case_of(card).parts).backend != "reference"],
    ids=lambda card: card.name,
)
each_path = pytest.mark.parametrize("impl", ["auto", "reference"])


def attention(case: Case, impl: str = "auto") -> Callable[..., Tensor]:
    """Bind the choices."""

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return qkv.attend(query, key, value, **case.parts, impl=impl)

    return attend


def with_gradients(attend: Callable[..., Tensor], tensors: tuple[Tensor, ...]) -> list[Tensor]:
    """Give the output and the gradient of each input, which keeps its strides."""
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    output = attend(*leaves)
    upstream = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape)
    return [output.detach(), *torch.autograd.grad(output, leaves, upstream, materialize_grads=True)]


# Strides


def transposed(x: Tensor) -> Tensor:
    """Lay heads inside positions, as a projection leaves them."""
    return x.transpose(-3, -2).contiguous().transpose(-3, -2)


def columns_first(x: Tensor) -> Tensor:
    """Lay positions inside features."""
    return x.transpose(-2, -1).contiguous().transpose(-2, -1)


def offset(x: Tensor) -> Tensor:
    """Cut out of something larger, every second feature."""
    around = torch.full((*x.shape[:-2], x.shape[-2] + 3, 2 * x.shape[-1] + 1), torch.nan)
    cut = around[..., 2:-1, 1::2]
    return cut.copy_(x)


def expanded(x: Tensor) -> Tensor:
    """Stand one example for all, without copies."""
    return x[:1].expand(x.shape)


MIXED, SHARED = (transposed, columns_first, offset), (expanded, expanded, expanded)


@pytest.mark.parametrize("layouts", [MIXED, SHARED], ids=["mixed", "expanded"])
@each_path
@each_part
def test_strides_do_not_matter(card: Card, impl: str, layouts: tuple[Callable[[Tensor], Tensor], ...]) -> None:
    strided = tuple(layout(x) for layout, x in zip(layouts, inputs(), strict=True))
    assert not any(x.is_contiguous() for x in strided)
    attend = attention(case_of(card), impl)
    for got, want in zip(
        with_gradients(attend, strided), with_gradients(attend, tuple(x.contiguous() for x in strided)), strict=True
    ):
        assert_close(got, want)


# Autocast


@each_path
@each_part
def test_autocast_casts_the_inputs_as_sdpa_casts_its_own(card: Card, impl: str) -> None:
    tensors = inputs()
    attend = attention(case_of(card), impl)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert F.scaled_dot_product_attention(*tensors).dtype == torch.bfloat16
        got = attend(*tensors)
        want = attend(*(x.bfloat16() for x in tensors))
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, want)


@each_path
def test_without_weights_autocast_is_a_cast(impl: str) -> None:
    tensors = inputs()
    attend = attention(Case("causal", {"mask": qkv.causal()}), impl)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = with_gradients(attend, tensors)
        assert attend(*(x.double() for x in tensors)).dtype == torch.float64
    assert [x.dtype for x in got] == [torch.bfloat16, torch.float32, torch.float32, torch.float32]
    assert torch.equal(got[0], attend(*(x.bfloat16() for x in tensors)))


@pytest.mark.parametrize("score", [qkv.Additive(query=8, key=8, hidden=5), qkv.Bilinear(query=8, key=8)], ids=str)
def test_learned_scores_under_autocast(score: torch.nn.Module) -> None:
    query, key, value = inputs()
    exact = qkv.attend(query.double(), key.double(), value.double(), score=copy.deepcopy(score).double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = qkv.attend(query, key, value, score=score)
        if isinstance(score, qkv.Additive):
            for_query, for_key = score.weight.split(8, dim=1)
            met = F.linear(query, for_query).unsqueeze(-2) + F.linear(key, for_key).unsqueeze(-3)
            scores = met.tanh() @ score.vector
        else:
            scores = F.linear(query, score.weight) @ key.transpose(-2, -1)
        plain = scores.softmax(-1) @ value
    assert got.dtype == plain.dtype == torch.bfloat16
    assert_within(got, exact.detach(), plain.detach(), value)


# Without values


@each_path
@each_part
def test_meta_tensors_give_a_shape(card: Card, impl: str) -> None:
    case = case_of(card)
    parts = {name: part.to("meta") if isinstance(part, torch.nn.Module) else part for name, part in case.parts.items()}
    if card.name == "dense bias":
        parts = {"bias": torch.zeros(5, 7, device="meta")}
    output = attention(Case(card.name, parts), impl)(*(x.to("meta") for x in inputs()))
    assert output.device.type == "meta" and output.shape == inputs()[0].shape


def test_a_sink_moves_with_its_module() -> None:
    for logits in (torch.zeros(2), torch.nn.Parameter(torch.zeros(2))):
        moved = torch.nn.Sequential(qkv.sink(logits)).to("meta", torch.float64)
        assert (moved[0].logits.device.type, moved[0].logits.dtype) == ("meta", torch.float64)
    assert [name for name, _ in moved.named_parameters()] == ["0.logits"]


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ({"bias": qkv.T5Relative(heads=2)}, "T5Relative: weight must be on the query's device meta; got cpu"),
        ({"select": qkv.sink(torch.zeros(2))}, "sink: logits must be on the query's device meta; got cpu"),
        ({"bias": torch.zeros(5, 7)}, "bias: the tensor must be on the query's device meta; got cpu"),
    ],
    ids=["T5", "sink", "dense bias"],
)
def test_what_is_learned_must_be_where_the_query_is(parts: dict, text: str) -> None:
    with pytest.raises(qkv.KindError, match=f"^{text}$"):
        qkv.attend(*(x.to("meta") for x in inputs()), **parts)


@each_path
@each_part
def test_fake_tensors_give_a_shape_and_read_nothing(card: Card, impl: str) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        output = attention(case_of(card), impl)(*(mode.from_tensor(x) for x in inputs()))
    assert isinstance(output, FakeTensor) and output.shape == inputs()[0].shape and output.device.type == "cpu"


# Mapped


@each_path
@each_part
def test_vmap_is_a_loop(card: Card, impl: str) -> None:
    attend = attention(case_of(card), impl)
    queries, keys, values = (torch.stack([x, 1 - x, x * 2]) for x in inputs())
    got = torch.func.vmap(attend)(queries, keys, values)
    assert_close(got, torch.stack([attend(*each) for each in zip(queries, keys, values, strict=True)]))
    shared = torch.func.vmap(attend, in_dims=(0, None, None))(queries, keys[1], values[1])
    assert_close(shared, torch.stack([attend(query, keys[1], values[1]) for query in queries]))


@each_path
def test_vmap_of_gradients_is_a_loop(impl: str) -> None:
    attend = attention(Case("causal", {"mask": qkv.causal()}), impl)
    stacked = tuple(torch.stack([x, 1 - x, x * 2]) for x in inputs())

    def loss(*tensors: Tensor) -> Tensor:
        return attend(*tensors).square().sum()

    got = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1, 2)))(*stacked)
    each = [torch.func.grad(loss, argnums=(0, 1, 2))(*sample) for sample in zip(*stacked, strict=True)]
    for name, mapped, looped in zip(("query", "key", "value"), got, zip(*each, strict=True), strict=True):
        assert_close(mapped, torch.stack(looped), msg=lambda text, name=name: f"{name}: {text}")


@each_path
def test_vmap_over_masks_and_lengths_is_a_loop(impl: str) -> None:
    query, key, value = inputs()
    masks = torch.rand(3, 5, 7, generator=torch.Generator().manual_seed(0)) > 0.5
    lengths = torch.tensor([[0, 7], [3, 4], [7, 1]])

    def masked(mask: Tensor) -> Tensor:
        return qkv.attend(query, key, value, mask=mask, impl=impl)

    def padded(length: Tensor) -> Tensor:
        return qkv.attend(query, key, value, mask=qkv.padding(keys=length), impl=impl)

    for attend, mapped in ((masked, masks), (padded, lengths)):
        assert_close(torch.func.vmap(attend)(mapped), torch.stack([attend(each) for each in mapped]))


# Forward mode and double backward


def doubles(case: Case) -> tuple[Case, list[Tensor]]:
    return case.to(torch.float64), [x.requires_grad_() for x in inputs(torch.float64)]


@each_smooth_part
def test_forward_mode_and_double_backward_of_the_definition(card: Card) -> None:
    case, tensors = doubles(case_of(card))
    attend = attention(case, "reference")
    assert torch.autograd.gradcheck(attend, tensors, check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(attend, tensors, fast_mode=True)


@each_fused_part
def test_forward_mode_of_a_fast_path_is_right_or_refused(card: Card) -> None:
    case, tensors = doubles(case_of(card))
    try:
        assert torch.autograd.gradcheck(attention(case), tensors, check_forward_ad=True, fast_mode=True)
    except NotImplementedError as refusal:
        assert "to use forward AD with" in str(refusal) or "to use it with forward mode AD" in str(refusal)


@each_fused_part
def test_double_backward_of_a_fast_path_is_right_or_refused(card: Card) -> None:
    case, tensors = doubles(case_of(card))
    try:
        assert torch.autograd.gradgradcheck(attention(case), tensors, fast_mode=True)
    except RuntimeError as refusal:
        assert any(text in str(refusal) for text in ("backward is not implemented", "whose gradient has a gradient"))


# Compiled


@pytest.fixture
def fresh_compiler() -> None:
    torch.compiler.reset()


@pytest.mark.compile
@each_part
def test_compiles_whole_with_its_backward(card: Card, fresh_compiler: None) -> None:
    attend = attention(case_of(card))
    compiled = torch.compile(attend, fullgraph=True, backend="aot_eager")
    for got, want in zip(with_gradients(compiled, inputs()), with_gradients(attend, inputs()), strict=True):
        assert_close(got, want)


@pytest.mark.compile
@pytest.mark.parametrize("impl", ["sdpa", "reference"])
def test_compiles_whole_for_any_length(impl: str, fresh_compiler: None) -> None:
    attend = attention(Case("causal and window", {"mask": qkv.causal() & qkv.window(3)}), impl)
    compiled = torch.compile(attend, fullgraph=True, backend="eager", dynamic=True)
    for keys in (5, 7, 9):
        assert_close(compiled(*inputs(keys=keys)), attend(*inputs(keys=keys)))


def built_within(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    keys = torch.tensor([4, 7])
    mask = (qkv.causal() | qkv.prefix(2)) & qkv.padding(keys=keys)
    score = qkv.soft_cap(qkv.scaled_dot(), 3.0)
    return qkv.attend(query, key, value, score=score, bias=qkv.alibi(heads=2), mask=mask, select=qkv.entmax15())


def mapped_within(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    output, weights = qkv.attend_with_map(query, key, value, mask=qkv.causal())
    return output + weights.entropy()[..., None]


def autocast_within(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return qkv.attend(query, key, value, mask=qkv.causal(), select=qkv.sparsemax())


@pytest.mark.compile
@pytest.mark.parametrize("function", [built_within, mapped_within, autocast_within])
def test_compiles_whole_what_is_built_within(function: Callable[..., Tensor], fresh_compiler: None) -> None:
    compiled = torch.compile(function, fullgraph=True, backend="eager")
    assert_close(compiled(*inputs()), function(*inputs()))


@pytest.mark.compile
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor compiles for the CPU by g++")
def test_compiles_to_machine_code(fresh_compiler: None) -> None:
    attend = attention(Case("causal", {"mask": qkv.causal() & qkv.window(3), "select": qkv.sparsemax()}))
    compiled = torch.compile(attend, fullgraph=True)
    for got, want in zip(with_gradients(compiled, inputs()), with_gradients(attend, inputs()), strict=True):
        assert_close(got, want)
