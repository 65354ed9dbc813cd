"""Global or local attention in translation: table 4 of Luong et al."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

import qkv
from qkv.labs import local
from qkv.labs.lab import Both, Claim, Figures, Progress, at_least, at_most
from qkv.labs.translations import Size, Translations
from qkv.models.looking import Attention, LocalM, LocalP, LocationScore, LuongAttention
from qkv.models.recurrent import StepThenLook

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REACH = 10
"""Words to each side of a window's middle, as in the paper."""

NAMES = {
    "location": Both("global, location", "全局，location"),
    "dot": Both("global, dot", "全局，dot"),
    "general": Both("global, general", "全局，general"),
    "m_general": Both("local-m, general", "local-m，general"),
    "p_dot": Both("local-p, dot", "local-p，dot"),
    "p_general": Both("local-p, general", "local-p，general"),
}
"""The rows of the table, in its order."""


def attentions(longest: int) -> dict[str, Attention]:
    """Give the attention of each row, for sources of at most so many tokens."""
    made = (
        LuongAttention(LocationScore(longest)),
        LuongAttention(qkv.dot()),
        LuongAttention(),
        LocalM(REACH),
        LocalP(REACH, qkv.dot()),
        LocalP(REACH),
    )
    return dict(zip(NAMES, made, strict=True))


def make(attention: Attention, vocabulary: int, size: Size) -> qkv.Recurrent:
    """Make a translator of LSTMs.

    The paper also feeds what was made at a step into the next. Here, in every row alike, the decoder runs over all steps
    at once instead of one after the other: six rows and three seeds are to fit into an hour or two.
    """
    config = qkv.RecurrentConfig(vocabulary, size.width, size.layers, dropout=size.dropout)
    return qkv.Recurrent(config, cell=nn.LSTM, attention=attention, decoder=StepThenLook)


def measure(seed: int, size: Size, progress: Progress) -> Figures:
    """Train a translator for each row; give its perplexity and chrF on pairs that are held out."""
    translations = Translations.of(size)
    figures: Figures = {"pairs": len(translations.known[0])}
    for name, attention in attentions(size.longest).items():
        torch.manual_seed(seed)
        model = make(attention, translations.vocabulary, size)
        translations.train(model, size, seed=seed, progress=progress, doing=NAMES[name].en)
        figures[name] = math.exp(translations.loss(model))
        figures[f"chrf_{name}"] = translations.chrf(translations.said(model))
    others = min(figures[name] for name in NAMES if name != "p_general")
    figures["p_behind"] = math.log(figures["p_general"] / others)
    figures["location_behind"] = math.log(figures["location"] / max(figures["dot"], figures["general"]))
    return figures


def plot(figure: "Figure", results: Sequence[Figures], say: Callable[[Both], str]) -> None:
    """Draw perplexity and chrF by row, a point a seed."""
    rows = range(len(NAMES))
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, before, label in (
        (left, "", Both("held-out perplexity", "留出集困惑度")),
        (right, "chrf_", Both("chrF of translations", "译文 chrF")),
    ):
        for result in results:
            axes.plot([result[before + name] for name in NAMES], rows, "o", color="C0", fillstyle="none")
        axes.set(xlabel=say(label))
    left.set_yticks(rows, [say(name) for name in NAMES.values()])
    left.invert_yaxis()


LAB = replace(
    local.LAB,
    claims=(
        Claim(
            says=Both("In language, global attention is usually preferred.", "自然语言处理中通常更倾向全局方法。"),
            truth=Both(
                "Judged by the best row of each kind: in Luong's table local-p with general beats every global row. On "
                "long texts, windows in some of the layers are usual today.",
                "以两类中各自最好的一行判断：Luong 的表中，local-p 配 general 胜过所有全局方法。在长文本上，如今常在部分层使用窗口。",
            ),
            holds=lambda means: (
                min(means["location"], means["dot"], means["general"])
                < min(means["m_general"], means["p_dot"], means["p_general"])
            ),
        ),
    ),
    thresholds=(
        at_most(
            "p_behind",
            0.0,
            Both(
                "the paper's best row; no other may lead by more than the seeds differ (σ)",
                "论文中最好的一行；其余各行的领先不应超过种子间标准差 σ",
            ),
            spread=True,
        ),
        at_least(
            "location_behind",
            0.024,
            Both(
                "half of what the paper's table has: ln 6.4 − ln 6.1 = .048",
                "论文表中差距 ln 6.4 − ln 6.1 = .048 的一半",
            ),
        ),
    ),
    labels={
        "pairs": Both("pairs learned from", "训练句对数"),
        **{
            name: Both(f"held-out perplexity, {shown.en}", f"留出集困惑度，{shown.zh}") for name, shown in NAMES.items()
        },
        **{
            f"chrf_{name}": Both(f"chrF (0 to 1), {shown.en}", f"chrF（0 至 1），{shown.zh}")
            for name, shown in NAMES.items()
        },
        "p_behind": Both(
            "log perplexity: local-p, general − best of the others (nats a token)",
            "对数困惑度：local-p，general − 其余最佳（nat/词元）",
        ),
        "location_behind": Both(
            "log perplexity: global, location − the worse of dot and general (nats a token)",
            "对数困惑度：全局，location − dot 与 general 中较差者（nat/词元）",
        ),
    },
    headline=Both(
        "held-out perplexity of a translator: {general:.2f} global, {m_general:.2f} local-m, {p_general:.2f} local-p (all "
        "general), {location:.2f} by location alone",
        "翻译模型的留出集困惑度（general 打分）：全局 {general:.2f}，local-m {m_general:.2f}，local-p {p_general:.2f}；"
        "仅凭位置 {location:.2f}",
    ),
    quick=None,
    full=Size(layers=2, dropout=0.2, rate=2e-3, warm_up=200),
    form="full",
    measure=measure,
    plot=plot,
    caption=Both(
        "Left: perplexity on pairs that are held out. Right: chrF of their translations, the likeliest token each time. A "
        "point a seed; windows reach 10 tokens to each side. The paper's rows, in this order: perplexity 6.4, 6.1, 6.1, 6.2, "
        "6.6, 5.9 and BLEU 18.1, 18.6, 17.3, 18.6, 18.0, 19.0.",
        "左：留出句对的困惑度。右：贪心解码译文的 chrF。每点一个种子；窗口两侧各 10 个词元。"
        "论文各行依次为：困惑度 6.4、6.1、6.1、6.2、6.6、5.9，BLEU 18.1、18.6、17.3、18.6、18.0、19.0。",
    ),
)
