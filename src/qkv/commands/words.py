"""`qkv words`: an index of the words of a corpus in context, with its size told before and its rate while it grows."""

import shutil
from pathlib import Path

from rich.console import Console

from qkv.commands.trained import load_any
from qkv.errors import ArgumentError, FileError, must
from qkv.lens.indexing import plan
from qkv.lens.language import Say, english
from qkv.lens.progress import progress
from qkv.models.pretrained import default_folder
from qkv.text.corpus import each_line, read_texts
from qkv.text.printable import printable


def index_words(
    corpus: str,
    out: Path,
    *,
    model: str | None,
    layers: str | None,
    most: int,
    field: str | None,
    say: Say = english,
) -> None:
    """Index a corpus of sentences: one a line, or one a JSON object's field.

    Raises: FileError for what is no text, or where the index would not fit; as `qkv.words`.
    """
    chosen = None if layers is None else _numbers(layers)
    texts = read_texts(corpus, field, split=each_line)
    found, tokenizer = load_any("words", model or default_folder())
    made = plan(out, texts, found, tokenizer, layers=chosen, most=most or None, name=model or "all-MiniLM-L6-v2")
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    kept = ", ".join(map(str, made.made_of["layers"]))
    size = f"{made.bytes / 1e6:,.1f} MB"
    sentences, words = f"{made.sentences:,}", f"{made.words:,}"
    told = f"{sentences} sentences; {words} words at layers {kept}: at most {size}"
    console.print(say(told, f"{sentences} 个句子；{words} 处词，取 {kept} 层：最多 {size}"))
    if not made.done:
        free = shutil.disk_usage(made.path.parent if made.path.parent.is_dir() else ".").free
        if made.bytes > free:
            fix = "fewer --layers or a smaller --most"
            raise FileError(must("words", "--out", f"have room for {size}", f"{free / 1e6:,.1f} MB", fix))
    with progress(say("sentences", "句"), console, say) as tell:
        index = made.build(tell)
    place, count, command = printable(str(out)), f"{len(index):,}", f"qkv see SENTENCE --word WORD --index {out}"
    console.print(say(f"{place}: {count} words. Try: {command}", f"{place}：{count} 处词。试试：{command}"))


def _numbers(layers: str) -> list[int]:
    try:
        return [int(layer) for layer in layers.split(",")]
    except ValueError as error:
        raise ArgumentError(must("words", "--layers", "be numbers with commas between them", repr(layers))) from error
