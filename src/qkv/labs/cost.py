"""What attention costs, against recurrent networks: operations by formula and by count, and time on one thread."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log, log2
from statistics import median
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import qkv
from qkv.labs.lab import Both, Claim, Figures, Lab, Progress, at_least

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Size:
    """Which lengths and widths are timed, and how often: the median counts. Lengths are multiples of the width."""

    widths: tuple[int, ...] = (64, 128, 256)
    multiples: tuple[int, ...] = (1, 2, 4, 8)
    times: int = 15
    counted: int = 16


# The networks, a sequence of n vectors of width d in, as many out


class Plain(nn.Module):
    """hₜ = tanh(W xₜ + U hₜ₋₁), step by step. What the gates of others add, `gates` adds to the products."""

    def __init__(self, width: int, gates: int = 1) -> None:
        super().__init__()
        self.width, self.gates = width, gates
        self.read, self.keep = (nn.Linear(width, gates * width) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        read, state, states = self.read(x), self.start(), []
        for step in read.unbind(-2):
            state = self.step(step, self.keep(state[0]), state)
            states.append(state[0])
        return torch.stack(states, dim=-2)

    def start(self) -> tuple[Tensor, ...]:
        """Give the state before the first step: what is given out, and what else is kept."""
        return (torch.zeros(self.width),)

    def step(self, read: Tensor, kept: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Make the next state of what was read and kept."""
        return ((read + kept).tanh(),)


class Gru(Plain):
    """Three products a side: reset, update, candidate. Cho et al. 2014."""

    def __init__(self, width: int) -> None:
        super().__init__(width, 3)

    def step(self, read: Tensor, kept: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (reset, update, new), (reset_kept, update_kept, new_kept) = read.chunk(3), kept.chunk(3)
        share = (update + update_kept).sigmoid()
        candidate = (new + (reset + reset_kept).sigmoid() * new_kept).tanh()
        return (share * state[0] + (1 - share) * candidate,)


class Lstm(Plain):
    """Four products a side: input, forget, cell, output. Hochreiter and Schmidhuber 1997; Gers et al. 2000."""

    def __init__(self, width: int) -> None:
        super().__init__(width, 4)

    def start(self) -> tuple[Tensor, ...]:
        return torch.zeros(self.width), torch.zeros(self.width)

    def step(self, read: Tensor, kept: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        enter, forget, new, leave = (read + kept).chunk(4)
        cell = forget.sigmoid() * state[1] + enter.sigmoid() * new.tanh()
        return leave.sigmoid() * cell.tanh(), cell


class Attention(nn.Module):
    """Self-attention with its four projections, one head; by the definition, whose products the counter sees."""

    def __init__(self, width: int, impl: str = "reference") -> None:
        super().__init__()
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))
        self.impl = impl

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (each(x).unsqueeze(-3) for each in (self.query, self.key, self.value))
        return self.output(qkv.attend(query, key, value, impl=self.impl).squeeze(-3))


WRITTEN_OUT: dict[str, Callable[[int], nn.Module]] = {"attention": Attention, "plain": Plain, "gru": Gru, "lstm": Lstm}
FORMULAS: dict[str, Callable[[int, int], int]] = {
    "attention": lambda n, d: 8 * n * d**2 + 4 * n**2 * d,
    "plain": lambda n, d: 4 * n * d**2,
    "gru": lambda n, d: 12 * n * d**2,
    "lstm": lambda n, d: 16 * n * d**2,
}
# torch's own run each step in C++; its counter of operations reports 0 for them.
TIMED: dict[str, Callable[[int], nn.Module]] = {
    "attention": lambda width: Attention(width, "auto"),
    "gru": lambda width: nn.GRU(width, width, batch_first=True),
    "lstm": lambda width: nn.LSTM(width, width, batch_first=True),
}


def operations(name: str, length: int, width: int) -> int:
    """Count the operations of matrix products, as torch sees them pass."""
    network = WRITTEN_OUT[name](width)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(length, width))
    return counter.get_total_flops()


