"""What is compared with whom, by name. Each case checks first that all agree."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional as F
from torch.nn.attention.flex_attention import create_block_mask

import qkv


@dataclass(frozen=True)
class Case:
    """What is compared: ours against each peer, `calls` at a time; `agree` raises unless they give the same."""

    name: str
    ours: Callable[[], object]
    peers: dict[str, Callable[[], object]]
    agree: Callable[[], None]
    calls: int = 1


def inputs(*shape: int) -> list[torch.Tensor]:
    return [torch.randn(*shape) for _ in range(3)]


def same(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def small_call() -> Case:
    query, key, value = inputs(1, 8, 128, 64)
    ours, sdpa = lambda: qkv.attend(query, key, value), lambda: F.scaled_dot_product_attention(query, key, value)
    return Case("call, 128 keys", ours, {"SDPA": sdpa}, lambda: same(ours(), sdpa()), calls=50)


def small_call_with_mask() -> Case:
    query, key, value = inputs(1, 8, 128, 64)
    mask = qkv.causal()
    ours = lambda: qkv.attend(query, key, value, mask=mask)  # noqa: E731
    sdpa = lambda: F.scaled_dot_product_attention(query, key, value, is_causal=True)  # noqa: E731
    return Case("causal call, 128 keys", ours, {"SDPA": sdpa}, lambda: same(ours(), sdpa()), calls=50)


def dense() -> Case:
    query, key, value = inputs(1, 8, 1024, 64)
    ours, sdpa = lambda: qkv.attend(query, key, value), lambda: F.scaled_dot_product_attention(query, key, value)
    return Case("dense, 1,024 keys", ours, {"SDPA": sdpa}, lambda: same(ours(), sdpa()))


LENGTHS = torch.tensor([100, 1024, 300, 200, 500, 150, 600, 157])
"""Eight sequences that fill 37% of 8 × 1,024 positions."""


def masked(name: str, mask: qkv.Mask, *shape: int, training: bool = False) -> Case:
    """A mask of ours against SDPA with the same mask spelled out beforehand."""
    tensors = [x.requires_grad_(training) for x in inputs(*shape)]
    spelled = mask.dense(shape[-2], shape[-2], batch=shape[:1], heads=shape[1])
    above = torch.randn(shape)
    sees = spelled.any(-1, keepdim=True)

    def step(attend: Callable[..., torch.Tensor]) -> Callable[[], object]:
        if not training:
            return lambda: attend(*tensors)
        return lambda: torch.autograd.grad(attend(*tensors), tensors, above * sees)

    ours = step(lambda *x: qkv.attend(*x, mask=mask))
    theirs = step(lambda *x: F.scaled_dot_product_attention(*x, attn_mask=spelled))

    def agree() -> None:
        pairs = zip(ours(), theirs(), strict=True) if training else [(ours(), theirs())]
        for one, other in pairs:
            torch.testing.assert_close(one, other.nan_to_num() * sees if not training else other, rtol=1e-3, atol=1e-4)

    return Case(name, ours, {"SDPA, mask given": theirs}, agree)


def window() -> Case:
    return masked("window 257 of 4,096", qkv.window(257), 1, 8, 4096, 64)


def window_training() -> Case:
    return masked("window 257 of 4,096, training step", qkv.window(257), 1, 8, 4096, 64, training=True)


def two_sided_window() -> Case:
    return masked("window 128 to each side of 4,096", qkv.window(before=128, after=128), 1, 8, 4096, 64)


def window_and_prefix() -> Case:
    mask = qkv.causal() & (qkv.window(256) | qkv.prefix(4))
    return masked("causal, window 256 or prefix 4 of 4,096", mask, 1, 8, 4096, 64)


def odd_window() -> Case:
    return masked("window 100 of 1,777, 3 heads of 40", qkv.window(100), 2, 3, 1777, 40)


def bigbird() -> Case:
    return masked("BigBird, blocks of 64, of 4,096", qkv.bigbird(64), 1, 8, 4096, 64)


def ragged() -> Case:
    return masked("8 ragged sequences, keys hidden", qkv.padding(keys=LENGTHS), 8, 8, 1024, 64)


def ragged_training() -> Case:
    return masked("8 ragged, keys hidden, training step", qkv.padding(keys=LENGTHS), 8, 8, 1024, 64, training=True)


def ragged_both() -> Case:
    mask = qkv.padding(keys=LENGTHS, queries=LENGTHS)
    return masked("8 ragged, keys and queries", mask, 8, 8, 1024, 64)


def ragged_both_training() -> Case:
    mask = qkv.padding(keys=LENGTHS, queries=LENGTHS)
    return masked("8 ragged, keys and queries, training step", mask, 8, 8, 1024, 64, training=True)


def packed() -> Case:
    mask = qkv.documents(LENGTHS) & qkv.causal()
    return masked("8 documents packed, causal", mask, 1, 8, int(LENGTHS.sum()), 64)


def growth() -> Case:
    """A window over 32,768 positions takes 16 times what it takes over 2,048: the ratio to reach is 16."""
    short, long = inputs(1, 8, 2048, 64), inputs(1, 8, 32768, 64)
    mask = qkv.window(256)
    return Case(
        "window 256 of 2,048",
        lambda: qkv.attend(*short, mask=mask),
        {"the same of 32,768 (16 is linear)": lambda: qkv.attend(*long, mask=mask)},
        lambda: None,
    )


def alibi() -> Case:
    query, key, value = inputs(1, 8, 2048, 64)
    rows = torch.arange(2048)
    bias = qkv.alibi(8).tile(rows, rows, qkv.Grid((1,), 8, 2048, 2048)).masked_fill(rows > rows[:, None], -torch.inf)
    ours = lambda: qkv.attend(query, key, value, mask=qkv.causal(), bias=qkv.alibi(8))  # noqa: E731
    sdpa = lambda: F.scaled_dot_product_attention(query, key, value, attn_mask=bias[None])  # noqa: E731
    return Case("causal ALiBi of 2,048", ours, {"SDPA, bias given": sdpa}, lambda: same(ours(), sdpa()))


def planning() -> Case:
    mask, grid = qkv.causal() & qkv.window(257), qkv.Grid((), 1, 4096, 4096)

    def visible(batch: object, head: object, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (key <= query) & (key > query - 257)

    def theirs() -> object:
        return create_block_mask(visible, None, None, 4096, 4096, device="cpu", BLOCK_SIZE=128)

    def agree() -> None:
        some, _ = mask.runs(128, grid)
        blocks = some.cover().unflatten(-1, (-1, 128)).any(-1)
        assert torch.equal(blocks, theirs().to_dense()[0, 0].bool())

    return Case("planning, 4,096 × 4,096", lambda: mask.runs(128, grid), {"create_block_mask": theirs}, agree, calls=5)


def statistics_of_a_map() -> Case:
    query, key, value = inputs(1, 1, 16384, 64)

    def ours() -> object:
        return qkv.attention_map(query, key).statistics(8)

    def sdpa() -> object:
        return F.scaled_dot_product_attention(query, key, value)

    def agree() -> None:
        few = query[..., :64, :]
        weights = (few @ key.mT / 8).softmax(-1)
        told = qkv.attention_map(few, key).statistics(8)
        same(told.top_weights, weights.topk(8).values)
        same(told.entropy, -(weights * weights.log()).sum(-1))
        same(told.received, weights.sum(-2))

    name = "statistics: top 8, entropy, received of 16,384 × 16,384"
    return Case(name, ours, {"SDPA output": sdpa}, agree)


def trained(call: Callable[[], torch.Tensor], leaves: list[torch.Tensor]) -> Callable[[], tuple[torch.Tensor, ...]]:
    """Make a training step: the output's gradients."""
    return lambda: torch.autograd.grad(call().sum(), leaves)


