"""LayerNorm or BatchNorm: what each makes of small batches, padding, time steps, split batches and the future."""

import copy
from collections.abc import Callable, Sequence
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

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Size:
    """How large the models are, and how long they train."""

    width: int = 64
    layers: int = 2
    steps: int = 400
    length: int = 32
    batch: int = 32
    rate: float = 1e-3
    text: int = 300_000
    tested: int = 20_000
    probed: int = 4096
    deep: int = 6
    deep_steps: int = 300


NORMS: dict[str, Callable[[int], nn.Module]] = {"batch": qkv.batch_norm(), "layer": qkv.layer_norm()}
PADDING = 0
"""A byte that no text holds."""


def build(norm: str, size: Size) -> qkv.Gpt:
    """Make a GPT without dropout, of which nothing but the norm differs between training and use."""
    config = qkv.GptConfig(
        vocabulary=SYMBOLS, width=size.width, layers=size.layers, heads=4, feed_forward=2 * size.width,
        positions=2 * size.length, dropout=0.0, attention_dropout=0.0, embedding_dropout=0.0,
    )  # fmt: skip
    return qkv.Gpt(config, placement=qkv.post_norm(NORMS[norm]))


def loss_of(model: qkv.Gpt, tokens: Tensor, targets: Tensor) -> Tensor:
    """Give the mean loss of the next letters."""
    total, count = model.loss(tokens, targets)
    return total / count


def logits(model: qkv.Gpt, tokens: Tensor, *, training: bool, mask: qkv.Mask | None = None) -> Tensor:
    """Give the logits; a model in training is a copy, whose running statistics nobody needs."""
    with torch.no_grad():
        model = copy.deepcopy(model).train(training)
        return model.predict_tokens(model(tokens, mask=mask))


def gap(model: qkv.Gpt, test: Tensor, size: Size, batch: int) -> float:
    """Give by how much the loss is higher in training mode than in use, on the same text in batches of a size."""
    losses = []
    for training in (True, False):
        found = copy.deepcopy(model).train(training)
        with torch.no_grad():
            batches = every_window(test[: size.probed + 1], size.length, batch)
            losses.append(mean(float(loss_of(found, *each)) for each in batches))
    return losses[0] - losses[1]


def gradient(model: qkv.Gpt, tokens: Tensor, targets: Tensor, parts: int) -> Tensor:
    """Give the gradient of a batch that is read in equal parts."""
    model = copy.deepcopy(model).train()
    for some in zip(tokens.chunk(parts), targets.chunk(parts), strict=True):
        (loss_of(model, *some) / parts).backward()
    return torch.cat([each.grad.flatten() for each in model.parameters() if each.grad is not None])


def probe(model: qkv.Gpt, size: Size, test: Tensor, chance: torch.Generator) -> dict[str, float]:
    """Ask a trained model what else a token's logits depend on."""
    tokens, targets = windows(test, size.length, size.batch, chance)
    lengths = torch.full((size.batch,), size.length)
    padded = F.pad(tokens, (0, size.length), value=PADDING)
    plain = logits(model, tokens, training=True)
    with_padding = logits(model, padded, training=True, mask=qkv.padding(keys=lengths))[:, : size.length]
    other = tokens.clone()
    other[:, -1] = (other[:, -1] + 1) % SYMBOLS
    whole, split = gradient(model, tokens, targets, 1), gradient(model, tokens, targets, 4)
    alone, together = logits(model, tokens[:1], training=False), logits(model, tokens, training=False)[:1]
    return {
        "gap_1": gap(model, test, size, 1),
        "gap_32": gap(model, test, size, 32),
        "padding": float((with_padding - plain).abs().max()),
        "future": float((logits(model, other, training=True) - plain)[:, :-1].abs().max()),
        "accumulation": float((whole - split).norm() / whole.norm()),
        "company": float((alone - together).abs().max()),
    }


def over_time(norm: str, size: Size, chance: torch.Generator) -> float:
    """Run hₜ = norm(W hₜ₋₁ + U xₜ) in training, then in use: the variance of the first step over that of the last.

    One module serves all steps, as it must where texts have any length.
    """
    inner = NORMS[norm](size.width)
    mix, read = (torch.randn(size.width, size.width, generator=chance) * size.width**-0.5 for _ in range(2))

    def run() -> list[float]:
        state, variances = torch.zeros(size.batch, size.width), list[float]()
        for _ in range(size.length):
            state = inner(state @ mix + torch.randn(size.batch, size.width, generator=chance) @ read)
            variances.append(float(state.var()))
        return variances

    with torch.no_grad():
        for _ in range(20):
            run()
        inner.eval()
        variances = run()
    return variances[0] / variances[-1]


