"""Who needs warm-up: figure 2 of Xiong et al., Post-LN and Pre-LN translators with none, a short and a long one."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import TYPE_CHECKING

import torch

import qkv
from qkv.labs import placement
from qkv.labs.lab import Both, Claim, Figures, Progress, at_least, at_most
from qkv.labs.translations import Size, Translations
from qkv.models.layers import Placement

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLACEMENTS: dict[str, Placement] = {"post": qkv.post_norm(), "pre": qkv.pre_norm()}
NAMES = {"post": Both("Post-LN", "后置归一化"), "pre": Both("Pre-LN", "前置归一化")}
WARM_UPS = {
    "none": Both("no warm-up", "无预热"),
    "short": Both("short warm-up", "短预热"),
    "long": Both("long warm-up", "长预热"),
}
POINTS = 50
"""Of a training's losses as many means are kept."""


@dataclass(frozen=True)
class Sweep(Size):
    """The steps of each warm-up, one to eight as in the paper, which has 1, 500 and 4,000 of a longer training."""

    layers: int = 6
    warm_ups: tuple[int, int, int] = (0, 100, 800)


def make(placed: Placement, vocabulary: int, size: Sweep) -> qkv.Transformer:
    """Make a Transformer whose norms stand before or after."""
    config = qkv.TransformerConfig(
        vocabulary, size.width, size.layers, 4, 4 * size.width, dropout=size.dropout, smoothing=0.1
    )
    return qkv.Transformer(config, placement=placed)


