"""Soft or hard attention: how a choice that has no derivative is taught, what helps, and what it saves."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import qkv
from qkv.labs.lab import Both, Claim, Figures, Lab, Progress, at_least, at_most
from qkv.labs.running.fit import fit
from qkv.text.digits import SIZE, scene

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Size:
    """How many choices there are, how often a gradient is estimated, and how long glimpses are learned.

    How near a moving baseline comes to the best depends on the choice: for one in fourteen the mean reward itself, which
    it follows, varies more than 1.5 times as much (computed). With one choice a seed the lab measured which it had drawn.
    """

    problems: int = 20
    places: int = 6
    offsets: tuple[float, ...] = (0.0, 1.0, 10.0, 100.0)
    draws: int = 16
    settling: int = 200
    estimates: int = 2000
    scenes: int = 1500
    rows: int = 2
    columns: int = 3
    width: int = 64
    steps: int = 1500
    batch: int = 64
    rate: float = 2e-3

    @property
    def cells(self) -> int:
        return self.rows * self.columns


# Gradients of a choice, against the exact one


@dataclass(frozen=True)
class Choosing:
    """A choice among some places: the logits of the places, what stands there, and what is wanted.

    The reward is offset − ½‖what was taken − what is wanted‖².
    """

    logits: Tensor
    values: Tensor
    wanted: Tensor

    @classmethod
    def draw(cls, size: Size, chance: torch.Generator) -> "Choosing":
        """Draw one."""
        logits = torch.randn(size.places, generator=chance, dtype=torch.float64)
        values = torch.randn(size.places, 4, generator=chance, dtype=torch.float64)
        return cls(logits, values, torch.randn(4, generator=chance, dtype=torch.float64))

    def reward(self, taken: Tensor) -> Tensor:
        """Reward what was taken, without an offset."""
        return -(taken - self.wanted).square().sum(-1) / 2

    def exact(self) -> Tensor:
        """Give the derivative of the expected reward by the logits."""
        weights, rewards = self.logits.softmax(0), self.reward(self.values)
        return weights * (rewards - (weights * rewards).sum())

    def variance(self, offset: float) -> float:
        """Give the variance of one REINFORCE estimate, summed over the logits, with the best constant baseline."""
        weights, rewards = self.logits.softmax(0), self.reward(self.values) + offset
        # The derivative of log p(j) by the logits is onehot(j) − weights.
        squares = (torch.eye(len(weights)) - weights).square().sum(-1)
        best = (weights * rewards * squares).sum() / (weights * squares).sum()
        return float((weights * (rewards - best).square() * squares).sum() - self.exact().square().sum())

    def places(self, size: Size) -> tuple[Tensor, Tensor, Tensor]:
        """Give query, key and value such that the scores are the logits, for all estimates at once."""
        steps = size.settling + size.estimates
        query = self.logits.repeat(steps, size.draws, 1).requires_grad_()
        key = torch.eye(size.places, dtype=torch.float64).expand(steps, -1, -1)
        return query, key, self.values.expand(steps, -1, -1)

    def reinforced(self, size: Size, offset: float, baseline: qkv.MovingBaseline | None) -> Tensor:
        """Give estimates by REINFORCE, each of some draws; a baseline is updated after each, and has settled."""
        query, key, value = self.places(size)
        taken, choice = qkv.HardAttention(qkv.dot())(query, key, value)
        rewards = self.reward(taken) + offset
        expected = torch.zeros(len(rewards), 1, dtype=torch.float64)
        if baseline is not None:
            for step, some in enumerate(rewards):
                expected[step] = baseline.value
                baseline.update(some)
        (slopes,) = torch.autograd.grad(-qkv.reinforce(choice, rewards, expected) * rewards.numel(), query)
        return slopes[size.settling :].mean(1)

    def straight_through(self, size: Size) -> Tensor:
        """Give estimates by the straight-through gradient, each of some draws."""
        query, key, value = (x[:, None] for x in self.places(size))
        taken = qkv.attend(query, key, value, score=qkv.dot(), select=qkv.hard(sample=True))
        (slopes,) = torch.autograd.grad(self.reward(taken).sum(), query)
        return slopes[size.settling :, 0].mean(1)


def chi_square(errors: Tensor, estimates: Tensor) -> float:
    """Give n · eᵀ C⁻¹ e of mean errors e and the estimates' covariance C; a gradient by logits sums to 0."""
    covariance = estimates[:, :-1].T.cov()
    return float(len(estimates) * errors[:-1] @ torch.linalg.solve(covariance, errors[:-1]))


