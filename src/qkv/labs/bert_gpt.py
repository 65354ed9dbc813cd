"""BERT against GPT: the same layers, what each position may see, and what each objective can then answer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

import qkv
from qkv.labs.lab import Both, Claim, Figures, Lab, Progress, at_least, at_most, between
from qkv.labs.running.fit import fit
from qkv.text.batching import Sequences
from qkv.text.objectives import Vocabulary, mask_tokens

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Size:
    """The mirrored sequences, the models, and how long they are trained."""

    half: int = 8
    symbols: int = 32
    width: int = 64
    layers: int = 2
    steps: int = 600
    batch: int = 64
    asked: int = 500


def make(size: Size) -> tuple[qkv.Bert, qkv.Gpt]:
    """Make both of the same blocks, the norm first, and begin with the very same weights in them."""
    numbers: dict[str, Any] = {"vocabulary": size.symbols + 1, "width": size.width, "layers": size.layers, "heads": 4}
    numbers |= {"feed_forward": 4 * size.width, "positions": 2 * size.half, "dropout": 0.0, "attention_dropout": 0.0}
    gpt = qkv.Gpt(qkv.GptConfig(**numbers, embedding_dropout=0.0))
    bert = qkv.Bert(qkv.BertConfig(**numbers, tanh_gelu=True), placement=qkv.pre_norm())
    bert.layers.load_state_dict(gpt.layers.state_dict())
    return bert, gpt


def draw(size: Size, chance: torch.Generator, count: int) -> Tensor:
    """Draw symbols and their mirror image: each token is told by one on the other side of the middle."""
    tokens = torch.randint(size.symbols, (count, size.half), generator=chance)
    return torch.cat((tokens, tokens.flip(1)), 1)


def reach(model: qkv.Bert | qkv.Gpt, embedding: nn.Embedding, tokens: Tensor) -> Tensor:
    """Give how far output i depends on input j: the norm of r·∂output/∂embedding, for a random direction r.

    The tokens differ, so that each row of the embedding stands for one position.
    """
    hidden, rows = model(tokens[None])[0], []
    direction = torch.randn(hidden.shape[-1], generator=torch.Generator().manual_seed(0))
    for output in hidden:
        (gradient,) = torch.autograd.grad(output @ direction, embedding.weight, retain_graph=True)
        rows.append(gradient[tokens].norm(dim=-1))
    return torch.stack(rows)


def patterns(bert: qkv.Bert, gpt: qkv.Gpt, size: Size, chance: torch.Generator) -> dict[str, Tensor]:
    """Give what depends on what: in BERT, in BERT where a token is masked, in GPT."""
    tokens = torch.randperm(size.symbols, generator=chance)[: 2 * size.half]
    masked = tokens.clone()
    masked[3] = size.symbols
    return {
        "bert": reach(bert, bert.embeddings.tokens, tokens),
        "bert_masked": reach(bert, bert.embeddings.tokens, masked),
        "gpt": reach(gpt, gpt.tokens, tokens),
    }


def train(bert: qkv.Bert, gpt: qkv.Gpt, size: Size, seed: int, progress: Progress) -> Figures:
    """Train BERT to fill 15% of the tokens in and GPT to tell the next, on the same sequences."""
    vocabulary = Vocabulary(size.symbols + 1, mask=size.symbols)
    counts = {"bert": 0, "gpt": 0}

    def masked(step: int) -> Tensor:
        tokens = draw(size, chance, size.batch)
        lengths = torch.full((size.batch,), tokens.shape[1])
        given = mask_tokens(Sequences(tokens.flatten(), lengths), vocabulary, chance)
        total, count = bert.loss(given.sequences.tokens.view_as(tokens), given.places, given.targets)
        counts["bert"] += count
        return total / count

    def following(step: int) -> Tensor:
        tokens = draw(size, chance, size.batch)
        total, count = gpt.loss(tokens[:, :-1], tokens[:, 1:])
        counts["gpt"] += count
        return total / count

    for name, model, loss in (("bert", bert, masked), ("gpt", gpt, following)):
        chance = torch.Generator().manual_seed(seed)
        fit(model.parameters(), loss, steps=size.steps, rate=2e-3, warm_up=50, progress=progress, doing=name)
    seen = size.steps * size.batch * 2 * size.half
    return {f"{name}_targets": count / seen for name, count in counts.items()}


@torch.no_grad()
def answers(bert: qkv.Bert, gpt: qkv.Gpt, size: Size) -> Figures:
    """Ask both for each token of sequences never seen: BERT by masking that one, GPT by what comes before it."""
    tokens = draw(size, torch.Generator().manual_seed(10_000), size.asked)
    asked = []
    for place in range(tokens.shape[1]):
        given = tokens.clone()
        given[:, place] = size.symbols
        asked.append(bert.predict_tokens(bert(given)[:, place]).argmax(-1))
    filled = (torch.stack(asked, 1) == tokens).float().mean(0)
    # Nothing comes before the first token, so that GPT is not asked for it.
    told = (gpt.predict_tokens(gpt(tokens[:, :-1])).argmax(-1) == tokens[:, 1:]).float().mean(0)
    return {
        "bert_right": filled.tolist(),
        "gpt_right": told.tolist(),
        "bert_first": float(filled[: size.half].mean()),
        "bert_second": float(filled[size.half :].mean()),
        "gpt_first": float(told[: size.half - 1].mean()),
        "gpt_second": float(told[size.half - 1 :].mean()),
    }


@torch.no_grad()
def source_moves(size: Size, chance: torch.Generator) -> Figures:
    """Change the source of an encoder–decoder, with its cross-attention and without: does the decoder move?"""
    config = qkv.TransformerConfig(size.symbols, size.width, size.layers, 4, 4 * size.width)
    model = qkv.Transformer(config).eval()
    source, other, target = (
        Sequences.of([torch.randint(size.symbols, (count,), generator=chance)]) for count in (9, 9, 6)
    )
    moves = {"source_on": float((model(other, target) - model(source, target)).abs().max())}
    for layer in model.decoder:
        nn.init.zeros_(layer.cross.output.weight)
        nn.init.zeros_(layer.cross.output.bias)
    return moves | {"source_off": float((model(other, target) - model(source, target)).abs().max())}


def measure(seed: int, size: Size, progress: Progress) -> Figures:
    """Measure what depends on what before and after training, and what each can answer."""
    torch.manual_seed(seed)
    chance = torch.Generator().manual_seed(seed)
    bert, gpt = make(size)
    before = patterns(bert, gpt, size, chance)
    figures = train(bert, gpt, size, seed, progress) | answers(bert, gpt, size) | source_moves(size, chance)
    after = patterns(bert, gpt, size, chance)
    past = torch.ones_like(after["gpt"]).tril() > 0
    for name in ("bert", "bert_masked"):
        figures[f"{name}_pairs"] = min(float((each[name] > 0).float().mean()) for each in (before, after))
    figures["gpt_past"] = min(float((each["gpt"][past] > 0).float().mean()) for each in (before, after))
    figures["gpt_future"] = max(float(each["gpt"][~past].max()) for each in (before, after))
    return figures | {f"reach_{name}": after[name].tolist() for name in ("bert", "gpt")}


def plot(figure: "Figure", results: Sequence[Figures], say: Callable[[Both], str]) -> None:
    """Draw what depends on what in both, and which tokens each can tell."""
    *pictures, right = figure.subplots(1, 3, width_ratios=(1, 1, 1.3))
    for axes, name in zip(pictures, ("bert", "gpt"), strict=True):
        found = torch.tensor(results[0][f"reach_{name}"])
        axes.imshow(torch.where(found > 0, found.log10(), torch.nan).tolist())
        axes.set(
            title=name.upper(),
            xlabel=say(Both("input token j", "输入词元 j")),
            ylabel=say(Both("output i", "输出 i")),
        )
        axes.grid(False)
    for name, mark, colour in (("bert", "o", "C0"), ("gpt", "s", "C1")):
        for index, result in enumerate(results):
            right_at = result[f"{name}_right"]
            places = range(len(result["bert_right"]) - len(right_at), len(result["bert_right"]))
            legend = name.upper() if index == 0 else None
            right.plot(
                places, right_at, mark, color=colour, fillstyle="none" if name == "gpt" else "full", label=legend
            )
    right.set(
        xlabel=say(Both("place of the token", "词元的位置")),
        ylabel=say(Both("share told right", "预测正确比例")),
        ylim=(0, 1.05),
    )
    right.legend()


LAB = Lab(
    name="bert_gpt",
    rows=("9",),
    question=Both(
        "How do BERT and GPT differ in how attention is computed?", "在讨论注意力计算时，BERT 和 GPT 有何不同？"
    ),
    answer=Both(
        "In the mask and in the objective; the layers may be the same. BERT is an encoder: every position sees every "
        "other, and it learns to fill in the 15% of tokens that were hidden. GPT is a decoder without an encoder: a "
        "position sees itself and what came before, and it learns to tell the next token at every position at once. "
        "So BERT understands a whole text, and GPT can write one.",
        "区别在掩码和训练目标，层本身可以完全相同。BERT 是编码器：每个位置能看到所有位置，学习填回被遮住的 15% 词元。"
        "GPT 是没有编码器的解码器：每个位置只能看到自己和之前的词元，并在所有位置上同时学习预测下一个词元。所以 BERT 适合理解整段文本，GPT 能够续写。",
    ),
    follow_up=Both(
        "What else differs? BERT base has 12 layers of width 768 and 12 heads, with the norm after each sum. GPT-2 norms "
        "what enters each layer and once more at the end, and draws the weights into the residual stream smaller by 1/√N, "
        "N being the residual layers. GPT learns from nearly every token of a pass, BERT from 15% of them. An "
        "encoder–decoder has both kinds of self-attention, and cross-attention between them.",
        "还有哪些不同？BERT base 是 12 层、宽 768、12 头，归一化在残差相加之后。GPT-2 在每层输入处归一化，最后再归一化一次，"
        "并把写入残差流的权重按 1/√N（N 为残差层数）缩小初始化。GPT 一次前向几乎每个词元都是训练目标，BERT 只有 15%。"
        "编码器–解码器两种自注意力都有，中间由交叉注意力连接。",
    ),
    trap=Both(
        "“BERT masks attention at random”: it masks input tokens, and every position still reads every other, the masked "
        "ones among them. And BERT cannot be made to write by reading its answers from left to right: it was trained to "
        "see both sides.",
        "“BERT 随机遮盖注意力”：它遮的是输入词元，每个位置仍能读取所有位置，包括被遮的那些。另外，不能让 BERT 从左到右逐词输出来生成文本：它训练时两侧都可见。",
    ),
    claims=(
        Claim(
            says=Both("BERT compares each token with the other tokens.", "BERT 将每个词元与序列中的其他词元进行比较。"),
            truth=Both(
                "So it is: each output depends on each input, before and after.",
                "正确：每个输出都依赖每个输入，前后都包括。",
            ),
            holds=lambda means: means["bert_pairs"] == 1,
        ),
        Claim(
            says=Both("It does so by way of random masking.", "这是通过随机掩码的方式进行的。"),
            truth=Both(
                "Masking an input token changes nothing of who reads whom: still every pair. It chooses what is asked.",
                "遮住一个输入词元并不改变谁能读谁：所有位置对依旧相连。随机掩码只决定要预测什么。",
            ),
            holds=lambda means: means["bert_masked_pairs"] != means["bert_pairs"],
            mistake=True,
        ),
        Claim(
            says=Both("GPT masks the tokens to come.", "GPT 掩码未来的词元。"),
            truth=Both(
                "So it is: the derivative of an output by each token that follows is exactly 0.",
                "正确：每个输出对其后任何词元的导数都恰为 0。",
            ),
            holds=lambda means: means["gpt_future"] == 0,
        ),
        Claim(
            says=Both(
                "In the decoder, cross-attention brings in the encoder's information.",
                "解码器通过交叉注意力引入编码器的信息。",
            ),
            truth=Both(
                "It is the only way: with cross-attention off, the decoder does not move when the source changes.",
                "这是唯一的途径：关掉交叉注意力后，无论源句怎么变，解码器的输出都不变。",
            ),
            holds=lambda means: means["source_off"] == 0 and means["source_on"] > 1e-3,
        ),
    ),
    papers=(
        "Devlin et al. 2019, arXiv:1810.04805, §3",
        "Radford et al. 2019, “Language Models are Unsupervised Multitask Learners”, §2.3",
        "Vaswani et al. 2017, arXiv:1706.03762, §3.2.3",
    ),
    thresholds=(
        between("bert_pairs", 1.0, 1.0, Both("full: nothing is hidden", "全满：没有任何遮盖"), every=True),
        at_most("gpt_future", 0.0, Both("exactly lower-triangular", "恰为下三角"), every=True),
        between("gpt_past", 1.0, 1.0, Both("and full below the diagonal", "且对角线及以下全满"), every=True),
        at_most("source_off", 0.0, Both("there is no other way in", "没有其他途径"), every=True),
        at_least("source_on", 1e-3, Both("a control, far above rounding", "对照，远大于舍入误差"), every=True),
        at_least("bert_first", 0.9, Both("the mirror tells it, on the right", "右侧的镜像给出答案")),
        at_least("gpt_second", 0.9, Both("the mirror tells it, on the left", "左侧的镜像给出答案")),
        at_most(
            "gpt_first", 0.1, Both("nothing on the left tells it: chance is 1/32", "左侧没有任何线索：随机为 1/32")
        ),
    ),
    labels={
        "bert_pairs": Both("BERT: share of pairs (output, input) that depend", "BERT：存在依赖的（输出，输入）对比例"),
        "bert_masked_pairs": Both(
            "BERT, a token masked: share of pairs that depend", "BERT，遮住一个词元：存在依赖的比例"
        ),
        "gpt_past": Both("GPT: share of pairs with the past that depend", "GPT：与过去位置存在依赖的比例"),
        "gpt_future": Both("GPT: largest derivative by what follows", "GPT：对后面词元的最大导数"),
        "bert_targets": Both("BERT: share of tokens that are targets", "BERT：作为训练目标的词元比例"),
        "gpt_targets": Both("GPT: share of tokens that are targets", "GPT：作为训练目标的词元比例"),
        "bert_first": Both("BERT: share told right, first half", "BERT：前半部分正确率"),
        "bert_second": Both("BERT: share told right, second half", "BERT：后半部分正确率"),
        "gpt_first": Both("GPT: share told right, first half", "GPT：前半部分正确率"),
        "gpt_second": Both("GPT: share told right, second half", "GPT：后半部分正确率"),
        "source_on": Both(
            "change of the decoder by the source, cross-attention on", "源句引起的解码器变化，有交叉注意力"
        ),
        "source_off": Both(
            "change of the decoder by the source, cross-attention off", "源句引起的解码器变化，无交叉注意力"
        ),
    },
    headline=Both(
        "first half of a mirrored row: BERT tells {bert_first:.0%}, GPT {gpt_first:.0%}; GPT's second half "
        "{gpt_second:.0%}",
        "镜像序列前半：BERT 答对 {bert_first:.0%}，GPT {gpt_first:.0%}；GPT 后半 {gpt_second:.0%}",
    ),
    quick=Size(),
    full=Size(half=32, symbols=256, width=256, layers=4, steps=5000, batch=128),
    measure=measure,
    plot=plot,
    caption=Both(
        "Left and middle: how far output i depends on input j after training (brighter: further; blank: exactly 0). "
        "Right: which tokens of a row that mirrors itself each model tells, a point a seed.",
        "左、中：训练后输出 i 对输入 j 的依赖程度（越亮越强，空白恰为 0）。右：镜像序列中各位置的预测正确率，每点一个种子。",
    ),
    seconds=40.0,
)