def seconds(network: nn.Module, x: Tensor) -> float:
    """Time one call."""
    began = time.perf_counter()
    network(x)
    return time.perf_counter() - began


def times(width: int, lengths: Sequence[int], size: Size, progress: Progress) -> dict[str, list[float]]:
    """Time the networks by length, in turns, each after one call that does not count: medians, in milliseconds."""
    networks = {name: build(width) for name, build in TIMED.items()}
    found: dict[str, list[float]] = {name: [] for name in networks}
    with torch.no_grad():
        for length in progress.over(lengths, f"time at width {width}"):
            x = torch.randn(1, length, width)
            for network in networks.values():
                network(x)
            rounds = [[seconds(network, x) for network in networks.values()] for _ in range(size.times)]
            for name, taken in zip(networks, zip(*rounds, strict=True), strict=True):
                found[name].append(1000 * median(taken))
    return found


def crossing(lengths: Sequence[int], ratios: Sequence[float]) -> float:
    """Give the length at which a ratio passes 1, on straight lines between logarithms; or the end it lies beyond."""
    for (short, low), (long, high) in pairwise(zip(lengths, ratios, strict=True)):
        if low <= 1 <= high:
            share = -log(low) / (log(high) - log(low)) if high > low else 0.0
            return short * (long / short) ** share
    return float(lengths[0] if ratios[0] > 1 else lengths[-1])


def measure(seed: int, size: Size, progress: Progress) -> Figures:
    """Count operations, then time; the seed draws weights and inputs alone."""
    torch.manual_seed(seed)
    n, d = size.counted, size.counted
    counts = {name: operations(name, n, d) for name in WRITTEN_OUT}
    core = [operations("attention", length, d) - 8 * length * d**2 for length in (n, 2 * n)]
    figures: Figures = {
        "count_error": max(abs(count / FORMULAS[name](n, d) - 1) for name, count in counts.items()),
        "core_power": log2(core[1] / core[0]),
        "rnn_power_n": log2(operations("plain", 2 * n, d) / counts["plain"]),
        "rnn_power_d": log2(operations("plain", n, 2 * d) / counts["plain"]),
        "operations_d": operations("attention", d, d) / operations("lstm", d, d),
        "operations_8d": operations("attention", 8 * d, d) / operations("lstm", 8 * d, d),
        "widths": list(size.widths),
    }
    for width in size.widths:
        lengths = [multiple * width for multiple in size.multiples]
        found = times(width, lengths, size, progress)
        ratios = {
            name: [a / b for a, b in zip(found["attention"], found[name], strict=True)] for name in ("gru", "lstm")
        }
        figures |= {
            f"lengths_{width}": lengths,
            f"attention_{width}": found["attention"],
            f"lstm_{width}": found["lstm"],
            f"ratio_{width}": ratios["lstm"][0],
            f"ratio_{width}_8": ratios["lstm"][-1],
            f"growth_{width}": ratios["lstm"][-1] / ratios["lstm"][0],
            f"crossing_lstm_{width}": crossing(lengths, ratios["lstm"]) / (2 * width),
            f"crossing_gru_{width}": crossing(lengths, ratios["gru"]) / width,
        }
    return figures


