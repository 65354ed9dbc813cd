"""What more heads cost: parameters, operations, scores, time; and what a narrow head can no longer do."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import qkv
from qkv.labs.lab import Both, Claim, Figures, Lab, Progress, at_least, at_most, between
from qkv.labs.running.fit import fit

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Size:
    """How large the layers are that are counted, fitted and trained."""

    heads: tuple[int, ...] = (1, 2, 4, 8, 16)
    width: int = 256
    length: int = 256
    rounds: int = 30
    pattern: int = 32
    dims: tuple[int, ...] = (1, 2, 4, 8, 16, 24, 31)
    fits: int = 1000
    symbols: int = 16
    row: int = 16
    whole_width: int = 64
    # Two heads that are split first have 3d²/2 + d² parameters; so wide, they have no fewer than 4 · 64².
    split_width: int = 82
    steps: int = 400
    batch: int = 64
    rate: float = 3e-3


class SplitFirst(nn.Module):
    """What multi-head attention is not: the embedding is cut, and each head sees a piece of it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, dim = heads, width // heads
        self.pieces = nn.Parameter(torch.randn(3, heads, dim, dim) * dim**-0.5)
        self.output = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = torch.einsum("bnhd,phde->pbhne", x.unflatten(-1, (self.heads, -1)), self.pieces)
        return self.output(qkv.attend(query, key, value).transpose(1, 2).flatten(-2))


