"""What attention costs beside a recurrent network: operations counted in cells written out, and time on one thread."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import qkv
from qkv.labs.lab import Both, Claim, Figures, Lab, Means, Progress, at_least, between

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Size:
    """Widths, lengths as multiples of the width, and how often each is timed."""

    widths: tuple[int, ...] = (64, 256)
    multiples: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0)
    times: int = 7
    counted: int = 32


def rnn(x: Tensor, gates: int) -> Tensor:
    """Run a cell written out: a vanilla RNN has 1 gate, a GRU's products are those of 3, an LSTM's of 4."""
    width = x.shape[-1]
    inward, onward = torch.zeros(2, width, gates * width)
    state = torch.zeros(1, width)
    for word in x[0]:
        state = torch.tanh(word[None] @ inward + state @ onward).unflatten(-1, (gates, width)).mean(1)
    return state


def attend_written_out(x: Tensor, project: bool) -> Tensor:
    """Attend as it is defined: two products of queries × keys × width, and four projections of width²."""
    weight = torch.zeros(x.shape[-1], x.shape[-1])
    query, key, value = (x @ weight for _ in range(3)) if project else (x, x, x)
    mixed = torch.softmax(query @ key.mT, -1) @ value
    return mixed @ weight if project else mixed


def operations(run: Callable[[Tensor], Tensor], length: int, width: int) -> int:
    """Count the multiplications and additions of matrix products. (In nn.LSTM PyTorch's counter sees none.)"""
    counter = FlopCounterMode(display=False)
    with counter:
        run(torch.zeros(1, length, width))
    return counter.get_total_flops()


def slope(run: Callable[[Tensor], Tensor], size: int, of_width: bool) -> float:
    """Tell the power by which operations grow: log₂ of what doubling the length, or the width, multiplies them by."""
    small, large = ((16, size), (16, 2 * size)) if of_width else ((size, 16), (2 * size, 16))
    return math.log2(operations(run, *large) / operations(run, *small))


def rivals(width: int) -> dict[str, Callable[[Tensor], object]]:
    """Make an attention layer of heads of 64, an LSTM as wide, and the product that bounds both."""
    attention, lstm = qkv.MultiHead(width, heads=max(1, width // 64)), nn.LSTM(width, width, batch_first=True)
    return {"attention": attention, "lstm": lstm, "product": lambda x: x[0] @ attention.query.weight}


@torch.no_grad()
def seconds(width: int, length: int, times: int) -> dict[str, float]:
    """Time each on the same input, in turns, on one thread."""
    x = torch.randn(1, length, width)
    found: dict[str, list[float]] = {name: [] for name in ("attention", "lstm", "product")}
    made = rivals(width)
    for turn in range(times + 2):
        for name, run in made.items():
            began = time.process_time_ns()
            run(x)
            # The first turns warm up.
            if turn > 1:
                found[name].append((time.process_time_ns() - began) / 1e9)
    return {name: median(values) for name, values in found.items()}


def crossing(lengths: Sequence[float | int], ratios: Sequence[float]) -> float:
    """Find the length at which a ratio passes 1, between those measured or beyond, on straight lines in logarithms."""
    points = [(math.log(length), math.log(ratio)) for length, ratio in zip(lengths, ratios, strict=True)]
    pairs = list(pairwise(points))
    (x, y), (x1, y1) = next((pair for pair in pairs if pair[0][1] < 0 <= pair[1][1]), pairs[-1])
    return math.exp(x - y * (x1 - x) / (y1 - y)) if y1 > y else math.inf


def measure(seed: int, size: Size, progress: Progress) -> Figures:
    """Count, then time."""
    torch.manual_seed(seed)
    core, whole = (lambda x, project=project: attend_written_out(x, project) for project in (False, True))
    n, d = size.counted, 2 * size.counted
    figures: Figures = {
        "core_by_length": slope(core, n, of_width=False),
        "rnn_by_length": slope(lambda x: rnn(x, 1), n, of_width=False),
        "rnn_by_width": slope(lambda x: rnn(x, 1), n, of_width=True),
        "attention_counted": operations(whole, n, d) / (8 * n * d * d + 4 * n * n * d),
        "lstm_counted": operations(lambda x: rnn(x, 4), n, d) / (16 * n * d * d),
        "operations_long": operations(whole, 8 * d, d) / operations(lambda x: rnn(x, 4), 8 * d, d),
        "operations_short": operations(core, d // 2, d) / operations(lambda x: rnn(x, 1), d // 2, d),
    }
    for width in size.widths:
        lengths = [round(width * multiple) for multiple in size.multiples]
        timed = [seconds(width, length, size.times) for length in progress.over(lengths, f"timing at width {width}")]
        ratios = [one["attention"] / one["lstm"] for one in timed]
        figures[f"lengths_{width}"], figures[f"ratios_{width}"] = lengths, ratios
        figures[f"rise_{width}"] = ratios[-1] / ratios[size.multiples.index(1.0)]
        figures[f"crossing_{width}"] = min(crossing(lengths, ratios), 100.0 * width) / width
        # How near each comes to the rate of a plain product, at the greatest length.
        last, length = timed[-1], lengths[-1]
        rate = 2 * length * width**2 / last["product"]
        figures[f"attention_rate_{width}"] = (8 * length * width**2 + 4 * length**2 * width) / last["attention"] / rate
        figures[f"lstm_rate_{width}"] = 16 * length * width**2 / last["lstm"] / rate
    return figures


def plot(figure: "Figure", results: Sequence[Figures], say: Callable[[Both], str]) -> None:
    """Draw the time of attention over an LSTM's by length over width, and the ratio that operations alone would give."""
    axes = figure.subplots()
    widths = [int(name.removeprefix("lengths_")) for name in results[0] if name.startswith("lengths_")]
    for place, width in enumerate(widths):
        for number, result in enumerate(results):
            multiples = [length / width for length in result[f"lengths_{width}"]]
            label = f"d = {width}" if number == 0 else None
            axes.plot(
                multiples,
                result[f"ratios_{width}"],
                f"{'os^v'[place % 4]}-",
                color=f"C{place}",
                label=label,
                linewidth=0.8,
            )
    multiples = [2**power for power in range(-1, 5)]
    counted = [(8 + 4 * multiple) / 16 for multiple in multiples]
    axes.plot(
        multiples,
        counted,
        "--",
        color="C2",
        label=say(Both("operations alone: (8 + 4n/d) / 16", "仅按运算量：(8 + 4n/d) / 16")),
    )
    axes.axhline(1.0, color="0.5", linewidth=0.8)
    axes.set(xscale="log", yscale="log", xlabel=say(Both("length over width, n/d", "长度与宽度之比 n/d")))
    axes.set_xticks(multiples, [f"{multiple:g}" for multiple in multiples])
    axes.set_ylabel(say(Both("time of attention over LSTM", "注意力与 LSTM 的时间之比")))
    axes.legend()


def _faster_than_any_power(means: Means) -> bool:
    return means["core_by_length"] > 3


LAB = Lab(
    name="cost",
    rows=("4",),
    question=Both("What does attention cost, beside an RNN?", "注意力的复杂度是多少，与 RNN 相比如何？"),
    answer=Both(
        "Attention's core takes n²d operations, a recurrent layer nd²: attention is the cheaper one while n < d. With its "
        "projections attention takes 8nd² + 4n²d, always more than a vanilla RNN's 4nd², more than a GRU's 12nd² beyond "
        "n = d and than an LSTM's 16nd² beyond n = 2d. But an RNN needs n steps one after another, attention one.",
        "注意力核心需 n²d 次运算，循环层需 nd²：n < d 时注意力更省。算上投影，注意力需 8nd² + 4n²d 次，始终多于普通 RNN 的 4nd²，"
        "n > d 后多于 GRU 的 12nd²，n > 2d 后也多于 LSTM 的 16nd²。但 RNN 要依次走 n 步，注意力只需一步。",
    ),
    follow_up=Both(
        "And to generate one token? Attention reads a cache that grows, O(nd); an RNN updates a state of fixed size, O(d²). "
        "A causal mask halves the core, if what it hides is skipped: then the LSTM is passed at n = 4d.",
        "生成一个词元呢？注意力要读不断增长的缓存，O(nd)；RNN 更新固定大小的状态，O(d²)。若真正跳过因果掩码遮住的部分，核心减半，"
        "此时到 n = 4d 才超过 LSTM。",
    ),
    trap=Both(
        "To quote n²d against nd² and forget the projections, which are most of the work in a short text; and to take "
        "operations for time.",
        "只比较 n²d 与 nd²，忘了投影（短文本中它才是大头）；还有把运算量当成时间。",
    ),
    claims=(
        Claim(
            says=Both("Attention's complexity is n to the power n.", "注意力的复杂度是 n 的 n 次方。"),
            truth=Both(
                "A misprint, no doubt: the operations grow with the square of the length, n²d.",
                "应为笔误：运算量随长度的平方增长，即 n²d。",
            ),
            holds=_faster_than_any_power,
            mistake=True,
        ),
        Claim(
            says=Both("An RNN's complexity is n·d·d.", "RNN 的复杂度是 n·d·d。"),
            truth=Both(
                "So it is: linear in the length, quadratic in the width.", "属实：与长度成正比，与宽度的平方成正比。"
            ),
            holds=lambda means: abs(means["rnn_by_length"] - 1) < 0.1 and abs(means["rnn_by_width"] - 2) < 0.1,
        ),
        Claim(
            says=Both("For longer sequences an RNN is the cheaper one.", "序列较长时 RNN 计算上更省。"),
            truth=Both(
                "True of operations: where the text is eight times as long as the layer is wide, attention takes more of "
                "them than even an LSTM. In time the two cross later, as long as the LSTM is farther from the machine's rate.",
                "就运算量而言属实：长度为宽度的 8 倍时，注意力的运算量比 LSTM 还多。就时间而言，只要 LSTM 离机器的峰值速率更远，交点就更靠后。",
            ),
            holds=lambda means: means["operations_long"] > 1,
        ),
    ),
    papers=("Vaswani et al. 2017, arXiv:1706.03762, table 1",),
    thresholds=(
        between("core_by_length", 1.99, 2.01, Both("n²d, counted", "n²d，实际计数"), every=True),
        between(
            "attention_counted", 1.0, 1.0, Both("8nd² + 4n²d, to the last one", "8nd² + 4n²d，一次不差"), every=True
        ),
        between("lstm_counted", 1.0, 1.0, Both("16nd², to the last one", "16nd²，一次不差"), every=True),
        at_least(
            "rise_64",
            1.5,
            Both(
                "the formulas say (8+32)/(8+4) = 3.3; half is left to overhead",
                "公式给出 (8+32)/(8+4) = 3.3；留一半给其他开销",
            ),
        ),
        at_least("rise_256", 1.5, Both("the same at width 256", "宽 256 时同理")),
    ),
    labels={
        "core_by_length": Both("power of the length in attention's operations", "注意力运算量中长度的幂"),
        "rnn_by_length": Both("power of the length in an RNN's operations", "RNN 运算量中长度的幂"),
        "rnn_by_width": Both("power of the width in an RNN's operations", "RNN 运算量中宽度的幂"),
        "attention_counted": Both("attention's operations over 8nd² + 4n²d", "注意力运算量与 8nd² + 4n²d 之比"),
        "lstm_counted": Both("an LSTM's operations over 16nd²", "LSTM 运算量与 16nd² 之比"),
        "operations_long": Both("operations at n = 8d, attention over LSTM", "n = 8d 时运算量，注意力与 LSTM 之比"),
        "operations_short": Both(
            "operations at n = d/2, attention's core over a vanilla RNN", "n = d/2 时运算量，注意力核心与普通 RNN 之比"
        ),
        "rise_64": Both(
            "time over an LSTM's, n = 8d against n = d, width 64", "与 LSTM 的时间比，n = 8d 相对 n = d，宽 64"
        ),
        "crossing_64": Both(
            "length over width at which an LSTM is as fast, width 64 (operations say 2)",
            "与 LSTM 同样快时的 n/d，宽 64（按运算量为 2）",
        ),
        "attention_rate_64": Both(
            "attention's rate over a plain product's, width 64", "注意力速率与普通矩阵乘之比，宽 64"
        ),
        "lstm_rate_64": Both("an LSTM's rate over a plain product's, width 64", "LSTM 速率与普通矩阵乘之比，宽 64"),
        "rise_256": Both(
            "time over an LSTM's, n = 8d against n = d, width 256", "与 LSTM 的时间比，n = 8d 相对 n = d，宽 256"
        ),
        "crossing_256": Both(
            "length over width at which an LSTM is as fast, width 256 (operations say 2)",
            "与 LSTM 同样快时的 n/d，宽 256（按运算量为 2）",
        ),
        "attention_rate_256": Both(
            "attention's rate over a plain product's, width 256", "注意力速率与普通矩阵乘之比，宽 256"
        ),
        "lstm_rate_256": Both("an LSTM's rate over a plain product's, width 256", "LSTM 速率与普通矩阵乘之比，宽 256"),
    },
    headline=Both(
        "an LSTM is as fast as attention at n = {crossing_64:.1f}d and {crossing_256:.1f}d (d = 64, 256); by "
        "operations at 2d",
        "n = {crossing_64:.1f}d 与 {crossing_256:.1f}d 时 LSTM 与注意力同样快（d = 64、256）；按运算量应为 2d",
    ),
    quick=Size(),
    full=Size(times=31),
    measure=measure,
    plot=plot,
    caption=Both(
        "One layer, batch 1, forward, one thread; a line a seed and width. Did both run at the rate of a plain product, "
        "the points would lie on the dashed line; the table has the rates that they reach.",
        "单层、批大小 1、前向、单线程，每线一个种子和一种宽度。若两者都以普通矩阵乘法的速率运行，各点将落在虚线上；实际速率见表。",
    ),
    seconds=15.0,
    alone=True,
)
