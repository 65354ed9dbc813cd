"""The command `qkv`.

A command imports what it needs in its body, so that `qkv --help` answers without PyTorch.
"""

import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from qkv.errors import ArgumentError, QkvError, must

__all__ = ["app", "main"]

# Plain help: rich would double the time that `qkv --help` takes.
app = typer.Typer(
    name="qkv",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line; an error of qkv's own, or of the system, becomes one line and exit status 1."""
    # A terminal may not know every letter.
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        try:
            app(prog_name="qkv")
        finally:
            sys.stdout.flush()
    except (QkvError, OSError) as error:
        from qkv.lens.printable import printable

        print(f"qkv: {printable(str(error))}", file=sys.stderr)
        if not isinstance(error, QkvError):
            # What a full disk has refused would be refused once more as Python ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)


def print_version(asked: bool) -> None:
    """Print the version and leave, if asked."""
    if asked:
        print(f"qkv {version('qkv')}")
        raise typer.Exit()


@app.callback()
def qkv(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=print_version, is_eager=True)
    ] = False,
) -> None:
    """Attention for PyTorch: every mechanism, one call; exact, fast, visible."""


@app.command()
def see(
    texts: Annotated[list[str], typer.Argument(metavar="TEXT...", help="Sentences to read, each in quotes.")],
    model: Annotated[
        str | None, typer.Option(metavar="FOLDER|NAME", help="A BERT in Hugging Face's layout; by default MiniLM.")
    ] = None,
    layer: Annotated[int | None, typer.Option(help="The layer to draw, from 0; by default a telling one.")] = None,
    head: Annotated[int | None, typer.Option(help="The head to draw, from 0; by default a telling one.")] = None,
    word: Annotated[str | None, typer.Option(help="Compare this word's vectors across the sentences.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="PAGE.html", help="Write a page with every head; a page of qkv's own is replaced."),
    ] = None,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the numbers as JSON; qkv's own file is replaced.")
    ] = None,
) -> None:
    """See the attention of a model over some sentences."""
    for text in texts:
        if not text.strip():
            raise ArgumentError(must("see", "TEXT", "hold something to read", repr(text)))
    from qkv.lens.reading import read
    from qkv.lens.see import check_files
    from qkv.lens.see import see as look
    from qkv.models.pretrained import default_folder, load_bert
    from qkv.text.tokenizer import load_tokenizer

    check_files(out, json)
    folder = model or default_folder()
    bert, tokenizer = load_bert(folder), load_tokenizer(folder)
    readings = [read(bert, tokenizer, text) for text in texts]
    look(readings, model=model or "all-MiniLM-L6-v2", layer=layer, head=head, word=word, out=out, numbers=json)
