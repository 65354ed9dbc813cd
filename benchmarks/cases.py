"""What is compared with whom, by name. Each case checks first that all agree; a sweep is a case for each shape."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch.nn import functional as F
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

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


def plain(name: str, keys: int, *, training: bool = False) -> Case:
    """No mask at all, which SDPA does best: ours is to be that call."""
    tensors = [x.requires_grad_(training) for x in inputs(1, 8, keys, 64)]
    above = torch.randn(1, 8, keys, 64)

    def step(attend: Callable[..., torch.Tensor]) -> Callable[[], object]:
        if not training:
            return lambda: attend(*tensors)
        return lambda: torch.autograd.grad(attend(*tensors), tensors, above)

    def agree() -> None:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
            ours()
        assert any("scaled_dot_product" in event.name for event in seen.events()), "SDPA is not called"
        torch.testing.assert_close(ours(), sdpa())

    ours, sdpa = step(qkv.attend), step(F.scaled_dot_product_attention)
    return Case(name, ours, {"SDPA": sdpa}, agree)


def dense() -> Case:
    return plain("dense, 1,024 keys", 1024)


def dense_training() -> Case:
    return plain("dense, 1,024 keys, training step", 1024, training=True)


def dense_long() -> Case:
    return plain("dense, 4,096 keys", 4096)


def dense_long_training() -> Case:
    return plain("dense, 4,096 keys, training step", 4096, training=True)


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


def seen_in_window(batch: object, head: object, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Say for FlexAttention what a window of 257 shows."""
    return (key <= query) & (key > query - 257)


def window() -> Case:
    case = masked("window 257 of 4,096", qkv.window(257), 1, 8, 4096, 64)
    if not shutil.which("g++"):
        print("no compiler here: FlexAttention is left out")
        return case
    tensors = inputs(1, 8, 4096, 64)
    blocks = create_block_mask(seen_in_window, None, None, 4096, 4096, device="cpu", BLOCK_SIZE=128)
    compiled = torch.compile(flex_attention, dynamic=False)

    def agree() -> None:
        case.agree()
        same(qkv.attend(*tensors, mask=qkv.window(257)), compiled(*tensors, block_mask=blocks))

    peers = {**case.peers, "FlexAttention, compiled": lambda: compiled(*tensors, block_mask=blocks)}
    return replace(case, peers=peers, agree=agree)


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


def nested(case: Case, mask: qkv.Mask, *, training: bool = False) -> Case:
    """Add the same sequences as nested tensors, which hold no padding."""
    padded = inputs(8, 8, 1024, 64)
    leaves = [
        torch.nested.nested_tensor(
            [one[:, :length].transpose(0, 1) for one, length in zip(x, LENGTHS.tolist(), strict=True)],
            layout=torch.jagged,
            requires_grad=training,
        )
        for x in padded
    ]

    def attend() -> torch.Tensor:
        return F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in leaves)).transpose(1, 2).values()

    def theirs() -> object:
        return torch.autograd.grad(attend().sum(), leaves) if training else attend()

    def agree() -> None:
        case.agree()
        ours = qkv.attend(*padded, mask=mask).transpose(1, 2)
        same(torch.cat([x[:length] for x, length in zip(ours, LENGTHS.tolist(), strict=True)]), attend().detach())

    return replace(case, peers={**case.peers, "SDPA, nested": theirs}, agree=agree)


def ragged_both() -> Case:
    mask = qkv.padding(keys=LENGTHS, queries=LENGTHS)
    return nested(masked("8 ragged, keys and queries", mask, 8, 8, 1024, 64), mask)


def ragged_both_training() -> Case:
    mask = qkv.padding(keys=LENGTHS, queries=LENGTHS)
    case = masked("8 ragged, keys and queries, training step", mask, 8, 8, 1024, 64, training=True)
    return nested(case, mask, training=True)


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


GROWTH = """
import resource, sys, torch, qkv
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
mask = qkv.window(256)
def step(positions):
    tensors = [torch.randn(1, 8, positions, 64) for _ in range(3)]
    before = peak()
    qkv.attend(*tensors, mask=mask)
    return peak() - before
step(1024)
print(step(int(sys.argv[1])))
"""


def growth_memory() -> Case:
    """Timed against nobody: over 4 times the positions a window takes at most 4 times the memory, and 20%."""

    def agree() -> None:
        few, many = (measured(GROWTH, positions) for positions in (8192, 32768))
        assert many <= 4 * few * 1.2, f"{few:.0f} MB over 8,192 positions, {many:.0f} MB over 32,768"

    return Case("window 256, memory of 8,192 and 32,768", lambda: None, {}, agree)