def measure(seed: int, size: Sweep, progress: Progress) -> Figures:
    """Train each placement with each warm-up; give its loss and chrF on pairs that are held out."""
    translations = Translations.of(size)
    figures: Figures = {"pairs": len(translations.known[0]), "curves": {}}
    unlearned = math.log(translations.vocabulary)
    for name, placed in PLACEMENTS.items():
        for how, warm_up in zip(WARM_UPS, size.warm_ups, strict=True):
            torch.manual_seed(seed)
            model, doing = make(placed, translations.vocabulary, size), f"{name}, {WARM_UPS[how].en}"
            losses = translations.train(model, size, seed=seed, warm_up=warm_up, progress=progress, doing=doing)
            found = translations.loss(model)
            lost = not math.isfinite(found)
            # A training that ran away to infinity knows nothing: a uniform guess.
            losses = [loss if math.isfinite(loss) else unlearned for loss in losses]
            figures[f"{name}_{how}"] = unlearned if lost else found
            figures[f"{name}_{how}_chrf"] = 0.0 if lost else translations.chrf(translations.said(model))
            figures[f"{name}_{how}_course"] = mean(losses)
            every = max(1, len(losses) // POINTS)
            figures["curves"][f"{name}_{how}"] = [
                [first + every, round(mean(losses[first : first + every]), 4)] for first in range(0, len(losses), every)
            ]
        warmed = min(figures[f"{name}_short"], figures[f"{name}_long"])
        figures[f"{name}_needs"] = figures[f"{name}_none"] - warmed
    return figures


def plot(figure: "Figure", results: Sequence[Figures], say: Callable[[Both], str]) -> None:
    """Draw the course of the first seed's trainings, and every seed's held-out losses."""
    left, right = figure.subplots(1, 2)
    for color, (name, shown) in enumerate(NAMES.items()):
        for line, (how, text) in zip((":", "--", "-"), WARM_UPS.items(), strict=True):
            steps, losses = zip(*results[0]["curves"][f"{name}_{how}"], strict=True)
            label = f"{say(shown)}, {say(text)}"
            left.plot(steps, losses, line, color=f"C{color}", label=label)
        for result in results:
            values = [result[f"{name}_{how}"] for how in WARM_UPS]
            right.plot(range(len(WARM_UPS)), values, "os"[color] + "-", color=f"C{color}", fillstyle="none", lw=0.8)
        right.plot([], [], "os"[color], color=f"C{color}", fillstyle="none", label=say(shown))
    left.set(xlabel=say(Both("step", "步数")), ylabel=say(Both("training loss (nats a token)", "训练损失（nat/词元）")))
    left.legend(fontsize="x-small")
    right.set_xticks(range(len(WARM_UPS)), [say(text) for text in WARM_UPS.values()])
    right.set(ylabel=say(Both("held-out loss (nats a token)", "留出集损失（nat/词元）")))
    right.legend(fontsize="small")


LAB = replace(
    placement.LAB,
    claims=(
        Claim(
            says=Both(
                "Post-LN needs warm-up at a rate at which Pre-LN does not.", "后置归一化需要预热，前置则不那么需要。"
            ),
            truth=Both(
                "So it is in the paper, for translators of six layers: without warm-up Post-LN stays far behind what it "
                "learns with one, and Pre-LN learns as well without. Judged by what each loses without.",
                "论文中六层的翻译模型确实如此：没有预热时，后置远不如有预热时；前置没有预热也学得一样好。以两者各因没有预热而损失多少判断。",
            ),
            holds=lambda means: means["post_needs"] > means["pre_needs"],
        ),
        Claim(
            says=Both("Pre-LN converges faster.", "前置归一化收敛更快。"),
            truth=Both(
                "Judged by the mean loss over the whole training, both with the warm-up that suits them best.",
                "以整个训练过程的平均损失判断，两者都取各自最合适的预热。",
            ),
            holds=lambda means: (
                min(means[f"pre_{how}_course"] for how in WARM_UPS)
                < min(means[f"post_{how}_course"] for how in WARM_UPS)
            ),
        ),
    ),
    thresholds=(
        at_least(
            "post_needs",
            0.5,
            Both(
                "the paper's Post-LN without warm-up has 8.45 BLEU instead of 34: it hardly translates",
                "论文中后置无预热时 BLEU 为 8.45，有预热约 34：几乎不会翻译",
            ),
        ),
        at_most(
            "pre_needs",
            0.1,
            Both("the paper's Pre-LN is as good without warm-up", "论文中前置无预热时一样好"),
        ),
    ),
    labels={"pairs": Both("pairs learned from", "训练句对数")}
    | {
        f"{name}_{how}{what}": Both(f"{text.en}, {shown.en}, {warm.en}", f"{text.zh}，{shown.zh}，{warm.zh}")
        for what, text in (
            ("", Both("held-out loss (nats a token)", "留出集损失（nat/词元）")),
            ("_chrf", Both("chrF (0 to 1)", "chrF（0 至 1）")),
            ("_course", Both("mean training loss (nats a token)", "训练全程平均损失（nat/词元）")),
        )
        for name, shown in NAMES.items()
        for how, warm in WARM_UPS.items()
    }
    | {
        f"{name}_needs": Both(
            f"held-out loss, {shown.en}: no warm-up − the better warm-up (nats a token)",
            f"留出集损失，{shown.zh}：无预热 − 较好的预热（nat/词元）",
        )
        for name, shown in NAMES.items()
    },
    headline=Both(
        "held-out loss of a translator without warm-up: Post-LN {post_none:.2f}, Pre-LN {pre_none:.2f}; with a long one "
        "{post_long:.2f} and {pre_long:.2f}",
        "翻译模型无预热时的留出集损失：后置 {post_none:.2f}，前置 {pre_none:.2f}；长预热时为 {post_long:.2f} 与 {pre_long:.2f}",
    ),
    quick=None,
    full=Sweep(),
    form="full",
    measure=measure,
    plot=plot,
    caption=Both(
        "Left: the training losses of the first seed, with labels smoothed. Right: losses on pairs that are held out, a line "
        "a seed. A training that ran away counts as a uniform guess.",
        "左：第一个种子的训练损失（含标签平滑）。右：留出句对的损失，每线一个种子。发散的训练按均匀猜测计。",
    ),
)
