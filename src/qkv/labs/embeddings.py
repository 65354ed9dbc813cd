"""Token, segment and position embeddings: what each tells a model, seen by leaving it out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

import qkv
from qkv.labs.lab import Both, Claim, Figures, Lab, Progress, at_least, at_most
from qkv.labs.running.fit import fit
from qkv.text.batching import Sequences
from qkv.text.objectives import Vocabulary, mask_tokens
from qkv.text.stdlib import prose
from qkv.text.tokenizer import characters

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MASK, UNKNOWN = 0, 1
CLS, SEP, MARK = 0, 1, 2


@dataclass(frozen=True)
class Size:
    """How much text, how large the model, how long the two trainings."""

    letters: int = 300_000
    length: int = 16
    width: int = 64
    steps: int = 600
    batch: int = 96
    asked: int = 1000
    pair_length: int = 16
    pair_symbols: int = 10
    pair_steps: int = 300
    pair_batch: int = 48
    pairs_asked: int = 2000


def make(size: Size, vocabulary: int, longest: int, **choices: object) -> qkv.Bert:
    """Make a small BERT of two layers."""
    config = qkv.BertConfig(vocabulary, size.width, 2, 4, 4 * size.width, longest, dropout=0.0, attention_dropout=0.0)
    return qkv.Bert(config, placement=qkv.pre_norm(), **choices)


# Without positions, a set


@torch.no_grad()
def permuted(size: Size, chance: torch.Generator) -> Figures:
    """Permute the tokens: how far are the outputs from being permuted alike?"""
    tokens = torch.randint(50, (4, size.length), generator=chance)
    order = torch.randperm(size.length, generator=chance)
    config = qkv.GptConfig(50, size.width, 2, 4, 4 * size.width, size.length)
    models = {
        "none": make(size, 50, size.length, positions=qkv.no_positions()),
        "learned": make(size, 50, size.length),
        "causal": qkv.Gpt(config, positions=qkv.no_positions()),
    }
    return {
        f"permuted_{name}": float((model.eval()(tokens[:, order]) - model(tokens)[:, order]).abs().max())
        for name, model in models.items()
    }


# Masked characters, one embedding left out at a time


def read(size: Size) -> tuple[Tensor, Tensor, int]:
    """Read docstrings of the standard library as characters: those to train on, those held out, and how many kinds.

    Windows of 16 are what a small model learns to use in seconds: with 64 it told characters by their frequency alone
    after as many tokens, with positions or without, so that leaving them out could cost nothing.
    """
    texts, count = [], 0
    for text in prose():
        texts.append(text)
        count += len(text)
        if count >= size.letters:
            break
    tokenizer = characters(texts, special=("[MASK]", "[UNK]"))
    letters = torch.tensor(tokenizer.encode("\n\n".join(texts)).ids)
    cut = len(letters) * 9 // 10
    return letters[:cut], letters[cut:], tokenizer.get_vocab_size()


def masked(letters: Tensor, kinds: int, size: Size, chance: torch.Generator, count: int) -> tuple[Tensor, ...]:
    """Draw windows, and mask 15% of their characters."""
    starts = torch.randint(len(letters) - size.length, (count,), generator=chance)
    windows = letters[starts[:, None] + torch.arange(size.length)]
    sequences = Sequences(windows.flatten(), torch.full((count,), size.length))
    found = mask_tokens(sequences, Vocabulary(kinds, MASK, (UNKNOWN,)), chance)
    return found.sequences.tokens.view_as(windows), found.places, found.targets


def masked_loss(left_out: str, size: Size, seed: int, progress: Progress) -> tuple[float, list[float]]:
    """Train with one kind of embedding left out; give the loss on held-out text, and the losses on the way."""
    torch.manual_seed(seed)
    chance = torch.Generator().manual_seed(seed)
    training, held_out, kinds = read(size)
    choices = {"positions": qkv.no_positions()} if left_out == "positions" else {}
    bert = make(size, kinds, size.length, **choices)

    def loss(tokens: Tensor, places: Tensor, targets: Tensor) -> Tensor:
        # Without token vectors, all tokens have the same one.
        total, count = bert.loss(torch.zeros_like(tokens) if left_out == "tokens" else tokens, places, targets)
        return total / count

    losses = fit(
        bert.parameters(),
        lambda step: loss(*masked(training, kinds, size, chance, size.batch)),
        steps=size.steps,
        rate=3e-3,
        warm_up=50,
        progress=progress,
        doing=f"masked characters without {left_out}",
    )
    with torch.no_grad():
        return float(loss(*masked(held_out, kinds, size, torch.Generator().manual_seed(0), size.asked))), losses


def unigram(size: Size) -> float:
    """Give the loss of telling the masked characters of held-out text by their frequency in the training text alone."""
    training, held_out, kinds = read(size)
    _, _, targets = masked(held_out, kinds, size, torch.Generator().manual_seed(0), size.asked)
    law = (torch.bincount(training, minlength=kinds) + 1).double()
    return float(-(law / law.sum()).log()[targets].mean())


# Two sentences


def draw_pairs(size: Size, chance: torch.Generator, count: int, sep: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Draw two sentences on end, with a mark somewhere: is it in the second? Give tokens, segments and the answers.

    The mark's place is drawn before the answer, so that it tells nothing: the border alone does.
    """
    n = size.pair_length
    tokens = torch.randint(3, 3 + size.pair_symbols, (count, n), generator=chance)
    mark = torch.randint(1, n - 1, (count,), generator=chance)
    answers = torch.randint(2, (count,), generator=chance)
    tokens[torch.arange(count), mark] = MARK
    # The border lies at or before the mark if that is in the second sentence, and behind it otherwise.
    share = torch.rand(count, generator=chance)
    border = torch.where(answers == 1, 1 + (share * mark), mark + 1 + share * (n - 1 - mark)).long()
    segments = (torch.arange(n) >= border[:, None]).long()
    if sep:
        order = torch.cat((2 * torch.arange(n).expand(count, n), 2 * border[:, None] - 1), 1).argsort(1)
        tokens = torch.cat((tokens, torch.full((count, 1), SEP)), 1).gather(1, order)
        segments = torch.cat((segments, torch.zeros(count, 1).long()), 1).gather(1, order)
    return F.pad(tokens, (1, 0), value=CLS), F.pad(segments, (1, 0), value=0), answers


