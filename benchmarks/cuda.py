"""`python -m benchmarks.cuda` where there is a GPU: each case against its peers, after a check that they agree.

Peers take turns; the table gives medians of the device's own clock, their spread and the ratio. What each peer needs
once, a dense mask or a BlockMask, is made before; what qkv plans in a call is counted. Kernels are compiled before.
The results go to `cuda-<device>-<date>.json`.
"""

import argparse
import datetime
import json
import re
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

import qkv
from qkv.positions.alibi import slopes

BATCH, HEADS, LENGTH, WIDTH, NEAR, CAP = 1, 8, 4096, 64, 256, 30.0
DTYPE = torch.bfloat16

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """What is compared: qkv with these parts against peers that take query, key and value."""

    name: str
    parts: dict[str, Any]
    peers: dict[str, Attend]
    tensors: list[Tensor]
    learned: list[Tensor] = field(default_factory=list)

    def ours(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return qkv.attend(query, key, value, **self.parts)


def dot_case(
    name: str,
    parts: dict[str, Any],
    visible: Callable[..., Tensor] | None = None,
    modify: Callable[..., Tensor] | None = None,
    *,
    cap: float | None = None,
    square_causal: bool = False,
) -> Case:
    """Put up a case of dot products: `visible` and `modify` say to FlexAttention what `parts` says to qkv."""
    tensors = [torch.randn(BATCH, HEADS, LENGTH, WIDTH, dtype=DTYPE) for _ in range(3)]
    grid = qkv.Grid((BATCH,), HEADS, LENGTH, LENGTH, tensors[0].device)
    mask, bias = parts.get("mask"), parts.get("bias")
    seen = None if mask is None else mask.tile(grid.rows(), grid.columns(), grid)
    added = None if bias is None else bias.tile(grid.rows(), grid.columns(), grid)
    spelled = seen
    if added is not None:
        spelled = (added if seen is None else torch.where(seen, added, -torch.inf)).to(DTYPE)
    blocks = None if visible is None else create_block_mask(visible, None, None, LENGTH, LENGTH)
    compiled = torch.compile(flex_attention)

    def eager(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        scores = (query @ key.mT).float() / WIDTH**0.5
        if cap is not None:
            scores = cap * torch.tanh(scores / cap)
        if added is not None:
            scores = scores + added
        if seen is not None:
            scores = scores.masked_fill(~seen, -torch.inf)
        return scores.softmax(-1).to(value.dtype) @ value

    def flex(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return compiled(query, key, value, score_mod=modify, block_mask=blocks)

    peers: dict[str, Attend] = {"eager": eager, "FlexAttention, create_block_mask": flex}
    if cap is None:
        peers["SDPA, dense mask"] = lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=spelled)
    if square_causal:
        peers["SDPA, is_causal"] = lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return Case(name, parts, peers, tensors)


def windowed() -> Case:
    mask = qkv.causal() & qkv.window(NEAR)
    return dot_case(f"window {NEAR}", {"mask": mask}, lambda b, h, q, k: (k <= q) & (k > q - NEAR))


def causal() -> Case:
    return dot_case("causal", {"mask": qkv.causal()}, lambda b, h, q, k: k <= q, square_causal=True)


def alibi() -> Case:
    slope = torch.tensor(slopes(HEADS))
    parts = {"mask": qkv.causal(), "bias": qkv.alibi(heads=HEADS)}
    return dot_case("ALiBi, causal", parts, lambda b, h, q, k: k <= q, lambda s, b, h, q, k: s - slope[h] * (q - k))


def capped() -> Case:
    parts = {"mask": qkv.causal(), "score": qkv.soft_cap(qkv.scaled_dot(), CAP)}
    modify = lambda s, b, h, q, k: CAP * torch.tanh(s / CAP)  # noqa: E731
    return dot_case("soft cap, causal", parts, lambda b, h, q, k: k <= q, modify, cap=CAP)


def packed() -> Case:
    lengths = torch.tensor([700, 1300, 96, 1000, 500, 500])
    document = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    parts = {"mask": qkv.causal() & qkv.documents(lengths)}
    return dot_case("documents, causal", parts, lambda b, h, q, k: (document[q] == document[k]) & (k <= q))


def additive() -> Case:
    score = qkv.Additive(WIDTH, WIDTH, WIDTH)
    tensors = [torch.randn(BATCH, 1, 1024, WIDTH) for _ in range(3)]

    def eager(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        query, key = score.prepare(query, key)
        return (torch.tanh(query[..., :, None, :] + key[..., None, :, :]) @ score.vector).softmax(-1) @ value

    peers: dict[str, Attend] = {"eager": eager, "eager, compiled": torch.compile(eager)}
    return Case("additive, 1,024 × 1,024", {"score": score}, peers, tensors, list(score.parameters()))


CASES = (windowed, causal, alibi, capped, packed, additive)


def step(attend: Attend, case: Case, backward: bool) -> list[Tensor]:
    """Attend once; also give the gradients if asked to."""
    if not backward:
        with torch.no_grad():
            return [attend(*case.tensors)]
    leaves = [x.detach().requires_grad_() for x in case.tensors]
    output = attend(*leaves)
    return [output.detach(), *torch.autograd.grad(output, [*leaves, *case.learned], torch.ones_like(output))]


def check(case: Case, backward: bool) -> None:
    """Raise unless qkv and every peer are as near to the definition in float32 as rounding allows."""
    wide = Case(case.name, case.parts, {}, [x.float() for x in case.tensors], case.learned)
    exact = step(lambda q, k, v: qkv.attend(q, k, v, **case.parts, impl="reference"), wide, backward)
    for name, attend in {"qkv": case.ours, **case.peers}.items():
        for index, (found, right) in enumerate(zip(step(attend, case, backward), exact, strict=True)):
            error = float((found.float() - right).abs().max() / right.abs().max())
            limit = 16 * torch.finfo(found.dtype).eps
            assert error < limit, f"{case.name}, {name}, result {index}: off by {error:.2g} of the largest number"


def milliseconds(attend: Attend, case: Case, backward: bool, calls: int) -> float:
    start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(calls):
        step(attend, case, backward)
    stop.record()
    stop.synchronize()
    return start.elapsed_time(stop) / calls


def measure(case: Case, backward: bool, rounds: int, calls: int) -> dict[str, list[float]]:
    check(case, backward)
    runs = {"qkv": case.ours, **case.peers}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(rounds + 1):
        for name, attend in runs.items():
            took = milliseconds(attend, case, backward, calls)
            if round_:
                times[name].append(took)
    return times


def main() -> None:
    """Run the cases, print the table and keep it."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--case", default="", help="run the cases whose name holds this")
    options.add_argument("--rounds", type=int, default=9)
    options.add_argument("--calls", type=int, default=20, help="calls timed at once")
    chosen = options.parse_args()
    if not torch.cuda.is_available():
        sys.exit("benchmarks.cuda: torch.cuda.is_available() must be True; got False (`make bench` measures the CPU)")
    device = torch.cuda.get_device_name()
    torch.manual_seed(0)
    torch.set_default_device("cuda")
    table = Table("case", "pass", "path", "qkv, ms", "peer", "ms", "ratio", "spread", title=f"{device}, {DTYPE}")
    results = []
    with Progress(transient=True) as progress:
        for make in progress.track(CASES):
            case = make()
            if chosen.case not in case.name:
                continue
            path = qkv.explain(*case.tensors, **case.parts).backend
            for backward in (False, True):
                what = "forward and backward" if backward else "forward"
                times = measure(case, backward, chosen.rounds, chosen.calls)
                ours = statistics.median(times["qkv"])
                for peer in case.peers:
                    theirs = statistics.median(times[peer])
                    ratios = sorted(their / our for their, our in zip(times[peer], times["qkv"], strict=True))
                    low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
                    table.add_row(
                        *(case.name, what, path, f"{ours:.3f}", peer, f"{theirs:.3f}"),
                        *(f"{theirs / ours:.2f}", f"{low:.3g}–{high:.3g}"),
                    )
                    row = {"case": case.name, "pass": what, "path": path, "peer": peer, "ratio": theirs / ours}
                    results.append({**row, "qkv_ms": ours, "peer_ms": theirs, "spread": [low, high]})
    Console().print(table)
    today = datetime.date.today().isoformat()
    name = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    versions = {"device": device, "date": today, "torch": torch.__version__, "dtype": str(DTYPE)}
    file = Path(__file__).parent / f"cuda-{name}-{today}.json"
    file.write_text(json.dumps({**versions, "results": results}, indent=1) + "\n")
    print(f"kept in {file.name}")


if __name__ == "__main__":
    main()
