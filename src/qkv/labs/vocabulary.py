"""The embedding layer: how large its table is, why no table holds all words, and what pieces of words cost instead."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

import qkv
from qkv.labs.lab import Both, Claim, Figures, Lab, Progress, at_least, at_most, between
from qkv.text.stdlib import prose
from qkv.text.tokenizer import train_byte_bpe, train_wordpiece

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Size:
    """How much of the corpus is read, and the size of each vocabulary."""

    letters: int = 2_400_000
    vocabulary: int = 8000
    parts: tuple[int, ...] = (16, 8, 4, 2, 1)


# Words, and pieces of words


def read(size: Size, seed: int) -> tuple[list[str], list[str]]:
    """Give the standard library's docstrings, in an order drawn by the seed, and those that are held out."""
    training, held_out = list(prose()), list(prose(held_out=True))
    order = torch.randperm(len(training), generator=torch.Generator().manual_seed(seed)).tolist()
    texts, left = [], size.letters
    for index in order:
        if left > 0:
            texts.append(training[index])
            left -= len(training[index])
    return texts, held_out


def words(texts: Sequence[str]) -> Counter[str]:
    """Count the words, in small letters."""
    return Counter(word for text in texts for word in WORD.findall(text.lower()))


def unseen(held_out: Counter[str], known: set[str]) -> float:
    """Give the share of held-out words that are not known."""
    return sum(count for word, count in held_out.items() if word not in known) / held_out.total()


def pieces(texts: Sequence[str], held_out: Sequence[str], size: Size, progress: Progress) -> Figures:
    """Train both kinds of pieces on the same texts; give what they do not know, and how many make up a word."""
    figures: Figures = {}
    total = words(held_out).total()
    for name, train in (("bpe", train_byte_bpe), ("wordpiece", train_wordpiece)):
        progress.tell(f"training {name}")
        tokenizer = train(texts, size.vocabulary)
        found = [tokenizer.encode(text, add_special_tokens=False).ids for text in held_out]
        unknown = tokenizer.token_to_id("[UNK]")
        figures[f"{name}_unknown"] = sum(each == unknown for ids in found for each in ids) / sum(map(len, found))
        figures[f"{name}_length"] = sum(map(len, found)) / total
        if name == "bpe":
            # Nothing is unknown only if all comes back as it was.
            lost = [tokenizer.decode(ids) != text for ids, text in zip(found, held_out, strict=True)]
            figures["bpe_lost"] = sum(lost) / len(lost)
    return figures