def restored(norm: str, size: Size, chance: torch.Generator) -> float:
    """Normalise, then scale by γ = √(variance + ε) and shift by β = mean: the largest error, in standard deviations."""
    x = torch.randn(size.batch, size.width, generator=chance) * 3 + torch.randn(size.width, generator=chance)
    module = cast(nn.LayerNorm | nn.BatchNorm1d, NORMS[norm](size.width))
    with torch.no_grad():
        module.weight.copy_((x.var(0, correction=0) + module.eps).sqrt())
        module.bias.copy_(x.mean(0))
        return float((module(x) - x).abs().max() / x.std())


def sigmoid_net(norm: str, size: Size, seed: int, text: Tensor, progress: Progress) -> tuple[float, float]:
    """Train a deep sigmoid net to guess a letter from the four before it: its last losses, and the derivatives < .01."""
    torch.manual_seed(seed)
    chance = torch.Generator().manual_seed(seed)
    steps: list[nn.Module] = [nn.Embedding(SYMBOLS, size.width // 4), nn.Flatten()]
    bends = []
    for _ in range(size.deep):
        bends.append(nn.Sigmoid())
        steps += [nn.Linear(size.width, size.width), *([NORMS[norm](size.width)] if norm in NORMS else []), bends[-1]]
    net = nn.Sequential(*steps, nn.Linear(size.width, SYMBOLS))

    def batch() -> tuple[Tensor, Tensor]:
        tokens, targets = windows(text, 4, 8 * size.batch, chance)
        return tokens, targets[:, -1]

    def loss(step: int) -> Tensor:
        tokens, target = batch()
        return F.cross_entropy(net(tokens), target)

    doing = f"sigmoid net, norm: {norm}"
    losses = fit(net.parameters(), loss, steps=size.deep_steps, rate=size.rate, progress=progress, doing=doing)
    seen: list[Tensor] = []
    for bend in bends:
        bend.register_forward_hook(lambda _, inputs, made: seen.append(made * (1 - made)))
    with torch.no_grad():
        net(batch()[0])
    return mean(losses[-20:]), float((torch.stack(seen) < 0.01).float().mean())


def measure(seed: int, size: Size, progress: Progress) -> Figures:
    """Train a GPT with each norm and probe it; then what needs no training; then sigmoid nets."""
    text, test = letters(size.text), letters(size.tested, held_out=True)
    figures: Figures = {}
    for norm in NORMS:
        torch.manual_seed(seed)
        chance = torch.Generator().manual_seed(seed)
        model = build(norm, size)

        def loss(step: int, model: qkv.Gpt = model, chance: torch.Generator = chance) -> Tensor:
            return loss_of(model, *windows(text, size.length, size.batch, chance))

        losses = fit(
            model.parameters(), loss, steps=size.steps, rate=size.rate, progress=progress, doing=f"GPT, {norm} norm"
        )
        model.eval()
        with torch.no_grad():
            batches = every_window(test, size.length, size.batch)
            figures[f"loss_{norm}"] = mean(float(loss_of(model, *batch)) for batch in batches)
        figures[f"losses_{norm}"] = losses
        found = probe(model, size, test, torch.Generator().manual_seed(10_000 + seed))
        figures |= {f"{name}_{norm}": value for name, value in found.items()}
        figures[f"time_{norm}"] = over_time(norm, size, torch.Generator().manual_seed(20_000 + seed))
        figures[f"restored_{norm}"] = restored(norm, size, torch.Generator().manual_seed(30_000 + seed))
    for name in ("none", *NORMS):
        figures[f"deep_loss_{name}"], figures[f"starved_{name}"] = sigmoid_net(name, size, seed, text, progress)
    return figures


def plot(figure: "Figure", results: Sequence[Figures], say: Callable[[Both], str]) -> None:
    """Draw the training losses, and what each norm's logits, gradients and losses depend on."""
    left, right = figure.subplots(1, 2)
    names = {"batch": Both("BatchNorm", "批归一化"), "layer": Both("LayerNorm", "层归一化")}
    for place, (norm, name) in enumerate(names.items()):
        runs = [result[f"losses_{norm}"] for result in results]
        line = [mean(losses) for losses in zip(*runs, strict=True)]
        left.plot(line, ("-", "--")[place], color=f"C{place}", label=say(name))
        for at, (what, _) in enumerate(DEPENDS):
            values = [max(result[f"{what}_{norm}"], 1e-8) for result in results]
            right.plot([at + 0.2 * place] * len(values), values, "os"[place], color=f"C{place}")
    left.set(xlabel=say(Both("step", "步")), ylabel=say(Both("training loss (nats a letter)", "训练损失（nat/字符）")))
    left.legend()
    right.axhline(1e-8, color="gray", linestyle=":")
    right.set(
        yscale="log",
        xticks=range(len(DEPENDS)),
        xticklabels=[say(name) for _, name in DEPENDS],
        ylabel=say(Both("change (0 is drawn at 1e-8)", "变化量（0 画在 1e-8 处）")),
    )
    right.tick_params(axis="x", rotation=25)


DEPENDS = (
    ("gap_1", Both("train/eval gap", "训练与推理之差")),
    ("padding", Both("padding", "填充")),
    ("future", Both("the future", "未来词元")),
    ("accumulation", Both("split batch", "拆分批次")),
    ("company", Both("company in use", "推理时的同批样本")),
)

LAB = Lab(
    name="norms",
    rows=("13",),
    question=Both(
        "LayerNorm or BatchNorm in a Transformer, and why?", "在 Transformer 中用层归一化还是批归一化？为什么？"
    ),
    answer=Both(
        "LayerNorm. It takes mean and variance over one token's features, so nothing else reaches a token: not the other "
        "sequences, not padding, not the future; and it computes the same in training and in use. BatchNorm takes them "
        "over all tokens of a batch while training and running averages in use: it sees padding, leaks the future into a "
        "decoder, differs between the two modes, and its gradient changes when a batch is split.",
        "用层归一化。它只在一个词元自己的特征上求均值和方差，因此同批的其他序列、填充和未来词元都不影响该词元，训练与推理的计算也完全相同。"
        "批归一化在训练时对整个批次的词元求统计量，推理时改用滑动平均：它会受填充影响，会向解码器泄漏未来信息，两种模式不一致，拆分批次后梯度也会变。",
    ),
    follow_up=Both(
        "Does BatchNorm train worse, then? Hardly at this size: both losses are shown. Shen et al. (PowerNorm) "
        "trace its losses in large Transformers to batch statistics that vary widely for text. What LayerNorm buys is "
        "independence, and many models now leave out its mean (RMSNorm).",
        "那么批归一化的训练效果更差吗？在这个规模上相差无几，两者的损失都列在表中。PowerNorm 的作者（Shen 等）认为，大型 Transformer 中的差距源于文本的批统计量波动很大。"
        "层归一化的好处是各词元互不依赖；如今许多模型进一步去掉减均值的步骤（RMSNorm）。",
    ),
    trap=Both(
        "“BatchNorm fails at inference because batches are small there”: in use it takes running averages and ignores the "
        "batch, as LayerNorm does. What hurts is that these are other numbers than those it trained with.",
        "“推理时批次小，所以批归一化不行”：推理时它用滑动平均，与批次大小无关，这一点和层归一化一样。真正的问题是推理用的统计量与训练时不同。",
    ),
    claims=(
        Claim(
            says=Both(
                "Shifting inputs drive activations to where derivatives are near zero; norms prevent it and so speed "
                "training up.",
                "输入分布漂移会把激活推到导数接近零的区域；归一化防止这一点，从而加快收敛。",
            ),
            truth=Both(
                "The deep sigmoid net does learn faster with BatchNorm, but without any norm hardly a derivative is below "
                ".01: starved derivatives are not what it cures here. Santurkar et al. dispute the cause too.",
                "加上批归一化后深层 sigmoid 网络确实学得更快，但不加归一化时几乎没有导数小于 .01：可见在这里它起作用并不是因为避免了导数过小。Santurkar 等人也质疑这一解释。",
            ),
            holds=lambda means: (
                means["starved_none"] - means["starved_batch"] >= 0.01
                and means["deep_loss_batch"] < means["deep_loss_none"]
            ),
        ),
        Claim(
            says=Both("γ and β let a layer keep what it knew.", "γ 和 β 让每层保留原有的知识。"),
            truth=Both(
                "With γ = √(variance + ε) and β = mean BatchNorm gives its input back. LayerNorm cannot: its mean and "
                "variance are another for each token, γ and β the same for all.",
                "取 γ = √(方差 + ε)、β = 均值时，批归一化能还原输入。层归一化做不到：每个词元的均值和方差不同，而 γ、β 是共用的。",
            ),
            holds=lambda means: means["restored_batch"] < 1e-4,
        ),
        Claim(
            says=Both("LayerNorm takes its statistics over the whole layer.", "层归一化在整个层上计算统计量。"),
            truth=Both(
                "Over one token's features. Were it the whole layer, all tokens of a text, the last letter would move those "
                "before it; it moves none.",
                "只在一个词元自己的特征上计算。若在整个层（一段文本的所有词元）上计算，末字符就会影响之前的输出；实测毫无影响。",
            ),
            holds=lambda means: means["future_layer"] > 0,
        ),
        Claim(
            says=Both(
                "LayerNorm is preferred because inference uses small batches.", "推理时批次较小，所以更适合层归一化。"
            ),
            truth=Both(
                "In use BatchNorm gives a sequence the same logits alone and in company. The reason fails.",
                "推理时，批归一化对一条序列单独计算与同批计算的结果相同，这条理由不成立。",
            ),
            holds=lambda means: means["company_batch"] > 1e-3,
            mistake=True,
        ),
        Claim(
            says=Both("BatchNorm computes differently in training and in use.", "批归一化在训练和推理时计算不同。"),
            truth=Both(
                "So it is: on the same text its loss differs between the modes; LayerNorm's is the same to the last bit.",
                "确实如此：同一段文本在两种模式下损失不同；层归一化则完全一致。",
            ),
            holds=lambda means: means["gap_1_batch"] >= 0.05 and means["gap_1_layer"] == 0.0,
        ),
        Claim(
            says=Both("LayerNorm copes better with padding.", "层归一化能更好地处理填充。"),
            truth=Both(
                "In training, padding that the attention mask hides still moves BatchNorm's statistics and so every logit.",
                "训练时，即使注意力掩码遮住了填充，填充仍会改变批归一化的统计量，进而改变所有输出。",
            ),
            holds=lambda means: means["padding_layer"] < 0.01 * means["padding_batch"],
        ),
        Claim(
            says=Both(
                "LayerNorm suits the steps of an RNN; BatchNorm must be adapted.",
                "层归一化适合 RNN 的各时间步，批归一化则需要调整。",
            ),
            truth=Both(
                "One BatchNorm for all steps leaves the first step with another variance than the last; LayerNorm does not.",
                "所有时间步共用一个批归一化时，第一步的方差与最后一步不同；层归一化没有这个问题。",
            ),
            holds=lambda means: abs(means["time_batch"] - 1) > 0.1 > abs(means["time_layer"] - 1),
        ),
        Claim(
            says=Both("LayerNorm is easier to compute in parallel.", "层归一化更便于并行计算。"),
            truth=Both(
                "A batch split into four parts gives LayerNorm the same gradient and BatchNorm another, unless the parts "
                "exchange their statistics.",
                "把一个批次拆成四份，层归一化的梯度不变，批归一化的梯度则不同，除非各份之间同步统计量。",
            ),
            holds=lambda means: means["accumulation_batch"] > 1000 * means["accumulation_layer"],
        ),
    ),
    papers=(
        "Ba et al. 2016, arXiv:1607.06450",
        "Ioffe and Szegedy 2015, arXiv:1502.03167",
        "Santurkar et al. 2018, arXiv:1805.11604",
        "Shen et al. 2020, arXiv:2003.07845",
    ),
    thresholds=(
        at_least("gap_1_batch", 0.05, Both("a pilot saw .17 to .23 nats", "预实验为 .17 至 .23 nat")),
        between("gap_1_layer", 0.0, 0.0, Both("a control: both modes compute the same", "对照：两种模式的计算相同")),
        at_least(
            "padding_batch",
            1.0,
            Both(
                "a logit moved by 1 changes its odds e-fold: no rounding", "logit 变化 1，几率就变为 e 倍，绝非舍入误差"
            ),
        ),
        at_most("padding_layer", 1e-4, Both("rounding alone", "只有舍入误差")),
        at_most("accumulation_layer", 1e-5, Both("rounding alone", "只有舍入误差")),
        at_least("accumulation_batch", 1e-2, Both("a thousand times rounding", "是舍入误差的千倍")),
        at_least("future_batch", 1e-4, Both("above 0, and above rounding", "大于 0，且大于舍入误差")),
        at_most("future_layer", 0.0, Both("a control: the causal mask lets nothing through", "对照：因果掩码不泄漏")),
    ),
    labels={
        "loss_batch": Both("held-out loss in use, BatchNorm (nats a letter)", "验证损失，批归一化（nat/字符）"),
        "loss_layer": Both("held-out loss in use, LayerNorm (nats a letter)", "验证损失，层归一化（nat/字符）"),
        "gap_1_batch": Both(
            "loss in training mode − in use, batch 1, BatchNorm (nats)",
            "训练模式 − 推理模式的损失，批大小 1，批归一化（nat）",
        ),
        "gap_1_layer": Both("the same, LayerNorm (nats)", "同上，层归一化（nat）"),
        "gap_32_batch": Both("the same, batch 32, BatchNorm (nats)", "同上，批大小 32，批归一化（nat）"),
        "gap_32_layer": Both("the same, batch 32, LayerNorm (nats)", "同上，批大小 32，层归一化（nat）"),
        "padding_batch": Both(
            "largest change of a logit by padding, in training, BatchNorm", "训练时填充造成的最大输出变化，批归一化"
        ),
        "padding_layer": Both(
            "largest change of a logit by padding, in training, LayerNorm", "训练时填充造成的最大输出变化，层归一化"
        ),
        "future_batch": Both(
            "largest change of earlier logits by the last letter, in training, BatchNorm",
            "训练时末字符对之前输出的最大影响，批归一化",
        ),
        "future_layer": Both(
            "largest change of earlier logits by the last letter, in training, LayerNorm",
            "训练时末字符对之前输出的最大影响，层归一化",
        ),
        "accumulation_batch": Both(
            "gradient of 4 × 8 against 32, relative difference, BatchNorm", "4×8 与 32 的梯度相对差，批归一化"
        ),
        "accumulation_layer": Both(
            "gradient of 4 × 8 against 32, relative difference, LayerNorm", "4×8 与 32 的梯度相对差，层归一化"
        ),
        "company_batch": Both(
            "largest change of a logit by the rest of the batch, in use, BatchNorm",
            "推理时同批其他样本造成的最大输出变化，批归一化",
        ),
        "company_layer": Both(
            "largest change of a logit by the rest of the batch, in use, LayerNorm",
            "推理时同批其他样本造成的最大输出变化，层归一化",
        ),
        "time_batch": Both(
            "RNN in use: variance of the first step over that of the last, BatchNorm",
            "RNN 推理时首步与末步方差之比，批归一化",
        ),
        "time_layer": Both(
            "RNN in use: variance of the first step over that of the last, LayerNorm",
            "RNN 推理时首步与末步方差之比，层归一化",
        ),
        "restored_batch": Both(
            "error of restoring the input by γ and β (standard deviations), BatchNorm",
            "用 γ、β 还原输入的误差（标准差），批归一化",
        ),
        "restored_layer": Both(
            "error of restoring the input by γ and β (standard deviations), LayerNorm",
            "用 γ、β 还原输入的误差（标准差），层归一化",
        ),
        "deep_loss_none": Both("deep sigmoid net, loss, no norm (nats)", "深层 sigmoid 网络损失，无归一化（nat）"),
        "deep_loss_batch": Both("deep sigmoid net, loss, BatchNorm (nats)", "深层 sigmoid 网络损失，批归一化（nat）"),
        "deep_loss_layer": Both("deep sigmoid net, loss, LayerNorm (nats)", "深层 sigmoid 网络损失，层归一化（nat）"),
        "starved_none": Both(
            "share of sigmoid derivatives below .01, no norm", "小于 .01 的 sigmoid 导数比例，无归一化"
        ),
        "starved_batch": Both(
            "share of sigmoid derivatives below .01, BatchNorm", "小于 .01 的 sigmoid 导数比例，批归一化"
        ),
        "starved_layer": Both(
            "share of sigmoid derivatives below .01, LayerNorm", "小于 .01 的 sigmoid 导数比例，层归一化"
        ),
    },
    headline=Both(
        "loss in training mode less in use, batch 1: BatchNorm {gap_1_batch:.2f} nats, LayerNorm {gap_1_layer:.2f}",
        "批大小 1 时训练模式与推理模式的损失差：批归一化 {gap_1_batch:.2f} nat，层归一化 {gap_1_layer:.2f}",
    ),
    quick=Size(),
    full=Size(width=256, layers=6, steps=5000, length=128, text=3_000_000, tested=200_000, deep_steps=3000),
    measure=measure,
    plot=plot,
    caption=Both(
        "Left: training losses, means over the seeds. Right: how much what should not matter changes a loss, a logit or a "
        "gradient (circles: BatchNorm, squares: LayerNorm), a point a seed.",
        "左：训练损失（各种子的均值）。右：本不应有影响的因素对损失、输出或梯度的改变量（圆点：批归一化，方块：层归一化），每点一个种子。",
    ),
    seconds=30.0,
    dispute=Both(
        "Whether norms work by keeping distributions still (Ioffe and Szegedy) or by smoothing the loss (Santurkar et al.) "
        "is not settled.",
        "归一化究竟是靠稳定分布（Ioffe 与 Szegedy）还是靠使损失面更平滑（Santurkar 等）起作用，尚无定论。",
    ),
)