def tell_sentence(told: bool, sep: bool, size: Size, seed: int, progress: Progress) -> float:
    """Train to tell in which sentence the mark is, with segments or without; give the share told right."""
    torch.manual_seed(seed)
    chance = torch.Generator().manual_seed(seed)
    bert = make(size, 3 + size.pair_symbols, size.pair_length + 2)

    def hidden(tokens: Tensor, segments: Tensor) -> Tensor:
        return bert(tokens, segments if told else None)

    def loss(step: int) -> Tensor:
        tokens, segments, answers = draw_pairs(size, chance, size.pair_batch, sep)
        return bert.loss_of_next(hidden(tokens, segments), answers)[0] / len(answers)

    doing = f"sentences, {'segments' if told else 'no segments'}, {'[SEP]' if sep else 'no [SEP]'}"
    fit(bert.parameters(), loss, steps=size.pair_steps, rate=1e-3, warm_up=50, progress=progress, doing=doing)
    tokens, segments, answers = draw_pairs(size, torch.Generator().manual_seed(10_000), size.pairs_asked, sep)
    with torch.no_grad():
        return float((bert.predict_next(hidden(tokens, segments)).argmax(-1) == answers).float().mean())


def measure(seed: int, size: Size, progress: Progress) -> Figures:
    """Measure what is lost with each embedding."""
    torch.manual_seed(seed)
    figures = permuted(size, torch.Generator().manual_seed(seed))
    figures["unigram"] = unigram(size)
    for name, left_out in (("whole", "nothing"), ("no_positions", "positions"), ("no_tokens", "tokens")):
        figures[f"loss_{name}"], figures[f"losses_{name}"] = masked_loss(left_out, size, seed, progress)
    figures["positions_gain"] = figures["loss_no_positions"] - figures["loss_whole"]
    figures["tokens_over_unigram"] = figures["loss_no_tokens"] - figures["unigram"]
    for sep in (True, False):
        name = "sep" if sep else "no_sep"
        for told in (True, False):
            figures[f"{'told' if told else 'untold'}_{name}"] = tell_sentence(told, sep, size, seed, progress)
        figures[f"segments_gain_{name}"] = figures[f"told_{name}"] - figures[f"untold_{name}"]
    figures["segments_null"] = abs(figures["segments_gain_sep"])
    return figures


