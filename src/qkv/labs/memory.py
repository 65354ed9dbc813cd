"""RNN or attention: how far back each remembers, how far back its gradient reaches, and how fast each learns."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import qkv
from qkv.labs.lab import Both, Claim, Figures, Lab, Progress, at_least, at_most
from qkv.labs.running.fit import fit

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Size:
    """The width, what is learned, how long, and at which distances it is asked for."""

    width: int = 64
    symbols: int = 160
    learned: int = 8
    distances: tuple[int, ...] = (8, 32, 128)
    steps: int = 1000
    batch: int = 64
    rate: float = 3e-3
    asked: int = 1000
    reach: int = 50
    speed_lengths: tuple[int, ...] = (32, 128, 512)


class Linear(nn.Module):
    """A linear recurrent network whose matrix is orthogonal: Markov, and nothing in it shrinks."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inward = nn.Linear(width, width)
        self.onward = nn.utils.parametrizations.orthogonal(nn.Linear(width, width, bias=False))

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, None]:
        inputs, states = self.inward(x), []
        state = torch.zeros_like(x[:, 0]) if state is None else state[0]
        # As a matrix once: it is made of its parameters each time it is asked for.
        onward = self.onward(torch.eye(x.shape[-1]))
        for step in range(x.shape[1]):
            state = state @ onward + inputs[:, step]
            states.append(state)
        return torch.stack(states, 1), None


class Attention(nn.Module):
    """One attention layer, called as a recurrent one is."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = qkv.MultiHead(width, heads=1)

    def forward(self, x: Tensor, state: None = None) -> tuple[Tensor, None]:
        return x + self.attention(x, mask=qkv.causal()), None


def lstm(width: int) -> nn.LSTM:
    """Make an LSTM that begins by keeping what it has: its forget gates open with a bias of 1."""
    made = nn.LSTM(width, width, batch_first=True)
    with torch.no_grad():
        dict(made.named_parameters())["bias_ih_l0"][width : 2 * width] = 1.0
    return made


LAYERS: dict[str, Callable[[int], nn.Module]] = {
    "attention": Attention,
    "lstm": lstm,
    "orthogonal": Linear,
    "plain": lambda width: nn.RNN(width, width, batch_first=True),
}


class Recall(nn.Module):
    """Read two symbols at each position, and at the last one answer."""

    def __init__(self, width: int, symbols: int, layer: nn.Module) -> None:
        super().__init__()
        # Twice as many first symbols, for the marked ones, and one for the question; one second symbol for "nothing".
        self.first, self.second = nn.Embedding(2 * symbols + 1, width), nn.Embedding(symbols + 1, width)
        self.layer, self.out = layer, nn.Linear(width, symbols)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return self.out(self.layer(self.first(first) + self.second(second))[0][:, -1])


def one(size: Size, distance: int, rows: int, chance: torch.Generator, far: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Draw one marked symbol, others up to the distance (`far`) or to any before it, and the question; and the answers.

    A marked symbol has an embedding of its own, so that a linear network too can tell it apart.
    """
    distance = distance if far else 1 + int(torch.randint(distance, (), generator=chance))
    answers = torch.randint(size.symbols, (rows,), generator=chance)
    others = torch.randint(size.symbols, (rows, distance - 1), generator=chance)
    question = torch.full((rows, 1), 2 * size.symbols)
    first = torch.cat((size.symbols + answers[:, None], others, question), 1)
    return first, torch.full_like(first, size.symbols), answers