def alibi() -> Case:
    query, key, value = inputs(1, 8, 2048, 64)
    rows = torch.arange(2048)
    bias = qkv.alibi(8).tile(rows, rows, qkv.Grid((1,), 8, 2048, 2048)).masked_fill(rows > rows[:, None], -torch.inf)
    ours = lambda: qkv.attend(query, key, value, mask=qkv.causal(), bias=qkv.alibi(8))  # noqa: E731
    sdpa = lambda: F.scaled_dot_product_attention(query, key, value, attn_mask=bias[None])  # noqa: E731
    return Case("causal ALiBi of 2,048", ours, {"SDPA, bias given": sdpa}, lambda: same(ours(), sdpa()))


def planning() -> Case:
    mask, grid = qkv.causal() & qkv.window(257), qkv.Grid((), 1, 4096, 4096)

    def theirs() -> object:
        return create_block_mask(seen_in_window, None, None, 4096, 4096, device="cpu", BLOCK_SIZE=128)

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


def statistics_of_a_window() -> Case:
    query, key, value = inputs(1, 1, 16384, 64)
    mask = qkv.window(257)

    def agree() -> None:
        few = [x[..., :512, :] for x in (query, key)]
        told, weights = qkv.attention_map(*few, mask=mask).statistics(8), qkv.attention_map(*few, mask=mask).dense()
        same(told.top_weights, weights.topk(8).values)
        same(told.entropy, -torch.special.xlogy(weights, weights).sum(-1))
        same(told.received, weights.sum(-2))

    return Case(
        "statistics of a window 257 of 16,384",
        lambda: qkv.attention_map(query, key, mask=mask).statistics(8),
        {"SDPA output": lambda: F.scaled_dot_product_attention(query, key, value)},
        agree,
    )


STATISTICS_MEMORY = """
import resource, torch, qkv
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
query, key = torch.randn(2, 1, 1, 16384, 64)
qkv.attention_map(query[..., :300, :], key[..., :300, :]).statistics(8)
before = peak()
qkv.attention_map(query, key).statistics(8)
print(peak() - before)
"""


def statistics_memory() -> Case:
    """Timed against nobody: the statistics of 16,384 × 16,384 pairs take under 64 MB."""

    def agree() -> None:
        above = measured(STATISTICS_MEMORY)
        assert above < 64, f"{above:.0f} MB"

    return Case("statistics, memory of 16,384", lambda: None, {}, agree)


def trained(call: Callable[[], torch.Tensor], leaves: list[torch.Tensor]) -> Callable[[], tuple[torch.Tensor, ...]]:
    """Make a training step: the output's gradients."""
    return lambda: torch.autograd.grad(call().sum(), leaves)


def dropped(name: str, *shape: int) -> Case:
    """A training step with dropout; what both give is compared where the definition is small."""
    leaves = [x.requires_grad_() for x in inputs(*shape)]

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
    return Case(name, ours, {"SDPA with dropout": sdpa}, agree)


def dropout_training() -> Case:
    return dropped("dropout training, 2,048 keys", 1, 8, 2048, 64)