def corpus(seed: int, size: Size, progress: Progress) -> Figures:
    """Let the corpus grow and count its words; compare what words and pieces do not know."""
    texts, held_out = read(size, seed)
    asked, sizes, types, oov = words(held_out), [], [], []
    for part in progress.over(size.parts, "words"):
        # By letters, not by texts, so that each part is twice the one before.
        some = "\n".join(texts)[: sum(map(len, texts)) // part]
        seen = words([some])
        sizes.append(seen.total())
        types.append(len(seen))
        oov.append(unseen(asked, set(seen)))
    frequent = {word for word, _ in seen.most_common(size.vocabulary)}
    return {
        "corpus_words": sizes,
        "word_types": types,
        "word_unseen": oov,
        "types": types[-1],
        "types_growth": types[-1] / types[-2] - 1,
        "words_unknown": oov[-1],
        "frequent_unknown": unseen(asked, frequent),
        "letters_length": sum(map(len, held_out)) / asked.total(),
        **pieces(texts, held_out, size, progress),
    }


# The table, in models that were published


def published() -> dict[str, nn.Module]:
    """Build the published models from their numbers alone: on the meta device nothing is stored."""
    large = {"width": 1024, "layers": 24, "heads": 16, "feed_forward": 4096}
    with torch.device("meta"):
        models = {
            "transformer": qkv.Transformer(qkv.TransformerConfig()),
            "bert_base": qkv.Bert(qkv.BertConfig()),
            "bert_large": qkv.Bert(qkv.BertConfig(**large)),
            "gpt2": qkv.Gpt(qkv.GptConfig()),
        }
    for name in ("bert_base", "bert_large"):
        # The papers count the encoder, without the heads of its pretraining.
        models[name].masked = models[name].next_sentence = None
    return models


TABLES = {
    "transformer": lambda model: model.embedding,
    "bert_base": lambda model: model.embeddings.tokens,
    "bert_large": lambda model: model.embeddings.tokens,
    "gpt2": lambda model: model.tokens,
}

COUNTS = {"bert_base": 109_482_240, "bert_large": 335_141_888, "gpt2": 124_439_808}
"""What transformers 5 counts for BertModel and GPT2LMHeadModel of these numbers; a test asks it again."""

PAPERS = {"transformer": 65e6, "bert_base": 110e6, "bert_large": 340e6, "gpt2": 117e6}
"""What the papers say."""


def parameters() -> Figures:
    """Count each model's parameters and its table's, and compare with others' counts."""
    figures: Figures = {"count_error": 0}
    for name, model in published().items():
        count, table = sum(each.numel() for each in model.parameters()), TABLES[name](model).weight
        figures |= {
            f"{name}_count": count / 1e6,
            f"{name}_table": table.numel() / count,
            f"{name}_published": count / PAPERS[name] - 1,
        }
        if name in COUNTS:
            figures["count_error"] += abs(count - COUNTS[name])
        if name == "bert_base":
            figures |= {"table_rows": table.shape[0], "table_columns": table.shape[1]}
    return figures


def measure(seed: int, size: Size, progress: Progress) -> Figures:
    """Measure words and pieces on a growing corpus, and the table's share of published models."""
    return parameters() | corpus(seed, size, progress)


def plot(figure: "Figure", results: Sequence[Figures], say: Callable[[Both], str]) -> None:
    """Draw the words of a growing corpus, what is unknown in it, and the table's share."""
    left, middle, right = figure.subplots(1, 3)
    for result in results:
        read = [count / 1000 for count in result["corpus_words"]]
        left.plot(read, [count / 1000 for count in result["word_types"]], "o-", color="C0", linewidth=1)
        middle.plot(read, [100 * share for share in result["word_unseen"]], "o-", color="C0", linewidth=1)
        middle.plot(read[-1:], [100 * result["bpe_lost"]], "s", color="C1", fillstyle="none")
    words_read = say(Both("words read, thousands", "已读词数，千"))
    left.set(xlabel=words_read, ylabel=say(Both("different words, thousands", "不同的词数，千")), ylim=(0, None))
    middle.set(
        xlabel=words_read, ylabel=say(Both("unknown in held-out text, %", "留出文本中的未知比例，%")), ylim=(-1, None)
    )
    names = {"transformer": "Transformer", "bert_base": "BERT\nbase", "bert_large": "BERT\nlarge", "gpt2": "GPT-2"}
    shares = [100 * results[0][f"{name}_table"] for name in names]
    right.bar(range(len(names)), shares, color="C2", width=0.6)
    right.set(
        xticks=range(len(names)),
        xticklabels=list(names.values()),
        ylabel=say(Both("share of the table, % of the parameters", "嵌入表占参数比例，%")),
    )
    right.tick_params(axis="x", labelsize=7)


def _share(name: str) -> Both:
    return Both(f"{name}: the table's share of the parameters", f"{name}：嵌入表占参数的比例")


def _count(name: str) -> Both:
    return Both(f"{name}: parameters, millions", f"{name}：参数量，百万")


def _off(name: str, says: str) -> Both:
    return Both(f"{name}: count over the published {says} million − 1", f"{name}：参数量与论文的 {says} 百万之比 − 1")


LAB = Lab(
    name="vocabulary",
    rows=("10",),
    question=Both(
        "What are the dimensions of the embedding layer in a Transformer?", "变换器模型中嵌入层的维度是怎样的？"
    ),
    answer=Both(
        "Vocabulary × width: a row for each token, a column for each feature. In BERT base 30,522 × 768, a fifth of its "
        "parameters. Words would not do: their number grows with the corpus without end, and a new text holds some that "
        "are in no table. Pieces of words do: a fixed table, nothing unknown, at the price of longer sequences.",
        "词汇表大小 × 嵌入维度：每个词元一行，每个特征一列。BERT base 是 30522 × 768，约占参数的五分之一。"
        "用整词不行：词数随语料不断增长，新文本总有表里没有的词。用子词可以：表的大小固定，没有未知词，代价是序列变长。",
    ),
    follow_up=Both(
        "How large should the vocabulary be? A larger one makes sequences shorter and rows rarer: a row is trained only "
        "when its token occurs. Where output and input share the table it is paid once. BPE merges the most frequent "
        "pair, WordPiece the pair that raises the likelihood most; on bytes nothing can be unknown.",
        "词汇表应多大？越大序列越短，但每行越少被训练：只有该词元出现时那一行才更新。输入与输出共享嵌入表则只付一份。"
        "BPE 合并最常见的一对，WordPiece 合并最能提高似然的一对；以字节为底就不会有未知词。",
    ),
    trap=Both(
        "“A tokenizer makes a table of all words possible”: it makes one needless. And the published parameter counts are "
        "rounded, and sometimes plainly off: GPT-2 small has 124 million, not 117.",
        "“分词器让表能装下所有单词”：不，它让这件事不再必要。另外论文里的参数量是约数，有的明显不准：GPT-2 small 是 1.24 亿，不是 1.17 亿。",
    ),
    claims=(
        Claim(
            says=Both("The layer is vocabulary × embedding dimension.", "嵌入层的维度是 词汇表大小 × 嵌入维度。"),
            truth=Both(
                "So it is: BERT base has a row for each of 30,522 tokens, each of 768 numbers.",
                "正确：BERT base 有 30522 行，每行 768 个数。",
            ),
            holds=lambda means: (means["table_rows"], means["table_columns"]) == (30522, 768),
        ),
        Claim(
            says=Both(
                "Tokenizers are used since no table can hold all words of the world.",
                "使用分词器，是因为不可能把全世界所有单词都放进表里。",
            ),
            truth=Both(
                "So it is: the words grow as the corpus does and held-out text still holds unknown ones; bytes merged to "
                "pieces know all.",
                "确实如此：语料增长词数就增长，留出文本仍有未知词；以字节为底的 BPE 没有未知。",
            ),
            holds=lambda means: means["types_growth"] > 0.05 and means["words_unknown"] > means["bpe_lost"],
        ),
    ),
    papers=(
        "Sennrich et al. 2016, arXiv:1508.07909",
        "Wu et al. 2016, arXiv:1609.08144, §4.1 (WordPiece)",
        "Devlin et al. 2019, arXiv:1810.04805, §3",
        "Radford et al. 2019, “Language Models are Unsupervised Multitask Learners”, §2.2",
    ),
    thresholds=(
        at_least("types_growth", 0.15, Both("twice the text, yet far from the last word", "文本翻倍，词远未穷尽")),
        at_least("words_unknown", 0.02, Both("one word in fifty has no row", "每五十个词至少有一个没有对应的行")),
        at_most("bpe_lost", 0.0, Both("every text comes back to the letter", "每篇文本都能一字不差地还原"), every=True),
        between(
            "count_error", 0.0, 0.0, Both("transformers counts the same", "与 transformers 的计数完全一致"), every=True
        ),
    ),
    labels={
        "types": Both("different words in the corpus", "语料中不同的词数"),
        "types_growth": Both("growth of the different words when the corpus doubles", "语料翻倍时不同词数的增长率"),
        "words_unknown": Both(
            "held-out words unknown, table of all words seen", "留出词中的未知比例，表含所有见过的词"
        ),
        "frequent_unknown": Both(
            "held-out words unknown, table as long as the pieces'", "留出词中的未知比例，表与子词表一样大"
        ),
        "bpe_unknown": Both("held-out tokens unknown, byte BPE", "留出词元中的未知比例，字节 BPE"),
        "bpe_lost": Both("held-out texts that byte BPE does not give back", "字节 BPE 不能还原的留出文本比例"),
        "wordpiece_unknown": Both("held-out tokens unknown, WordPiece", "留出词元中的未知比例，WordPiece"),
        "bpe_length": Both("tokens a word, byte BPE", "每词的词元数，字节 BPE"),
        "wordpiece_length": Both("tokens a word, WordPiece", "每词的词元数，WordPiece"),
        "letters_length": Both("tokens a word, characters", "每词的词元数，字符"),
        "count_error": Both(
            "parameters by which the counts differ from transformers'", "与 transformers 计数相差的参数个数"
        ),
        "table_rows": Both("rows of BERT base's table", "BERT base 嵌入表的行数"),
        "table_columns": Both("columns of BERT base's table", "BERT base 嵌入表的列数"),
        **{
            key: label
            for name, title, says in (
                ("transformer", "Transformer base", "65"),
                ("bert_base", "BERT base", "110"),
                ("bert_large", "BERT large", "340"),
                ("gpt2", "GPT-2 small", "117"),
            )
            for key, label in (
                (f"{name}_count", _count(title)),
                (f"{name}_table", _share(title)),
                (f"{name}_published", _off(title, says)),
            )
        },
    },
    headline=Both(
        "twice the corpus has {types_growth:.0%} more words; {words_unknown:.1%} of held-out words are unknown, with byte "
        "BPE none",
        "语料翻倍，不同的词多 {types_growth:.0%}；留出词中 {words_unknown:.1%} 未知，字节 BPE 则没有",
    ),
    quick=Size(),
    full=Size(letters=100_000_000, vocabulary=12_000, parts=(256, 128, 64, 32, 16, 8, 4, 2, 1)),
    measure=measure,
    plot=plot,
    caption=Both(
        "Left: different words by words read. Middle: words of held-out text that have no row, and (square) texts that "
        "byte BPE cannot give back. Right: the table's share of published models. A line a seed, which draws the order of "
        "the texts.",
        "左：不同词数随已读词数增长。中：留出文本中没有对应行的词，方块为字节 BPE 无法还原的文本。右：已发表模型中嵌入表的占比。每线一个种子，种子决定文本次序。",
    ),
    seconds=25.0,
)
