"""Global or local attention: what a window sees, who says where it stands, and what it costs."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

import qkv
from qkv.labs.lab import Both, Claim, Figures, Lab, Progress, at_least, at_most, between
from qkv.labs.puzzles import answered, copying, draw_symbols, reversal
from qkv.labs.running.fit import fit
from qkv.models.looking import Attention, ConcatScore, LocalM, LocalP, LocationScore, LuongAttention
from qkv.models.recurrent import StepThenLook

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Size:
    """How long the rows are, how wide the models, and how long they are trained.

    Half of the training rows grow from `shortest`, which a window sees whole, to `length`; then the rate falls to zero. On
    long rows from the start, at a constant rate, chance decided whether local-p learned at all: no gradient comes from
    beyond its window, so that one that was thrown to an end, or counted wrongly, stayed there (two of six copies ended
    with .39 and .66 right, seeds 20 to 25). Trained longer, or more slowly, some stayed there too.
    """

    shortest: int = 4
    length: int = 24
    symbols: int = 8
    reach: int = 2
    width: int = 64
    steps: int = 400
    batch: int = 32
    rate: float = 3e-3
    counted: tuple[int, ...] = (512, 1024, 2048, 4096)


TASKS = {"copy": copying, "reversal": reversal}


def attentions(size: Size) -> dict[str, Attention]:
    """Give global attention and both kinds of local attention, all with Luong's score "general"."""
    return {"global": LuongAttention(), "m": LocalM(size.reach), "p": LocalP(size.reach)}


def scores(size: Size) -> dict[str, Attention]:
    """Give global attention with Luong's other scores."""
    made = {"dot": qkv.dot(), "concat": ConcatScore(), "location": LocationScore(size.length)}
    return {name: LuongAttention(score) for name, score in made.items()}


