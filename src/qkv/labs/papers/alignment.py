"""Long sentences with attention and without: figure 2 of Bahdanau et al."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

import qkv
from qkv.labs import alignment
from qkv.labs.lab import Both, Claim, Figures, Progress, at_least
from qkv.labs.translations import PARTS, Size, Translations
from qkv.models.looking import AdditiveAttention, Attention, NoAttention

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ATTENTIONS: dict[str, Attention] = {"none": NoAttention(), "additive": AdditiveAttention()}
NAMES = {"none": Both("no attention", "无注意力"), "additive": Both("additive", "加性")}


def make(name: str, vocabulary: int, size: Size) -> qkv.Recurrent:
    """Make a translator of GRUs: RNNenc without attention, RNNsearch with it."""
    config = qkv.RecurrentConfig(vocabulary, size.width, size.layers, dropout=size.dropout)
    return qkv.Recurrent(config, attention=ATTENTIONS[name])


def measure(seed: int, size: Size, progress: Progress) -> Figures:
    """Train both; give the chrF of what they say of held-out sources, a quarter at a time, the shortest first."""
    translations = Translations.of(size)
    figures: Figures = {"pairs": len(translations.known[0]), "by_length": {}}
    for name in ATTENTIONS:
        torch.manual_seed(seed)
        model = make(name, translations.vocabulary, size)
        translations.train(model, size, seed=seed, progress=progress, doing=NAMES[name].en)
        said = translations.said(model)
        figures[name], figures[f"{name}_loss"] = translations.chrf(said), translations.loss(model)
        good, figures["lengths"] = translations.by_length(said)
        figures["by_length"][name] = good
        for part, value in enumerate(good, 1):
            figures[f"{name}_{part}"] = value
        figures[f"{name}_falls"] = good[0] - good[-1]
    figures["halved"] = figures["none_falls"] / 2 - figures["additive_falls"]
    return figures


def plot(figure: "Figure", results: Sequence[Figures], say: Callable[[Both], str]) -> None:
    """Draw chrF by the length of the source, a line a seed."""
    axes = figure.subplots()
    for color, (name, shown) in enumerate(NAMES.items()):
        for at, result in enumerate(results):
            label = None if at else say(shown)
            style = ("x--", "o-")[color]
            axes.plot(result["lengths"], result["by_length"][name], style, color=f"C{color}", lw=0.8, label=label)
    axes.set(
        xlabel=say(Both("tokens of the source, the mean of each quarter", "源端词元数（各四分之一的均值）")),
        ylabel=say(Both("chrF of translations", "译文 chrF")),
    )
    axes.legend()


LAB = replace(
    alignment.LAB,
    claims=(
        Claim(
            says=Both("Bahdanau's attention is computed over the whole source.", "Bahdanau 的注意力是全局计算的。"),
            truth=Both(
                "Every step reads all of the source anew, so that a long one need not pass through one vector; in the paper "
                "quality then hardly falls. Judged by whether it falls at most half as much as without attention.",
                "每一步都重新读取整个源句，长句不必压缩进一个向量；论文中质量因而几乎不随长度下降。判断标准：下降至多为无注意力时的一半。",
            ),
            holds=lambda means: means["halved"] >= 0,
        ),
    ),
    thresholds=(
        at_least(
            "none_falls",
            0.05,
            Both(
                "one vector holds less of a long source; the paper's curve loses a third of its BLEU and more",
                "一个向量容不下长句；论文曲线下降三分之一以上的 BLEU",
            ),
        ),
        at_least(
            "halved",
            0.0,
            Both("“much less” is at most half as much", "“少得多”指至多一半"),
        ),
    ),
    labels={
        "pairs": Both("pairs learned from", "训练句对数"),
        **{
            key: Both(f"{text.en}, {shown.en}", f"{text.zh}，{shown.zh}")
            for name, shown in NAMES.items()
            for key, text in (
                (name, Both("chrF (0 to 1), all sources", "chrF（0 至 1），全部源句")),
                *(
                    (
                        f"{name}_{part}",
                        Both(f"chrF, quarter {part} by length", f"chrF，按长度第 {part} 个四分之一"),
                    )
                    for part in range(1, PARTS + 1)
                ),
                (f"{name}_falls", Both("chrF: shortest − longest quarter", "chrF：最短 − 最长的四分之一")),
                (f"{name}_loss", Both("held-out loss (nats a token)", "留出集损失（nat/词元）")),
            )
        },
        "halved": Both(
            "half of the fall without attention − the fall with it", "无注意力时下降的一半 − 有注意力时的下降"
        ),
    },
    headline=Both(
        "chrF from the shortest to the longest quarter of sources: {none_1:.2f} to {none_4:.2f} without attention, "
        "{additive_1:.2f} to {additive_4:.2f} with it",
        "源句从最短到最长的四分之一，chrF：无注意力由 {none_1:.2f} 到 {none_4:.2f}，有注意力由 {additive_1:.2f} 到 {additive_4:.2f}",
    ),
    quick=None,
    full=Size(layers=1, steps=3000, dropout=0.2, rate=2e-3, warm_up=200),
    form="full",
    measure=measure,
    plot=plot,
    caption=Both(
        "chrF of translations of held-out sources by their length, a line a seed; crosses: without attention, circles: with "
        "additive attention.",
        "留出源句译文的 chrF 随长度的变化，每线一个种子；叉：无注意力，圆：加性注意力。",
    ),
)
