"""Why several heads: two places to read from at once, one softmax each; and what becomes of it without one head."""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import qkv
from qkv.labs.lab import Both, Claim, Figures, Lab, Progress, at_least, at_most
from qkv.labs.running.fit import fit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OFFSETS = (1, 4)
"""How far back the two symbols stand that each position is asked for."""


@dataclass(frozen=True)
class Size:
    """How large the layer is and how long it is trained."""

    heads: tuple[int, ...] = (1, 2, 4, 8, 16)
    width: int = 64
    symbols: int = 16
    length: int = 16
    steps: int = 500
    batch: int = 64
    rate: float = 3e-3
    timed_width: int = 256
    timed_length: int = 256
    rounds: int = 30


class TwoBack(nn.Module):
    """One layer of attention and nothing else: no residual, no feed-forward, so that only the heads can fetch.

    Half of an embedding is its symbol, half its place, and keys are made of the place alone.
    """

    def __init__(self, size: Size, heads: int) -> None:
        super().__init__()
        half = size.width // 2
        self.symbols = nn.Embedding(size.symbols, half)
        self.places = nn.Parameter(torch.randn(size.length, half))
        self.attention = qkv.MultiHead(size.width, heads, bias=False)
        self.out = nn.Linear(size.width, len(OFFSETS) * size.symbols)
        # Were keys made of symbols too, weights could depend on what they fetch: one head of a first trial learned to
        # write both symbols into one average so, in one seed of three (.86), and the task asked for no second head.
        key = self.attention.key.weight
        by_place = torch.arange(size.width) >= half
        with torch.no_grad():
            key *= by_place
        key.register_hook(lambda gradient: gradient * by_place)

    def embed(self, symbols: Tensor) -> Tensor:
        return torch.cat((self.symbols(symbols), self.places.expand(len(symbols), -1, -1)), dim=-1)

    def forward(self, symbols: Tensor) -> Tensor:
        return self.out(self.attention(self.embed(symbols))).unflatten(-1, (len(OFFSETS), -1))


def draw(size: Size, chance: torch.Generator, batch: int) -> tuple[Tensor, Tensor]:
    """Draw rows of symbols, and what stood so far back of each."""
    symbols = torch.randint(size.symbols, (batch, size.length), generator=chance)
    return symbols, torch.stack([symbols.roll(offset, 1) for offset in OFFSETS], dim=-1)


def train(heads: int, size: Size, seed: int, progress: Progress) -> TwoBack:
    """Train a model with so many heads."""
    torch.manual_seed(seed)
    chance = torch.Generator().manual_seed(seed)
    model = TwoBack(size, heads)

    def loss(step: int) -> Tensor:
        symbols, answers = draw(size, chance, size.batch)
        return F.cross_entropy(model(symbols)[:, max(OFFSETS) :].flatten(0, 2), answers[:, max(OFFSETS) :].flatten())

    fit(model.parameters(), loss, steps=size.steps, rate=size.rate, progress=progress, doing=f"{heads} heads")
    return model


@torch.no_grad()
def right(model: TwoBack, size: Size, seed: int) -> Tensor:
    """Say of each question whether each of its two answers is right."""
    symbols, answers = draw(size, torch.Generator().manual_seed(10_000 + seed), 500)
    found = model(symbols).argmax(-1) == answers
    return found[:, max(OFFSETS) :].flatten(0, 1).float()


def without_head(model: TwoBack, head: int) -> TwoBack:
    """Cut what one head says: its columns of the output layer become 0."""
    cut = copy.deepcopy(model)
    dim = cut.attention.output.in_features // cut.attention.heads
    with torch.no_grad():
        cut.attention.output.weight[:, head * dim : (head + 1) * dim] = 0
    return cut


def ablate(model: TwoBack, size: Size, seed: int) -> tuple[float, float, list[list[float]]]:
    """Cut each of two heads: give the least loss at its own offset, the most at the other's, and all losses."""
    whole = right(model, size, seed).mean(0)
    lost = torch.stack([whole - right(without_head(model, head), size, seed).mean(0) for head in range(2)])
    # Which head serves which offset is chance: it is what cutting it costs most.
    lost = lost if lost.trace() >= lost.flip(1).trace() else lost.flip(1)
    return float(lost.diagonal().min()), float(lost.flip(1).diagonal().max()), lost.tolist()


def reach(model: TwoBack, size: Size, seed: int) -> float:
    """Give the share of the embedding's features that a head's scores depend on."""
    symbols, _ = draw(size, torch.Generator().manual_seed(seed), 8)
    x = model.embed(symbols).detach().requires_grad_()
    scores = model.attention.with_map(x)[1].scores()
    shares = []
    for head in range(scores.shape[1]):
        (moved,) = torch.autograd.grad(scores[:, head].square().sum(), x, retain_graph=True)
        shares.append(float((moved.abs().amax((0, 1)) > 0).float().mean()))
    return sum(shares) / len(shares)