def survival(statistic: float, freedom: int) -> float:
    """Give the probability that a chi-square is larger."""
    half = torch.tensor([freedom / 2, statistic / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))


def estimate(seed: int, size: Size, progress: Progress) -> Figures:
    """Compare the estimates with the exact gradients: are they right on average, and how much do they vary?

    Variances are those of the gradient by the logits of all problems: they add.
    """
    torch.manual_seed(seed)
    chance = torch.Generator().manual_seed(seed)
    problems = [Choosing.draw(size, chance) for _ in range(size.problems)]
    statistic, freedom = 0.0, 0
    # A row for each offset: without a baseline, with a moving one, with the best constant one.
    variances = torch.zeros(len(size.offsets), 3)
    off, norm = 0.0, 0.0
    for problem in progress.over(problems, "gradients"):
        exact = problem.exact()
        for row, offset in zip(variances, size.offsets, strict=True):
            for column, baseline in enumerate((None, qkv.MovingBaseline().double())):
                found = problem.reinforced(size, offset, baseline)
                statistic += chi_square(found.mean(0) - exact, found)
                freedom += size.places - 1
                row[column] += found.var(0).sum() * size.draws
            row[2] += problem.variance(offset)
        off += float((problem.straight_through(size).mean(0) - exact).square().sum())
        norm += float(exact.square().sum())
    bare, moving = (variances[:, :2].T / variances[:, 2]).tolist()
    return {
        "offsets": list(size.offsets),
        "bare": bare,
        "moving": moving,
        "p": survival(statistic, freedom),
        "moving_highest": max(moving),
        "bare_lowest": min(bare),
        "bare_highest": max(bare),
        "straight_off": math.sqrt(off / norm),
    }


# Glimpses of handwritten digits


def written(scenes: int, held_out: bool) -> tuple[Tensor, Tensor]:
    """Give the digits of some scenes one by one, each a row of pixels, and what they are."""
    pixels, labels = list[Tensor](), list[int]()
    for number in range(scenes):
        one = scene(number, held_out=held_out)
        labels += one.digits
        pixels += [one.image[0, row : row + SIZE, column : column + SIZE] for row, column in one.corners]
    return torch.stack(pixels).flatten(1), torch.tensor(labels)


