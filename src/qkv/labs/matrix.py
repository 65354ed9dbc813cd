"""The size of the attention matrix: its shape, and the memory that computing attention takes, stored or not."""

import math
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import linear_regression
from typing import TYPE_CHECKING

import torch

import qkv
from qkv.errors import UnsupportedError, must
from qkv.labs.lab import Both, Claim, Figures, Lab, Progress, at_most, between

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DIM = 64
RESET = Path("/proc/self/clear_refs")
"""Written to, Linux forgets the most memory that a process has had."""


@dataclass(frozen=True)
class Size:
    """The numbers of positions for what stores the matrix, for what does not, and of heads."""

    stored: tuple[int, ...] = (1024, 2048, 4096, 8192)
    streamed: tuple[int, ...] = (1024, 4096, 16384)
    heads: tuple[int, ...] = (1, 2, 4)
    heads_at: int = 2048


# What is measured, each in a process of its own


def stored(heads: int, positions: int) -> None:
    """Compute attention as it is written down: all scores, all weights, then the output."""
    query, key, value = torch.randn(3, heads, positions, DIM).unbind()
    with peak():
        (query @ key.mT / math.sqrt(DIM)).softmax(-1) @ value


def fused(heads: int, positions: int) -> None:
    """Compute attention by qkv's call, which never has the whole matrix."""
    query, key, value = torch.randn(3, heads, positions, DIM).unbind()
    with peak():
        qkv.attend(query, key, value)


def lazy(heads: int, positions: int) -> None:
    """Compute attention with its map, and ask the map for every row's entropy."""
    query, key, value = torch.randn(3, heads, positions, DIM).unbind()
    with peak():
        _, seen = qkv.attend_with_map(query, key, value)
        seen.entropy()


HOW: dict[str, Callable[[int, int], None]] = {"stored": stored, "fused": fused, "lazy": lazy}


@contextmanager
def peak() -> Iterator[None]:
    """Print how many bytes the process grew by at its highest, beyond what it had before."""
    if RESET.exists():
        RESET.write_text("5")
    before = most_memory()
    yield
    print(most_memory() - before)