def learned_bias_training() -> Case:
    bias = torch.randn(1, 2048, 2048, requires_grad=True)
    leaves = [*(x.requires_grad_() for x in inputs(1, 8, 2048, 64)), bias]
    ours = trained(lambda: qkv.attend(*leaves[:3], bias=bias), leaves)
    sdpa = trained(lambda: F.scaled_dot_product_attention(*leaves[:3], attn_mask=bias[None]), leaves)

    def agree() -> None:
        for one, other in zip(ours(), sdpa(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)

    return Case("learned bias training, 2,048 keys", ours, {"SDPA, bias as mask": sdpa}, agree)


def decode(dtype: torch.dtype, name: str = "", *, key_heads: int = 8, keys: int = 16384, dim: int = 128) -> Case:
    """A step of generation: one query of 4 heads for each key head."""
    query = torch.randn(1, 4 * key_heads, 1, dim, dtype=dtype)
    key, value = (torch.randn(1, key_heads, keys, dim, dtype=dtype) for _ in range(2))
    rows = query.view(1, key_heads, 4, dim)

    def gqa() -> torch.Tensor:
        return F.scaled_dot_product_attention(query, key, value, enable_gqa=True)

    def fold() -> torch.Tensor:
        return F.scaled_dot_product_attention(rows, key, value).view_as(query)

    def read() -> object:
        # The same bytes, summed as float32: what memory gives.
        return tuple(x.flatten().view(torch.float32).sum() for x in (key, value))

    def agree() -> None:
        exact = F.scaled_dot_product_attention(query.double(), key.double(), value.double(), enable_gqa=True)
        ours, theirs = ((output - exact).abs().max() for output in (qkv.attend(query, key, value), gqa()))
        assert ours <= 2 * theirs, f"{ours} is more than twice {theirs}"

    peers = {"SDPA, enable_gqa": gqa, "SDPA, heads folded": fold, "plain read": read}
    return Case(f"decode {str(dtype)[6:]}{name}", lambda: qkv.attend(query, key, value), peers, agree)


def decode_float32() -> Case:
    return decode(torch.float32)


def decode_bfloat16() -> Case:
    return decode(torch.bfloat16)


def decode_float16() -> Case:
    return decode(torch.float16)


def additive_broadcast(
    score: qkv.Additive, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> torch.Tensor:
    """Attend by additive scores as one writes it: every pair's features are stored."""
    query, key = score.prepare(query, key)
    return (torch.tanh(query.unsqueeze(-2) + key.unsqueeze(-3)) @ score.vector).softmax(-1) @ value


def additive(
    name: str, heads: int = 1, keys: int = 1024, hidden: int = 64, *, training: bool = False, compiled: bool = True
) -> Case:
    """Additive scores against the broadcast, and the same compiled where there is a compiler."""
    score, tensors = qkv.Additive(hidden, hidden, hidden), inputs(1, heads, keys, hidden)
    leaves = [x.requires_grad_(training) for x in tensors] + list(score.parameters())
    upstream = torch.randn(1, heads, keys, hidden)

    def step(attend: Callable[..., torch.Tensor]) -> Callable[[], object]:
        def run() -> object:
            with torch.set_grad_enabled(training):
                output = attend(score, *tensors)
            return torch.autograd.grad(output, leaves, upstream) if training else (output,)

        return run

    ours = step(lambda score, *tensors: qkv.attend(*tensors, score=score, impl="additive"))
    peers = {"broadcast": step(additive_broadcast)}
    if compiled and shutil.which("g++"):
        peers["broadcast, compiled"] = step(torch.compile(additive_broadcast, dynamic=False))
    elif compiled:
        print("no compiler here: the compiled peer of additive attention is left out")

    def agree() -> None:
        for one, other in zip(ours(), peers["broadcast"](), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 if training else 1e-5)

    return Case(name, ours, peers, agree)


def additive_forward() -> Case:
    return additive("additive, 1,024 keys")


def additive_training() -> Case:
    return additive("additive, training step", training=True)


def measured(program: str, *arguments: int) -> float:
    """Run a program in a process of its own, which tells the MB that it took."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return float(subprocess.run(command, capture_output=True, check=True).stdout)


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

    def agree() -> None:
        above = measured(ADDITIVE_MEMORY)
        assert above < 500, f"{above:.0f} MB above its inputs"

    return Case("additive, memory of 16,384", lambda: None, {}, agree)


SHAPES = ((1, 33, 1023), (1, 128, 1777), (3, 40, 2011), (3, 80, 777), (16, 33, 513), (16, 128, 1001))
"""Heads, width and positions away from the shapes above: what a sweep goes through."""


def shaped(heads: int, width: int, positions: int) -> str:
    return f"{heads} × {positions:,} × {width}"


def shapes_window() -> Iterator[Case]:
    for heads, width, positions in SHAPES:
        name = f"window 101, {shaped(heads, width, positions)}"
        yield masked(name, qkv.window(101), 1, heads, positions, width)
        yield masked(f"{name}, training step", qkv.window(101), 1, heads, positions, width, training=True)


def shapes_ragged() -> Iterator[Case]:
    for heads, width, positions in SHAPES:
        lengths = torch.tensor([positions // 9, positions, positions // 3, positions // 5])
        mask = qkv.padding(keys=lengths, queries=lengths)
        yield masked(f"4 ragged, {shaped(heads, width, positions)}", mask, 4, heads, positions, width)


def shapes_additive() -> Iterator[Case]:
    for heads, width, _ in SHAPES:
        # As many pairs as the broadcast has room for.
        keys = int(700 / heads**0.5) | 1
        yield additive(f"additive, {shaped(heads, width, keys)}", heads, keys, width, compiled=False)


def shapes_decode() -> Iterator[Case]:
    for heads, width, positions in SHAPES:
        for dtype in (torch.float32, torch.bfloat16):
            keys = 4 * positions
            case = decode(dtype, f", {shaped(heads, width, keys)}", key_heads=heads, keys=keys, dim=width)
            yield replace(case, peers={peer: call for peer, call in case.peers.items() if peer != "plain read"})


def shapes_dropout() -> Iterator[Case]:
    for heads, width, positions in SHAPES:
        yield dropped(f"dropout training, {shaped(heads, width, positions)}", 1, heads, positions, width)


CASES: dict[str, Callable[[], Case | Iterator[Case]]] = {
    make.__name__: make
    for make in (
        small_call,
        small_call_with_mask,
        dense,
        dense_training,
        dense_long,
        dense_long_training,
        window,
        window_training,
        two_sided_window,
        window_and_prefix,
        odd_window,
        bigbird,
        growth,
        growth_memory,
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
        decode_float16,
        dropout_training,
        learned_bias_training,
        statistics_of_a_map,
        statistics_of_a_window,
        statistics_memory,
        planning,
        shapes_window,
        shapes_ragged,
        shapes_additive,
        shapes_decode,
        shapes_dropout,
    )
}
