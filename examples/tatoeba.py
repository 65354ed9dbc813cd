"""English to Chinese: no attention, additive attention and a Transformer, by the length of the sentence.

    python -m examples.tatoeba cmn.txt [SEED…]

`cmn.txt` is a table of English, Chinese and an attribution, as https://www.manythings.org/anki has it. No English
sentence is in two parts, and no Chinese sentence of the test is learned from. Perplexity is that of a token of the
Chinese side; BLEU, of characters, and chrF are sacrebleu's, against one reference; decoding is greedy.
"""

import hashlib
import math
import os
import shlex
import statistics
import sys
from collections import defaultdict
from pathlib import Path

import sacrebleu
import torch

from examples.runs import RUNS, keep, train_seconds, trained
from qkv import load_model, load_tokenizer, translate
from qkv.text.batching import Pairs, Sequences
from qkv.text.tokenizer import END, START

MODELS = {"none": ["--attention", "none"], "additive": ["--attention", "additive"], "transformer": []}
OPTIONS = shlex.split(
    "--preset small --width 128 --layers 2 --tokens 4096 --vocabulary 3000 --dropout 0.2 --steps 900 --every 150 "
    "--rate 2e-3 --warm-up 100"
)
EDGES = (5, 7, 9, 12)
"""The most words of a source in each group by length; the last has all that are longer."""


def split(table: str) -> tuple[Path, list[tuple[str, str]]]:
    """Keep a tenth of the English sentences, with all their translations, for the test; write the rest for training."""
    pairs = [tuple(line.split("\t")[:2]) for line in Path(table).read_text(encoding="utf-8").splitlines()]
    test = [pair for pair in pairs if hashlib.blake2b(pair[0].strip().lower().encode()).digest()[0] % 10 == 0]
    kept = {side.strip().lower() for pair in test for side in pair}
    rest = [pair for pair in pairs if kept.isdisjoint(side.strip().lower() for side in pair)]
    RUNS.mkdir(exist_ok=True)
    path = RUNS / "tatoeba.tsv"
    text = "".join(f"{english}\t{chinese}\n" for english, chinese in rest)
    # Written once: a run that goes on wants the file it began with.
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        temporary = path.with_suffix(".part")
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    first = dict(reversed(test))
    return path, sorted(first.items())


def group(english: str) -> str:
    """Name the group of a sentence by its length in words."""
    words, least = len(english.split()), 1
    for most in EDGES:
        if words <= most:
            return f"{least}-{most} words"
        least = most + 1
    return f"{least} words and more"


@torch.no_grad()
def measure(run: Path, test: list[tuple[str, str]]) -> dict[str, dict[str, float]]:
    """Measure a model on all of the test and on each group."""
    model, tokenizer = load_model(run / "model").eval(), load_tokenizer(run / "model")
    start, end = tokenizer.token_to_id(START), tokenizer.token_to_id(END)
    groups: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for pair in test:
        groups[group(pair[0])].append(pair)
    said: dict[str, list[tuple[str, str]]] = {}
    losses: dict[str, tuple[float, int]] = {}
    for name, pairs in groups.items():
        total, count, made = 0.0, 0, []
        for first in range(0, len(pairs), 128):
            some = pairs[first : first + 128]
            source = Sequences.of(torch.tensor([*tokenizer.encode(english).ids, end]) for english, _ in some)
            sides = [torch.tensor(tokenizer.encode(chinese).ids) for _, chinese in some]
            target = Sequences.of(torch.cat((torch.tensor([start]), side)) for side in sides)
            batch = Pairs(source, target, torch.cat([torch.cat((side, torch.tensor([end]))) for side in sides]))
            loss, targets = model.loss(batch.source, batch.target, batch.targets)
            total, count = total + float(loss), count + targets
            rows = translate(model, source, start=start, stop=end, beams=1)
            made += [tokenizer.decode(row.tolist()) for row in rows]
        losses[name] = total, count
        said[name] = [(text, chinese) for text, (_, chinese) in zip(made, pairs, strict=True)]
    losses["all"] = tuple(map(sum, zip(*losses.values(), strict=True)))  # type: ignore[assignment]
    said["all"] = [both for some in said.values() for both in some]
    figures = {}
    for name in sorted(
        said, key=lambda name: (name != "all", int(name.split("-")[0].split()[0]) if name != "all" else 0)
    ):
        texts, references = zip(*said[name], strict=True)
        figures[name] = {
            "sentences": len(texts),
            "perplexity": math.exp(losses[name][0] / losses[name][1]),
            "bleu": sacrebleu.corpus_bleu(texts, [references], tokenize="zh").score,
            "chrf": sacrebleu.corpus_chrf(texts, [references]).score,
        }
    return figures


def main(table: str, seeds: list[int]) -> None:
    """Train and measure the three models for each seed."""
    data, test = split(table)
    figures: dict[str, object] = {"seeds": seeds, "test": len(test)}
    for name, words in MODELS.items():
        runs = [
            trained(f"tatoeba-{name}-{seed}", "translate", str(data), *words, *OPTIONS, "--seed", str(seed))
            for seed in seeds
        ]
        measured = [measure(run, test) for run in runs]
        figures[f"{name}: seconds"] = list(map(train_seconds, runs))
        for part in measured[0]:
            for figure in ("perplexity", "bleu", "chrf"):
                values = [one[part][figure] for one in measured]
                figures[f"{name}: {part}: {figure}"] = [round(value, 2) for value in [*values, statistics.mean(values)]]
        figures["sentences"] = {part: one["sentences"] for part, one in measured[0].items()}
    keep("tatoeba", figures)


if __name__ == "__main__":
    main(sys.argv[1], [int(word) for word in sys.argv[2:]] or [0, 1, 2])
