"""What masks do: the future hidden, padding hidden, both together, and the masks of BERT that hide words, not pairs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

import qkv
from qkv.labs.lab import Both, Claim, Figures, Lab, Progress, at_least, at_most, between
from qkv.labs.running.fit import fit
from qkv.models.transformer import DecoderLayer
from qkv.text.batching import Sequences
from qkv.text.objectives import Vocabulary, draw_span_lengths, mask_spans, mask_tokens, span_lengths

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Size:
    """How long is trained, and how much is drawn."""

    half: int = 8
    # Of 10 symbols, as it was first, 800 steps were too few for two seeds of three: the sums are learned in a jump, which
    # they did not always reach. Of 5, each of 20 pilots (seeds 20 to 29 and 50 to 59) had made it by step 500.
    symbols: int = 5
    # At 2e-3, as it was first, a decoder may never learn one place of the sums (seed 40), and none of its rows is right but
    # by chance. At 1e-3 that seed learned all, and so did each of 7 pilots (seeds 24, 52 and 60 to 64) by step 400.
    rate: float = 1e-3
    width: int = 64
    steps: int = 800
    batch: int = 64
    asked: int = 200
    masked_from: int = 750_000
    spans: int = 100_000
    texts: int = 60
    lengths: tuple[int, ...] = (64, 128, 512)


Logits = Callable[[Tensor], Tensor]
VOCABULARY = Vocabulary(1000, mask=0)


def changes(logits: Logits, tokens: Tensor, symbols: int) -> Tensor:
    """Change token j and give how far the logits at i move, at most: a row for each j, a column for each i."""
    before, rows = logits(tokens), []
    for place in range(tokens.shape[1]):
        other = tokens.clone()
        other[:, place] = (other[:, place] + 1) % symbols
        rows.append((logits(other) - before).abs().amax((0, 2)))
    return torch.stack(rows)


def leak(moved: Tensor) -> float:
    """Give the largest change of what stands before the changed token."""
    return float(moved.tril(-1).max())


# A decoder that sees the future


def without_mask(gpt: qkv.Gpt, tokens: Tensor) -> Tensor:
    """Give what a GPT computes when nothing hides the future: the same layers, no mask."""
    x = gpt.tokens(tokens) + gpt.places(torch.arange(tokens.shape[1]))
    for layer in gpt.layers:
        x = layer(x)
    return gpt.predict_tokens(gpt.norm(x))


def draw_sums(size: Size, chance: torch.Generator, count: int) -> Tensor:
    """Draw digits, then their running sums: the first half cannot be foretold, the second can.

    A plain copy does not show what is asked: its tokens stand in the past and in the future, so that the decoder
    without a mask learns to look at both, and generated every copy right. A sum stands nowhere but where it is written.
    """
    digits = torch.randint(size.symbols, (count, size.half), generator=chance)
    return torch.cat((digits, digits.cumsum(1) % size.symbols), 1)


def train(masked: bool, size: Size, seed: int, progress: Progress) -> tuple[Logits, list[float]]:
    """Train a GPT on the next token of running sums, with its mask or without; give its logits and its losses."""
    torch.manual_seed(seed)
    chance = torch.Generator().manual_seed(seed)
    config = qkv.GptConfig(size.symbols, size.width, 2, 4, 4 * size.width, 2 * size.half, 0.0, 0.0, 0.0)
    gpt = qkv.Gpt(config)

    def logits(tokens: Tensor) -> Tensor:
        return gpt.predict_tokens(gpt(tokens)) if masked else without_mask(gpt, tokens)

    def loss(step: int) -> Tensor:
        tokens = draw_sums(size, chance, size.batch)
        return F.cross_entropy(logits(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())

    doing = "decoder with the mask" if masked else "decoder without"
    # At a steady rate a decoder may lose for a moment what it has learned, as two pilots at 2e-3 did, and end just there.
    losses = fit(
        gpt.parameters(), loss, steps=size.steps, rate=size.rate, warm_up=50, cool_down=size.steps // 4,
        progress=progress, doing=doing,
    )  # fmt: skip
    return torch.no_grad()(logits), losses


def generated_right(logits: Logits, size: Size) -> float:
    """Give the share of second halves that are generated right, token by token, from first halves never seen."""
    wanted = draw_sums(size, torch.Generator().manual_seed(10_000), size.asked)
    tokens = wanted[:, : size.half]
    for _ in range(size.half):
        tokens = torch.cat((tokens, logits(tokens)[:, -1:].argmax(-1)), 1)
    return float((tokens == wanted).all(1).float().mean())


def decoders(size: Size, seed: int, progress: Progress) -> Figures:
    """Train the same decoder with the mask and without; measure what it sees, its loss and what it generates."""
    figures: Figures = {}
    tokens = draw_sums(size, torch.Generator().manual_seed(seed), 1)
    for name, masked in (("causal", True), ("unmasked", False)):
        logits, losses = train(masked, size, seed, progress)
        moved = changes(logits, tokens, size.symbols)
        last = losses[-max(1, size.steps // 10) :]
        figures |= {
            f"leak_{name}": leak(moved),
            f"loss_{name}": sum(last) / len(last),
            f"right_{name}": generated_right(logits, size),
            f"losses_{name}": losses,
            f"changes_{name}": moved.tolist(),
        }
    figures["loss_gap"] = figures["loss_causal"] - figures["loss_unmasked"]
    return figures


# Padding, and both masks together


@torch.no_grad()
def padding(size: Size, chance: torch.Generator) -> Figures:
    """Change what stands in the padding, and look at the real tokens: through padding's mask, and through none."""
    config = qkv.BertConfig(size.symbols, size.width, 2, 4, 4 * size.width, 2 * size.half)
    bert, length = qkv.Bert(config).eval(), size.half
    tokens, other = torch.randint(size.symbols, (2, 4, 2 * length), generator=chance)
    other[:, :length] = tokens[:, :length]
    hidden = qkv.padding(keys=torch.full((4,), length))
    return {
        f"padding_{name}": float((bert(tokens, mask=mask) - bert(other, mask=mask))[:, :length].abs().max())
        for name, mask in (("masked", hidden), ("unmasked", None))
    }