def plot(figure: "Figure", results: Sequence[Figures], say: Callable[[Both], str]) -> None:
    """Draw the losses with each embedding left out, and the share of sentences told right."""
    left, right = figure.subplots(1, 2)
    runs = (
        ("whole", "-", Both("all", "全部")),
        ("no_positions", "--", Both("no positions", "无位置")),
        ("no_tokens", ":", Both("no token vectors", "无词元嵌入")),
    )
    for place, (name, style, label) in enumerate(runs):
        for index, result in enumerate(results):
            losses = torch.tensor(result[f"losses_{name}"])
            # One batch's loss tells little: means of ten steps.
            smooth = losses[: len(losses) // 10 * 10].view(-1, 10).mean(1) if len(losses) >= 10 else losses
            steps = [(at + 0.5) * len(losses) / len(smooth) for at in range(len(smooth))]
            legend = say(label) if index == 0 else None
            left.plot(steps, smooth.tolist(), style, color=f"C{place}", linewidth=1, label=legend)
    left.axhline(results[0]["unigram"], color="#808080", linewidth=1)
    left.set(
        xlabel=say(Both("step", "训练步")),
        ylabel=say(Both("loss, nats a masked character", "损失，nat/被遮字符")),
    )
    left.legend()
    names = ("told_sep", "untold_sep", "told_no_sep", "untold_no_sep")
    for place, name in enumerate(names):
        values = [result[name] for result in results]
        filled = "full" if name.startswith("told") else "none"
        right.plot([place] * len(values), values, "os"[place // 2], color=f"C{place // 2}", fillstyle=filled)
    right.axhline(0.5, color="#808080", linewidth=1)
    right.set(
        xticks=range(4),
        xticklabels=[
            say(Both("[SEP],\nsegments", "有 [SEP]\n有段落")),
            say(Both("[SEP]\nalone", "有 [SEP]\n无段落")),
            say(Both("segments\nalone", "无 [SEP]\n有段落")),
            say(Both("neither", "都没有")),
        ],
        xlim=(-0.5, 3.5),
        ylim=(0.4, 1.05),
        ylabel=say(Both("share told right", "答对比例")),
    )


LAB = Lab(
    name="embeddings",
    rows=("12",),
    question=Both(
        "Token, segment and position embeddings: what is each for?",
        "词元嵌入（标记嵌入）、段落嵌入、位置嵌入各有什么作用？",
    ),
    answer=Both(
        "Three vectors of one width, summed. The token's says what stands there; the position's says where; the "
        "segment's says in which of two sentences. Without positions and without a causal mask, self-attention sees a "
        "set: permute the tokens, and the outputs are permuted alike. The segment's matters where nothing else marks the "
        "border.",
        "三个同宽的向量相加：词元嵌入说明“是什么”，位置嵌入说明“在哪里”，段落嵌入说明“属于哪一句”。没有位置也没有因果掩码时，"
        "自注意力看到的只是一个集合：打乱词元，输出就跟着同样打乱。只有没有别的东西标出句界时，段落嵌入才重要。",
    ),
    follow_up=Both(
        "Does a GPT need positions? Less than BERT: under a causal mask the first token sees one key, the next two, so "
        "that order can be learned without any (Kazemnejad 2023). And why sum instead of joining end to end? A sum costs "
        "no width, and the layers' matrices can tell the parts apart again. RoBERTa dropped next-sentence prediction, and "
        "later models the segments.",
        "GPT 需要位置嵌入吗？没有 BERT 那么需要：因果掩码下第一个词元只看到一个键，第二个看到两个，因此不加位置也能学到顺序（Kazemnejad 2023）。"
        "为什么相加而不是拼接？相加不增加宽度，后面的矩阵仍能把各部分区分开。RoBERTa 去掉了下一句预测，后来的模型也去掉了段落嵌入。",
    ),
    trap=Both(
        "“Segments tell sentences apart”: so does [SEP], which BERT always has; with it, leaving segments out costs "
        "nothing here. And “attention knows the order”: it does not, unless positions or a mask tell it.",
        "“段落嵌入用来区分句子”：[SEP] 也能区分，而 BERT 总有 [SEP]；有它时去掉段落嵌入在这里毫无损失。“注意力知道顺序”：不知道，除非位置或掩码告诉它。",
    ),
    claims=(
        Claim(
            says=Both("Token embeddings carry each token's meaning.", "词元嵌入代表每个词元的含义。"),
            truth=Both(
                "So it is: without them a model tells masked characters no better than their frequency does.",
                "确实如此：没有它，模型预测被遮字符不比按频率猜更好。",
            ),
            holds=lambda means: means["loss_no_tokens"] - means["loss_whole"] > 0.1,
        ),
        Claim(
            says=Both("Position embeddings tell where each token stands.", "位置嵌入帮助确定每个词元的位置。"),
            truth=Both(
                "So it is: without them the outputs follow any permutation, and masked characters are told worse.",
                "确实如此：没有它，输出只随输入一起打乱，被遮字符的预测也变差。",
            ),
            holds=lambda means: means["positions_gain"] >= 0.1 and means["permuted_none"] < means["permuted_learned"],
        ),
        Claim(
            says=Both("Segment embeddings serve to tell sentences apart.", "段落嵌入用于区分不同的句子。"),
            truth=Both(
                "Only where nothing else does: without [SEP] they decide, beside it they add nothing.",
                "只在没有其他标记时如此：没有 [SEP] 时全靠它，有 [SEP] 时它不增加任何东西。",
            ),
            holds=lambda means: means["segments_gain_sep"] >= 0.05 and means["segments_gain_no_sep"] >= 0.05,
        ),
    ),
    papers=(
        "Devlin et al. 2019, arXiv:1810.04805, §3",
        "Vaswani et al. 2017, arXiv:1706.03762, §3.5",
        "Kazemnejad et al. 2023, arXiv:2305.19466",
        "Liu et al. 2019, arXiv:1907.11692 (RoBERTa)",
    ),
    thresholds=(
        at_most(
            "permuted_none", 1e-5, Both("equivariant within float32's rounding", "在 float32 舍入内等变"), every=True
        ),
        at_least("permuted_learned", 1e-3, Both("a control: positions break it", "对照：位置嵌入打破等变"), every=True),
        at_least("permuted_causal", 1e-3, Both("a causal mask breaks it too", "因果掩码也打破等变"), every=True),
        at_least("positions_gain", 0.1, Both("order tells spelling; nats a character", "顺序决定拼写；nat/字符")),
        at_least(
            "tokens_over_unigram",
            -0.05,
            Both("without token vectors only frequency is left", "没有词元嵌入就只剩频率"),
        ),
        at_most("segments_null", 0.05, Both("[SEP] marks the border already", "[SEP] 已经标出句界"), every=True),
        at_least("segments_gain_no_sep", 0.1, Both("nothing else marks the border", "没有其他句界标记")),
    ),
    labels={
        "permuted_none": Both("largest difference from equivariance, no positions", "与等变结果的最大偏差，无位置"),
        "permuted_learned": Both(
            "largest difference from equivariance, learned positions", "与等变结果的最大偏差，可学习位置"
        ),
        "permuted_causal": Both(
            "largest difference from equivariance, causal mask, no positions", "与等变结果的最大偏差，因果掩码且无位置"
        ),
        "unigram": Both("loss by frequency alone, nats", "仅按频率预测的损失，nat"),
        "loss_whole": Both("held-out loss, all embeddings, nats", "验证损失，三种嵌入都有，nat"),
        "loss_no_positions": Both("held-out loss, no positions, nats", "验证损失，无位置嵌入，nat"),
        "loss_no_tokens": Both("held-out loss, no token vectors, nats", "验证损失，无词元嵌入，nat"),
        "positions_gain": Both("loss that leaving positions out costs, nats", "去掉位置嵌入的损失代价，nat"),
        "tokens_over_unigram": Both(
            "loss without token vectors − by frequency, nats", "无词元嵌入的损失 − 按频率的损失，nat"
        ),
        "told_sep": Both("share told right, [SEP] and segments", "答对比例，有 [SEP]、有段落嵌入"),
        "untold_sep": Both("share told right, [SEP] alone", "答对比例，有 [SEP]、无段落嵌入"),
        "told_no_sep": Both("share told right, segments alone", "答对比例，无 [SEP]、有段落嵌入"),
        "untold_no_sep": Both("share told right, neither", "答对比例，两者都无"),
        "segments_gain_sep": Both(
            "share told right that segments add beside [SEP]", "有 [SEP] 时段落嵌入使答对比例的提高"
        ),
        "segments_null": Both("the same, without its sign", "同上，取绝对值"),
        "segments_gain_no_sep": Both(
            "share told right that segments add without [SEP]", "无 [SEP] 时段落嵌入使答对比例的提高"
        ),
    },
    headline=Both(
        "leaving positions out costs {positions_gain:.2f} nats a character; segments add {segments_gain_sep:.2f} of "
        "accuracy beside [SEP], {segments_gain_no_sep:.2f} without",
        "去掉位置嵌入损失增加 {positions_gain:.2f} nat/字符；"
        "段落嵌入使正确率提高 {segments_gain_sep:.2f}（有 [SEP]）、{segments_gain_no_sep:.2f}（无 [SEP]）",
    ),
    quick=Size(),
    full=Size(letters=3_000_000, length=64, width=256, steps=10_000, batch=64, pair_length=64, pair_steps=3000),
    measure=measure,
    plot=plot,
    caption=Both(
        "Left: training losses on masked characters, a line a seed; grey: by frequency alone. Right: in which sentence is "
        "the mark? A point a seed; hollow: no segments; grey: chance.",
        "左：被遮字符的训练损失，每线一个种子，灰线为仅按频率预测。右：标记在哪一句？每点一个种子，空心为无段落嵌入，灰线为随机水平。",
    ),
    seconds=90.0,
)
