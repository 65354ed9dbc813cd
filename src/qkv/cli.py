"""The command `qkv`.

A command imports what it needs in its body, so that `qkv --help` answers without PyTorch.
"""

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from qkv.errors import QkvError

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
    """Run the command line; an error of qkv's own becomes one line and exit status 1."""
    try:
        app(prog_name="qkv")
    except QkvError as error:
        print(f"qkv: {error}", file=sys.stderr)
        sys.exit(1)


def print_version(asked: bool) -> None:
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