def pairs(size: Size, distance: int, rows: int, chance: torch.Generator, far: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Draw distinct keys, each with a value, and one key again, the first (`far`) or any; its value is the answer."""
    keys = torch.rand(rows, size.symbols, generator=chance).argsort(-1)[:, :distance]
    values = torch.randint(size.symbols, keys.shape, generator=chance)
    place = torch.zeros(rows, 1, dtype=torch.long) if far else torch.randint(distance, (rows, 1), generator=chance)
    nothing = torch.full((rows, 1), size.symbols)
    return torch.cat((keys, keys.gather(1, place)), 1), torch.cat((values, nothing), 1), values.gather(1, place)[:, 0]


TASKS = {"one": one, "pairs": pairs}
"""What is recalled: one marked symbol, or the value of one of as many keys as the distance counts."""


def depth(out: Tensor) -> int:
    """Count the operations that wait for one another: the longest way back from an output to what it is made of."""
    order: list[Any] = []
    ways: list[tuple[Any, bool]] = [(out.grad_fn, False)]
    seen = set()
    while ways:
        node, done = ways.pop()
        if done:
            order.append(node)
        elif node is not None and node not in seen:
            seen.add(node)
            ways += [(node, True), *((before, False) for before, _ in node.next_functions)]
    longest: dict[Any, int] = {None: 0}
    for node in order:
        longest[node] = 1 + max((longest[before] for before, _ in node.next_functions), default=0)
    return longest[out.grad_fn]


def reach(layer: nn.Module, width: int, steps: int, chance: torch.Generator) -> float:
    """Tell how much of the last state's gradient reaches the state so many steps before: the ratio of their norms."""
    state = torch.randn(1, 1, width, generator=chance).requires_grad_()
    given = (state, torch.zeros_like(state)) if isinstance(layer, nn.LSTM) else state
    out, _ = layer(0.1 * torch.randn(1, steps, width, generator=chance), given)
    direction = F.normalize(torch.randn(width, generator=chance), dim=0)
    return float(torch.autograd.grad(out[0, -1] @ direction, state)[0].norm())


def speed(layer: nn.Module, width: int, length: int) -> float:
    """Give the tokens a second of a training step on one sequence."""
    x, taken = torch.randn(1, length, width), []
    for _ in range(4):
        began = time.process_time()
        layer(x)[0].sum().backward()
        taken.append(time.process_time() - began)
    return length / min(taken[1:])


def recall(name: str, task: str, size: Size, seed: int, progress: Progress) -> tuple[list[float], nn.Module]:
    """Train a layer on a task at short distances; give the share recalled at each distance, and the layer."""
    torch.manual_seed(seed)
    chance = torch.Generator().manual_seed(seed)
    model = Recall(size.width, size.symbols, LAYERS[name](size.width))

    def loss(step: int) -> Tensor:
        *question, answers = TASKS[task](size, size.learned, size.batch, chance, far=False)
        return F.cross_entropy(model(*question), answers)

    fit(model.parameters(), loss, steps=size.steps, rate=size.rate, progress=progress, doing=f"{task} {name}")
    right = []
    for distance in size.distances:
        asked = torch.Generator().manual_seed(10_000 + seed)
        *question, answers = TASKS[task](size, distance, size.asked, asked, far=True)
        with torch.no_grad():
            right.append(float((model(*question).argmax(-1) == answers).float().mean()))
    return right, model.layer


def measure(seed: int, size: Size, progress: Progress) -> Figures:
    """Train each layer on both tasks; follow the gradient; count what waits, and take the time."""
    figures: Figures = {"distances": list(size.distances), "lengths": list(size.speed_lengths)}
    for name, make in LAYERS.items():
        torch.manual_seed(seed)
        layer = make(size.width)
        for task in TASKS:
            figures[f"{name}_{task}"], trained = recall(name, task, size, seed, progress)
            figures |= {
                f"{name}_{task}_near": figures[f"{name}_{task}"][0],
                f"{name}_{task}_far": figures[f"{name}_{task}"][-1],
            }
        if name != "attention":
            for when, measured in (("reach", layer), ("reach_after", trained)):
                figures[f"{name}_{when}"] = reach(measured, size.width, size.reach, torch.Generator().manual_seed(seed))
        figures[f"{name}_speed"] = [speed(layer, size.width, length) for length in size.speed_lengths]
    for task in TASKS:
        figures[f"gain_{task}"] = figures[f"attention_{task}_far"] - figures[f"lstm_{task}_far"]
    short, long = (torch.zeros(1, length, size.width) for length in (16, 256))
    for name, make in (("attention", Attention), ("rnn", Linear)):
        layer = make(size.width)
        figures[f"{name}_deeper"] = depth(layer(long)[0]) / depth(layer(short)[0])
    figures["attention_faster"] = figures["attention_speed"][-1] / figures["lstm_speed"][-1]
    return figures


MARKS = {"attention": "o-", "lstm": "s--", "orthogonal": "^-.", "plain": "v:"}
NAMES = {
    "attention": Both("attention", "注意力"),
    "lstm": Both("LSTM", "LSTM"),
    "orthogonal": Both("orthogonal linear RNN", "正交线性 RNN"),
    "plain": Both("plain RNN", "普通 RNN"),
}


def plot(figure: "Figure", results: Sequence[Figures], say: Callable[[Both], str]) -> None:
    """Draw recall by distance in both tasks, and training speed by length."""
    *recalls, right = figure.subplots(1, 3)
    titles = (Both("one marked symbol", "一个带标记的符号"), Both("the first of n pairs", "n 个键值对中的第一个"))
    for place, (name, mark) in enumerate(MARKS.items()):
        for number, result in enumerate(results):
            label = say(NAMES[name]) if number == 0 else None
            style: Any = {"color": f"C{place}", "label": label, "linewidth": 0.8}
            for axes, task in zip(recalls, TASKS, strict=True):
                axes.plot(result["distances"], result[f"{name}_{task}"], mark, **style)
            right.plot(result["lengths"], result[f"{name}_speed"], mark, **style)
    for axes, title in zip(recalls, titles, strict=True):
        axes.set(
            xscale="log", ylim=(-0.05, 1.05), title=say(title), xlabel=say(Both("distance n, tokens", "距离 n，词元"))
        )
        axes.set_xticks(results[0]["distances"], [str(distance) for distance in results[0]["distances"]])
    recalls[0].set_ylabel(say(Both("share recalled", "回忆正确比例")))
    recalls[0].legend(loc="lower left", fontsize=7)
    right.set(xscale="log", yscale="log", xlabel=say(Both("length, tokens", "长度，词元")))
    right.set_xticks(results[0]["lengths"], [str(length) for length in results[0]["lengths"]])
    right.xaxis.minorticks_off()
    right.set_title(say(Both("training, tokens/s", "训练速度，词元/秒")))


LAB = Lab(
    name="memory",
    rows=("5",),
    question=Both("RNN or attention, and when which?", "RNN 还是注意力，何时选哪个？"),
    answer=Both(
        "Attention reaches any earlier token in one step and trains on all positions at once; it pays with a cache that "
        "grows. An RNN carries one state of fixed size from token to token: constant memory, but what it must recall has "
        "to fit in, and it is trained step by step.",
        "注意力一步就能到达之前任何词元，训练时所有位置并行；代价是缓存不断增长。RNN 逐词元传递一个固定大小的状态：内存恒定，"
        "但要回忆的东西必须装得下，训练也只能一步一步来。",
    ),
    follow_up=Both(
        "Why do gradients vanish in an RNN? Because the same matrix and the slopes of tanh multiply at each step, and their "
        "product shrinks; gates, orthogonal matrices and good initial values keep it.",
        "RNN 的梯度为何消失？因为每一步都要乘同一个矩阵和 tanh 的斜率，乘积不断缩小；门控、正交矩阵和恰当的初值可以保住它。",
    ),
    trap=Both(
        "To say that gradients vanish because each state depends on the one before alone. An orthogonal linear RNN is "
        "Markov too, and loses nothing. A gradient that arrives is not yet a memory, though: look at its recall.",
        "说“因为每个状态只依赖前一个状态，所以梯度消失”。正交线性 RNN 同样具有马尔可夫性，梯度却毫无损失。不过梯度能到达并不等于记得住：请看它的回忆成绩。",
    ),
    claims=(
        Claim(
            says=Both("An RNN is Markov, and so its gradients vanish.", "RNN 具有马尔可夫性，所以容易梯度消失。"),
            truth=Both(
                "They vanish in a plain RNN, but not for that reason: an orthogonal linear RNN is as much Markov and keeps "
                "its gradient over 50 steps.",
                "普通 RNN 的梯度确实消失，但原因不在此：正交线性 RNN 同样是马尔可夫的，50 步后梯度仍完整保留。",
            ),
            holds=lambda means: means["orthogonal_reach"] < 0.5,
            mistake=True,
        ),
        Claim(
            says=Both(
                "Attention is computed in parallel, an RNN word by word.", "注意力可并行计算，RNN 只能逐词处理。"
            ),
            truth=Both(
                "So it is: with 16 times the text, nearly as many times the operations of an RNN wait for one another, and "
                "of attention no more than before. Many cores gain by it; one thread need not, see the speeds.",
                "属实：文本变为 16 倍，RNN 中必须依次等待的运算也变为将近 16 倍，注意力则不变。要有许多核才能从中获益，单线程未必更快，见速度一栏。",
            ),
            holds=lambda means: means["attention_deeper"] == 1 and means["rnn_deeper"] > 8,
        ),
        Claim(
            says=Both("Attention is ahead of RNNs in many ways.", "注意力在很多方面超越了 RNN。"),
            truth=Both(
                "In recalling one of many it is. To hold one marked symbol for 128 tokens an LSTM needs no attention; and "
                "while generating, its memory stays constant.",
                "在从许多内容中回忆一个时确实如此。但只记住一个带标记的符号、跨越 128 个词元，LSTM 无需注意力就能做到；生成时它的内存也保持恒定。",
            ),
            holds=lambda means: means["gain_pairs"] > 0.3,
        ),
    ),
    papers=(
        "Bengio et al. 1994, IEEE Trans. Neural Networks 5(2)",
        "Arjovsky et al. 2016, arXiv:1511.06464",
        "Arora et al. 2024, arXiv:2312.04927 (recall)",
    ),
    thresholds=(
        # Both tasks were tried: one marked symbol parts nobody (see gain_one), so what is judged is one of many.
        at_least("gain_pairs", 0.3, Both("three answers in ten are no accident", "相差三成答案绝非偶然")),
        at_least("orthogonal_reach", 0.9, Both("orthogonal: the norm is kept", "正交矩阵保持范数"), every=True),
        at_most("plain_reach", 1e-6, Both("computed 4·10⁻¹⁸", "计算值 4·10⁻¹⁸"), every=True),
    ),
    labels={
        "attention_one_near": Both(
            "share recalled, one symbol 8 tokens back, attention", "回忆 8 个词元之前一个符号的正确率，注意力"
        ),
        "attention_one_far": Both(
            "share recalled, one symbol 128 tokens back, attention", "回忆 128 个词元之前一个符号的正确率，注意力"
        ),
        "attention_pairs_near": Both(
            "share recalled, one of 8 pairs, attention", "从 8 个键值对中回忆一个的正确率，注意力"
        ),
        "attention_pairs_far": Both(
            "share recalled, one of 128 pairs, attention", "从 128 个键值对中回忆一个的正确率，注意力"
        ),
        "lstm_one_near": Both(
            "share recalled, one symbol 8 tokens back, LSTM", "回忆 8 个词元之前一个符号的正确率，LSTM"
        ),
        "lstm_one_far": Both(
            "share recalled, one symbol 128 tokens back, LSTM", "回忆 128 个词元之前一个符号的正确率，LSTM"
        ),
        "lstm_pairs_near": Both("share recalled, one of 8 pairs, LSTM", "从 8 个键值对中回忆一个的正确率，LSTM"),
        "lstm_pairs_far": Both("share recalled, one of 128 pairs, LSTM", "从 128 个键值对中回忆一个的正确率，LSTM"),
        "orthogonal_one_near": Both(
            "share recalled, one symbol 8 tokens back, orthogonal linear RNN",
            "回忆 8 个词元之前一个符号的正确率，正交线性 RNN",
        ),
        "orthogonal_one_far": Both(
            "share recalled, one symbol 128 tokens back, orthogonal linear RNN",
            "回忆 128 个词元之前一个符号的正确率，正交线性 RNN",
        ),
        "orthogonal_pairs_near": Both(
            "share recalled, one of 8 pairs, orthogonal linear RNN", "从 8 个键值对中回忆一个的正确率，正交线性 RNN"
        ),
        "orthogonal_pairs_far": Both(
            "share recalled, one of 128 pairs, orthogonal linear RNN", "从 128 个键值对中回忆一个的正确率，正交线性 RNN"
        ),
        "plain_one_near": Both(
            "share recalled, one symbol 8 tokens back, plain RNN", "回忆 8 个词元之前一个符号的正确率，普通 RNN"
        ),
        "plain_one_far": Both(
            "share recalled, one symbol 128 tokens back, plain RNN", "回忆 128 个词元之前一个符号的正确率，普通 RNN"
        ),
        "plain_pairs_near": Both(
            "share recalled, one of 8 pairs, plain RNN", "从 8 个键值对中回忆一个的正确率，普通 RNN"
        ),
        "plain_pairs_far": Both(
            "share recalled, one of 128 pairs, plain RNN", "从 128 个键值对中回忆一个的正确率，普通 RNN"
        ),
        "gain_one": Both(
            "share recalled, one symbol 128 tokens back: attention − LSTM",
            "回忆正确率，128 个词元之前的一个符号：注意力 − LSTM",
        ),
        "gain_pairs": Both(
            "share recalled, one of 128 pairs: attention − LSTM", "回忆正确率，128 个键值对之一：注意力 − LSTM"
        ),
        "orthogonal_reach": Both(
            "share of the gradient kept over 50 steps, orthogonal, untrained", "50 步后保留的梯度比例，正交，未训练"
        ),
        "plain_reach": Both(
            "share of the gradient kept over 50 steps, plain RNN, untrained", "50 步后保留的梯度比例，普通 RNN，未训练"
        ),
        "lstm_reach": Both(
            "share of the gradient kept over 50 steps, LSTM, untrained", "50 步后保留的梯度比例，LSTM，未训练"
        ),
        "orthogonal_reach_after": Both(
            "share of the gradient kept over 50 steps, orthogonal, trained", "50 步后保留的梯度比例，正交，训练后"
        ),
        "plain_reach_after": Both(
            "share of the gradient kept over 50 steps, plain RNN, trained", "50 步后保留的梯度比例，普通 RNN，训练后"
        ),
        "lstm_reach_after": Both(
            "share of the gradient kept over 50 steps, LSTM, trained", "50 步后保留的梯度比例，LSTM，训练后"
        ),
        "attention_deeper": Both(
            "operations in sequence at 256 tokens over 16, attention", "须依次进行的运算，256 与 16 词元之比，注意力"
        ),
        "rnn_deeper": Both(
            "operations in sequence at 256 tokens over 16, linear RNN", "须依次进行的运算，256 与 16 词元之比，线性 RNN"
        ),
        "attention_faster": Both(
            "training speed at 512 tokens, attention over LSTM", "512 词元时训练速度，注意力与 LSTM 之比"
        ),
    },
    headline=Both(
        "one of 128 pairs recalled: attention {attention_pairs_far:.2f}, LSTM {lstm_pairs_far:.2f}; one symbol 128 tokens "
        "back: attention {attention_one_far:.2f}, LSTM {lstm_one_far:.2f}",
        "从 128 个键值对中回忆一个：注意力 {attention_pairs_far:.2f}，LSTM {lstm_pairs_far:.2f}；128 个词元之前的一个符号："
        "注意力 {attention_one_far:.2f}，LSTM {lstm_one_far:.2f}",
    ),
    quick=Size(),
    full=Size(width=256, steps=10_000),
    measure=measure,
    plot=plot,
    caption=Both(
        "Left and middle: share recalled by distance, a line a seed; all were trained at distances of at most 8, on "
        "equally many tokens. Right: training speed on one sequence, forward and backward, one thread.",
        "左、中：回忆正确率随距离的变化，每线一个种子；训练时距离至多为 8，词元数相同。右：单个序列前向加反向的训练速度，单线程。",
    ),
    seconds=40.0,
    alone=True,
)