def plot(figure: "Figure", results: Sequence[Figures], say: Callable[[Both], str]) -> None:
    """Draw the times by length at the widest, and the ratio by length over width."""
    left, right = figure.subplots(1, 2)
    widest = results[0]["widths"][-1]
    for result in results:
        left.plot(result[f"lengths_{widest}"], result[f"attention_{widest}"], "o-", color="C0")
        left.plot(result[f"lengths_{widest}"], result[f"lstm_{widest}"], "s--", color="C1")
        for place, width in enumerate(result["widths"]):
            pairs = zip(result[f"attention_{width}"], result[f"lstm_{width}"], strict=True)
            steps = [length / width for length in result[f"lengths_{width}"]]
            right.plot(steps, [a / b for a, b in pairs], "os^"[place] + ("-", "--", ":")[place], color=f"C{place}")
    left.legend(left.lines[:2], [say(Both("attention", "注意力")), "LSTM"], title=f"d = {widest}")
    right.legend(right.lines[: len(results[0]["widths"])], [f"d = {width}" for width in results[0]["widths"]])
    right.axhline(1, color="gray", linewidth=0.8)
    left.set(
        xscale="log",
        yscale="log",
        xlabel=say(Both("length n", "序列长度 n")),
        ylabel=say(Both("time (ms)", "时间（毫秒）")),
    )
    right.set(
        xscale="log",
        yscale="log",
        xlabel=say(Both("length over width, n / d", "长度与宽度之比 n / d")),
        ylabel=say(Both("time of attention over LSTM", "注意力与 LSTM 的时间之比")),
    )
    # Ticks where it was measured: those between powers of ten lie over one another.
    for axes, places in ((left, results[0][f"lengths_{widest}"]), (right, steps)):
        axes.set_xticks([], minor=True)
        axes.set_xticks(places, [f"{place:g}" for place in places])