def dropout_training() -> Case:
    leaves = [x.requires_grad_() for x in inputs(1, 8, 2048, 64)]

    def agree() -> None:
        found = []
        for impl in ("auto", "reference"):
            torch.manual_seed(0)
            few = [x[:, :1, :256] for x in leaves]
            found.append(torch.autograd.grad(qkv.attend(*few, dropout=0.1, impl=impl).square().sum(), few))
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)

    ours = trained(lambda: qkv.attend(*leaves, dropout=0.1), leaves)
    sdpa = trained(lambda: F.scaled_dot_product_attention(*leaves, dropout_p=0.1), leaves)
    return Case("dropout training, 2,048 keys", ours, {"SDPA with dropout": sdpa}, agree)


def learned_bias_training() -> Case:
    bias = torch.randn(1, 2048, 2048, requires_grad=True)
    leaves = [*(x.requires_grad_() for x in inputs(1, 8, 2048, 64)), bias]
    ours = trained(lambda: qkv.attend(*leaves[:3], bias=bias), leaves)
    sdpa = trained(lambda: F.scaled_dot_product_attention(*leaves[:3], attn_mask=bias[None]), leaves)

    def agree() -> None:
        for one, other in zip(ours(), sdpa(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)

    return Case("learned bias training, 2,048 keys", ours, {"SDPA, bias as mask": sdpa}, agree)


def decode(dtype: torch.dtype) -> Case:
    """A step of generation: 32 query heads, 8 key heads, 16k keys of 128."""
    query, key, value = torch.randn(1, 32, 1, 128), *(torch.randn(1, 8, 16384, 128) for _ in range(2))
    query, key, value = (x.to(dtype) for x in (query, key, value))
    rows = query.view(1, 8, 4, 128)

    def gqa() -> torch.Tensor:
        return F.scaled_dot_product_attention(query, key, value, enable_gqa=True)

    def fold() -> torch.Tensor:
        return F.scaled_dot_product_attention(rows, key, value).view_as(query)

    def read() -> object:
        # The same bytes, summed as float32: what memory gives.
        return key.view(torch.float32).sum(), value.view(torch.float32).sum()

    def agree() -> None:
        exact = F.scaled_dot_product_attention(query.double(), key.double(), value.double(), enable_gqa=True)
        ours, theirs = ((output - exact).abs().max() for output in (qkv.attend(query, key, value), gqa()))
        assert ours <= 2 * theirs, f"{ours} is more than twice {theirs}"

    peers = {"SDPA, enable_gqa": gqa, "SDPA, heads folded": fold, "plain read": read}
    return Case(f"decode {str(dtype)[6:]}", lambda: qkv.attend(query, key, value), peers, agree)


def decode_float32() -> Case:
    return decode(torch.float32)


def decode_bfloat16() -> Case:
    return decode(torch.bfloat16)


def additive_inputs(keys: int = 1024, hidden: int = 64, dim: int = 64) -> tuple[qkv.Additive, list[torch.Tensor]]:
    """Draw a score, and query, key and value for it."""
    shapes = ((hidden,), (hidden,), (dim,))
    return qkv.Additive(hidden, hidden, hidden), [torch.randn(1, 1, keys, *shape) for shape in shapes]


def additive_broadcast(
    score: qkv.Additive, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> torch.Tensor:
    """Attend by additive scores as one writes it: every pair's features are stored."""
    query, key = score.prepare(query, key)
    return (torch.tanh(query.unsqueeze(-2) + key.unsqueeze(-3)) @ score.vector).softmax(-1) @ value


def additive_peers(run: Callable[..., object]) -> dict[str, Callable[[], object]]:
    """Give the broadcast, and the same compiled where there is a compiler."""
    peers = {"broadcast": lambda: run(additive_broadcast)}
    if shutil.which("g++"):
        compiled = torch.compile(additive_broadcast, dynamic=False)
        peers["broadcast, compiled"] = lambda: run(compiled)
    else:
        print("no compiler here: the compiled peer of additive attention is left out")
    return peers


def additive_forward() -> Case:
    score, tensors = additive_inputs()
    fused = lambda score, *tensors: qkv.attend(*tensors, score=score, impl="additive")  # noqa: E731

    @torch.no_grad()
    def run(attend: Callable[..., torch.Tensor]) -> torch.Tensor:
        return attend(score, *tensors)

    def agree() -> None:
        same(run(fused), run(additive_broadcast))

    return Case("additive, 1,024 keys", lambda: run(fused), additive_peers(run), agree)


def additive_training() -> Case:
    score, tensors = additive_inputs()
    leaves = [x.requires_grad_() for x in tensors] + list(score.parameters())
    upstream = torch.randn(1, 1, 1024, 64)
    fused = lambda score, *tensors: qkv.attend(*tensors, score=score, impl="additive")  # noqa: E731

    def run(attend: Callable[..., torch.Tensor]) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(attend(score, *tensors), leaves, upstream)

    def agree() -> None:
        for ours, theirs in zip(run(fused), run(additive_broadcast), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)

    return Case("additive, training step", lambda: run(fused), additive_peers(run), agree)


ADDITIVE_MEMORY = """
import resource, torch, qkv
score = qkv.Additive(64, 64, 64)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
def step(keys):
    tensors = [torch.randn(1, 1, keys, 64, requires_grad=True) for _ in range(3)]
    before = peak()
    qkv.attend(*tensors, score=score, impl="additive").sum().backward()
    return peak() - before
step(128)
print(step(16384))
"""


def additive_memory() -> Case:
    """Timed against nobody: a training step of 16,384 × 16,384 pairs stays under 500 MB; eager wants 64 GB."""

    def ours() -> float:
        return float(subprocess.run([sys.executable, "-c", ADDITIVE_MEMORY], capture_output=True, check=True).stdout)

    def agree() -> None:
        above = ours()
        assert above < 500, f"{above:.0f} MB above its inputs"

    return Case("additive, memory of 16,384", lambda: None, {}, agree)


CASES: dict[str, Callable[[], Case]] = {
    make.__name__: make
    for make in (
        small_call,
        small_call_with_mask,
        dense,
        window,
        window_training,
        two_sided_window,
        window_and_prefix,
        odd_window,
        bigbird,
        growth,
        ragged,
        ragged_training,
        ragged_both,
        ragged_both_training,
        packed,
        alibi,
        additive_forward,
        additive_training,
        additive_memory,
        decode_float32,
        decode_bfloat16,
        dropout_training,
        learned_bias_training,
        statistics_of_a_map,
        planning,
    )
}