def mark(
    digits: Tensor, labels: Tensor, count: int, size: Size, chance: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Put digits in cells, and a mark on each: the cells, which mark is asked for, what bears it, and where.

    Mark m is the pixel at the left end of line m. What is asked must not show in the cell alone: a first trial asked for
    the one digit among cells of shuffled pixels, and the mean of all cells was as right as any attention.
    """
    chosen = torch.randint(len(digits), (count, size.cells), generator=chance)
    marks = torch.rand(count, size.cells, generator=chance).argsort(-1)
    cells = digits[chosen].unflatten(-1, (SIZE, SIZE))
    cells[..., 0] = F.one_hot(marks, SIZE).float()
    where = torch.randint(size.cells, (count, 1), generator=chance)
    asked = marks.gather(1, where)[:, 0]
    return cells.flatten(-2), asked, labels[chosen.gather(1, where)[:, 0]], where[:, 0]


class Glimpse(nn.Module):
    """Names the digit that bears the mark asked for: by all cells at once (soft), or by a single one (hard)."""

    def __init__(self, kind: str, size: Size) -> None:
        super().__init__()
        self.kind = kind
        self.see = nn.Sequential(nn.Linear(SIZE * SIZE, size.width), nn.ReLU(), nn.Linear(size.width, size.width))
        self.key = nn.Linear(size.width, size.width)
        self.query = nn.Embedding(size.cells, size.width)
        self.name = nn.Linear(size.width, 10)
        self.attention, self.baseline = qkv.HardAttention(qkv.scaled_dot()), qkv.MovingBaseline()

    def look(self, cells: Tensor, asked: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Give query, key and value."""
        seen = self.see(cells).relu()
        return self.query(asked)[:, None], self.key(seen), seen

    def forward(self, cells: Tensor, asked: Tensor) -> Tensor:
        """Name the digits: logits."""
        query, key, value = self.look(cells, asked)
        if self.kind == "hard":
            return self.name(self.attention(query, key, value, sample=False)[0][:, 0])
        if self.kind == "uniform":
            return self.name(value.mean(1))
        select = qkv.hard(sample=self.training) if self.kind == "straight" else None
        return self.name(qkv.attend(query[:, None], key[:, None], value[:, None], select=select)[:, 0, 0])

    def loss(self, cells: Tensor, asked: Tensor, labels: Tensor) -> Tensor:
        """Give the loss of the names, and for hard attention REINFORCE's: the reward is the name's log-likelihood."""
        if self.kind != "hard":
            return F.cross_entropy(self(cells, asked), labels)
        taken, choice = self.attention(*self.look(cells, asked))
        losses = F.cross_entropy(self.name(taken[:, 0]), labels, reduction="none")
        rewards, expected = -losses.detach()[:, None], self.baseline.value.clone()
        self.baseline.update(rewards)
        return losses.mean() + qkv.reinforce(choice, rewards, expected, entropy=0.01)

    @torch.no_grad()
    def weights(self, cells: Tensor, asked: Tensor) -> Tensor:
        """Give the weights of the cells."""
        query, key, _ = self.look(cells, asked)
        return qkv.attention_map(query[:, None], key[:, None]).dense()[:, 0, 0]


def operations(kind: str, size: Size) -> float:
    """Count the operations of one training step's matrix products, by torch's counter."""
    model = Glimpse(kind, size)
    cells, none = torch.rand(size.batch, size.cells, SIZE * SIZE), torch.zeros(size.batch, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        model.loss(cells, none, none).backward()
    return float(counter.get_total_flops())


def glimpse(seed: int, size: Size, progress: Progress) -> Figures:
    """Train each kind; give the shares named right, and one picture."""
    figures: Figures = {}
    train, held_out = written(size.scenes, False), written(size.scenes // 5, True)
    cells, asked, labels, where = mark(*held_out, 2000, size, torch.Generator().manual_seed(10_000 + seed))

    def right(model: Glimpse) -> float:
        with torch.no_grad():
            return float((model.eval()(cells, asked).argmax(-1) == labels).float().mean())

    for kind in ("soft", "hard", "straight", "uniform"):
        torch.manual_seed(seed)
        chance = torch.Generator().manual_seed(seed)
        model = Glimpse(kind, size)

        def loss(step: int, model: Glimpse = model, chance: torch.Generator = chance) -> Tensor:
            return model.loss(*mark(*train, size.batch, size, chance)[:3])

        if kind == "soft":
            figures["untrained"] = right(model)
        fit(model.train().parameters(), loss, steps=size.steps, rate=size.rate, progress=progress, doing=kind)
        figures[kind] = right(model)
        if kind != "uniform":
            weights = model.weights(cells, asked)
            figures[f"{kind}_found"] = float((weights.argmax(-1) == where).float().mean())
            figures[f"{kind}_weights"] = [round(weight, 3) for weight in weights[0].tolist()]
    rows = cells[0].unflatten(0, (size.rows, size.columns)).unflatten(-1, (SIZE, SIZE))
    figures["picture"] = rows.transpose(1, 2).flatten(2).flatten(0, 1).round(decimals=2).tolist()
    return figures


def measure(seed: int, size: Size, progress: Progress) -> Figures:
    """Estimate gradients, learn glimpses, and count operations."""
    figures = estimate(seed, size, progress) | glimpse(seed, size, progress)
    figures["hard_less_soft"] = figures["hard"] - figures["soft"]
    figures["operations"] = operations("hard", size) / operations("soft", size)
    return figures


def plot(figure: "Figure", results: Sequence[Figures], say: Callable[[Both], str]) -> None:
    """Draw the variances by offset, what is named right, and where one picture is looked at."""
    from matplotlib.patches import Rectangle

    axes = figure.subplot_mosaic("AABBC;AABBD")
    shift = [math.log10(1 + offset) for offset in results[0]["offsets"]]
    for at, result in enumerate(results):
        for name, mark, color in (("bare", "s--", "C1"), ("moving", "o-", "C0")):
            text = say(Both("no baseline", "无基线") if name == "bare" else Both("moving baseline", "滑动基线"))
            label = None if at else text
            axes["A"].plot(shift, result[name], mark, color=color, fillstyle="none", linewidth=0.8, label=label)
    axes["A"].set(
        yscale="log",
        xlabel=say(Both("offset of the reward", "奖励的偏移")),
        ylabel=say(Both("variance / best constant baseline's", "方差 / 最佳常数基线的方差")),
    )
    axes["A"].set_xticks(shift, [f"{offset:g}" for offset in results[0]["offsets"]])
    axes["A"].legend()
    kinds = {
        "soft": Both("soft", "软"),
        "hard": Both("hard", "硬"),
        "straight": Both("straight-\nthrough", "直通"),
        "uniform": Both("uniform", "均匀"),
    }
    for at, (kind, mark) in enumerate(zip(kinds, "os^x", strict=True)):
        axes["B"].plot([at] * len(results), [result[kind] for result in results], mark, fillstyle="none", color="C0")
    axes["B"].set(ylim=(0, 1.05), ylabel=say(Both("share of digits named right", "数字识别正确率")))
    axes["B"].set_xticks(range(len(kinds)), [say(name) for name in kinds.values()])
    columns = len(results[0]["picture"][0]) // SIZE
    for letter, kind in (("C", "soft"), ("D", "hard")):
        axes[letter].imshow(results[0]["picture"], cmap="Greys", vmin=0, vmax=1)
        for cell, weight in enumerate(results[0][f"{kind}_weights"]):
            if weight >= 0.05:
                corner = (cell % columns * SIZE - 0.5, cell // columns * SIZE - 0.5)
                axes[letter].add_patch(Rectangle(corner, SIZE, SIZE, fill=False, edgecolor="C3", linewidth=3 * weight))
        axes[letter].set(xticks=[], yticks=[], title=say(kinds[kind]))


LAB = Lab(
    name="hard",
    rows=("15a",),
    question=Both("Soft or hard attention?", "软注意力还是硬注意力？"),
    answer=Both(
        "Soft attention averages all places by their weights, and is trained like any layer. Hard attention takes one "
        "place, drawn by the weights; a draw has no derivative, so the weights learn by REINFORCE: raise the log "
        "probability of what was drawn in proportion to the reward less what reward was expected, the baseline.",
        "软注意力按权重对所有位置取平均，像普通层一样训练。硬注意力按权重抽取一个位置；抽样不可导，要用 REINFORCE 训练："
        "按“奖励减去预期奖励（基线）”的大小提高所抽位置的对数概率。",
    ),
    follow_up=Both(
        "Why the baseline? Its mean effect on the gradient is zero, since the probabilities sum to 1; it removes what all "
        "rewards have in common, which says nothing about the choice. Xu et al. 2015 saw BLEU-4 rise from soft to hard: "
        "19.5 to 21.3 on Flickr8k, 24.3 to 25.0 on COCO.",
        "为什么要基线？概率之和为 1，所以基线对梯度的平均影响为零；它去掉各奖励共有的部分，而这部分与选择无关。"
        "Xu 等（2015）从软到硬 BLEU-4 上升：Flickr8k 19.5 到 21.3，COCO 24.3 到 25.0。",
    ),
    trap=Both(
        "“A baseline cuts the variance so many times”: by how much depends on the offset of the rewards, so any number "
        "can be shown. And straight-through is no unbiased estimate: it is right only where the reward is linear in what "
        "was taken.",
        "“基线把方差降低了多少倍”：倍数取决于奖励的偏移，要多大有多大。另外直通估计有偏：只有奖励是所取内容的线性函数时才正确。",
    ),
    claims=(
        Claim(
            says=Both("Hard attention predicts one region.", "硬注意力预测一个区域。"),
            truth=Both(
                "It does, and finds the digit that is asked for as surely as soft attention does.",
                "确实如此，而且和软注意力一样能准确找到所问的数字。",
            ),
            holds=lambda means: means["hard_found"] >= 0.9 and means["hard"] >= means["soft"] - 0.02,
        ),
        Claim(
            says=Both(
                "It is optimised by variance reduction or by reinforcement learning.",
                "优化靠方差缩减或强化学习来完成。",
            ),
            truth=Both(
                "So it is, by both at once: REINFORCE is the estimator, a baseline reduces its variance. With the moving "
                "baseline it is right on average, and varies about as little as with the best constant one.",
                "属实，而且二者并用：REINFORCE 是估计方法，基线用来减小它的方差。用滑动基线，平均仍然正确，方差与最佳常数基线相近。",
            ),
            holds=lambda means: means["hard"] >= means["soft"] - 0.02 and means["moving_highest"] <= 1.5,
        ),
        Claim(
            says=Both("Hard attention is a way to lower the cost.", "硬注意力可以降低计算开销。"),
            truth=Both(
                "Not in training: every place must be read and scored before one is drawn, and a training step takes as "
                "many operations as with soft attention.",
                "训练时不能：抽取之前每个位置都要读取并打分，一步训练的运算量与软注意力相同。",
            ),
            holds=lambda means: means["operations"] <= 0.9,
            mistake=True,
        ),
    ),
    papers=(
        "Xu et al. 2015, arXiv:1502.03044, §4 and table 1",
        "Williams 1992, doi:10.1007/BF00992696",
        "Bengio et al. 2013, arXiv:1308.3432",
    ),
    thresholds=(
        at_least(
            "p",
            0.001,
            Both(
                "an unbiased estimate falls below it in one seed of a thousand", "无偏估计平均一千个种子才有一个低于它"
            ),
            every=True,
        ),
        at_most(
            "moving_highest",
            1.5,
            Both("a baseline that follows the mean reward is near the best", "跟随平均奖励的基线应接近最佳"),
        ),
        at_least("hard_less_soft", -0.02, Both("one place holds all that is asked", "所问的内容全在一个位置上")),
    ),
    labels={
        "p": Both("p that REINFORCE's mean error is chance", "REINFORCE 平均误差纯属偶然的概率 p"),
        "moving_highest": Both(
            "variance over all choices, moving over best constant baseline, highest of the offsets",
            "全部选择问题的方差之和，滑动基线与最佳常数基线之比，各偏移中最高",
        ),
        "bare_lowest": Both(
            "variance over all choices, no baseline over best constant baseline, lowest of the offsets",
            "全部选择问题的方差之和，无基线与最佳常数基线之比，各偏移中最低",
        ),
        "bare_highest": Both(
            "variance over all choices, no baseline over best constant baseline, highest of the offsets",
            "全部选择问题的方差之和，无基线与最佳常数基线之比，各偏移中最高",
        ),
        "straight_off": Both(
            "straight-through: mean error over the gradient's norm, a reward that is not linear",
            "直通估计：平均误差与梯度范数之比，奖励非线性",
        ),
        "untrained": Both("share of digits named right, untrained", "数字识别正确率，未训练"),
        "soft": Both("share of digits named right, soft", "数字识别正确率，软注意力"),
        "hard": Both("share of digits named right, hard", "数字识别正确率，硬注意力"),
        "straight": Both("share of digits named right, straight-through", "数字识别正确率，直通估计"),
        "uniform": Both("share of digits named right, equal weights", "数字识别正确率，均匀权重"),
        "soft_found": Both(
            "share where the heaviest cell is the one asked for, soft", "权重最大的格子正是所问的比例，软注意力"
        ),
        "hard_found": Both(
            "share where the heaviest cell is the one asked for, hard", "权重最大的格子正是所问的比例，硬注意力"
        ),
        "straight_found": Both(
            "share where the heaviest cell is the one asked for, straight-through",
            "权重最大的格子正是所问的比例，直通估计",
        ),
        "hard_less_soft": Both("share of digits named right: hard − soft", "数字识别正确率：硬 − 软"),
        "operations": Both("operations of a training step, hard over soft", "一步训练的运算量，硬与软之比"),
    },
    headline=Both(
        "share of digits named right: {soft:.2f} soft, {hard:.2f} hard, {uniform:.2f} with equal weights",
        "数字识别正确率：软注意力 {soft:.2f}，硬注意力 {hard:.2f}，均匀权重 {uniform:.2f}",
    ),
    quick=Size(),
    full=Size(estimates=20_000, scenes=5000, rows=4, columns=2, width=256, steps=10_000),
    measure=measure,
    plot=plot,
    caption=Both(
        "Left: variance of REINFORCE by the offset of the reward, over that of the best constant baseline, a line a "
        "seed. Middle: digits named right, a point a seed. Right: where one picture is looked at; the frame is as thick "
        "as the weight.",
        "左：REINFORCE 的方差（与最佳常数基线之比）随奖励偏移的变化，每线一个种子。中：数字识别正确率，每点一个种子。"
        "右：在一幅图上看向何处，框线越粗权重越大。",
    ),
    seconds=25.0,
)