def both_masks(size: Size, chance: torch.Generator) -> Figures:
    """Pad on the left under a causal mask, so that the first rows see no key; compare the textbook's softmax."""
    n, empty = 2 * size.half, size.half // 2
    query, key, value = torch.randn(3, 1, 1, n, 16, generator=chance).unbind()
    inputs = [each.requires_grad_() for each in (query, key, value)]
    mask = qkv.causal() & qkv.padding(keys=torch.tensor([n - empty]), left=True)
    output = qkv.attend(query, key, value, mask=mask)
    gradients = torch.stack(torch.autograd.grad(output[..., empty:, :].sum(), inputs))
    seen = torch.ones(n, n, dtype=torch.bool).tril() & (torch.arange(n) >= empty)
    textbook = (query @ key.mT / 4).masked_fill(~seen, -torch.inf).softmax(-1) @ value
    broken = torch.stack(torch.autograd.grad(textbook[..., empty:, :].sum(), inputs))
    output, textbook = output.detach(), textbook.detach()
    return {
        "empty_output": float(output[..., :empty, :].abs().max()),
        "empty_not_finite": float((~gradients.isfinite()).float().mean() + (~output.isfinite()).float().mean()),
        "textbook_nan": float(textbook.isnan().any(-1).float().mean()),
        "textbook_gradient_nan": float(broken.isnan().any(-1).float().mean()),
        "both_error": float((output - textbook)[..., empty:, :].abs().max()),
    }