@torch.no_grad()
def seconds(size: Size, progress: Progress) -> list[float]:
    """Give the median processor time of one layer by its number of heads, taken in turns."""
    layers = [qkv.MultiHead(size.timed_width, heads, bias=False) for heads in size.heads]
    x = torch.randn(1, size.timed_length, size.timed_width)
    taken: list[list[float]] = [[] for _ in layers]
    for _ in progress.over(range(size.rounds), "time by heads"):
        for layer, times in zip(layers, taken, strict=True):
            began = time.process_time()
            layer(x)
            times.append(time.process_time() - began)
    return [median(times) for times in taken]


def measure(seed: int, size: Size, progress: Progress) -> Figures:
    """Train by the number of heads, cut heads, look, and time."""
    torch.manual_seed(seed)
    figures: Figures = {"untrained": float(right(TwoBack(size, 2), size, seed).prod(-1).mean())}
    for heads in size.heads:
        model = train(heads, size, seed, progress)
        figures[f"both_{heads}"] = float(right(model, size, seed).prod(-1).mean())
        if heads == 2:
            figures["kills"], figures["spares"], figures["lost"] = ablate(model, size, seed)
            figures["reach"] = reach(model, size, seed)
            figures["parameters"] = sum(parameter.numel() for parameter in model.attention.parameters())
            symbols, _ = draw(size, torch.Generator().manual_seed(seed), 1)
            weights = model.attention.with_map(model.embed(symbols))[1].dense()[0].detach()
            figures["weights"] = [[[round(weight, 3) for weight in row] for row in head] for head in weights.tolist()]
    figures["by_heads"] = [figures[f"both_{heads}"] for heads in size.heads]
    times = seconds(size, progress)
    figures["times"] = [value / times[0] for value in times]
    figures["time_16"] = times[-1] / times[0]
    return figures


def plot(figure: "Figure", results: Sequence[Figures], say: Callable[[Both], str]) -> None:
    """Draw accuracy by heads, what a cut head costs, and where two heads look."""
    axes = figure.subplot_mosaic("AABBC;AABBD")
    by_heads, cut = axes["A"], axes["B"]
    ticks = [2**place for place in range(len(results[0]["by_heads"]))]
    for result in results:
        by_heads.plot(ticks, result["by_heads"], "o-", color="C0", fillstyle="none", linewidth=0.8)
        for head, mark in enumerate("os"):
            cut.plot([0, 1], result["lost"][head], mark, color=f"C{head}", fillstyle="full" if head else "none")
    by_heads.axhline(results[0]["untrained"], linestyle=":", color="gray")
    by_heads.set(
        xscale="log",
        xlabel=say(Both("heads", "头数")),
        ylabel=say(Both("share with both answers right", "两个答案都对的比例")),
        ylim=(-0.05, 1.05),
    )
    by_heads.set_xticks(ticks, [str(tick) for tick in ticks])
    by_heads.minorticks_off()
    cut.set(
        ylabel=say(Both("accuracy lost by cutting a head", "去掉一头后正确率的下降")),
        xlim=(-0.5, 1.5),
        ylim=(-0.05, 1.05),
    )
    cut.set_xticks([0, 1], [say(Both("first answer", "第一个答案")), say(Both("second answer", "第二个答案"))])
    for head, name in enumerate("CD"):
        axes[name].imshow(results[0]["weights"][head], vmin=0, vmax=1, cmap="Greys")
        axes[name].set(xticks=[], yticks=[], title=say(Both(f"head {head + 1}", f"头 {head + 1}")))
    axes["D"].set(xlabel=say(Both("key", "键")), ylabel=say(Both("query", "查询")))


