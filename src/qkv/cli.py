"""The command `qkv`.

A command imports what it needs in its body, so that `qkv --help` answers without PyTorch.
"""

import os
import re
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

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
    # A stream that was closed is none.
    sys.stdout, sys.stderr = (stream or open(os.devnull, "w") for stream in (sys.stdout, sys.stderr))  # noqa: SIM115
    # A terminal may not know every letter.
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        try:
            app(prog_name="qkv")
        finally:
            sys.stdout.flush()
    except (QkvError, OSError) as error:
        from qkv.text.printable import printable

        print(f"qkv: {printable(str(error))}", file=sys.stderr)
        if not isinstance(error, QkvError):
            # What a full disk has refused would be refused once more as Python ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)
    except (MemoryError, RuntimeError) as error:
        # torch says so in a RuntimeError: of the CPU in these words, of a GPU in those.
        if isinstance(error, RuntimeError) and not re.search("can't allocate memory|out of memory", str(error)):
            raise
        text = "qkv: memory must hold what is asked for; got too little (try shorter texts, or a smaller model)"
        print(text, file=sys.stderr)
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


Lang = Annotated[
    str | None, typer.Option(metavar="en|zh", help="The language; by default English, but in a page the browser's.")
]


@app.command()
def see(
    texts: Annotated[
        list[str] | None,
        typer.Argument(metavar="TEXT...", help="Sentences, each in quotes, or text files; a vision model's pictures."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="FOLDER|NAME|RUN", help="A model, qkv's or transformers'; by default MiniLM."),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="What a translator is to have written; by default what it writes.")
    ] = None,
    layer: Annotated[int | None, typer.Option(help="The layer to draw, from 0; by default a telling one.")] = None,
    head: Annotated[int | None, typer.Option(help="The head to draw, from 0; by default a telling one.")] = None,
    word: Annotated[str | None, typer.Option(help="Compare this word's vectors across the sentences.")] = None,
    sort: Annotated[
        str | None, typer.Option(metavar="HABIT", help="List the heads by a habit: previous, first, same_word, …")
    ] = None,
    index: Annotated[
        Path | None, typer.Option(metavar="INDEX", help="Find the word's nearest sentences in what qkv words made.")
    ] = None,
    ablate: Annotated[
        bool, typer.Option("--ablate", help="Switch every head off, one at a time, and list what changes.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(metavar="PAGE.html", help="Write a page with every head; a page of qkv's own is replaced."),
    ] = None,
    depth: Annotated[
        int | None, typer.Option(help="--out: write one head's map, of a long text, in so many levels of detail.")
    ] = None,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the numbers as JSON; qkv's own file is replaced.")
    ] = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Open a page in the browser where you type and attention follows.")
    ] = False,
    beside: Annotated[
        list[str] | None, typer.Option(metavar="FOLDER|NAME", help="--serve: another model to choose; may be repeated.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="--serve: the port; by default a free one from 8765 on.")] = None,
    no_open: Annotated[bool, typer.Option("--no-open", help="--serve: open no browser.")] = False,
    lang: Lang = None,
) -> None:
    """See the attention of a model over some sentences, or pictures."""
    from qkv.commands.chinese import spoken

    with spoken("see", lang):
        given = {
            "layer": layer, "head": head, "word": word, "sort": sort, "index": index, "target": target, "out": out,
            "depth": depth, "json": json, "ablate": ablate or None,
        }  # fmt: skip
        if serve:
            from qkv.commands.serve import serve_models

            for name, value in given.items():
                if value is not None:
                    fix = "the page shows it"
                    raise ArgumentError(must("see", f"--{name}", "be left out with --serve", value, fix))
            serve_models([model, *(beside or [])], texts or [], port=port, browser=not no_open, language=lang)
            return
        for name, alone in (("beside", bool(beside)), ("port", port is not None), ("no-open", no_open)):
            if alone:
                fix = "qkv see --serve opens a page"
                raise ArgumentError(must("see", f"--{name}", "come with --serve", "it alone", fix))
        from qkv.commands.see import Asked, see_texts

        asked = Asked(
            target=target, layer=layer, head=head, word=word, sort=sort, index=index, ablate=ablate, out=out,
            depth=depth, json=json,
        )  # fmt: skip
        see_texts(texts or [], model, asked, language=lang)


@app.command()
def words(
    corpus: Annotated[
        str, typer.Argument(metavar="CORPUS", help="A file, a folder or datasets:NAME with a sentence on each line.")
    ],
    out: Annotated[Path, typer.Option(metavar="INDEX", help="The index: a folder, new or to go on with.")],
    model: Annotated[
        str | None,
        typer.Option(metavar="FOLDER|NAME|RUN", help="A model of text, qkv's or transformers'; by default MiniLM."),
    ] = None,
    layers: Annotated[
        str | None, typer.Option(metavar="0,3,6", help="Which to keep, 0 being the embedding; by default all.")
    ] = None,
    most: Annotated[int, typer.Option(help="The most places of a word, spread over the corpus; 0 keeps all.")] = 100,
    field: Annotated[str | None, typer.Option(help="The field of JSON lines that holds the sentence.")] = None,
    lang: Lang = None,
) -> None:
    """Index a corpus by its words in context, for qkv see --index; one that stopped goes on with the same command."""
    from qkv.commands.chinese import spoken
    from qkv.commands.words import index_words
    from qkv.lens.language import sayer

    try:
        with spoken("words", lang):
            index_words(corpus, out, model=model, layers=layers, most=most, field=field, say=sayer("words", lang))
    except KeyboardInterrupt:
        say = sayer("words", lang)
        told = say(
            "stopped; what is done is kept, and the same command goes on", "已停止；做好的都保留着，同一命令可继续"
        )
        print(told, file=sys.stderr)
        raise typer.Exit(130) from None


@app.command()
def train(
    kind: Annotated[str, typer.Argument(metavar="bert|gpt|translate|caption", help="What to train.")],
    data: Annotated[
        str | None,
        typer.Argument(
            metavar="DATA",
            help="A file, a folder or datasets:NAME; caption: a table, seen in grey; left out, what this machine has.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="RUN", help="The run's folder: new, unless --resume is given.")] = ...,  # type: ignore[assignment]
    preset: Annotated[
        str | None,
        typer.Option(help="quick (the default; about 2 minutes on 2 cores), small or base (none for caption)."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run, bit for bit.")] = False,
    steps: Annotated[int | None, typer.Option(help="How many steps.")] = None,
    rate: Annotated[float | None, typer.Option(help="The largest learning rate.")] = None,
    schedule: Annotated[str | None, typer.Option(help="cosine, linear, inverse_square_root or constant.")] = None,
    warm_up: Annotated[
        int | None, typer.Option(help="Steps in which the rate rises; in a shorter run all but the last.")
    ] = None,
    width: Annotated[int | None, typer.Option(help="The model's width.")] = None,
    layers: Annotated[int | None, typer.Option(help="How many layers it has.")] = None,
    heads: Annotated[int | None, typer.Option(help="How many heads a layer has.")] = None,
    positions: Annotated[int | None, typer.Option(help="The most tokens of a sequence.")] = None,
    vocabulary: Annotated[int | None, typer.Option(help="The size of a tokenizer that is trained.")] = None,
    tokens: Annotated[int | None, typer.Option(help="The most tokens of a batch.")] = None,
    dropout: Annotated[float | None, typer.Option(help="The dropout rate, from 0 to 1.")] = None,
    clip: Annotated[float | None, typer.Option(help="Gradients are scaled down to this norm.")] = None,
    every: Annotated[int | None, typer.Option(help="Steps between validations and checkpoints.")] = None,
    position_kind: Annotated[
        str | None, typer.Option(help="gpt: learned (GPT-2's), sinusoidal, rotary, alibi or none.")
    ] = None,
    placement: Annotated[
        str | None, typer.Option(metavar="pre|post", help="Where norms stand: before each part, or after each sum.")
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(metavar="bpe|wordpiece|unigram|characters|words|FOLDER", help="How text becomes tokens."),
    ] = None,
    objective: Annotated[str | None, typer.Option(help="bert: hide tokens, words or spans.")] = None,
    next_sentence: Annotated[bool, typer.Option("--next-sentence", help="bert: also tell what follows.")] = False,
    attention: Annotated[
        str | None, typer.Option(help="translate: a recurrent model's, none, additive, dot, …; caption: soft or hard.")
    ] = None,
    cell: Annotated[str | None, typer.Option(help="translate: gru or lstm, with --attention.")] = None,
    pixels: Annotated[int | None, typer.Option(help="caption: the side of your pictures as it sees them.")] = None,
    start: Annotated[
        str | None, typer.Option(metavar="RUN", help="caption: begin with the weights of another run.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The random seed; by default 0.", min=0, max=2**63 - 1)] = None,
    precision: Annotated[str | None, typer.Option(help="float32 (the default) or bf16.")] = None,
    accumulate: Annotated[
        int | None,
        typer.Option(
            help="Gradient accumulation: batches of a process in a step; by default 1; resumed, as many in all."
        ),
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes that make batches.")] = 0,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write metrics for TensorBoard too.")] = False,
    watch: Annotated[
        str | None,
        typer.Option(metavar="gradients", help="Write the norm of each layer's gradients: gradients.jsonl and .svg."),
    ] = None,
) -> None:
    """Train a model on your text, or on what this machine has; a run that stopped goes on with --resume."""
    from qkv.commands.train import begin

    if watch not in (None, "gradients"):
        raise ArgumentError(must("train", "--watch", "be gradients", repr(watch)))
    numbers = {
        "steps": steps, "rate": rate, "schedule": schedule, "warm_up": warm_up, "width": width, "layers": layers,
        "heads": heads, "positions": positions, "vocabulary": vocabulary, "tokens": tokens, "dropout": dropout,
        "clip": clip, "every": every,
    }  # fmt: skip
    choices = {
        "tokenizer": tokenizer, "position_kind": position_kind, "placement": placement, "objective": objective,
        "next_sentence": next_sentence or None, "attention": attention, "cell": cell, "start": start,
        "pixels": pixels,
    }  # fmt: skip
    loop = {
        "seed": seed, "precision": precision, "accumulate": accumulate, "workers": workers,
        "tensorboard": tensorboard or None, "watch_gradients": watch is not None or None,
    }  # fmt: skip
    done = begin(
        kind, data, out, preset=preset, resume=resume,
        numbers=_given(numbers), choices=_given(choices), loop=_given(loop),
    )  # fmt: skip
    if done.finished:
        use = {"gpt": "generate", "bert": "fill", "translate": "translate", "caption": "caption"}[kind]
        print(f"{out}: finished. Try: qkv {use} {out} …")
    else:
        raise typer.Exit(130)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """Give the options that were given."""
    return {name: value for name, value in options.items() if value is not None}


See = Annotated[
    Path | None, typer.Option(metavar="PAGE.html", help="Write a page with the attention; qkv's own is replaced.")
]
Place = Annotated[str, typer.Argument(metavar="RUN|FOLDER|NAME", help="A run, or a model's folder or name.")]


@app.command()
def generate(
    run: Place,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What to continue, in quotes.")] = "",
    new: Annotated[int, typer.Option(help="The most tokens to add, within the model's positions.")] = 100,
    temperature: Annotated[
        float | None, typer.Option(help="0 takes the likeliest token; 1 draws as the model says; by default 0.8.")
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="Draw from so many of the likeliest.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Draw from the fewest that make up this share.")] = None,
    beams: Annotated[int, typer.Option(help="Search with so many beams in place of drawing; 1 does not.")] = 1,
    seed: Annotated[int | None, typer.Option(help="The random seed.", min=0, max=2**63 - 1)] = None,
    see: See = None,
) -> None:
    """Continue a text with a GPT, as it comes."""
    from qkv.commands.generate import continue_text

    continue_text(
        run, text, new=new, temperature=temperature, top_k=top_k, top_p=top_p, beams=beams, seed=seed, see=see
    )


@app.command()
def fill(
    run: Place,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="A text with [MASK] in the place of words, in quotes.")],
    best: Annotated[int, typer.Option(help="How many guesses to show.")] = 5,
    see: See = None,
) -> None:
    """Guess the masked words of a text with a BERT."""
    from qkv.commands.fill import fill_text

    fill_text(run, text, best=best, see=see)


@app.command()
def translate(
    run: Place,
    texts: Annotated[list[str], typer.Argument(metavar="TEXT...", help="What to translate, each in quotes.")],
    beams: Annotated[int, typer.Option(help="Search with so many beams; 1 takes the likeliest token.")] = 4,
    length_penalty: Annotated[
        float, typer.Option(help="The exponent of a translation's length: more prefers longer ones.")
    ] = 1.0,
    see: See = None,
) -> None:
    """Translate texts."""
    from qkv.commands.translate import translate_texts

    translate_texts(run, texts, beams=beams, length_penalty=length_penalty, see=see)


@app.command()
def caption(
    run: Place,
    image: Annotated[str | None, typer.Argument(metavar="IMAGE", help="A picture's file.")] = None,
    scene: Annotated[int | None, typer.Option(help="A scene of handwritten digits, by its number.")] = None,
    see: See = None,
) -> None:
    """Read a picture word by word."""
    from qkv.commands.caption import caption_picture

    caption_picture(run, image, number=scene, see=see)


lab = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Answer questions about attention by experiments.")
app.add_typer(lab, name="lab")

Results = Annotated[Path, typer.Option("--out", metavar="DIR", help="Where results are kept.")]
Language = Annotated[str, typer.Option("--lang", metavar="en|zh", help="The language.")]
Full = Annotated[bool, typer.Option("--full", help="The larger form, meant for a GPU.")]
Table = Annotated[
    Path | None,
    typer.Option(metavar="PATH", help="Your own pairs, with --full: two columns, or JSON; dates without it."),
]


@lab.command("list")
def list_labs(out: Results = Path("labs"), lang: Language = "en", full: Full = False, data: Table = None) -> None:
    """List the labs, each with its question."""
    from qkv.commands.lab import list_labs

    list_labs(out, lang, full=full, data=data)


@lab.command("show")
def show_lab(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A lab.")],
    out: Results = Path("labs"),
    lang: Language = "en",
    full: Full = False,
    data: Table = None,
) -> None:
    """Show a question, its answer, and what was measured last."""
    from qkv.commands.lab import show_lab

    show_lab(name, out, lang, full=full, data=data)


@lab.command("run")
def run_lab(
    names: Annotated[list[str], typer.Argument(metavar="NAME...|all", help="Which labs.")],
    seeds: Annotated[int, typer.Option(help="How many seeds.")] = 3,
    first_seed: Annotated[int, typer.Option(help="The first of them.")] = 0,
    full: Full = False,
    data: Table = None,
    chinese: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="A Chinese BERT's folder, for contextual: Chinese words as well."),
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Measure again what is measured already.")] = False,
    out: Results = Path("labs"),
    lang: Language = "en",
) -> None:
    """Run experiments; what is measured already is not measured again. Exit status 1 if one did not come out."""
    from qkv.commands.lab import run

    try:
        fine = run(
            names, seeds=seeds, first_seed=first_seed, full=full, data=data, chinese=chinese, out=out, again=again,
            language=lang,
        )  # fmt: skip
    except KeyboardInterrupt:
        print("stopped; what is measured is kept, and the same command goes on", file=sys.stderr)
        raise typer.Exit(130) from None
    if not fine:
        raise typer.Exit(1)


@lab.command("report")
def report_labs(out: Results = Path("labs"), full: Full = False, data: Table = None) -> None:
    """Write the report of what was measured: a page for each question, in English and Chinese."""
    from qkv.commands.lab import report

    report(out, full=full, data=data)