@torch.no_grad()
def cross(size: Size, chance: torch.Generator) -> Figures:
    """Put the future mask into self-attention, and where the article has it: into cross-attention."""
    n = size.half
    layer = DecoderLayer(qkv.TransformerConfig(size.symbols, size.width, 1, 4, 4 * size.width), qkv.post_norm()).eval()
    x, other, source, changed = torch.randn(4, 1, n, size.width, generator=chance).unbind()
    other[:, :-1], changed[:, :-1] = x[:, :-1], source[:, :-1]
    whole = qkv.padding(keys=torch.tensor([n]))
    figures: Figures = {}
    for name, masks in (
        ("usual", {"mask": qkv.causal(), "cross_mask": whole}),
        ("article", {"mask": None, "cross_mask": qkv.causal()}),
    ):
        before = layer(x, source, **masks)
        future = (layer(other, source, **masks) - before)[:, :-1].abs().max()
        reached = (layer(x, changed, **masks) - before).abs().amax(-1) > 1e-6
        figures |= {f"cross_leak_{name}": float(future), f"cross_reach_{name}": float(reached.float().mean())}
    return figures


# BERT's masks: of the input


def objectives(size: Size, chance: torch.Generator, progress: Progress) -> Figures:
    """Count what BERT's masking chooses and does, and how long SpanBERT's spans are."""
    plain = torch.randint(1, VOCABULARY.size, (size.masked_from,), generator=chance)
    masked = mask_tokens(Sequences.of(plain.split(500)), VOCABULARY, chance)
    got = masked.sequences.tokens[masked.places]
    is_mask, is_kept = got == VOCABULARY.mask, got == masked.targets
    figures: Figures = {
        "masked_tokens": float(len(got)),
        "chosen": len(got) / len(plain),
        "masked": float(is_mask.float().mean()),
        # One replacement in a thousand draws the token itself, and counts as kept: 0.01 points.
        "kept": float(is_kept.float().mean()),
        "random": float((~is_mask & ~is_kept).float().mean()),
        "spans_drawn": float(draw_span_lengths(size.spans, chance).float().mean()),
        "span_lengths": list(size.lengths),
        "spans_realised": [],
    }
    # Realised spans are shorter, as the budget cuts them, but neighbours count as one run: both are in these figures.
    for length in progress.over(size.lengths, "spans"):
        texts = [torch.randint(1, VOCABULARY.size, (length,), generator=chance) for _ in range(size.texts)]
        found = [span_lengths(mask_spans(Sequences.of([text]), VOCABULARY, chance).places) for text in texts]
        figures["spans_realised"].append(float(torch.cat(found).float().mean()))
    figures["spans_realised_shortest"], figures["spans_realised_longest"] = (
        figures["spans_realised"][0],
        figures["spans_realised"][-1],
    )
    config = qkv.BertConfig(VOCABULARY.size, size.width, 2, 4, 4 * size.width, 512)
    row = Sequences.of([plain[:128]])
    corrupted = mask_tokens(row, VOCABULARY, chance).sequences.tokens
    with torch.no_grad():
        maps = qkv.Bert(config).eval().encode(corrupted[None]).maps
    figures["bert_hidden_pairs"] = sum(float((seen.dense() == 0).float().mean()) for seen in maps) / len(maps)
    return figures


def measure(seed: int, size: Size, progress: Progress) -> Figures:
    """Measure what each mask hides, and what happens without it."""
    torch.manual_seed(seed)
    chance = torch.Generator().manual_seed(seed)
    figures = padding(size, chance) | both_masks(size, chance) | cross(size, chance)
    figures |= objectives(size, chance, progress)
    return figures | decoders(size, seed, progress)


def plot(figure: "Figure", results: Sequence[Figures], say: Callable[[Both], str]) -> None:
    """Draw what each token's change moves, with the mask and without, and the two trainings."""
    *pictures, right = figure.subplots(1, 3, width_ratios=(1, 1, 1.2))
    for axes, name, title in zip(
        pictures,
        ("causal", "unmasked"),
        (Both("causal mask", "因果掩码"), Both("no mask", "无掩码")),
        strict=True,
    ):
        moved = torch.tensor(results[0][f"changes_{name}"]).T
        axes.imshow(torch.where(moved > 0, moved.log10(), torch.nan).tolist(), vmin=-6, vmax=1)
        axes.set(
            title=say(title),
            xlabel=say(Both("changed token j", "被改动的词元 j")),
            ylabel=say(Both("logits at i", "位置 i 的输出")),
        )
        axes.grid(False)
    for name, style, label in (
        ("causal", "-", Both("causal mask", "因果掩码")),
        ("unmasked", ":", Both("no mask", "无掩码")),
    ):
        for index, result in enumerate(results):
            losses = result[f"losses_{name}"]
            legend = say(label) if index == 0 else None
            right.plot(range(1, 1 + len(losses)), losses, style, color="black", linewidth=1, label=legend)
    right.set(
        xlabel=say(Both("step", "训练步")),
        ylabel=say(Both("loss, nats a token", "损失，nat/词元")),
        ylim=(0, None),
    )
    right.legend()


