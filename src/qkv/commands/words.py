"""`qkv words`: an index of the words of a corpus in context, with its size told before and its rate while it grows."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from qkv.errors import ArgumentError, FileError, must
from qkv.lens.index import Tell, plan
from qkv.lens.printable import printable
from qkv.models.pretrained import default_folder, load_bert
from qkv.text.corpus import each_line, read_texts
from qkv.text.tokenizer import load_tokenizer

EVERY = 10.0
"""Seconds between two plain lines, where there is no terminal."""


def index_words(corpus: str, out: Path, *, model: str | None, layers: str | None, most: int, field: str | None) -> None:
    """Index a corpus of sentences: one a line, or one a JSON object's field.

    Raises: FileError for what is no text, or where the index would not fit; as `qkv.words`.
    """
    chosen = None if layers is None else _numbers(layers)
    texts = read_texts(corpus, field, split=each_line)
    folder = model or default_folder()
    bert, tokenizer = load_bert(folder), load_tokenizer(folder)
    made = plan(out, texts, bert, tokenizer, layers=chosen, most=most or None, name=model or "all-MiniLM-L6-v2")
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    kept = ", ".join(map(str, made.made_of["layers"]))
    size = f"{made.bytes / 1e6:,.1f} MB"
    console.print(f"{made.sentences:,} sentences; {made.words:,} words at layers {kept}: at most {size}")
    if not made.done:
        free = shutil.disk_usage(made.path.parent if made.path.parent.is_dir() else ".").free
        if made.bytes > free:
            fix = "fewer --layers or a smaller --most"
            raise FileError(must("words", "--out", f"have room for {size}", f"{free / 1e6:,.1f} MB", fix))
    with _shown(made.sentences, console) as tell:
        index = made.build(tell)
    console.print(f"{printable(str(out))}: {len(index):,} words. Try: qkv see SENTENCE --word WORD --index {out}")


@contextmanager
def _shown(total: int, console: Console) -> Iterator[Tell]:
    """Show how many sentences are read, how many a second, and how long it will take."""
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]} sentences/s"), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bar:
        task, began, first, said = bar.add_task("", total=total, rate="…"), time.monotonic(), 0, time.monotonic()

        def tell(done: int, total: int) -> None:
            nonlocal first, said
            # What an earlier run has read says nothing of the rate.
            first = first or done
            now = time.monotonic()
            rate = (done - first) / max(now - began, 1e-3)
            bar.update(task, completed=done, rate=f"{rate:,.0f}")
            if not console.is_terminal and now - said >= EVERY and rate:
                said = now
                left = (total - done) / rate
                console.print(f"{done:,}/{total:,} sentences · {rate:,.0f} sentences/s · {left:,.0f} s left")

        yield tell


def _numbers(layers: str) -> list[int]:
    try:
        return [int(layer) for layer in layers.split(",")]
    except ValueError as error:
        raise ArgumentError(must("words", "--layers", "be numbers with commas between them", repr(layers))) from error
