"""`make bench` (or `make bench CASE=name`): each case against its peers, in one run, after a check that they agree.

Peers take turns, so that a busy machine slows them alike; the table gives medians, their spread and the ratio. One
thread unless THREADS says otherwise.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch.nn import functional as F
from torch.nn.attention.flex_attention import create_block_mask

import qkv

RESULTS = Path(__file__).parent / "results.json"


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


def windowed() -> Case:
    query, key, value = inputs(1, 8, 2048, 64)
    mask = qkv.window(256)
    spelled = mask.dense(2048, 2048)
    ours = lambda: qkv.attend(query, key, value, mask=mask)  # noqa: E731
    sdpa = lambda: F.scaled_dot_product_attention(query, key, value, attn_mask=spelled)  # noqa: E731
    return Case("window 256 of 2,048 keys", ours, {"SDPA, mask given": sdpa}, lambda: same(ours(), sdpa()))


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

    return Case("planning, 4,096 × 4,096", lambda: mask.runs(128, grid), {"create_block_mask": theirs}, agree)


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


CASES = (
    decode_float32,
    decode_bfloat16,
    small_call,
    small_call_with_mask,
    dense,
    windowed,
    planning,
    statistics_of_a_map,
    dropout_training,
    learned_bias_training,
    additive_forward,
    additive_training,
    additive_memory,
)


def seconds(call: Callable[[], object], calls: int) -> float:
    start = time.process_time()
    for _ in range(calls):
        call()
    return (time.process_time() - start) / calls


def measure(case: Case, rounds: int) -> dict[str, list[float]]:
    case.agree()
    runs = {"qkv": case.ours, **case.peers}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(rounds + 1):
        for name, call in runs.items():
            took = seconds(call, case.calls)
            if round_:
                times[name].append(took)
    return times


def main() -> None:
    """Run the cases and print the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--case", default=os.environ.get("CASE", ""), help="run the cases whose name holds this")
    options.add_argument("--rounds", type=int, default=9)
    options.add_argument("--save", action="store_true", help=f"keep the ratios in {RESULTS.name}")
    chosen = options.parse_args()
    threads = int(os.environ.get("THREADS", "1"))
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    cases = [case for case in (make() for make in CASES) if chosen.case in case.name]
    if not cases:
        options.error(f"no case holds {chosen.case!r}: {', '.join(make().name for make in CASES)}")
    title = f"processor time, {threads} threads, medians of {chosen.rounds}, torch {torch.__version__}"
    table = Table("case", "qkv, ms", "peer", "ms", "ratio", "spread", title=title)
    table.columns[0].min_width = 24
    results = {}
    with Progress(transient=True) as progress:
        for case in progress.track(cases):
            times = measure(case, chosen.rounds)
            ours = statistics.median(times["qkv"])
            for peer in case.peers:
                theirs = statistics.median(times[peer])
                ratios = sorted(their / our for their, our in zip(times[peer], times["qkv"], strict=True))
                spread = (ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4])
                results[f"{case.name} / {peer}"] = round(theirs / ours, 3)
                row = (f"{1e3 * ours:.3f}", peer, f"{1e3 * theirs:.3f}", f"{theirs / ours:.2f}")
                table.add_row(case.name, *row, f"{spread[0]:.3g}–{spread[1]:.3g}")
    Console().print(table)
    if chosen.save:
        found = {"threads": threads, "torch": torch.__version__, "ratios": results}
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
