"""How attention is computed, in a formula and in Python: the article's code mended, and whose vector it is that changes."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

import qkv
from qkv.labs.lab import Both, Claim, Figures, Lab, Progress, at_least, at_most, between
from qkv.text.batching import Sequences

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Size:
    """How large the inputs are; queries and keys differ in number, so that no axis passes for another."""

    batch: int = 3
    queries: int = 24
    keys: int = 40
    dim: int = 64


def mended(query: Tensor, keys: Tensor, values: Tensor, dim: int | None = -1) -> tuple[Tensor, Tensor]:
    """Do what the article's code does, its parenthesis closed; with `dim=None` softmax chooses its axis, as there."""
    scores = query @ keys.mT / math.sqrt(keys.shape[-1])
    weights = F.softmax(scores, dim=dim)
    return weights @ values, weights


def by_hand(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Compute attention in float64, a number at a time: compare, exponentiate, share out, sum."""
    output = []
    for queries, known, told in zip(query.tolist(), keys.tolist(), values.tolist(), strict=True):
        for asked in queries:
            scores = [math.fsum(a * b for a, b in zip(asked, key, strict=True)) / math.sqrt(len(key)) for key in known]
            shares = [math.exp(score - max(scores)) for score in scores]
            whole = math.fsum(shares)
            columns = zip(*told, strict=True)
            output.append([math.fsum(s * v for s, v in zip(shares, column, strict=True)) / whole for column in columns])
    return torch.tensor(output, dtype=torch.float64).view(*query.shape[:-1], values.shape[-1])


def errors(size: Size, chance: torch.Generator) -> Figures:
    """Compare all that compute the same, in units in the last place of the largest value."""
    query, key, value = _draw(size, chance)
    exact = by_hand(query, key, value)
    unit = torch.finfo(torch.float32).eps * float(value.abs().max())

    def error(output: Tensor) -> float:
        return float((output.double() - exact).abs().max()) / unit

    heads = query[:, None], key[:, None], value[:, None]
    figures = {
        "error_article": error(mended(query, key, value)[0]),
        "error_torch": error(F.scaled_dot_product_attention(*heads)[:, 0]),
        "error_qkv": error(qkv.attend(*heads)[:, 0]),
    }
    figures["over_budget"] = figures["error_qkv"] / (2 * figures["error_torch"] + 4)
    return figures


def wrong_axis(size: Size, chance: torch.Generator) -> Figures:
    """Leave softmax's axis out: which sums are 1, what one example's output takes from another, and who complains."""
    query, key, value = _draw(size, chance)
    other = query.clone()
    other[1:] += 1
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        output, weights = mended(query, key, value, dim=None)
        across = mended(other, key, value, dim=None)[0]
        _, by_heads = mended(query[None], key[None], value[None], dim=None)
        alone = mended(query[:1], key[:1], value[:1], dim=None)[1]
    right, rows = mended(query, key, value)
    return {
        "row_sums": weights.sum(-1).flatten().tolist(),
        "wrong_rows": float((weights.sum(-1) - 1).abs().mean()),
        "wrong_rows_4d": float((by_heads.sum(-1) - 1).abs().mean()),
        "batch_sum_error": float((weights.sum(0) - 1).abs().max()),
        "head_sum_error": float((by_heads.sum(1) - 1).abs().max()),
        "right_rows": float((rows.sum(-1) - 1).abs().max()),
        "crosstalk": float((across - output)[0].abs().max()),
        "crosstalk_right": float((mended(other, key, value)[0] - right)[0].abs().max()),
        "weights_alone": float(alone.min()),
        "warnings": float(sum("Implicit dimension choice" in str(each.message) for each in said)),
    }


def padding(size: Size, chance: torch.Generator) -> Figures:
    """Change the last keys and values, which are padding, and see whether outputs move."""
    query, key, value = _draw(size, chance)
    real = size.keys // 2
    other_key, other_value = key.clone(), value.clone()
    other_key[:, real:] += 1
    other_value[:, real:] -= 1
    mask = qkv.padding(keys=torch.full((size.batch,), real))

    def attend(key: Tensor, value: Tensor) -> Tensor:
        return qkv.attend(query[:, None], key[:, None], value[:, None], mask=mask)

    leaks = mended(query, other_key, other_value)[0] - mended(query, key, value)[0]
    return {
        "padding_article": float(leaks.abs().max()),
        "padding_qkv": float((attend(other_key, other_value) - attend(key, value)).abs().max()),
    }


def who_moves(size: Size, chance: torch.Generator) -> Figures:
    """Change one query, key or value at a time: which outputs move?"""
    inputs = [each[:1, None] for each in _draw(size, chance)]
    before = qkv.attend(*inputs)
    figures: Figures = {"outputs": float(before.shape[-2])}
    for place, name in enumerate(("query", "key", "value")):
        rows = []
        for changed in range(inputs[place].shape[-2]):
            others = [each.clone() for each in inputs]
            others[place][..., changed, :] += 1
            rows.append((qkv.attend(*others) != before).any(-1)[0, 0].tolist())
        figures[f"moved_by_{name}"] = [[int(moved) for moved in row] for row in rows]
    own = torch.tensor(figures["moved_by_query"])
    figures["query_own"] = float(own.diagonal().float().mean())
    figures["query_others"] = float((own - own.diag().diag()).float().mean())
    figures["key_reach"] = float(torch.tensor(figures["moved_by_key"]).float().mean())
    figures["value_reach"] = float(torch.tensor(figures["moved_by_value"]).float().mean())
    return figures


@torch.no_grad()
def cross(size: Size, chance: torch.Generator) -> Figures:
    """Run an encoder–decoder on a longer source and a shorter target; which of them lies under the weights?"""
    source, target = (
        Sequences.of([torch.randint(20, (count,), generator=chance)]) for count in (size.keys, size.queries)
    )
    found = qkv.Transformer(qkv.TransformerConfig(20, 32, 1, 4, 64)).eval().with_maps(source, target)
    weights = found.cross[0].dense()
    return {
        "source_length": float(size.keys),
        "target_length": float(size.queries),
        "cross_rows": float(weights.shape[-2]),
        "cross_columns": float(weights.shape[-1]),
    }


def measure(seed: int, size: Size, progress: Progress) -> Figures:
    """Measure errors, the wrong axis, padding, and who moves."""
    torch.manual_seed(seed)
    chance = torch.Generator().manual_seed(seed)
    figures: Figures = {}
    for part in progress.over((errors, wrong_axis, padding, who_moves, cross), "formula"):
        figures |= part(size, chance)
    return figures


def _draw(size: Size, chance: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    shapes = (size.queries, size.keys, size.keys)
    query, key, value = (torch.randn(size.batch, count, size.dim, generator=chance) for count in shapes)
    return query, key, value


def plot(figure: "Figure", results: Sequence[Figures], say: Callable[[Both], str]) -> None:
    """Draw which outputs a changed query, key or value moves, and the row sums of the softmax without an axis."""
    *pictures, right = figure.subplots(1, 4, width_ratios=(1, 1, 1, 1.6))
    changed = (
        ("query", Both("changed query", "被改动的查询")),
        ("key", Both("changed key", "被改动的键")),
        ("value", Both("changed value", "被改动的值")),
    )
    for axes, (name, label) in zip(pictures, changed, strict=True):
        axes.imshow(torch.tensor(results[0][f"moved_by_{name}"]).T.tolist(), vmin=0, vmax=1, aspect="auto")
        axes.set(xlabel=say(label))
        axes.grid(False)
    pictures[0].set(ylabel=say(Both("output", "输出")))
    for result in results:
        sums = sorted(result["row_sums"])
        right.plot(range(len(sums)), sums, "-", color="C1", linewidth=1)
    right.axhline(1, linestyle="--", color="C0")
    right.set(
        xlabel=say(Both("row, sorted", "行（已排序）")),
        ylabel=say(Both("sum of a query's weights", "一个查询的权重之和")),
        ylim=(0, None),
    )


ZERO = Both("exactly: it takes no part", "恰为 0：它不参与计算")
ALL = Both("softmax gives every key some weight", "softmax 给每个键都分配权重")

LAB = Lab(
    name="formula",
    rows=("1", "6"),
    question=Both("How is attention computed? Write it in Python.", "如何计算注意力？用 Python 编写注意力公式。"),
    answer=Both(
        "Each query is compared with every key; softmax turns a query's scores into weights that sum to 1 over the keys; "
        "the output is the values' sum by these weights: softmax(QKᵀ/√d)V, softmax along the keys, dim=−1. What changes "
        "is the vector of the query's position; keys and values are read. In self-attention all three come from one "
        "sequence; in cross-attention the query comes from the target, key and value from the source.",
        "每个查询与所有键比较得到分数；softmax 把一个查询的分数变成权重，在所有键上之和为 1；输出是值的加权和：softmax(QKᵀ/√d)V，"
        "softmax 沿键的方向（dim=−1）。被更新的是查询所在位置的向量，键和值只是被读取。自注意力中三者来自同一序列；"
        "交叉注意力中查询来自目标端，键和值来自源端。",
    ),
    follow_up=Both(
        "What does the short version lack? A mask, so padding and the future are read; heads; and the guard for a row "
        "without a key. And it stores queries × keys numbers, which fused kernels never do.",
        "这段简短代码还缺什么？没有掩码，会读到填充和未来；没有多头；也没有处理“一个键都不剩”的行。此外它存下了 查询数 × 键数 个数字，融合算子则从不存它。",
    ),
    trap=Both(
        "F.softmax(scores) without dim only warns, and normalises over the batch for 3-D input, over the heads for 4-D. "
        "Shapes fit and numbers look fine; rows do not sum to 1, one example reads another, and with a batch of one every "
        "weight is 1.",
        "F.softmax(scores) 不写 dim 只会给出警告：三维输入沿批次归一化，四维输入沿头归一化。形状正确，数字看着也正常，"
        "但每行之和不是 1，一个样本会受另一个样本影响；批大小为 1 时所有权重都等于 1。",
    ),
    claims=(
        Claim(
            says=Both("Comparing query and key gives the weights of the values.", "通过比较查询和键，得到值的权重。"),
            truth=Both(
                "So it is: the code, mended, agrees with a loop in float64 to a few units in the last place.",
                "正确：修正后的代码与 float64 逐元素循环的结果只差几个末位单位（ulp）。",
            ),
            holds=lambda means: means["error_article"] <= 2 * means["error_torch"] + 4,
        ),
        Claim(
            says=Both("The value is the element that is updated.", "值是进行更新的元素。"),
            truth=Both(
                "There is one output for each query, and changing a query moves that output alone. The values are read: "
                "changing one moves every output.",
                "输出与查询一一对应，改动一个查询只影响它自己的输出。值是被读取的：改动一个值会影响所有输出。",
            ),
            holds=lambda means: means["outputs"] == means["source_length"] and means["query_others"] > 0,
            mistake=True,
        ),
        Claim(
            says=Both(
                "Cross-attention extracts what matters from the target language.",
                "交叉注意力从目标语言中提取重要信息。",
            ),
            truth=Both(
                "A cross-attention map has a row for each target token and a column for each source token: the target "
                "asks, the source answers.",
                "交叉注意力矩阵的每行是一个目标词元，每列是一个源词元：目标端提问，源端作答。",
            ),
            holds=lambda means: means["cross_columns"] == means["target_length"],
            mistake=True,
        ),
        Claim(
            says=Both("softmax(scores), with no axis given.", "softmax(scores)，不指定维度。"),
            truth=Both(
                "Its rows do not sum to 1: PyTorch takes the batch, or the heads, and only warns. A parenthesis is missing "
                "too, and there is no mask.",
                "各行之和不为 1：PyTorch 沿批次或头归一化，且只给警告。另外还少一个右括号，也没有掩码。",
            ),
            holds=lambda means: means["wrong_rows"] < 1e-5,
            mistake=True,
        ),
    ),
    papers=("Vaswani et al. 2017, arXiv:1706.03762, §3.2",),
    thresholds=(
        at_most(
            "over_budget",
            1.0,
            Both("the house's budget: twice PyTorch's error and 4 units", "误差预算：PyTorch 误差的两倍加 4 个单位"),
            every=True,
        ),
        at_least("wrong_rows", 0.1, Both("far above rounding", "远大于舍入误差"), every=True),
        at_least("wrong_rows_4d", 0.1, Both("the same with heads", "有头维度时同样"), every=True),
        at_most("batch_sum_error", 1e-5, Both("it is the batch that sums to 1", "和为 1 的是批次方向"), every=True),
        at_most("head_sum_error", 1e-5, Both("and the heads in 4-D", "四维时是头的方向"), every=True),
        at_most("right_rows", 1e-5, Both("a control: dim=−1", "对照：dim=−1"), every=True),
        at_least("crosstalk", 1e-2, Both("one example reads another", "一个样本读到了另一个样本"), every=True),
        at_most("crosstalk_right", 0.0, Both("a control: dim=−1", "对照：dim=−1"), every=True),
        at_least("padding_article", 1e-2, Both("no mask, so padding is read", "没有掩码，填充会被读到"), every=True),
        at_most("padding_qkv", 0.0, ZERO, every=True),
        between("query_own", 1.0, 1.0, Both("its own output moves", "它自己的输出会变"), every=True),
        at_most("query_others", 0.0, Both("and no other", "其他输出都不变"), every=True),
        between("key_reach", 1.0, 1.0, ALL, every=True),
        between("value_reach", 1.0, 1.0, ALL, every=True),
    ),
    labels={
        "error_article": Both("error of the mended code, units in the last place", "修正后代码的误差，末位单位"),
        "error_torch": Both("error of PyTorch's own, units in the last place", "PyTorch 自带实现的误差，末位单位"),
        "error_qkv": Both("error of qkv, units in the last place", "qkv 的误差，末位单位"),
        "over_budget": Both("error of qkv over its budget", "qkv 的误差与预算之比"),
        "wrong_rows": Both("mean |row sum − 1| without dim, 3-D", "不写 dim 时 |行和 − 1| 的均值，三维"),
        "wrong_rows_4d": Both("mean |row sum − 1| without dim, 4-D", "不写 dim 时 |行和 − 1| 的均值，四维"),
        "batch_sum_error": Both(
            "largest |sum over the batch − 1| without dim, 3-D", "不写 dim 时 |批次和 − 1| 的最大值，三维"
        ),
        "head_sum_error": Both(
            "largest |sum over the heads − 1| without dim, 4-D", "不写 dim 时 |头和 − 1| 的最大值，四维"
        ),
        "right_rows": Both("largest |row sum − 1| with dim=−1", "dim=−1 时 |行和 − 1| 的最大值"),
        "crosstalk": Both(
            "change of one example's output by another, without dim", "一个样本引起另一样本输出的变化，不写 dim"
        ),
        "crosstalk_right": Both("the same with dim=−1", "同上，dim=−1"),
        "weights_alone": Both("smallest weight without dim, batch of one", "不写 dim 且批大小为 1 时的最小权重"),
        "warnings": Both("warnings about dim, in 4 calls", "4 次调用中关于 dim 的警告数"),
        "padding_article": Both("change by padding's content, mended code", "填充内容引起的变化，修正后的代码"),
        "padding_qkv": Both("change by padding's content, qkv with padding", "填充内容引起的变化，qkv 加填充掩码"),
        "outputs": Both("outputs that attention gives, count", "注意力的输出个数"),
        "query_own": Both("share of queries that move their own output", "改动查询时自身输出改变的比例"),
        "query_others": Both("share of other outputs that a query moves", "改动查询时其他输出改变的比例"),
        "key_reach": Both("share of outputs that a key moves", "改动键时输出改变的比例"),
        "value_reach": Both("share of outputs that a value moves", "改动值时输出改变的比例"),
        "source_length": Both("source, tokens", "源端词元数"),
        "target_length": Both("target, tokens", "目标端词元数"),
        "cross_rows": Both("cross-attention map, rows", "交叉注意力矩阵行数"),
        "cross_columns": Both("cross-attention map, columns", "交叉注意力矩阵列数"),
    },
    headline=Both(
        "mended, the code errs by {error_article:.1f} units in the last place; without dim its rows miss 1 by "
        "{wrong_rows:.1f}",
        "修正后误差为 {error_article:.1f} 个末位单位；不写 dim 时各行之和平均偏离 1 达 {wrong_rows:.1f}",
    ),
    quick=Size(),
    full=Size(batch=4, queries=128, keys=200, dim=128),
    measure=measure,
    plot=plot,
    caption=Both(
        "Left three: which outputs move (bright) when one query, key or value is changed. Right: the sums of each query's "
        "weights where softmax is given no axis, a line a seed; dashed: what they should be.",
        "左三图：改动一个查询、键或值时哪些输出会变（亮）。右：softmax 未指定维度时每个查询的权重之和，每线一个种子；虚线为应有的值 1。",
    ),
    seconds=1.0,
)