class OneBack(nn.Module):
    """One layer that is asked for the symbol before. Half of an embedding is its symbol, half its place."""

    def __init__(self, size: Size, width: int, attention: nn.Module) -> None:
        super().__init__()
        self.symbols = nn.Embedding(size.symbols, width // 2)
        self.places = nn.Parameter(torch.randn(size.row, width // 2))
        self.attention, self.out = attention, nn.Linear(width, size.symbols)

    def forward(self, symbols: Tensor) -> Tensor:
        places = self.places.expand(len(symbols), -1, -1)
        return self.out(self.attention(torch.cat((self.symbols(symbols), places), dim=-1)))[:, 1:]


def count_parameters(module: nn.Module) -> int:
    """Count parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def one_back(
    make: Callable[[int], nn.Module], width: int, size: Size, seed: int, progress: Progress, doing: str
) -> float:
    """Train a layer on the symbol before; give the share right."""
    torch.manual_seed(seed)
    chance = torch.Generator().manual_seed(seed)
    model = OneBack(size, width, make(width))

    def loss(step: int) -> Tensor:
        symbols = torch.randint(size.symbols, (size.batch, size.row), generator=chance)
        return F.cross_entropy(model(symbols).flatten(0, 1), symbols[:, :-1].flatten())

    fit(model.parameters(), loss, steps=size.steps, rate=size.rate, progress=progress, doing=doing)
    symbols = torch.randint(size.symbols, (500, size.row), generator=torch.Generator().manual_seed(10_000 + seed))
    with torch.no_grad():
        return float((model(symbols).argmax(-1) == symbols[:, :-1]).float().mean())


def divergence(dim: int, size: Size, seed: int, progress: Progress) -> float:
    """Fit queries and keys of a head so wide to a random pattern of attention; give KL(pattern ‖ head) a row, in nats."""
    chance = torch.Generator().manual_seed(seed)

    def draw(width: int) -> Tensor:
        return torch.randn(1, size.pattern, width, generator=chance, dtype=torch.float64)

    pattern = draw(size.pattern).softmax(-1)
    query, key = (nn.Parameter(draw(dim)) for _ in range(2))

    def loss(step: int) -> Tensor:
        weights = qkv.attention_map(query, key).dense()
        return F.kl_div(weights.log(), pattern, reduction="sum") / size.pattern

    fit((query, key), loss, steps=size.fits, rate=0.05, clip=None, progress=progress, doing=f"rank, width {dim}")
    return float(loss(0).detach())


@torch.no_grad()
def costs(size: Size, progress: Progress) -> Figures:
    """Count what layers of the same width need, by their number of heads, and take their processor time in turns."""
    layers = [qkv.MultiHead(size.width, heads, bias=False) for heads in size.heads]
    x = torch.randn(1, size.length, size.width)
    operations, scores = [], []
    for layer in layers:
        # The counter sees products of matrices: the map's and the sum by it are spelled out.
        with FlopCounterMode(display=False) as counter:
            _, seen = layer.with_map(x)
            seen.dense() @ torch.zeros(1, layer.heads, size.length, size.width // layer.heads)
        operations.append(float(counter.get_total_flops()))
        scores.append(float(seen.scores().nbytes))
    taken: list[list[float]] = [[] for _ in layers]
    for _ in progress.over(range(size.rounds), "time by heads"):
        for layer, times in zip(layers, taken, strict=True):
            began = time.process_time()
            layer(x)
            times.append(time.process_time() - began)
    times = [median(some) for some in taken]
    parameters = [float(count_parameters(layer)) for layer in layers]
    shared = qkv.MultiHead(size.width, size.heads[-1], key_heads=1, bias=False)
    return {
        "heads": list(size.heads),
        "parameters": [value / parameters[0] for value in parameters],
        "operations": [value / operations[0] for value in operations],
        "scores": [value / scores[0] for value in scores],
        "times": [value / times[0] for value in times],
        "squares": parameters[-1] / size.width**2,
        "shared_squares": count_parameters(shared) / size.width**2,
    }


def measure(seed: int, size: Size, progress: Progress) -> Figures:
    """Count and time by heads, fit a pattern by width, and train both ways to split."""
    figures = costs(size, progress)
    for name in ("parameters", "operations", "scores", "times"):
        figures[f"{name}_most"] = figures[name][-1]
    figures["dims"] = list(size.dims)
    figures["divergences"] = [divergence(dim, size, seed, progress) for dim in size.dims]
    figures |= {f"divergence_{dim}": figures["divergences"][size.dims.index(dim)] for dim in (1, 16, 31)}
    pairs = zip(figures["divergences"], figures["divergences"][1:], strict=False)
    figures["divergence_rise"] = max(after - before for before, after in pairs)

    def whole(width: int) -> nn.Module:
        return qkv.MultiHead(width, 2, bias=False)

    figures["whole"] = one_back(whole, size.whole_width, size, seed, progress, "project whole")
    figures["split"] = one_back(
        lambda width: SplitFirst(width, 2), size.split_width, size, seed, progress, "split first"
    )
    figures["split_lost"] = figures["whole"] - figures["split"]
    figures["whole_parameters"] = count_parameters(whole(size.whole_width))
    figures["split_parameters"] = count_parameters(SplitFirst(size.split_width, 2))
    return figures


def plot(figure: "Figure", results: Sequence[Figures], say: Callable[[Both], str]) -> None:
    """Draw the costs by heads, the divergence by a head's width, and what is right by the way of splitting."""
    left, middle, right = figure.subplots(1, 3)
    names = {
        "scores": (Both("bytes of scores", "分数的字节数"), "s--"),
        "times": (Both("time", "用时"), "^:"),
        "operations": (Both("operations", "运算量"), "o-"),
        "parameters": (Both("parameters", "参数"), "x-."),
    }
    for name, (text, style) in names.items():
        for at, result in enumerate(results):
            left.plot(result["heads"], result[name], style, color=f"C{list(names).index(name)}", fillstyle="none")
            if not at:
                left.lines[-1].set_label(say(text))
    left.set(xscale="log", yscale="log", xlabel=say(Both("heads", "头数")))
    left.set(ylabel=say(Both("relative to one head", "与单头之比")))
    left.set_xticks(results[0]["heads"], [str(heads) for heads in results[0]["heads"]])
    left.set_yticks([1, 2, 4, 8, 16], ["1", "2", "4", "8", "16"])
    left.minorticks_off()
    left.legend(fontsize="small")
    for result in results:
        middle.plot(result["dims"], result["divergences"], "o-", color="C0", fillstyle="none", linewidth=0.8)
    middle.set(
        yscale="log",
        xlabel=say(Both("width of a head", "每头宽度")),
        ylabel=say(Both("divergence from the pattern (nats a row)", "与目标模式的 KL 散度（nat/行）")),
    )
    for at, (name, mark) in enumerate((("whole", "o"), ("split", "s"))):
        right.plot([at] * len(results), [result[name] for result in results], mark, color="C0", fillstyle="none")
    right.set(xlim=(-0.5, 1.5), ylim=(0, 1.05), ylabel=say(Both("share of symbols fetched right", "取回符号的正确率")))
    right.set_xticks([0, 1], [say(Both("project\nwhole", "整体投影")), say(Both("split\nfirst", "先拆分"))])


LAB = Lab(
    name="head_cost",
    rows=("17",),
    question=Both("Do more heads cost more?", "注意力头越多，开销越大吗？"),
    answer=Both(
        "With heads of width d/h, no: queries, keys and values take 3d² parameters and the output d², whatever h, and the "
        "operations stay too. What grows is the number of scores, h·n², where they are stored; and each head has a "
        "lower rank to make its pattern with.",
        "若每头宽 d/h，参数不变：查询、键、值共 3d²，输出 d²，与头数无关，运算量也不变。增长的是分数的个数 h·n²（若存下来），"
        "同时每个头的秩变低，能表达的注意力模式受限。",
    ),
    follow_up=Both(
        "When is it false? Where heads × width is not d, as in many models of today, and for grouped-query or multi-query "
        "attention, whose keys and values shrink with the number of key heads. And the scores cost no memory where they "
        "are never stored, as in FlashAttention.",
        "何时不成立？头数 × 头宽 ≠ d 时（如今许多模型如此），以及分组查询、多查询注意力：键和值随键头数减少。"
        "另外若像 FlashAttention 那样不存分数，就没有这项内存开销。",
    ),
    trap=Both(
        "d²/k a head, k heads: that adds to d² for each of query, key and value only because every head projects the whole "
        "embedding. Were the embedding split first, it would be d²/k² a head. And do not forget the output's d².",
        "每头 d²/k，共 k 个头：查询、键、值各合计 d²，前提是每个头投影整个嵌入；若先拆分嵌入，每头只有 d²/k²。另外别忘了输出层的 d²。",
    ),
    claims=(
        Claim(
            says=Both("More heads do not add parameters.", "增加头数不会增加参数总量。"),
            truth=Both(
                "So it is, and operations stay as well. Scores grow with the heads, and time a little.",
                "确实如此，运算量也不变；但分数随头数成比例增长，用时略增。",
            ),
            holds=lambda means: means["parameters_most"] == 1,
        ),
        Claim(
            says=Both("It is 3d² parameters in all.", "总共 3d² 个参数。"),
            truth=Both(
                "3d² are those of query, key and value; the layer that merges the heads has d² more.",
                "3d² 只是查询、键、值的；合并各头的线性层还有 d²。",
            ),
            holds=lambda means: abs(means["squares"] - 3) < 0.01,
        ),
        Claim(
            says=Both(
                "The embedding is split, each part with its own matrix, and that makes 3d².",
                "嵌入先拆分，每份用各自的矩阵，合计 3d²。",
            ),
            truth=Both(
                "The two do not go together. Split first, heads have fewer parameters, and even at as many a head that "
                "sees only symbols and one that sees only places cannot fetch the symbol of a place.",
                "二者矛盾。先拆分则参数更少；即使参数一样多，只见符号的头与只见位置的头也无法取出某个位置上的符号。",
            ),
            holds=lambda means: means["split"] >= means["whole"] - 0.05,
            mistake=True,
        ),
    ),
    papers=(
        "Vaswani et al. 2017, arXiv:1706.03762, §3.2.2",
        "Ainslie et al. 2023, arXiv:2305.13245",
        "Bhojanapalli et al. 2020, arXiv:2002.07028 (the rank of a head)",
    ),
    thresholds=(
        between(
            "parameters_most",
            1.0,
            1.0,
            Both("heads of d/h share the same matrices", "每头宽 d/h 时，各头分用同样大小的矩阵"),
        ),
        between("scores_most", 15.9, 16.1, Both("sixteen heads, sixteen maps of scores", "十六个头，十六张分数表")),
        at_most("divergence_rise", 0.0, Both("a wider head can do what a narrower can", "窄头能做的宽头都能做")),
        at_least(
            "divergence_16", 1e-3, Both("rank 16 is too low for 32 keys; a pilot saw .022", "秩 16 不够；预实验 .022")
        ),
        at_most(
            "divergence_31",
            1e-4,
            Both(
                "31 suffice, as a constant added to a row does not move softmax",
                "秩 31 足够：每行加一个常数不改变 softmax",
            ),
        ),
        at_least(
            "split_lost", 0.5, Both("a half alone answers by guessing, 1 in 16", "只凭一半只能猜，猜对率十六分之一")
        ),
    ),
    labels={
        "parameters_most": Both("parameters, 16 heads over 1", "参数，16 头与单头之比"),
        "operations_most": Both("operations, 16 heads over 1", "运算量，16 头与单头之比"),
        "scores_most": Both("bytes of scores, 16 heads over 1", "分数字节数，16 头与单头之比"),
        "times_most": Both("time, 16 heads over 1", "用时，16 头与单头之比"),
        "squares": Both("parameters of the layer over d²", "该层参数除以 d²"),
        "shared_squares": Both("the same, 16 heads that share one key and value", "同上，16 头共用一组键值"),
        "divergence_1": Both(
            "divergence from a random pattern, a head of width 1 (nats a row)",
            "与随机模式的 KL 散度，头宽 1（nat/行）",
        ),
        "divergence_16": Both("the same, width 16 (nats a row)", "同上，头宽 16（nat/行）"),
        "divergence_31": Both("the same, width 31 (nats a row)", "同上，头宽 31（nat/行）"),
        "divergence_rise": Both(
            "largest rise of it from one width to the next (nats a row)", "相邻宽度间最大升幅（nat/行）"
        ),
        "whole": Both("share of symbols fetched right, each head projects the whole", "取回前一符号的正确率，整体投影"),
        "split": Both("share of symbols fetched right, split first", "取回前一符号的正确率，先拆分"),
        "split_lost": Both("share fetched right: project whole − split first", "取回正确率：整体投影 − 先拆分"),
        "whole_parameters": Both("number of parameters, project whole", "参数个数，整体投影"),
        "split_parameters": Both("number of parameters, split first", "参数个数，先拆分"),
    },
    headline=Both(
        "16 heads over 1: parameters ×{parameters_most:.0f}, scores ×{scores_most:.0f}, time ×{times_most:.1f}",
        "16 头与单头之比：参数 ×{parameters_most:.0f}，分数 ×{scores_most:.0f}，用时 ×{times_most:.1f}",
    ),
    quick=Size(),
    full=Size(width=1024, length=2048, fits=5000, steps=4000),
    measure=measure,
    plot=plot,
    caption=Both(
        "Left: what a layer needs by its number of heads, relative to one. Middle: how far a head is from a random "
        "pattern of 32 × 32 after fitting, by its width. Right: symbols fetched from the place before, by two heads of "
        "either kind. A line or point a seed.",
        "左：一层的开销随头数的变化（与单头之比）。中：拟合 32 × 32 的随机模式后，头与它的距离随头宽的变化。"
        "右：两种双头取回前一位置符号的正确率。每线或每点一个种子。",
    ),
    seconds=15.0,
    alone=True,
)
