"""How many heads a translator wants: rows (A) of table 3 of “Attention is all you need”."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

import qkv
from qkv.labs import heads
from qkv.labs.lab import Both, Claim, Figures, Progress, at_least, at_most
from qkv.labs.translations import Size, Translations

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEADS = (1, 4, 8, 16, 32)


def make(count: int, vocabulary: int, size: Size) -> qkv.Transformer:
    """Make a Transformer whose heads are each `width / count` wide: all else, parameters too, is the same."""
    config = qkv.TransformerConfig(
        vocabulary, size.width, size.layers, count, 4 * size.width, dropout=size.dropout, smoothing=0.1
    )
    return qkv.Transformer(config)


def measure(seed: int, size: Size, progress: Progress) -> Figures:
    """Train a translator with each number of heads; give its perplexity and chrF on pairs that are held out."""
    translations = Translations.of(size)
    figures: Figures = {"pairs": len(translations.known[0])}
    for count in HEADS:
        torch.manual_seed(seed)
        model = make(count, translations.vocabulary, size)
        translations.train(model, size, seed=seed, progress=progress, doing=f"{count} heads")
        figures[f"perplexity_{count}"] = math.exp(translations.loss(model))
        figures[f"chrf_{count}"] = translations.chrf(translations.said(model))
    perplexities = [figures[f"perplexity_{count}"] for count in HEADS]
    figures["one_worse"] = math.log(figures["perplexity_1"] / figures["perplexity_8"])
    figures["most_better"] = math.log(min(perplexities[:-1]) / perplexities[-1])
    return figures


def plot(figure: "Figure", results: Sequence[Figures], say: Callable[[Both], str]) -> None:
    """Draw perplexity and chrF by the number of heads, a line a seed."""
    for axes, name, label in zip(
        figure.subplots(1, 2),
        ("perplexity", "chrf"),
        (Both("held-out perplexity", "留出集困惑度"), Both("chrF of translations", "译文 chrF")),
        strict=True,
    ):
        for result in results:
            values = [result[f"{name}_{count}"] for count in HEADS]
            axes.plot(HEADS, values, "o-", color="C0", fillstyle="none", linewidth=0.8)
        axes.set(xscale="log", xlabel=say(Both("heads", "头数")), ylabel=say(label))
        axes.set_xticks(HEADS, [str(count) for count in HEADS])
        axes.minorticks_off()


LAB = replace(
    heads.LAB,
    claims=(
        Claim(
            says=Both("Several heads give more diverse representations than one.", "多头能获得比单头更多样的表征。"),
            truth=Both(
                "In the paper they are worth having: of equal parameters, the translator with one head is the worst. But "
                "more is not always better; 32 narrow heads are behind 8 or 16. Judged by one head against eight.",
                "论文中多头确实值得：参数量相同时，单头的翻译模型最差。但并非越多越好：32 个很窄的头不如 8 个或 16 个。以 1 头与 8 头之差判断。",
            ),
            holds=lambda means: means["one_worse"] > 0,
        ),
    ),
    thresholds=(
        at_least(
            "one_worse",
            0.035,
            Both(
                "half of what the paper's table has: ln 5.29 − ln 4.92 = .07",
                "论文表中差距 ln 5.29 − ln 4.92 = .07 的一半",
            ),
        ),
        at_most(
            "most_better",
            0.0,
            Both(
                "the paper's 32 heads are behind 16; here they may lead by no more than the seeds differ (σ)",
                "论文中 32 头不如 16 头；此处其领先不应超过种子间的标准差 σ",
            ),
            spread=True,
        ),
    ),
    labels={
        "pairs": Both("pairs learned from", "训练句对数"),
        **{
            f"perplexity_{count}": Both(f"held-out perplexity, heads: {count}", f"留出集困惑度，头数 {count}")
            for count in HEADS
        },
        **{f"chrf_{count}": Both(f"chrF (0 to 1), heads: {count}", f"chrF（0 至 1），头数 {count}") for count in HEADS},
        "one_worse": Both("log perplexity: 1 head − 8 heads (nats a token)", "对数困惑度：1 头 − 8 头（nat/词元）"),
        "most_better": Both(
            "log perplexity: best of the others − 32 heads (nats a token)", "对数困惑度：其余最佳 − 32 头（nat/词元）"
        ),
    },
    headline=Both(
        "held-out perplexity of a translator: {perplexity_1:.2f} with 1 head, {perplexity_8:.2f} with 8, "
        "{perplexity_32:.2f} with 32",
        "翻译模型的留出集困惑度：1 头 {perplexity_1:.2f}，8 头 {perplexity_8:.2f}，32 头 {perplexity_32:.2f}",
    ),
    quick=None,
    full=Size(),
    form="full",
    measure=measure,
    plot=plot,
    caption=Both(
        "Left: perplexity on pairs that are held out. Right: chrF of their translations, the likeliest token each time. A "
        "line a seed; the width of all heads together is the same throughout. The paper: perplexity 5.29, 5.00, 4.92, 4.91, "
        "5.01 and BLEU 24.9, 25.5, 25.8, 25.8, 25.4.",
        "左：留出句对的困惑度。右：贪心解码译文的 chrF。每线一个种子；各头宽度之和始终相同。"
        "论文：困惑度 5.29、5.00、4.92、4.91、5.01，BLEU 24.9、25.5、25.8、25.8、25.4。",
    ),
    alone=False,
)
