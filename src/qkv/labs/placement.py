"""Where the norm stands, before a layer or after the sum: gradients and scales by depth, and who needs warm-up."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import qkv
from qkv.labs.lab import Both, Claim, Figures, Lab, Progress, at_least, at_most, between
from qkv.labs.letters import SYMBOLS, every_window, letters, windows
from qkv.labs.running.fit import fit
from qkv.models.layers import Block, Placement

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Size:
    """Which depths are looked at and trained, and how long. `warm_up` is that of the trainings that have one.

    At width 64 a rate of 1e-3 is too low to harm any depth that learns at all, so that nothing could show what warm-up
    is for: the stacks are twice as wide. Without warm-up only `cold` are trained, since time is short.
    """

    width: int = 128
    heads: int = 4
    depths: tuple[int, ...] = (2, 4, 8, 12, 24)
    draws: int = 3
    trained: tuple[int, ...] = (2, 6, 12)
    cold: tuple[int, ...] = (2, 6)
    rates: tuple[float, float] = (1e-3, 3e-3)
    steps: int = 240
    warm_up: int = 120
    length: int = 32
    batch: int = 4
    text: int = 300_000
    tested: int = 20_000
    reached: float = 2.9


PLACEMENTS: dict[str, Placement] = {"post": qkv.post_norm(), "pre": qkv.pre_norm()}
MARKS = {"post": "o", "pre": "s"}


def xavier(linear: nn.Linear) -> None:
    """Draw as the lemmas of Xiong et al. assume: variance 2 / (inputs + outputs), no bias."""
    nn.init.xavier_normal_(linear.weight)
    nn.init.zeros_(linear.bias)


def small(linear: nn.Linear) -> None:
    """Draw as BERT and GPT-2 do."""
    nn.init.normal_(linear.weight, std=0.02)
    nn.init.zeros_(linear.bias)


class Stack(nn.Module):
    """Embeddings of unit variance, blocks, what ends a stack of them, and a head of its own."""

    def __init__(
        self, placement: Placement, layers: int, size: Size, wider: int = 1, draw: Callable[[nn.Linear], None] = xavier
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(SYMBOLS, size.width)
        self.layers = nn.ModuleList(
            Block(size.width, size.heads, wider * size.width, placement, positions=qkv.rotary()) for _ in range(layers)
        )
        self.norm = placement.final(size.width)
        self.head = nn.Linear(size.width, SYMBOLS)
        for linear in (module for module in self.modules() if isinstance(module, nn.Linear)):
            draw(linear)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens)
        for block in self.layers:
            x = block(x, mask=qkv.causal())
        return self.head(self.norm(x))

    def losses(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Give the loss of each next letter."""
        return F.cross_entropy(self(tokens).flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Give their mean."""
        return self.losses(tokens, targets).mean()

    def blocks(self) -> Iterable[Block]:
        """Give the blocks, the lowest first."""
        return cast(Iterable[Block], self.layers)


def gradients(model: Stack, losses: Iterable[Tensor]) -> list[float]:
    """Give the norm of a loss's gradient by the last matrix of each feed-forward layer, the lowest first; means over losses."""
    matrices = [block.feed_forward.contract.weight for block in model.blocks()]
    found = [torch.autograd.grad(loss, matrices, retain_graph=True) for loss in losses]
    return [mean(float(gradient.norm()) for gradient in of_one) for of_one in zip(*found, strict=True)]


def scales(name: str, model: Stack, tokens: Tensor) -> list[float]:
    """Give E‖x‖² / width of the sum at the end of each layer, the lowest first: what the norm that follows it reads."""
    blocks, sums = list(model.blocks()), list[float]()
    post = [block.feed_forward_residual.norm for block in blocks]
    pre = [*(block.attention_residual.norm for block in blocks[1:]), model.norm]
    for norm in post if name == "post" else pre:
        norm.register_forward_pre_hook(lambda _, inputs: sums.append(float(inputs[0].square().mean())))
    with torch.no_grad():
        model(tokens)
    return sums


def slope(depths: Sequence[int], norms: Sequence[float]) -> float:
    """Give the slope of log norm over log depth, by least squares."""
    x, y = [math.log(depth) for depth in depths], [math.log(norm) for norm in norms]
    return sum((a - mean(x)) * b for a, b in zip(x, y, strict=True)) / sum((a - mean(x)) ** 2 for a in x)


def train(
    name: str,
    layers: int,
    rate: float,
    warm: bool,
    size: Size,
    seed: int,
    text: Tensor,
    test: Tensor,
    progress: Progress,
) -> dict[str, float]:
    """Train a model; give its loss on held-out text, how soon it reached a loss, and how its last gradient changed."""
    torch.manual_seed(seed)
    chance = torch.Generator().manual_seed(seed)
    model = Stack(PLACEMENTS[name], layers, size)
    probe = windows(text, size.length, size.batch, torch.Generator().manual_seed(10_000 + seed))
    first, later = gradients(model, [model.loss(*probe)]), list[float]()

    def loss(step: int) -> Tensor:
        if step == size.warm_up:
            later.extend(gradients(model, [model.loss(*probe)]))
        return model.loss(*windows(text, size.length, size.batch, chance))

    doing = f"{name}, {layers} layers, rate {rate:g}{', warm-up' if warm else ''}"
    warm_up = size.warm_up if warm else 0
    losses = fit(model.parameters(), loss, steps=size.steps, rate=rate, warm_up=warm_up, progress=progress, doing=doing)
    smooth = (step for step in range(20, size.steps) if mean(losses[step - 20 : step]) < size.reached)
    with torch.no_grad():
        tested = mean(float(model.loss(*batch)) for batch in every_window(test, size.length, 4 * size.batch))
    return {
        "loss": tested,
        "tokens": float(next(smooth, size.steps) * size.length * size.batch),
        "after": later[-1] / first[-1],
    }


def at_the_start(size: Size, seed: int, batch: tuple[Tensor, Tensor], progress: Progress) -> Figures:
    """Measure gradients and scales of untrained stacks: means over draws, and gradients over the last letter of each row.

    The gradient of the mean loss of all letters is no measure of the lemma: deeper in a stack the letters' gradients cancel
    less. It rose so with depth that Post's slope was .095 on average (seeds 20 to 27), where up to .1 is allowed.
    """
    torch.manual_seed(seed)
    draws = {"": (1, xavier), "_wide": (4, xavier), "_torch": (1, nn.Linear.reset_parameters), "_small": (1, small)}
    figures: Figures = {}
    deepest = size.depths[-1]
    for name, placement in PLACEMENTS.items():
        for case, (wider, drawn) in draws.items():
            norms = []
            for depth in progress.over(size.depths, f"gradients of {name}{case}"):
                models = [Stack(placement, depth, size, wider, drawn) for _ in range(size.draws)]
                found = [gradients(model, model.losses(*batch)[:, -1]) for model in models]
                by_layer = [mean(of_one) for of_one in zip(*found, strict=True)]
                norms.append(by_layer[-1])
                if depth == deepest and not case:
                    figures[f"{name}_by_layer"] = by_layer
                    sums = [mean(found) for found in zip(*(scales(name, m, batch[0]) for m in models), strict=True)]
                    figures[f"{name}_scales"] = sums
            figures[f"{name}_slope{case}"] = slope(size.depths, norms)
            figures[f"{name}_norms{case}"] = norms
        by_layer, sums = figures[f"{name}_by_layer"], figures[f"{name}_scales"]
        figures[f"{name}_first_over_last"] = by_layer[0] / by_layer[-1]
        figures[f"{name}_growth"] = sums[-1] / sums[0]
    figures["post_sum"] = mean(figures["post_scales"])
    layers = list(enumerate(figures["pre_scales"], 1))
    figures["pre_over_lower"] = min(found / (1 + layer / 2) for layer, found in layers)
    figures["pre_over_upper"] = max(found / (1 + 3 * layer / 2) for layer, found in layers)
    return figures


def measure(seed: int, size: Size, progress: Progress) -> Figures:
    """Measure gradients and scales by depth, then train each placement at each depth, rate and warm-up."""
    text, test = letters(size.text), letters(size.tested, held_out=True)
    batch = windows(text, size.length, size.batch, torch.Generator().manual_seed(20_000 + seed))
    figures = at_the_start(size, seed, batch, progress)
    figures |= {"depths": list(size.depths), "trained": list(size.trained), "cold": list(size.cold)}
    for name in PLACEMENTS:
        for speed, rate in zip(("low", "high"), size.rates, strict=True):
            for warm, depths in (("warm", size.trained), ("cold", size.cold)):
                found = {
                    depth: train(name, depth, rate, warm == "warm", size, seed, text, test, progress)
                    for depth in depths
                }
                figures[f"{name}_{speed}_{warm}"] = [each["loss"] for each in found.values()]
                for depth, each in found.items():
                    figures[f"{name}_{speed}_{warm}_{depth}"] = each["loss"]
                if (speed, warm) == ("low", "warm"):
                    figures[f"{name}_tokens"] = mean(each["tokens"] for each in found.values())
                    figures[f"{name}_after"] = found[size.cold[-1]]["after"]
    # As deep as the stacks of Xiong et al., where Post learns with warm-up.
    for name in PLACEMENTS:
        figures[f"{name}_gain"] = figures[f"{name}_low_cold_6"] - figures[f"{name}_low_warm_6"]
    figures["warm_up_helps"] = figures["post_gain"] - figures["pre_gain"]
    figures["behind"] = figures["post_high_warm_12"] - figures["pre_high_warm_12"]
    return figures


def plot(figure: "Figure", results: Sequence[Figures], say: Callable[[Both], str]) -> None:
    """Draw the last gradient by depth, the gradient by layer, and the losses by depth."""
    left, middle, right = figure.subplots(1, 3)
    names = {"post": Both("Post-LN", "后置归一化"), "pre": Both("Pre-LN", "前置归一化")}
    for place, (name, label) in enumerate(names.items()):
        mark, color = MARKS[name], f"C{place}"
        for result in results:
            left.plot(result["depths"], result[f"{name}_norms"], mark, color=color)
            layers = range(1, len(result[f"{name}_by_layer"]) + 1)
            middle.plot(layers, result[f"{name}_by_layer"], mark, color=color, markersize=3)
            for speed, line in (("low", "-"), ("high", ":")):
                right.plot(result["trained"], result[f"{name}_{speed}_warm"], mark + line, color=color)
            right.plot(result["cold"], result[f"{name}_low_cold"], mark + "--", color=color, fillstyle="none")
        middle.plot([], [], mark, color=color, label=say(label))
    left.set(
        xscale="log",
        yscale="log",
        xlabel=say(Both("layers", "层数")),
        ylabel=say(Both("norm of the last gradient", "最后一个矩阵的梯度范数")),
    )
    depths = results[0]["depths"]
    left.set_xticks([], minor=True)
    left.set_xticks(depths, [f"{depth}" for depth in depths])
    middle.set(
        yscale="log",
        xlabel=say(Both("layer, counted from below", "层号（自下而上）")),
        ylabel=say(Both("norm of the gradient", "梯度范数")),
    )
    middle.legend(fontsize="small")
    right.set(
        xlabel=say(Both("layers", "层数")), ylabel=say(Both("held-out loss (nats a letter)", "验证损失（nat/字符）"))
    )


LAB = Lab(
    name="placement",
    rows=("14",),
    question=Both("Pre-LN or Post-LN: what is the difference?", "PreNorm 和 PostNorm 有什么区别？"),
    answer=Both(
        "Post-LN norms the sum, norm(x + f(x)); Pre-LN norms what enters a layer, x + f(norm(x)), and needs one more norm "
        "at the end. In Pre the residual stream grows with depth, and the last gradient falls as 1/√L; in Post both keep "
        "their size. So deep Post-LN stacks are hard to train at high rates, while Pre-LN ones train without warm-up.",
        "后置归一化对残差和做归一化：norm(x + f(x))；前置归一化对进入子层的输入做归一化：x + f(norm(x))，最后还要再加一层归一化。"
        "前置时残差流随深度增大，末层梯度按 1/√L 下降；后置时两者都不随深度变化。因此深层后置模型在高学习率下难以训练，前置模型则不需要预热。",
    ),
    follow_up=Both(
        "Is Pre-LN simply better, then? Not where Post-LN trains: shallow Post-LN models often end better (Liu et al. 2020, "
        "Takase et al. 2022), since in a deep Pre-LN stack the later layers change the large stream little. What did Xiong "
        "et al. see? On IWSLT14 Post-LN without warm-up 8.45 BLEU, with it about 34, as Pre-LN has without.",
        "那么前置归一化一定更好吗？在后置能训练的情况下不一定：较浅的后置模型最终效果往往更好（Liu 等 2020，Takase 等 2022），"
        "因为在深层前置模型中，残差流已很大，靠后的层改变不了多少。Xiong 等的结果如何？IWSLT14 上后置无预热时 BLEU 为 8.45，"
        "有预热时约 34；前置无预热也约 34。",
    ),
    trap=Both(
        "“Pre-LN's gradient does not depend on the layer”: its last gradient falls with the depth of the stack, and within a "
        "stack the first layer's is several times the last's. And all this holds at initialisation, under Xavier's: with "
        "N(0, .02) both slopes are nearly zero.",
        "“前置归一化的梯度与层无关”：末层梯度随总层数下降，同一模型中首层梯度是末层的数倍。而且这些结论针对 Xavier 初始化的起点；"
        "若用 N(0, .02) 初始化，两种斜率都接近零。",
    ),
    claims=(
        Claim(
            says=Both(
                "Pre's gradient depends on the number of layers, Post's does not.",
                "前置归一化的梯度依赖层数，后置则不依赖。",
            ),
            truth=Both(
                "So it is for one letter's gradient by the last matrix at initialisation: the slope of log norm over log depth "
                "is near −½ for Pre, near 0 for Post.",
                "对初始化时单个字符的损失对最后一个矩阵的梯度成立：双对数坐标下前置的斜率约为 −½，后置约为 0。",
            ),
            holds=lambda means: means["pre_slope"] < -0.4 and abs(means["post_slope"]) < 0.1,
        ),
        Claim(
            says=Both(
                "The hidden state's scale grows with the layers in Pre, not in Post.",
                "前置归一化的隐藏状态规模随层数增大，后置则不然。",
            ),
            truth=Both(
                "So it is: Pre's stream at layer 24 is many times that at layer 1; Post's sum stays at 3/2 of the width.",
                "确实如此：前置在第 24 层的规模是第 1 层的许多倍；后置的残差和始终约为宽度的 3/2。",
            ),
            holds=lambda means: means["pre_growth"] > 4 and 0.5 < means["post_growth"] < 2,
        ),
        Claim(
            says=Both(
                "Post-LN needs warm-up at a rate at which Pre-LN does not.", "后置归一化需要预热，前置则不那么需要。"
            ),
            truth=Both(
                "So it is with 6 layers at 1e-3: warm-up lowers Post's loss by tenths of a nat, and does nothing for Pre. "
                "Judged by Post's gain less Pre's.",
                "6 层、1e-3 时确实如此：预热使后置的损失降低零点几 nat，对前置则没有好处。以后置的收益减去前置的收益判断。",
            ),
            holds=lambda means: means["warm_up_helps"] >= 0.1,
        ),
        Claim(
            says=Both("From layer to layer Pre's gradients are the steadier.", "就各层而言，前置归一化的梯度更稳定。"),
            truth=Both(
                "Not at this start: over 24 layers the first layer's gradient is several times the last's in Pre, and about "
                "as large as the last's in Post.",
                "在这里的起点并非如此：24 层时，前置的首层梯度是末层的数倍，后置则与末层相差不大。",
            ),
            holds=lambda means: (
                abs(math.log(means["pre_first_over_last"])) < abs(math.log(means["post_first_over_last"]))
            ),
        ),
        Claim(
            says=Both("Post's gradients shrink during warm-up.", "后置归一化预热之后梯度规模变小。"),
            truth=Both(
                "So they do, by the last layer's gradient on the same letters before and after. But Pre's shrink as well, "
                "so that it is no mark of Post's.",
                "以同一批文本上末层梯度在预热前后的变化判断，确实变小。但前置的梯度同样变小，可见并非后置所特有。",
            ),
            holds=lambda means: means["post_after"] < 0.8,
        ),
        Claim(
            says=Both("After warm-up Post-LN stands a high rate.", "后置归一化预热之后可以承受较高的学习率。"),
            truth=Both(
                "Not when it is deep: with 12 layers at 3e-3 it stays far behind Pre-LN in spite of warm-up.",
                "层数较深时不行：12 层、学习率 3e-3 时，即使预热也远落后于前置归一化。",
            ),
            holds=lambda means: means["behind"] < 0.1,
            mistake=True,
        ),
        Claim(
            says=Both("Pre-LN converges faster.", "前置归一化收敛更快。"),
            truth=Both(
                "So it does here: with warm-up at 1e-3 it reaches the same loss after fewer letters, averaged over the "
                "depths. (A stack that never reaches it counts with all that it read.)",
                "本实验中如此：有预热、1e-3 时，达到同一损失所需的字符更少（各深度平均；始终达不到的按读过的全部字符计）。",
            ),
            holds=lambda means: means["pre_tokens"] < means["post_tokens"],
        ),
        Claim(
            says=Both("Pre-LN is better when there are more layers.", "层数增加时，前置归一化更好。"),
            truth=Both(
                "So it is at 1e-3 with warm-up: level at 2 layers, while at 12 Post's loss is far above Pre's.",
                "1e-3、有预热时确实如此：2 层时不相上下，12 层时后置的损失远高于前置。",
            ),
            holds=lambda means: (
                means["post_low_warm_12"] - means["pre_low_warm_12"]
                > max(0.05, means["post_low_warm_2"] - means["pre_low_warm_2"])
            ),
        ),
    ),
    papers=(
        "Xiong et al. 2020, arXiv:2002.04745",
        "Liu et al. 2020, arXiv:2004.08249",
        "Takase et al. 2022, arXiv:2206.00330",
    ),
    thresholds=(
        between("post_slope", -0.1, 0.1, Both("the lemma says 0; a pilot saw .03", "引理给出 0；预实验为 .03")),
        between("pre_slope", -0.6, -0.4, Both("the lemma says −.5; a pilot saw −.51", "引理给出 −.5；预实验为 −.51")),
        at_least("pre_over_lower", 1.0, Both("the lemma: at least 1 + l/2", "引理：不小于 1 + l/2")),
        at_most("pre_over_upper", 1.0, Both("the lemma: at most 1 + 3l/2", "引理：不大于 1 + 3l/2")),
        at_least(
            "warm_up_helps", 0.1, Both("Post needs warm-up, Pre does not: in nats", "后置需要预热而前置不需要（nat）")
        ),
        at_least("behind", 0.5, Both("in a pilot warm-up did not rescue Post", "预实验中预热也救不了后置")),
    ),
    labels={
        "post_slope": Both("slope of log last gradient over log depth, Post", "末层梯度随深度变化的双对数斜率，后置"),
        "pre_slope": Both("slope of log last gradient over log depth, Pre", "末层梯度随深度变化的双对数斜率，前置"),
    }
    | {
        f"{name}_slope_{case}": Both(f"the same slope, {placed.en}, {how.en}", f"同一斜率，{placed.zh}，{how.zh}")
        for name, placed in (("post", Both("Post", "后置")), ("pre", Both("Pre", "前置")))
        for case, how in (
            ("wide", Both("feed-forward 4 times as wide", "前馈层宽 4 倍")),
            ("torch", Both("torch's own draw", "torch 默认初始化")),
            ("small", Both("N(0, .02)", "N(0, .02) 初始化")),
        )
    }
    | {
        "post_first_over_last": Both(
            "gradient, first layer over last, 24 layers, Post", "24 层时首层与末层梯度之比，后置"
        ),
        "pre_first_over_last": Both(
            "gradient, first layer over last, 24 layers, Pre", "24 层时首层与末层梯度之比，前置"
        ),
        "post_growth": Both("E‖x‖², layer 24 over layer 1, Post", "E‖x‖²，第 24 层与第 1 层之比，后置"),
        "pre_growth": Both("E‖x‖², layer 24 over layer 1, Pre", "E‖x‖²，第 24 层与第 1 层之比，前置"),
        "post_sum": Both(
            "E‖x‖² / d of Post's sums before their norms (lemma: 1.5)", "后置归一化前残差和的 E‖x‖² / d（引理：1.5）"
        ),
        "pre_over_lower": Both(
            "E‖x‖² / d of Pre over 1 + l/2, lowest of the layers", "前置 E‖x‖² / d 与 1 + l/2 之比，各层最小"
        ),
        "pre_over_upper": Both(
            "E‖x‖² / d of Pre over 1 + 3l/2, highest of the layers", "前置 E‖x‖² / d 与 1 + 3l/2 之比，各层最大"
        ),
        "warm_up_helps": Both(
            "6 layers, 1e-3: Post's gain by warm-up − Pre's (nats)", "6 层、1e-3：后置的预热收益 − 前置的（nat）"
        ),
        "behind": Both(
            "12 layers, 3e-3, warm-up: Post's loss − Pre's (nats)", "12 层、3e-3、有预热：后置损失 − 前置损失（nat）"
        ),
    }
    | {
        f"{name}_{what}": Both(f"{text.en}, {placed.en}", f"{text.zh}，{placed.zh}")
        for name, placed in (("post", Both("Post", "后置")), ("pre", Both("Pre", "前置")))
        for what, text in (
            (
                "gain",
                Both("6 layers, 1e-3: loss without warm-up − with (nats)", "6 层、1e-3：无预热 − 有预热的损失（nat）"),
            ),
            (
                "tokens",
                Both(
                    "letters read until a loss of 2.9, or all, 1e-3, warm-up",
                    "损失降到 2.9 所读字符数（或全部），1e-3，有预热",
                ),
            ),
            ("after", Both("last gradient, after warm-up over before, 6 layers", "末层梯度，预热后与预热前之比，6 层")),
        )
    }
    | {
        f"{name}_{speed}_{warm}_{depth}": Both(
            f"loss, {placed.en}, {depth} layers, {rate}, {how.en} (nats)",
            f"损失，{placed.zh}，{depth} 层，{rate}，{how.zh}（nat）",
        )
        for name, placed in (("post", Both("Post", "后置")), ("pre", Both("Pre", "前置")))
        for speed, rate in zip(("low", "high"), Size().rates, strict=True)
        for warm, how, depths in (
            ("warm", Both("warm-up", "有预热"), Size().trained),
            ("cold", Both("no warm-up", "无预热"), Size().cold),
        )
        for depth in depths
    },
    headline=Both(
        "last gradient by depth, log slope: Post {post_slope:+.2f}, Pre {pre_slope:+.2f}; 12 layers at 3e-3: Post "
        "behind by {behind:.2f} nats",
        "末层梯度随深度的双对数斜率：后置 {post_slope:+.2f}，前置 {pre_slope:+.2f}；12 层、3e-3 时后置落后 {behind:.2f} nat",
    ),
    quick=Size(),
    measure=measure,
    plot=plot,
    caption=Both(
        "Left: one letter's gradient by the last feed-forward matrix, at initialisation, by depth. Middle: the same in each "
        "layer of 24. "
        "Right: held-out losses; solid: 1e-3 with warm-up, dotted: 3e-3 with warm-up, dashed and hollow: 1e-3 without. "
        "Circles: Post, squares: Pre.",
        "左：初始化时单个字符的损失对最后一个前馈矩阵的梯度随层数的变化。中：24 层中各层的梯度。右：验证损失；实线：1e-3 有预热，点线：3e-3 有预热，"
        "虚线空心：1e-3 无预热。圆点：后置，方块：前置。",
    ),
    seconds=120.0,
    dispute=Both(
        "Which is better when both train: Xiong et al. prefer Pre-LN, Liu et al. and Takase et al. find Post-LN better where "
        "it is shallow enough to train.",
        "两者都能训练时孰优孰劣：Xiong 等倾向前置；Liu 等和 Takase 等发现，层数较少、能够训练时后置更好。",
    ),
)