def most_memory() -> int:
    """Give the most memory that this process has had at once, in bytes, as the operating system counts.

    On Linux since the last reset: `ru_maxrss` there starts as the parent's, which may have had more than is measured.
    """
    if RESET.exists():
        lines = RESET.with_name("status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def measured(how: str, heads: int, positions: int) -> float:
    """Measure one way in a new process, in MiB: the highest memory of a process never falls again."""
    command = [sys.executable, "-m", "qkv.labs.matrix", how, str(heads), str(positions)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise UnsupportedError(must("matrix", how, f"run at {positions} positions", lines[-1]))
    # The first line is that of the warm-up.
    return int(done.stdout.split()[-1]) / 2**20


def slope(sizes: Sequence[int], memory: Sequence[float]) -> float:
    """Give the exponent p of memory ∝ sizeᵖ. What is below 1 MiB, a few pages, counts as that."""
    logs = [[math.log(value) for value in values] for values in (sizes, [max(1.0, each) for each in memory])]
    return linear_regression(*logs).slope


def measure(seed: int, size: Size, progress: Progress) -> Figures:
    """Measure the memory of each way by positions, and of the stored matrix by heads; and the shapes of the maps."""
    figures: Figures = {"stored_n": list(size.stored), "streamed_n": list(size.streamed), "heads": list(size.heads)}
    for how in HOW:
        sizes = size.stored if how == "stored" else size.streamed
        found = [measured(how, 1, n) for n in progress.over(sizes, f"memory, {how}")]
        figures |= {f"{how}_mib": found, f"{how}_slope": slope(sizes, found), f"{how}_most": found[-1]}
    figures |= {"stored_longest": size.stored[-1], "streamed_longest": size.streamed[-1]}
    by_heads = [measured("stored", h, size.heads_at) for h in progress.over(size.heads, "memory by heads")]
    figures |= {"heads_mib": by_heads, "heads_slope": slope(size.heads, by_heads)}
    # Scores and what is made of them: two stand side by side.
    figures["matrices"] = figures["stored_most"] * 2**20 / (4 * size.stored[-1] ** 2)
    torch.manual_seed(seed)
    x, memory = torch.randn(1, 6, 32), torch.randn(1, 10, 32)
    layer = qkv.MultiHead(32, 4)
    own, across = layer.with_map(x)[1].shape, layer.with_map(x, memory)[1].shape
    figures |= {"self_rows": own[-2], "self_columns": own[-1], "self_matrices": own[-3]}
    figures |= {"cross_rows": across[-2], "cross_columns": across[-1]}
    return figures


def plot(figure: "Figure", results: Sequence[Figures], say: Callable[[Both], str]) -> None:
    """Draw the memory by the number of positions."""
    axes = figure.subplots()
    ways = (
        ("stored", "o-", Both("stored", "存下整个矩阵")),
        ("fused", "s--", Both("qkv.attend", "qkv.attend")),
        ("lazy", "^:", Both("with a map, asked for entropies", "带注意力图并求每行熵")),
    )
    for place, (how, style, label) in enumerate(ways):
        for index, result in enumerate(results):
            sizes = result["stored_n" if how == "stored" else "streamed_n"]
            legend = say(label) if index == 0 else None
            axes.plot(sizes, result[f"{how}_mib"], style, color=f"C{place}", label=legend)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel=say(Both("positions n", "序列长度 n")),
        ylabel=say(Both("peak memory beyond the inputs, MiB", "输入以外的峰值内存，MiB")),
    )
    axes.legend()


STREAMS = Both("at most linear in n, with room for the pages' grain", "至多与 n 成正比，并为内存页粒度留余量")

LAB = Lab(
    name="matrix",
    rows=("8",),
    question=Both("What is the size of the attention matrix?", "注意力矩阵的尺寸是多少？"),
    answer=Both(
        "A row for each query, a column for each key, and one such matrix for each head: h × n × n in self-attention, "
        "h × targets × sources in cross-attention. Written down, it takes memory h·n². It need not be written down: a "
        "softmax can be summed up tile by tile, exactly, in memory proportional to n.",
        "每个查询一行、每个键一列，每个头一个这样的矩阵：自注意力为 h × n × n，交叉注意力为 h × 目标长度 × 源长度。"
        "若整个存下，内存是 h·n²。但不必存下：softmax 可以分块累加，结果精确，内存只与 n 成正比。",
    ),
    follow_up=Both(
        "What does not storing it cost? No accuracy: a running maximum and a running sum give the same softmax. Not time "
        "either: the matrix is read and written less, which is why fused kernels are faster, though the operations stay "
        "n²·d. The backward pass computes the weights again from each row's maximum and sum.",
        "不存下矩阵有什么代价？不损失精度：用滚动最大值与滚动和得到同样的 softmax。也不慢：少读写了矩阵，融合算子因此更快，"
        "但运算量仍是 n²·d。反向传播用每行的最大值与和重新算出权重。",
    ),
    trap=Both(
        "“n × n”: of which sequence? In cross-attention it is targets × sources. And it is per head and per example: "
        "batch 8, 12 heads, 4,096 positions are 6 GiB in float32, for one layer.",
        "“n × n”是哪个序列的 n？交叉注意力中是 目标长度 × 源长度。并且每个头、每个样本各有一个：批大小 8、12 头、长度 4096，float32 下一层就是 6 GiB。",
    ),
    claims=(
        Claim(
            says=Both("In self-attention: (sequence length, sequence length).", "自注意力中为（序列长度，序列长度）。"),
            truth=Both(
                "So it is for each head; the memory of the stored matrix grows with the square of n and in step with the "
                "heads.",
                "对每个头确实如此；存下矩阵的内存随 n 的平方、随头数成正比增长。",
            ),
            holds=lambda means: means["self_rows"] == means["self_columns"] and means["stored_slope"] > 1.5,
        ),
        Claim(
            says=Both(
                "There is one length, that of the sequence attended to.", "只有一个长度，即应用注意力机制的序列的长度。"
            ),
            truth=Both(
                "In cross-attention there are two: a row for each target position, a column for each source position.",
                "交叉注意力中有两个长度：每个目标位置一行，每个源位置一列。",
            ),
            holds=lambda means: means["cross_rows"] == means["cross_columns"],
            mistake=True,
        ),
    ),
    papers=(
        "Vaswani et al. 2017, arXiv:1706.03762, §3.2",
        "Milakov and Gimelshein 2018, arXiv:1805.02867 (softmax by a running maximum and sum)",
        "Dao et al. 2022, arXiv:2205.14135 (FlashAttention)",
    ),
    thresholds=(
        between("stored_slope", 1.9, 2.1, Both("scores and weights are n × n", "分数与权重都是 n × n")),
        at_most("fused_slope", 1.1, STREAMS),
        at_most("lazy_slope", 1.1, STREAMS),
        between("heads_slope", 0.9, 1.1, Both("a matrix for each head", "每个头一个矩阵")),
    ),
    labels={
        "stored_slope": Both("exponent of n in the memory, stored", "内存对 n 的指数，存下矩阵"),
        "fused_slope": Both("exponent of n in the memory, qkv.attend", "内存对 n 的指数，qkv.attend"),
        "lazy_slope": Both("exponent of n in the memory, with a map", "内存对 n 的指数，带注意力图"),
        "heads_slope": Both("exponent of the heads in the memory, stored", "内存对头数的指数，存下矩阵"),
        "stored_longest": Both("longest sequence, stored, positions", "最长序列（存下矩阵），位置数"),
        "stored_most": Both("peak memory at the longest, stored, MiB", "最长时的峰值内存，存下矩阵，MiB"),
        "streamed_longest": Both("longest sequence, not stored, positions", "最长序列（不存），位置数"),
        "fused_most": Both("peak memory at the longest, qkv.attend, MiB", "最长时的峰值内存，qkv.attend，MiB"),
        "lazy_most": Both("peak memory at the longest, with a map, MiB", "最长时的峰值内存，带注意力图，MiB"),
        "matrices": Both("whole matrices held at once, stored", "存下矩阵时同时存在的完整矩阵数"),
        "self_rows": Both("rows, self-attention of 6 tokens", "6 个词元的自注意力矩阵行数"),
        "self_columns": Both("columns, self-attention of 6 tokens", "6 个词元的自注意力矩阵列数"),
        "self_matrices": Both("matrices, 4 heads", "4 个头的矩阵数"),
        "cross_rows": Both("rows, 6 tokens attending to 10", "6 个词元关注 10 个词元时的行数"),
        "cross_columns": Both("columns, 6 tokens attending to 10", "6 个词元关注 10 个词元时的列数"),
    },
    headline=Both(
        "stored: {stored_most:.0f} MiB at {stored_longest:.0f} positions; not stored: {fused_most:.0f} MiB at "
        "{streamed_longest:.0f}",
        "存下矩阵：{stored_longest:.0f} 个位置需 {stored_most:.0f} MiB；不存：{streamed_longest:.0f} 个位置只需 {fused_most:.0f} MiB",
    ),
    quick=Size(),
    full=Size(stored=(1024, 2048, 4096, 8192, 16384), streamed=(8192, 16384, 32768, 65536, 131072), heads=(1, 2, 4, 8)),
    measure=measure,
    plot=plot,
    caption=Both(
        "Peak memory of a process beyond the inputs, one head of width 64 in float32, a point a seed.",
        "输入以外的进程峰值内存，一个头，宽 64，float32，每点一个种子。",
    ),
    seconds=60.0,
    alone=True,
)

if __name__ == "__main__":
    torch.set_num_threads(1)
    how = HOW[sys.argv[1]]
    # What a first call loads and compiles is no memory of the matrix.
    how(1, 300)
    how(int(sys.argv[2]), int(sys.argv[3]))
