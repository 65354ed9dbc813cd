"""Additive attention, dot product, or none: what an encoder–decoder can carry over, at equal parameters."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

import qkv
from qkv.labs.lab import Both, Claim, Figures, Lab, Progress, at_least, at_most
from qkv.labs.puzzles import START, answered, as_pairs, copying, draw_symbols
from qkv.labs.running.fit import fit
from qkv.models.looking import AdditiveAttention, Attention, LuongAttention, NoAttention
from qkv.text.batching import Pairs
from qkv.text.dates import date_pairs

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Size:
    """How long the rows are, how wide the models, and how long they are trained."""

    symbols: int = 8
    shortest: int = 4
    longest: int = 16
    beyond: int = 30
    tried: tuple[int, ...] = (4, 8, 12, 16, 20, 30)
    # General and additive attention have a matrix more: so much wider, the others have as many parameters within .1%.
    # States lie within ±1, so that scores of a width do not exceed it, and those of scaled dot not its root: at a width of
    # 66 these were too blunt to copy 16 symbols (.75 of the rows after 1,000 steps, the others .97 and more).
    width: int = 128
    wider: int = 132
    # The rate falls, as at a constant one the share that is right says how fast each learns, not what it carries over.
    steps: int = 700
    batch: int = 64
    rate: float = 5e-3
    dates: int = 3000
    date_steps: int = 250


def attentions(size: Size) -> dict[str, tuple[int, Attention]]:
    """Give each attention, and the width of its model."""
    return {
        "none": (size.wider, NoAttention()),
        "additive": (size.width, AdditiveAttention(size.width // 2)),
        "dot": (size.wider, LuongAttention(qkv.dot())),
        "scaled": (size.wider, LuongAttention(qkv.scaled_dot())),
        "general": (size.width, LuongAttention()),
    }


def make(name: str, vocabulary: int, size: Size) -> qkv.Recurrent:
    """Make a translator, the same in all but its attention: it looks, then steps (Bahdanau's order)."""
    width, attention = attentions(size)[name]
    config = qkv.RecurrentConfig(vocabulary=vocabulary, width=width)
    return qkv.Recurrent(config, attention=attention)


def train(
    model: qkv.Recurrent, batch: Callable[[int], Pairs], steps: int, size: Size, progress: Progress, doing: str
) -> None:
    """Train a translator on batches."""

    def loss(step: int) -> Tensor:
        pairs = batch(step)
        total, count = model.loss(pairs.source, pairs.target, pairs.targets)
        return total / count

    fit(model.parameters(), loss, steps=steps, rate=size.rate, cool_down=steps // 2, progress=progress, doing=doing)
    model.eval()


def copy(name: str, size: Size, seed: int, progress: Progress) -> tuple[list[float], list[list[float]]]:
    """Train on copying rows of several lengths; give the share of rows right by length, and the weights of one."""
    torch.manual_seed(seed)
    chance = torch.Generator().manual_seed(seed)
    model = make(name, size.symbols + 1, size)

    def batch(step: int) -> Pairs:
        # One length a batch: with all in each, a third of what was computed was padding, and three seeds too slow.
        length = int(torch.randint(size.shortest, size.longest + 1, (), generator=chance))
        return copying(draw_symbols(size.batch, length, size.symbols, chance))

    train(model, batch, size.steps, size, progress, f"copy, {name}")
    chance = torch.Generator().manual_seed(10_000 + seed)
    tests = [copying(draw_symbols(300, length, size.symbols, chance)) for length in size.tried]
    right = [float(answered(model, test).prod(-1).mean()) for test in tests]
    return right, _weights(model, tests[size.tried.index(size.longest)])


def dates(name: str, size: Size, seed: int, progress: Progress) -> tuple[float, list[list[float]], str, str]:
    """Train on dates in many languages; give the share of held-out dates right, and the weights of one."""
    torch.manual_seed(seed)
    chance = torch.Generator().manual_seed(seed)
    known, asked = list(date_pairs(size.dates, seed=seed)), list(date_pairs(300, seed=seed, held_out=True))
    letters = sorted({letter for pair in (*known, *asked) for letter in pair.source + pair.target})
    numbers = {letter: number for number, letter in enumerate(letters, START + 1)}

    def encode(text: str) -> Tensor:
        return torch.tensor([numbers[letter] for letter in text])

    sources, targets = ([encode(getattr(pair, side)) for pair in known] for side in ("source", "target"))
    model = make(name, len(numbers) + 1, size)

    def batch(step: int) -> Pairs:
        chosen = torch.randint(len(known), (size.batch,), generator=chance).tolist()
        return as_pairs([sources[place] for place in chosen], [targets[place] for place in chosen])

    train(model, batch, size.date_steps, size, progress, f"dates, {name}")
    # The first in English, if there is one: a picture that its reader can check.
    asked.sort(key=lambda pair: (pair.language != "en", len(pair.source)))
    test = as_pairs([encode(pair.source) for pair in asked], [encode(pair.target) for pair in asked])
    weights = [row[: len(asked[0].source)] for row in _weights(model, test)]
    return float(answered(model, test).prod(-1).mean()), weights, asked[0].source, asked[0].target


@torch.no_grad()
def _weights(model: qkv.Recurrent, pairs: Pairs) -> list[list[float]]:
    """Give the weights of the first pair; none without attention."""
    if model.decoder.attention.fixed:
        return []
    weights = model.with_alignment(pairs.source, pairs.target)[1][0]
    return [[round(weight, 3) for weight in row] for row in weights.tolist()]


@torch.no_grad()
def concatenated(size: Size) -> float:
    """Give how far an additive score is from a feed-forward network on the concatenation [q; k], written out."""
    score = qkv.Additive(query=size.width, key=size.width, hidden=size.width)
    query, key = torch.randn(2, 1, 5, size.width)
    both = torch.cat(torch.broadcast_tensors(query[:, :, None], key[:, None]), dim=-1)
    written = (both @ score.weight.T).tanh() @ score.vector
    return float((qkv.attention_map(query, key, score=score).scores() - written).abs().max())


def measure(seed: int, size: Size, progress: Progress) -> Figures:
    """Train each attention on copying, and additive and none on dates."""
    figures: Figures = {"tried": list(size.tried), "by_length": {}}
    for name in attentions(size):
        right, weights = copy(name, size, seed, progress)
        figures["by_length"][name] = right
        figures[name] = right[size.tried.index(size.longest)]
        figures[f"{name}_beyond"] = right[size.tried.index(size.beyond)]
        if name == "additive":
            figures["copy_weights"] = weights
    figures["worst"] = min(figures[name] for name in attentions(size) if name != "none")
    figures["lead"] = figures["additive"] - max(figures[name] for name in ("dot", "scaled", "general"))
    counts = [
        sum(parameter.numel() for parameter in make(name, size.symbols + 1, size).parameters())
        for name in attentions(size)
    ]
    figures["parameters_apart"] = max(counts) / min(counts) - 1
    figures["concat_apart"] = concatenated(size)
    figures["dates_none"], *_ = dates("none", size, seed, progress)
    figures["dates_additive"], *picture = dates("additive", size, seed, progress)
    figures["date_weights"], figures["date"], figures["iso"] = picture
    return figures


def plot(figure: "Figure", results: Sequence[Figures], say: Callable[[Both], str]) -> None:
    """Draw rows right by length, and where additive attention looks while it copies and while it writes a date."""
    axes = figure.subplot_mosaic("AAABBCC")
    names = {
        "none": (Both("none", "无"), "x:"),
        "additive": (Both("additive", "加性"), "o-"),
        "dot": (Both("dot", "点积"), "s--"),
        "scaled": (Both("scaled dot", "缩放点积"), "^-."),
        "general": (Both("general", "general"), "D-"),
    }
    for at, result in enumerate(results):
        for color, (name, (text, style)) in enumerate(names.items()):
            label = None if at else say(text)
            right = result["by_length"][name]
            axes["A"].plot(result["tried"], right, style, color=f"C{color}", fillstyle="none", lw=0.8, label=label)
    axes["A"].axvline(LAB.quick.longest, color="gray", linestyle=":")
    axes["A"].set(
        xlabel=say(Both("length (symbols)", "长度（符号数）")),
        ylabel=say(Both("share of rows copied right", "整行复制正确的比例")),
        ylim=(-0.05, 1.05),
    )
    axes["A"].legend(fontsize="small")
    for letter, name, title in (("B", "copy", Both("copy", "复制")), ("C", "date", Both("a date", "日期"))):
        weights = results[0][f"{name}_weights"]
        axes[letter].imshow(weights, vmin=0, vmax=1, cmap="Greys", aspect="auto")
        axes[letter].set(xticks=[], yticks=[], title=say(title), xlabel=say(Both("source", "源端")))
    axes["B"].set_ylabel(say(Both("answer", "答案")))
    axes["C"].set_xticks(range(len(results[0]["date"])), results[0]["date"], fontsize="x-small")
    axes["C"].set_yticks(range(len(results[0]["iso"])), results[0]["iso"], fontsize="x-small")


LAB = Lab(
    name="alignment",
    rows=("3",),
    question=Both(
        "Additive attention: what is it, and how does it differ from the dot product?",
        "加性注意力是什么？与点积有何不同？",
    ),
    answer=Both(
        "Its score is v·tanh(Wq + Uk), a small feed-forward network on query and key together; the dot product is qᵀk, "
        "“general” qᵀWk. All are followed by softmax and a weighted sum over the whole source. The step that counts is from "
        "no attention to any: without it all of a source must pass through one vector.",
        "加性打分是 v·tanh(Wq + Uk)，即作用于查询与键的小型前馈网络；点积是 qᵀk，general（双线性）是 qᵀWk。之后都是 softmax 和对整个源端的加权求和。"
        "真正关键的是从没有注意力到有注意力：没有它，整个源句只能压缩进一个向量。",
    ),
    follow_up=Both(
        "What did Bahdanau see? BLEU on all sentences: 17.82 for the encoder–decoder and 26.75 with attention, both "
        "trained on up to 50 words; the latter does not fall for sentences of 50 words and more.",
        "Bahdanau 的结果如何？都用至多 50 词的句子训练时，编码器–解码器 BLEU 为 17.82，加注意力为 26.75；后者在 50 词以上的句子上也不下降。",
    ),
    trap=Both(
        "“Concatenation” and “sum” are the same score: W[q; k] = W₁q + W₂k. And the sum is what is computed, since Uk can be "
        "made once for all queries.",
        "“拼接”与“相加”是同一种打分：W[q; k] = W₁q + W₂k。实际计算用相加，因为 Uk 可以一次算好供所有查询使用。",
    ),
    claims=(
        Claim(
            says=Both(
                "Bahdanau's score comes of a concatenation and a further feed-forward network.",
                "Bahdanau 的分数由拼接和额外的前馈网络得出。",
            ),
            truth=Both(
                "It does: tanh(Wq + Uk) is a layer on the concatenation, and v its output; the scores agree to rounding.",
                "正确：tanh(Wq + Uk) 就是作用于拼接向量的一层，v 是其输出；两种写法的分数只差舍入误差。",
            ),
            holds=lambda means: means["concat_apart"] <= 1e-4,
        ),
    ),
    papers=(
        "Bahdanau et al. 2015, arXiv:1409.0473, table 1 and figure 2",
        "Luong et al. 2015, arXiv:1508.04025, §3.1",
        "Cho et al. 2014, arXiv:1406.1078",
    ),
    thresholds=(
        *(
            at_least(name, 0.85, Both("a pilot saw .95 to .97", "预实验为 .95 至 .97"))
            for name in ("additive", "dot", "scaled", "general")
        ),
        at_most(
            "none",
            0.05,
            Both("one vector does not hold 16 symbols; a pilot saw 0", "一个向量装不下 16 个符号；预实验为 0"),
        ),
    ),
    labels={
        **{
            key: Both(f"share of rows copied right, {length}, {shown}", f"整行复制正确的比例，{chinese}，{zh}")
            for name, shown, zh in (
                ("none", "no attention", "无注意力"),
                ("additive", "additive", "加性"),
                ("dot", "dot", "点积"),
                ("scaled", "scaled dot", "缩放点积"),
                ("general", "general", "general"),
            )
            for key, length, chinese in (
                (name, "16 symbols", "16 个符号"),
                (f"{name}_beyond", "30 symbols, beyond training", "30 个符号，超出训练长度"),
            )
        },
        "lead": Both("share right, 16 symbols: additive − best of the others", "正确比例，16 个符号：加性 − 其余最佳"),
        "worst": Both("share right, 16 symbols: the worst attention", "正确比例，16 个符号：最差的注意力"),
        "parameters_apart": Both("largest number of parameters over the least, less 1", "参数个数最多与最少之比减 1"),
        "concat_apart": Both("additive score − network on the concatenation, largest", "加性分数与拼接网络之差，最大"),
        "dates_none": Both("share of held-out dates right, no attention", "留出日期整条正确的比例，无注意力"),
        "dates_additive": Both("share of held-out dates right, additive", "留出日期整条正确的比例，加性"),
    },
    headline=Both(
        "share of rows of 16 symbols copied: {none:.2f} without attention, {additive:.2f} additive, {dot:.2f} dot",
        "16 个符号整行复制正确的比例：无注意力 {none:.2f}，加性 {additive:.2f}，点积 {dot:.2f}",
    ),
    quick=Size(),
    measure=measure,
    plot=plot,
    caption=Both(
        "Left: rows copied without a mistake by their length, a line a seed and attention; dotted: the longest of the "
        "training. Right: where additive attention looks while it copies, and while it writes a date (darker: more weight). "
        "Scaled dot is the last to learn; its scores, of states within ±1, cannot exceed √132, which may be why.",
        "左：整行复制正确的比例随长度的变化，每线一个种子和一种注意力；点线为训练中的最大长度。右：加性注意力在复制和写出日期时看向何处（越深权重越大）。"
        "缩放点积学得最慢；状态在 ±1 之内，其分数不超过 √132，这可能是原因。",
    ),
    seconds=145.0,
)