ZERO = Both("a hidden pair has the weight 0 exactly, not a small one", "被遮盖的位置对权重恰为 0，而不是很小")
LEAKS = Both(
    "a control: without the mask the change must be seen, far above rounding",
    "对照：去掉掩码必须看得到变化，远大于舍入误差",
)
SHARES = Both(
    "Devlin 2019, §3.1; chance over 100,000 tokens errs by .15 points",
    "Devlin 2019 §3.1；十万词元的随机误差约 0.15 个百分点",
)

LAB = Lab(
    name="masks",
    rows=("7",),
    question=Both("What do masks do in attention?", "注意力机制中的掩码有什么作用？"),
    answer=Both(
        "Two masks hide pairs in attention. The causal mask, in the decoder's self-attention, lets a position see itself "
        "and what came before, so that training on all positions at once is the same as generating one by one. The "
        "padding mask hides the tokens that fill a batch up, in self-attention and, as the source's, in "
        "cross-attention. BERT's random masking is something else: it replaces 15% of the input tokens, and every "
        "position still attends to every other.",
        "注意力里有两种掩码，遮盖的都是“位置对”。因果掩码用在解码器的自注意力中：每个位置只能看到自己和之前的词元，"
        "这样一次并行训练所有位置，与逐个生成等价。填充掩码遮盖补齐批次用的填充词元，自注意力要用，交叉注意力也要用（源端的填充）。"
        "BERT 的随机掩码是另一回事：它替换 15% 的输入词元，每个位置仍然能关注所有位置。",
    ),
    follow_up=Both(
        "What if a row has no key left, as with left padding under a causal mask? Softmax over nothing but −∞ is 0/0: "
        "NaN, in that output and in the gradients of all values. Say what it means: here such a row gives exactly 0 with "
        "finite gradients. A large negative number instead of −∞ gives uniform weights over what was hidden: no "
        "NaN, and a silent leak. And spans? Those are SpanBERT's, not BERT's: lengths drawn from Geometric(0.2) truncated "
        "at 10, 3.8 words on average, until 15% of the words are masked.",
        "如果某一行一个键都不剩（例如左侧填充再加因果掩码）会怎样？对全是 −∞ 的一行做 softmax 等于 0/0，该行输出是 NaN，所有值的梯度也变成 NaN。"
        "必须规定含义：这里规定输出恰为 0，梯度有限。若用很大的负数代替 −∞，则会在被遮盖的位置上得到均匀权重：没有 NaN，却悄悄泄漏。"
        "片段掩码呢？那是 SpanBERT 的，不是 BERT 的：长度服从截断于 10 的 Geometric(0.2)，平均 3.8 个词，直到遮住 15% 的词。",
    ),
    trap=Both(
        "“The future mask belongs in cross-attention”: the source lies there whole before the first word is written, so "
        "nothing of it is future. Masked there, the first word could read one source token; unmasked in "
        "self-attention, the decoder reads its own answers. And the loss looks wonderful: only generation shows it.",
        "“未来掩码用在交叉注意力里”：源句在写第一个词之前就已完整，没有“未来”可言。若在那里加未来掩码，第一个词只能读到一个源词元；"
        "而自注意力里不加，解码器就能看到自己要预测的答案。此时训练损失好得出奇，只有生成时才会露馅。",
    ),
    claims=(
        Claim(
            says=Both("The future mask is used in cross-attention.", "未来标记掩码用在交叉注意力中。"),
            truth=Both(
                "It stands in the decoder's self-attention. Put where the article has it, a later target token moves the "
                "outputs before it, and the last source token reaches only the last position.",
                "它用在解码器的自注意力中。按文中的放法，后面的目标词元会改变之前位置的输出，而源句最后一个词元只能影响最后一个位置。",
            ),
            holds=lambda means: means["cross_leak_article"] == 0 and means["cross_reach_article"] == 1,
            mistake=True,
        ),
        Claim(
            says=Both("Self-attention uses a random mask.", "自注意力机制中使用的是随机掩码。"),
            truth=Both(
                "BERT's random masking corrupts the input and chooses the targets; with it, no pair of its "
                "self-attention is hidden.",
                "BERT 的随机掩码破坏的是输入，并由此选定预测目标；自注意力中没有任何位置对被遮盖。",
            ),
            holds=lambda means: means["bert_hidden_pairs"] > 0.01,
            mistake=True,
        ),
        Claim(
            says=Both(
                "Mind padding, and mind the softmax where two masks meet.",
                "要注意填充；两种掩码同时使用时，softmax 的计算要特别留意。",
            ),
            truth=Both(
                "So it is: without its mask, padding moves the real tokens; and rows that both masks empty are NaN in "
                "the textbook's softmax.",
                "确实如此：不加填充掩码，填充内容会改变真实词元的结果；两种掩码叠加后一个键都不剩的行，教科书式的 softmax 会给出 NaN。",
            ),
            holds=lambda means: means["padding_unmasked"] > 1e-3 and means["textbook_nan"] > 0,
        ),
    ),
    papers=(
        "Vaswani et al. 2017, arXiv:1706.03762, §3.2.3",
        "Devlin et al. 2019, arXiv:1810.04805, §3.1",
        "Joshi et al. 2020, arXiv:1907.10529, §3.1",
    ),
    thresholds=(
        at_most("leak_causal", 0.0, ZERO, every=True),
        at_least("leak_unmasked", 1e-3, LEAKS, every=True),
        at_most("padding_masked", 0.0, ZERO, every=True),
        at_least("padding_unmasked", 1e-3, LEAKS, every=True),
        at_most("empty_output", 0.0, Both("a row without a key gives 0 exactly", "没有键的行输出恰为 0"), every=True),
        at_most("empty_not_finite", 0.0, Both("and no NaN in any gradient", "且梯度中没有 NaN"), every=True),
        at_most("both_error", 1e-5, Both("the other rows are softmax, in float32", "其余行就是 float32 的 softmax")),
        at_most("cross_leak_usual", 0.0, ZERO, every=True),
        between("cross_reach_usual", 1.0, 1.0, Both("the source is read whole", "整个源句都可读"), every=True),
        at_most("bert_hidden_pairs", 0.0, Both("no mask of attention", "注意力中没有掩码"), every=True),
        at_least("masked_tokens", 1e5, Both("fewer would leave the shares to chance", "更少则比例受随机影响过大")),
        between("chosen", 0.145, 0.155, SHARES),
        between("masked", 0.79, 0.81, SHARES),
        between("random", 0.09, 0.11, SHARES),
        between("kept", 0.09, 0.11, SHARES),
        between(
            "spans_drawn",
            3.747,
            3.847,
            Both(
                "computed 3.797 for Geometric(0.2) truncated at 10; were longer ones cut to 10, 4.46",
                "Geometric(0.2) 截断于 10 并重新归一化，计算值为 3.797；若把超出者记作 10 则为 4.46",
            ),
        ),
        at_least(
            "loss_gap",
            0.5,
            Both(
                "7 of the 15 tokens asked for are random, ln 5 nats each, unless they are seen: .75 in all",
                "所预测的 15 个词元中有 7 个是随机的，不偷看时每个损失 ln 5 nat，平均 0.75",
            ),
        ),
        at_least("right_causal", 0.9, Both("the sums can be learned", "累加任务可以学会")),
        at_most("right_unmasked", 0.05, Both("nothing right: by chance 3·10⁻⁶", "应全部错误：碰巧答对的概率为 3·10⁻⁶")),
    ),
    labels={
        "leak_causal": Both("change of earlier logits, causal mask", "之前位置输出的变化，因果掩码"),
        "leak_unmasked": Both("change of earlier logits, no mask", "之前位置输出的变化，无掩码"),
        "padding_masked": Both("change of real tokens by padding's content, masked", "填充内容引起的变化，有掩码"),
        "padding_unmasked": Both("change of real tokens by padding's content, no mask", "填充内容引起的变化，无掩码"),
        "empty_output": Both("largest output of rows without a key", "没有键的行的最大输出"),
        "empty_not_finite": Both("share of outputs and gradients not finite", "非有限的输出与梯度比例"),
        "textbook_nan": Both("share of rows NaN, textbook's softmax", "教科书 softmax 中 NaN 行的比例"),
        "textbook_gradient_nan": Both(
            "share of gradients NaN, textbook's softmax: all of the values'",
            "教科书 softmax 中 NaN 梯度的比例：值的梯度全部是 NaN",
        ),
        "both_error": Both("difference from the textbook in the other rows", "其余行与教科书的差"),
        "cross_leak_usual": Both(
            "change of earlier outputs, causal self-attention", "之前位置输出的变化，自注意力加因果掩码"
        ),
        "cross_reach_usual": Both(
            "share of target positions that the last source token reaches", "源句末词元可影响的目标位置比例"
        ),
        "cross_leak_article": Both(
            "change of earlier outputs, causal cross-attention", "之前位置输出的变化，交叉注意力加因果掩码"
        ),
        "cross_reach_article": Both(
            "share that the last source token reaches, causal cross-attention",
            "源句末词元可影响的比例，交叉注意力加因果掩码",
        ),
        "bert_hidden_pairs": Both(
            "share of pairs with weight 0 in BERT, input masked", "输入被掩码时 BERT 中权重为 0 的位置对比例"
        ),
        "masked_tokens": Both("tokens chosen, count", "被选中的词元数"),
        "chosen": Both("share of tokens chosen", "被选中的词元比例"),
        "masked": Both("of the chosen, share that become [MASK]", "被选中者中变为 [MASK] 的比例"),
        "random": Both("of the chosen, share that become another token", "被选中者中替换为其他词元的比例"),
        "kept": Both("of the chosen, share that stay", "被选中者中保持不变的比例"),
        "spans_drawn": Both("mean length of spans drawn, words", "抽取的片段平均长度，词"),
        "spans_realised_shortest": Both(
            "mean run of masked words, 64 words of text", "被掩码的连续词平均长度，64 词文本"
        ),
        "spans_realised_longest": Both(
            "mean run of masked words, 512 words of text", "被掩码的连续词平均长度，512 词文本"
        ),
        "loss_causal": Both("training loss, causal mask, nats", "训练损失，因果掩码，nat"),
        "loss_unmasked": Both("training loss, no mask, nats", "训练损失，无掩码，nat"),
        "loss_gap": Both("loss that the mask costs, nats", "掩码带来的损失差，nat"),
        "right_causal": Both(
            "share of rows of running sums generated right, causal mask", "累加整行生成正确的比例，因果掩码"
        ),
        "right_unmasked": Both(
            "share of rows of running sums generated right, no mask", "累加整行生成正确的比例，无掩码"
        ),
    },
    headline=Both(
        "without the mask the loss is {loss_unmasked:.2f} instead of {loss_causal:.2f}, and {right_unmasked:.0%} of the sums "
        "come out right instead of {right_causal:.0%}",
        "去掉因果掩码，损失从 {loss_causal:.2f} 降到 {loss_unmasked:.2f}，生成正确率却从 {right_causal:.0%} 变为 {right_unmasked:.0%}",
    ),
    quick=Size(),
    full=Size(half=16, symbols=20, width=256, steps=4000, masked_from=7_500_000, spans=1_000_000, texts=1000),
    measure=measure,
    plot=plot,
    caption=Both(
        "Left and middle: how far the logits at i move when token j changes, in a trained decoder (brighter: further; blank: "
        "exactly 0). Right: loss of both trainings, a line a seed.",
        "左、中：训练后的解码器中，改动词元 j 时位置 i 的输出变化多少（越亮变化越大，空白恰为 0）。右：两种训练的损失，每线一个种子。",
    ),
    seconds=31.0,
)