LAB = Lab(
    name="cost",
    rows=("4",),
    question=Both("What does attention cost, against an RNN?", "注意力机制的复杂度是多少？与 RNN 相比如何？"),
    answer=Both(
        "Its core costs n²d, a recurrent layer nd²: the core is cheaper while n < d. With the four projections attention "
        "takes 8nd² + 4n²d operations: always more than a plain RNN (4nd²), more than a GRU (12nd²) beyond n = d and "
        "than an LSTM (16nd²) beyond n = 2d. But an RNN needs n steps one after another, attention one.",
        "注意力核心的计算量为 n²d，循环层为 nd²，所以 n < d 时核心更便宜。算上四个投影，注意力需要 8nd² + 4n²d 次运算：总比普通 RNN（4nd²）多；"
        "n > d 时多于 GRU（12nd²），n > 2d 时多于 LSTM（16nd²）。但 RNN 必须依次走 n 步，注意力只需一步。",
    ),
    follow_up=Both(
        "And when text is generated? A token then costs attention O(nd) for its core and a cache that grows with n, an RNN "
        "O(d²) and a state of fixed size. With a causal mask whose pairs are skipped, attention passes an LSTM at n = 4d.",
        "生成文本时呢？每个词元，注意力核心为 O(nd)，且缓存随 n 增长；RNN 为 O(d²)，状态大小固定。若跳过因果掩码遮住的位置，注意力到 n = 4d 才超过 LSTM。",
    ),
    trap=Both(
        "Operations are not time: a loop of small products runs far below a machine's matrix rate, so on a parallel machine "
        "attention wins at lengths at which it computes more. And leaving the projections out makes attention look cheap.",
        "运算量不等于时间：循环中的小矩阵乘远达不到机器的矩阵运算速率，因此在并行硬件上，即使注意力运算更多也可能更快。另外，忽略投影会让注意力显得便宜。",
    ),
    claims=(
        Claim(
            says=Both("Attention is O(nⁿ).", "注意力的复杂度是 O(n 的 n 次方)。"),
            truth=Both(
                "A misprint: the operations of its core grow with the square of n, as counted.",
                "应为笔误：实测核心的运算量与 n 的平方成正比。",
            ),
            # nⁿ at the lengths counted would be a power of more than 16.
            holds=lambda means: means["core_power"] > 3,
            mistake=True,
        ),
        Claim(
            says=Both("An RNN is n·d·d.", "RNN 的复杂度是 n·d·d。"),
            truth=Both(
                "So counted: linear in the length, quadratic in the width.",
                "计数结果一致：与长度成正比，与宽度的平方成正比。",
            ),
            holds=lambda means: abs(means["rnn_power_n"] - 1) < 0.01 and abs(means["rnn_power_d"] - 2) < 0.01,
        ),
        Claim(
            says=Both("For long sequences the RNN is cheaper.", "对于较长的序列，RNN 更省计算。"),
            truth=Both(
                "On operations it is, and at n = 8d on one thread also in time. They meet later in time than by the formulas, since "
                "the loop runs below the machine's matrix rate.",
                "就运算量而言成立；在单线程、n = 8d 时用时也是如此。但按时间计的交点比公式给出的更靠后，因为循环达不到机器的矩阵运算速率。",
            ),
            holds=lambda means: (
                means["operations_8d"] > 1 and min(means[f"ratio_{width}_8"] for width in Size().widths) > 1
            ),
        ),
    ),
    papers=("Vaswani et al. 2017, arXiv:1706.03762, table 1",),
    thresholds=tuple(
        at_least(
            f"growth_{width}",
            1.5,
            Both(
                "operations say 3 times (40/16 over 12/16 is 3.3); a loop's overhead takes some",
                "按运算量应为 3.3 倍，循环开销会抵消一部分",
            ),
        )
        for width in Size().widths
    ),
    labels={
        "count_error": Both(
            "operations counted over the formulas', largest difference (share)", "计数与公式的最大相对差"
        ),
        "core_power": Both("power of n in attention's core, counted", "注意力核心运算量中 n 的幂次（计数）"),
        "rnn_power_n": Both("power of n in a plain RNN, counted", "普通 RNN 运算量中 n 的幂次（计数）"),
        "rnn_power_d": Both("power of d in a plain RNN, counted", "普通 RNN 运算量中 d 的幂次（计数）"),
        "operations_d": Both("operations, attention over LSTM, n = d", "n = d 时注意力与 LSTM 的运算量之比"),
        "operations_8d": Both("operations, attention over LSTM, n = 8d", "n = 8d 时注意力与 LSTM 的运算量之比"),
    }
    | {
        name.format(width): Both(both.en.format(width), both.zh.format(width))
        for width in Size().widths
        for name, both in {
            "ratio_{}": Both("time, attention over LSTM, d = {}, n = d", "时间之比，注意力与 LSTM，d = {}，n = d"),
            "ratio_{}_8": Both("time, attention over LSTM, d = {}, n = 8d", "时间之比，注意力与 LSTM，d = {}，n = 8d"),
            "growth_{}": Both("the second ratio over the first, d = {}", "后者与前者之比，d = {}"),
            "crossing_lstm_{}": Both(
                "where attention passes the LSTM in time, over the formula's n = 2d, d = {} (.5, 4: beyond what was timed)",
                "注意力用时超过 LSTM 的长度，与公式 n = 2d 之比，d = {}（.5、4 表示超出所测范围）",
            ),
            "crossing_gru_{}": Both(
                "where attention passes the GRU in time, over the formula's n = d, d = {} (1, 8: beyond what was timed)",
                "注意力用时超过 GRU 的长度，与公式 n = d 之比，d = {}（1、8 表示超出所测范围）",
            ),
        }.items()
    },
    headline=Both(
        "time of attention over LSTM at d = 256: {ratio_256:.2f} at n = d, {ratio_256_8:.2f} at n = 8d",
        "d = 256 时注意力与 LSTM 的时间之比：n = d 为 {ratio_256:.2f}，n = 8d 为 {ratio_256_8:.2f}",
    ),
    quick=Size(),
    full=Size(multiples=(1, 2, 4, 8, 16), times=25),
    measure=measure,
    plot=plot,
    caption=Both(
        "Left: time on one thread at the largest width. Right: attention over LSTM by length over width; by operations they "
        "meet at 2. A line a seed.",
        "左：最大宽度下的单线程时间。右：注意力与 LSTM 时间之比随 n/d 的变化，按运算量应在 2 处相等。每条线一个种子。",
    ),
    seconds=15.0,
    alone=True,
)
