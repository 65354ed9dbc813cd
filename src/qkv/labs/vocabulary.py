"""The embedding layer: how many rows a table of words would need, what pieces of words do instead, and its share."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import torch
from tokenizers import Tokenizer

import qkv
from qkv.labs.lab import Both, Claim, Figures, Lab, Progress, at_least, at_most, between
from qkv.text import stdlib
from qkv.text.tokenizer import train_byte_bpe, train_wordpiece

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Size:
    """How much of the texts is read, and how large the vocabularies of pieces are."""

    shares: tuple[float, ...] = (0.25, 0.5, 1.0)
    texts: int | None = None
    code: bool = False
    pieces: int = 4096


# What transformers' BertModel and GPT2Model count, a test holds them to it; and what the papers say.
BERT_BASE, BERT_LARGE, GPT2_SMALL = 109_482_240, 335_141_888, 124_439_808
PUBLISHED = {"transformer_base": 65e6, "bert_large": 340e6, "gpt2_small": 117e6}


def counts() -> dict[str, int]:
    """Count the parameters of published models, built from their numbers without memory for a single one."""
    with torch.device("meta"):
        berts = [qkv.Bert(qkv.BertConfig()), qkv.Bert(qkv.BertConfig(30522, 1024, 24, 16, 4096))]
        gpt = qkv.Gpt(qkv.GptConfig())
        transformer = qkv.Transformer(qkv.TransformerConfig(vocabulary=37_000))
    for bert in berts:
        # transformers' BertModel has the pooler, and no head of the pretraining.
        bert.masked = bert.next_sentence = None
    models = {"bert_base": berts[0], "bert_large": berts[1], "gpt2_small": gpt, "transformer_base": transformer}
    found = {name: sum(part.numel() for part in model.parameters()) for name, model in models.items()}
    return {**found, "bert_base_embedding": berts[0].embeddings.tokens.weight.numel()}


@cache
def texts(code: bool, held_out: bool) -> list[str]:
    """Read the standard library of the running Python."""
    return list((stdlib.code if code else stdlib.prose)(held_out=held_out))


def unknown(tokenizer: Tokenizer, held_out: Sequence[str]) -> float:
    """Give the share of tokens that a tokenizer does not know."""
    known = tokenizer.token_to_id("[UNK]")
    ids = [token for text in held_out for token in tokenizer.encode(text, add_special_tokens=False).ids]
    return sum(token == known for token in ids) / len(ids)


def measure(seed: int, size: Size, progress: Progress) -> Figures:
    """Grow the corpus in an order of the seed; count words, and what each tokenizer makes of unseen text."""
    training, held_out = texts(size.code, False)[: size.texts], texts(size.code, True)[: size.texts]
    order = torch.randperm(len(training), generator=torch.Generator().manual_seed(seed)).tolist()
    asked = [word for text in held_out for word in WORD.findall(text)]
    figures: Figures = {"words": [], "types": [], "missing": [], "bpe_length": [], "wordpiece_length": []}
    for share in progress.over(size.shares, "growing the corpus"):
        some = [training[place] for place in order[: max(1, round(share * len(training)))]]
        read = [word for text in some for word in WORD.findall(text)]
        types = set(read)
        figures["words"].append(len(read))
        figures["types"].append(len(types))
        figures["missing"].append(sum(word not in types for word in asked) / len(asked))
        bpe, wordpiece = train_byte_bpe(some, size.pieces), train_wordpiece(some, size.pieces)
        for name, tokenizer in (("bpe", bpe), ("wordpiece", wordpiece)):
            total = sum(len(tokenizer.encode(text, add_special_tokens=False).ids) for text in held_out)
            figures[f"{name}_length"].append(total / len(asked))
    figures["growth"] = figures["types"][-1] / figures["types"][-2] - 1
    figures["words_unknown"] = figures["missing"][-1]
    # Bytes are never unknown; what is encoded must come back letter by letter.
    lost = sum(bpe.decode(bpe.encode(text).ids, skip_special_tokens=False) != text for text in held_out)
    figures["bpe_unknown"] = lost / len(held_out)
    figures["wordpiece_unknown"] = unknown(wordpiece, held_out)
    figures["bpe_tokens_a_word"], figures["wordpiece_tokens_a_word"] = (
        figures[f"{name}_length"][-1] for name in ("bpe", "wordpiece")
    )
    found = counts()
    figures |= {name: found[name] for name in ("bert_base", "bert_large", "gpt2_small", "transformer_base")}
    figures |= {f"{name}_to_published": found[name] / published - 1 for name, published in PUBLISHED.items()}
    figures["bert_base_embedding"] = found["bert_base_embedding"] / (30522 * 768)
    figures["bert_base_share"] = found["bert_base_embedding"] / found["bert_base"]
    return figures


def plot(figure: "Figure", results: Sequence[Figures], say: Callable[[Both], str]) -> None:
    """Draw word types, and unknown words, by the size of the corpus."""
    left, right = figure.subplots(1, 2)
    for result in results:
        left.plot(result["words"], result["types"], "o-", color="C0", linewidth=0.8)
        right.plot(result["words"], [100 * share for share in result["missing"]], "s-", color="C1", linewidth=0.8)
        right.plot(result["words"], [0.0] * len(result["words"]), "o", color="C0")
    words = say(Both("words of the corpus", "语料词数"))
    left.set(xlabel=words, ylabel=say(Both("different words", "不同的词")), ylim=(0, None))
    right.set(xlabel=words, ylabel=say(Both("held-out words unknown, %", "留出文本中的未登录词，%")), ylim=(-0.3, None))
    right.annotate(say(Both("table of words", "整词词表")), (0.55, 0.75), xycoords="axes fraction")
    right.annotate(say(Both("bytes: none", "字节：无")), (0.55, 0.08), xycoords="axes fraction")


LAB = Lab(
    name="vocabulary",
    rows=("10",),
    question=Both(
        "How large is the embedding layer, and why are words cut into pieces?", "嵌入层有多大？为什么要把词切成子词？"
    ),
    answer=Both(
        "Vocabulary × width: one row a token. A table of all words has no end: each doubling of the text brings new "
        "ones, and in a new text some are missing. Pieces of words end at a size one chooses, and bytes leave no text "
        "unknown; the price is more tokens a word.",
        "词表大小 × 嵌入维度，每个词元一行。想收录所有词，表就没有尽头：文本每翻一倍都有新词，新文本里总有缺的词。子词表的大小可以自己定，"
        "而字节级的切分没有未登录词；代价是每个词要用更多词元。",
    ),
    follow_up=Both(
        "What share of the parameters is it? In BERT base a fifth, in GPT-2 small a third; it falls as models grow. Input "
        "and output usually share the table.",
        "它占参数的多少？BERT base 约五分之一，GPT-2 small 约三分之一；模型越大占比越小。输入与输出通常共用一张表。",
    ),
    trap=Both(
        "Positions and segments are tables too, but small ones: 512 and 2 rows in BERT. And a word that is one token in "
        "English may be many in another language.",
        "位置嵌入和段落嵌入也是表，但很小：BERT 中为 512 行和 2 行。另外，在英语中只占一个词元的词，换成别的语言可能要拆成许多个。",
    ),
    claims=(
        Claim(
            says=Both("The layer's size is vocabulary × width.", "嵌入层大小为词表大小 × 嵌入维度。"),
            truth=Both(
                "So it is: BERT base has 30,522 rows of 768, a fifth of its parameters.",
                "属实：BERT base 有 30,522 行，每行 768 个数，占参数的五分之一。",
            ),
            holds=lambda means: means["bert_base_embedding"] == 1.0,
        ),
        Claim(
            says=Both(
                "Tokenizers are used since no table can hold every word.", "使用分词器，因为没有哪张表能收录所有词。"
            ),
            truth=Both(
                "So it is: the words go on growing, and held-out text has some that the table lacks; bytes lack none.",
                "属实：不同的词一直在增多，留出文本中总有表里没有的词；字节级切分则一个不缺。",
            ),
            holds=lambda means: means["growth"] > 0.15 and means["words_unknown"] > means["bpe_unknown"],
        ),
    ),
    papers=(
        "Sennrich et al. 2016, arXiv:1508.07909",
        "Devlin et al. 2019, arXiv:1810.04805",
        "Radford et al. 2019 (GPT-2)",
        "Vaswani et al. 2017, arXiv:1706.03762",
    ),
    thresholds=(
        at_least(
            "growth", 0.15, Both("a table that ended would grow by less and less", "若词表有尽头，增长会越来越小")
        ),
        at_least("words_unknown", 0.02, Both("one word in fifty is no accident", "五十个词里缺一个，绝非偶然")),
        at_most("bpe_unknown", 0.0, Both("bytes cover every text", "字节能覆盖任何文本"), every=True),
        between(
            "bert_base",
            BERT_BASE,
            BERT_BASE,
            Both("transformers counts as many", "与 transformers 的计数相同"),
            every=True,
        ),
        between(
            "bert_large",
            BERT_LARGE,
            BERT_LARGE,
            Both("transformers counts as many", "与 transformers 的计数相同"),
            every=True,
        ),
        between(
            "gpt2_small",
            GPT2_SMALL,
            GPT2_SMALL,
            Both("transformers counts as many", "与 transformers 的计数相同"),
            every=True,
        ),
    ),
    labels={
        "growth": Both("growth of different words as the corpus doubles, share", "语料翻倍时不同词数的增长比例"),
        "words_unknown": Both("held-out words that the table of words lacks, share", "整词词表缺少的留出词比例"),
        "bpe_unknown": Both(
            "held-out texts that byte-BPE does not give back, share", "字节级 BPE 无法还原的留出文本比例"
        ),
        "wordpiece_unknown": Both(
            "held-out WordPiece tokens that are [UNK], share", "WordPiece 留出词元中 [UNK] 的比例"
        ),
        "bpe_tokens_a_word": Both(
            "byte-BPE tokens a held-out word, whole corpus", "每个留出词的字节级 BPE 词元数，全部语料"
        ),
        "wordpiece_tokens_a_word": Both(
            "WordPiece tokens a held-out word, whole corpus", "每个留出词的 WordPiece 词元数，全部语料"
        ),
        "bert_base": Both("parameters of BERT base", "BERT base 参数量"),
        "bert_large": Both("parameters of BERT large", "BERT large 参数量"),
        "gpt2_small": Both("parameters of GPT-2 small", "GPT-2 small 参数量"),
        "transformer_base": Both("parameters of the Transformer, base", "Transformer base 参数量"),
        "bert_large_to_published": Both(
            "BERT large against the published 340M, share", "BERT large 与公布的 340M 之差，比例"
        ),
        "gpt2_small_to_published": Both(
            "GPT-2 small against the published 117M, share", "GPT-2 small 与公布的 117M 之差，比例"
        ),
        "transformer_base_to_published": Both(
            "Transformer base against the published 65M, share", "Transformer base 与公布的 65M 之差，比例"
        ),
        "bert_base_embedding": Both(
            "token table of BERT base over 30,522 × 768", "BERT base 词元表与 30,522 × 768 之比"
        ),
        "bert_base_share": Both("token table's share of BERT base", "词元表占 BERT base 参数的比例"),
    },
    headline=Both(
        "{words_unknown:.1%} of the words of held-out text missing from a table of words, none from bytes",
        "整词词表缺少留出文本中 {words_unknown:.1%} 的词，字节级切分一个不缺",
    ),
    quick=Size(),
    full=Size(shares=(0.125, 0.25, 0.5, 1.0), code=True, pieces=16_384),
    measure=measure,
    plot=plot,
    caption=Both(
        "Python's own docstrings, in an order of the seed: different words, and the share of held-out words never read. "
        "Right, squares: a table of words, circles: bytes; a line a seed. Pieces: 4,096 in the quick form.",
        "Python 自带的文档字符串，次序由种子决定：不同的词数，以及从未读到过的留出词比例。右图方块：整词词表，圆点：字节；每线一个种子。快速形式的子词表大小为 4,096。",
    ),
    seconds=40.0,
)