LAB = Lab(
    name="heads",
    rows=("16",),
    question=Both("What is multi-head attention, and why several heads?", "什么是多头注意力？为什么要多个头？"),
    answer=Both(
        "Each head projects the whole embedding to queries, keys and values of width d/h, and attends with a softmax of "
        "its own; the heads' outputs stand side by side and a linear layer mixes them. One softmax gives one average, so "
        "one head cannot bring two things apart from two places; two heads can, at the same number of parameters.",
        "每个头把整个嵌入投影成宽 d/h 的查询、键和值，各做一次 softmax；各头输出拼接后再经一个线性层混合。"
        "一次 softmax 只能得到一个加权平均，所以单头无法把两处的内容分开取回；两个头可以，而参数量相同。",
    ),
    follow_up=Both(
        "Are all heads needed? Mostly not, after training: Michel et al. 2019 remove most heads at little cost, Voita et "
        "al. 2019 prune 38 of 48 encoder heads for 0.15 BLEU. More is not always better: Vaswani's table 3 has 24.9 BLEU "
        "with 1 head, 25.8 with 8 or 16, 25.4 with 32.",
        "训练之后每个头都必不可少吗？多半不是：Michel 等（2019）去掉大部分头而损失很小，Voita 等（2019）剪去编码器 48 个头中的 38 个，"
        "BLEU 只降 0.15。头也不是越多越好：Vaswani 表 3 中 1 头 24.9，8 头和 16 头 25.8，32 头 25.4。",
    ),
    trap=Both(
        "“The embedding is cut into pieces, one for each head.” What is cut is the result of the projection; every head "
        "reads all features of the embedding.",
        "“把嵌入切成几段，每头一段。”被切开的是投影的结果；每个头都读取嵌入的全部特征。",
    ),
    claims=(
        Claim(
            says=Both(
                "The embedding is split, and each part goes through a matrix of its own.",
                "把嵌入拆成多份，每份经过各自的矩阵。",
            ),
            truth=Both(
                "Each head projects the whole embedding: its scores depend on all features. Splitting first would need "
                "3d²/h parameters, and contradict the 3d² that the article itself counts.",
                "每个头投影的是整个嵌入：它的分数依赖全部特征。若先拆分，参数只有 3d²/h，也与文章自己算的 3d² 矛盾。",
            ),
            # Split first, a head of two would reach half of the features.
            holds=lambda means: means["reach"] <= 0.5,
            mistake=True,
        ),
        Claim(
            says=Both("Heads learn different things.", "不同的头学到不同的信息。"),
            truth=Both(
                "Here they do, because the task asks for it: without one head its own answer is lost and the other stays. "
                "In large models many heads are redundant.",
                "本实验中如此，因为任务需要：去掉一个头，只丢失它负责的答案，另一个不变。大模型中则有许多头是冗余的。",
            ),
            holds=lambda means: means["kills"] >= 0.5 and means["spares"] <= 0.1,
        ),
        Claim(
            says=Both("Several heads make the computation parallel.", "多头带来计算的并行化。"),
            truth=Both(
                "The heads do run side by side, but one head of the whole width does the same operations as one product "
                "of matrices: sixteen heads take no less time than one.",
                "各头确实同时计算，但一个全宽的头用一次矩阵乘法做完同样多的运算：十六个头并不比一个头快。",
            ),
            # Parallel heads would be a gain if sixteen took clearly less time than one.
            holds=lambda means: means["time_16"] <= 0.9,
        ),
    ),
    papers=(
        "Vaswani et al. 2017, arXiv:1706.03762, §3.2.2 and table 3",
        "Michel et al. 2019, arXiv:1905.10650",
        "Voita et al. 2019, arXiv:1905.09418",
    ),
    thresholds=(
        at_most(
            "both_1", 0.3, Both("one softmax, one average: a pilot saw .15", "一次 softmax 只有一个平均；预实验 .15")
        ),
        *(
            at_least(f"both_{heads}", 0.95, Both("a head for each offset is there", "每个偏移都有一个头可用"))
            for heads in (2, 4, 8, 16)
        ),
        at_least("kills", 0.5, Both("a head that serves an offset is missed there", "负责该偏移的头去掉后应明显变差")),
        at_most("spares", 0.1, Both("and not at the other", "对另一偏移则应无大碍")),
    ),
    labels={
        "untrained": Both("share with both answers right, untrained, 2 heads", "两个答案都对的比例，未训练，2 头"),
        **{
            f"both_{heads}": Both(f"share with both answers right, heads: {heads}", f"两个答案都对的比例，头数 {heads}")
            for heads in (1, 2, 4, 8, 16)
        },
        "kills": Both(
            "accuracy that cutting a head costs at its own offset, the lesser of two",
            "去掉一个头，其负责的偏移上正确率的下降，两头中较小者",
        ),
        "spares": Both(
            "accuracy that it costs at the other offset, the greater of two",
            "去掉一个头，另一偏移上正确率的下降，两头中较大者",
        ),
        "reach": Both("share of the embedding's features that a head depends on", "一个头所依赖的嵌入特征的比例"),
        "parameters": Both("parameters of the layer, whatever its heads", "该层参数个数，与头数无关"),
        "time_16": Both("time of a layer with 16 heads over that with 1", "16 头与 1 头的层用时之比"),
    },
    headline=Both(
        "share of two symbols fetched at once: {both_1:.2f} with one head, {both_2:.2f} with two",
        "同时取回两个符号的正确率：单头 {both_1:.2f}，双头 {both_2:.2f}",
    ),
    quick=Size(),
    measure=measure,
    plot=plot,
    caption=Both(
        "Left: share of positions with both symbols right by number of heads, a line a seed; dotted: untrained. Middle: "
        "what each answer loses without a head (circle: the first answer's, square: the second's). Right: the weights "
        "of the two heads (darker: more).",
        "左：两个符号都答对的位置比例随头数的变化，每线一个种子；点线为未训练。中：去掉一个头后各答案正确率的下降（圆：负责第一个答案的头，方：负责第二个答案的头）。"
        "右：两个头的权重（越深越大）。",
    ),
    seconds=20.0,
    alone=True,
)