def train(
    attention: Attention, task: str, size: Size, seed: int, progress: Progress, doing: str
) -> tuple[float, list[list[float]]]:
    """Train a translator with an attention; give the share of symbols right, and the weights of one row."""
    torch.manual_seed(seed)
    chance = torch.Generator().manual_seed(seed)
    config = qkv.RecurrentConfig(vocabulary=size.symbols + 1, width=size.width)
    model = qkv.Recurrent(config, attention=attention, cell=nn.GRU, decoder=StepThenLook)
    growing = size.steps // 2

    def loss(step: int) -> Tensor:
        length = min(size.length, size.shortest + (size.length - size.shortest) * step // growing)
        pairs = TASKS[task](draw_symbols(size.batch, length, size.symbols, chance))
        total, count = model.loss(pairs.source, pairs.target, pairs.targets)
        return total / count

    slower = size.steps - growing
    fit(model.parameters(), loss, steps=size.steps, rate=size.rate, cool_down=slower, progress=progress, doing=doing)
    pairs = TASKS[task](draw_symbols(300, size.length, size.symbols, torch.Generator().manual_seed(10_000 + seed)))
    right = float(answered(model.eval(), pairs).mean())
    with torch.no_grad():
        weights = model.with_alignment(pairs.source, pairs.target)[1][0]
    return right, [[round(weight, 3) for weight in row] for row in weights.tolist()]


def pairs_computed(size: Size) -> tuple[list[float], list[float]]:
    """Count the pairs of query and key that are computed, by length: all meeting all, and in a window."""
    everywhere, near = [], []
    window = qkv.window(before=size.reach, after=size.reach)
    for length in size.counted:
        x = torch.empty(1, 1, length, 8)
        everywhere.append(float(qkv.explain(x, x, x).cost.pairs))
        near.append(float(qkv.explain(x, x, x, mask=window).cost.pairs))
    return everywhere, near


def slope(lengths: Sequence[int], counts: Sequence[float]) -> float:
    """Give the power of the length with which a count grows, from the shortest to the longest."""
    return math.log(counts[-1] / counts[0]) / math.log(lengths[-1] / lengths[0])


def measure(seed: int, size: Size, progress: Progress) -> Figures:
    """Train each attention on both tasks, the other scores on reversal, and count pairs."""
    figures: Figures = {"maps": {}}
    for task in TASKS:
        for name, attention in attentions(size).items():
            right, weights = train(attention, task, size, seed, progress, f"{task}, {name}")
            figures[f"{name}_{task}"] = right
            figures["maps"][f"{name}_{task}"] = weights
    for name, attention in scores(size).items():
        figures[f"{name}_reversal"], _ = train(attention, "reversal", size, seed, progress, f"reversal, {name}")
    figures["copy_lost"] = figures["global_copy"] - figures["p_copy"]
    figures["reversal_won"] = figures["p_reversal"] - figures["m_reversal"]
    figures["lengths"] = list(size.counted)
    figures["pairs_global"], figures["pairs_local"] = pairs_computed(size)
    figures["slope_global"] = slope(size.counted, figures["pairs_global"])
    figures["slope_local"] = slope(size.counted, figures["pairs_local"])
    return figures


def plot(figure: "Figure", results: Sequence[Figures], say: Callable[[Both], str]) -> None:
    """Draw what is right by attention and task, pairs by length, and where each looks in reversal."""
    axes = figure.subplot_mosaic("AAABBB;CCDDEE")
    names = ("global", "m", "p")
    shown = dict(zip(names, (say(Both("global", "全局")), "local-m", "local-p"), strict=True))
    for place, (task, mark) in enumerate((("copy", "o"), ("reversal", "s"))):
        label = say(Both("copy", "复制") if task == "copy" else Both("reversal", "反转"))
        for at, name in enumerate(names):
            values = [result[f"{name}_{task}"] for result in results]
            where = [at + 0.2 * place - 0.1] * len(values)
            axes["A"].plot(where, values, mark, color=f"C{place}", fillstyle="none", label=label if at == 0 else None)
    axes["A"].set(ylim=(0, 1.05), ylabel=say(Both("share of symbols right", "符号正确率")))
    axes["A"].set_xticks(range(3), list(shown.values()))
    axes["A"].legend()
    for kind, line in (("global", "o-"), ("local", "s--")):
        name = say(Both("global", "全局") if kind == "global" else Both("window", "窗口"))
        axes["B"].plot(results[0]["lengths"], results[0][f"pairs_{kind}"], line, label=name)
    axes["B"].set(
        xscale="log",
        yscale="log",
        xlabel=say(Both("length (tokens)", "长度（词元）")),
        ylabel=say(Both("pairs of query and key computed", "所算的查询–键对个数")),
    )
    axes["B"].set_xticks(results[0]["lengths"], [str(length) for length in results[0]["lengths"]])
    axes["B"].minorticks_off()
    axes["B"].legend()
    for letter, name in zip("CDE", names, strict=True):
        axes[letter].imshow(results[0]["maps"][f"{name}_reversal"], vmin=0, vmax=1, cmap="Greys")
        axes[letter].set(xticks=[], yticks=[], xlabel=say(Both("source", "源端")), title=shown[name])
    axes["C"].set(ylabel=say(Both("answer", "答案")))


LAB = Lab(
    name="local",
    rows=("15b",),
    question=Both("Global or local attention?", "全局注意力还是局部注意力？"),
    answer=Both(
        "Global attention scores every position of the source for every word. Local attention scores a window: local-m "
        "puts it where the target stands, local-p where the decoder's state predicts. A window makes the cost linear in "
        "the length; it is worth as much as it stands in the right place.",
        "全局注意力为每个目标词给源端的所有位置打分；局部注意力只看一个窗口：local-m 把窗口放在与目标相同的位置，local-p 由解码器状态预测位置。"
        "窗口使开销随长度线性增长，但只有放对了地方才有用。",
    ),
    follow_up=Both(
        "What did Luong see? BLEU 18.1, 18.6 and 17.3 with global attention and the scores location, dot and general; with "
        "general 18.6 for local-m and 19.0 for local-p. Local-m aligned words better than global attention: an alignment "
        "error rate of .34 against .39. And does local-p save anything? Not as qkv computes it: all pairs are scored, then "
        "those off the window hidden. The saving needs a mask known beforehand.",
        "Luong 的结果如何？全局注意力用 location、dot、general 打分时 BLEU 为 18.1、18.6、17.3；用 general 时 local-m 为 18.6，local-p 为 19.0。"
        "对齐错误率 local-m 为 .34，优于全局的 .39。local-p 省计算吗？在 qkv 中不省：先算出全部分数，再遮去窗口之外的；要省计算，窗口须事先已知。",
    ),
    trap=Both(
        "Soft or hard is one question, global or local another: local attention is soft, inside its window. And “NLP "
        "prefers global” is dated: many language models alternate layers with sliding windows.",
        "“软/硬”与“全局/局部”是两个问题：局部注意力在窗口内仍是软的。“自然语言处理偏好全局”也已过时：许多大语言模型交替使用滑动窗口层。",
    ),
    claims=(
        Claim(
            says=Both("Local attention predicts where it will look.", "局部注意力预测要看的位置。"),
            truth=Both(
                "Only local-p does. Local-m takes the target's own place, and fails as soon as the order changes: in a "
                "reversal it sees what it needs near the middle alone, and must remember the rest.",
                "只有 local-p 会预测；local-m 直接取目标所在的位置，语序一变就失败：反转任务中它只在中点附近看得到需要的符号，其余只能靠记忆。",
            ),
            # If both predicted, both would follow the reversal.
            holds=lambda means: means["m_reversal"] >= means["p_reversal"] - 0.05,
            mistake=True,
        ),
        Claim(
            says=Both("Looking locally saves cost on long sequences.", "局部化可以降低长序列的计算开销。"),
            truth=Both(
                "For a window known beforehand the pairs computed grow as the length, all pairs as its square.",
                "窗口位置事先已知时，所算的查询–键对个数随长度线性增长；全局则按平方增长。",
            ),
            holds=lambda means: means["slope_local"] <= 1.1 and means["slope_global"] >= 1.9,
        ),
        Claim(
            says=Both("In language, global attention is usually preferred.", "自然语言处理中通常更倾向全局方法。"),
            truth=Both(
                "Here global attention is as right as local-p on both tasks, within .02, and does not have to find its "
                "window first. On long texts, windows in some of the layers are usual today.",
                "本实验两项任务上全局与 local-p 相差不到 .02，也不必先学会放置窗口。但在长文本上，如今常在部分层使用窗口。",
            ),
            holds=lambda means: (
                means["global_copy"] >= means["p_copy"] - 0.02
                and means["global_reversal"] >= means["p_reversal"] - 0.02
            ),
        ),
    ),
    papers=("Luong et al. 2015, arXiv:1508.04025, §3 and table 4", "Beltagy et al. 2020, arXiv:2004.05150"),
    thresholds=(
        at_most(
            "copy_lost", 0.02, Both("a window that finds the diagonal sees all it needs", "窗口落在对角线上就够用")
        ),
        at_least(
            "reversal_won", 0.2, Both("local-m meets the reversal at its middle alone", "local-m 只在中点遇到反转")
        ),
        between(
            "slope_local", 0.9, 1.1, Both("a window's pairs grow as the length", "窗口内的查询–键对个数随长度线性增长")
        ),
        between("slope_global", 1.9, 2.1, Both("all pairs grow as its square", "全部查询–键对的个数按长度的平方增长")),
    ),
    labels={
        **{
            f"{name}_{task}": Both(f"share of symbols right, {english}, {shown}", f"符号正确率，{chinese}，{zh}")
            for task, english, chinese in (("copy", "copy", "复制"), ("reversal", "reversal", "反转"))
            for name, shown, zh in (
                ("global", "global", "全局"),
                ("m", "local-m", "local-m"),
                ("p", "local-p", "local-p"),
            )
        },
        **{
            f"{name}_reversal": Both(
                f"share of symbols right, reversal, global, score {name}", f"符号正确率，反转，全局，{name} 打分"
            )
            for name in ("dot", "concat", "location")
        },
        "copy_lost": Both("copy, share right: global − local-p", "复制正确率：全局 − local-p"),
        "reversal_won": Both("reversal, share right: local-p − local-m", "反转正确率：local-p − local-m"),
        "slope_local": Both("power of the length in a window's number of pairs", "窗口内查询–键对个数对长度的幂次"),
        "slope_global": Both("power of the length in the number of all pairs", "全部查询–键对个数对长度的幂次"),
    },
    headline=Both(
        "symbols of a reversal right: {global_reversal:.2f} global, {p_reversal:.2f} local-p, {m_reversal:.2f} local-m",
        "反转的符号正确率：全局 {global_reversal:.2f}，local-p {p_reversal:.2f}，local-m {m_reversal:.2f}",
    ),
    quick=Size(),
    measure=measure,
    plot=plot,
    caption=Both(
        "Above: symbols right by attention, a point a seed; pairs computed by length. Below: where each looks while it "
        "answers one row backwards.",
        "上：各种注意力的符号正确率，每点一个种子；所算的查询–键对个数随长度的变化。下：反转同一行符号时各自看向何处。",
    ),
    seconds=70.0,
)
