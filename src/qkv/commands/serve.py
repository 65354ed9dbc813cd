"""What `qkv see --serve` does."""

from collections.abc import Sequence

from qkv.commands.see import text_of
from qkv.commands.trained import load_any
from qkv.errors import ArgumentError, must
from qkv.lens.reading import Reading, read
from qkv.lens.serve import serve
from qkv.lens.serve.run import check_served
from qkv.models.pretrained import default_folder
from qkv.text.corpus import encodable

LONGEST = 1 << 15
"""Tokens of the longest text: a map of 32,768 × 32,768 is the largest that is shown."""


def serve_models(
    names: Sequence[str | None], texts: Sequence[str], *, port: int | None, browser: bool, language: str | None = None
) -> None:
    """Serve models, by their folders or names; None is MiniLM. `language` is the page's and the terminal's.

    Raises: as `serve`, before any model is loaded; FileError for what cannot be loaded.
    """
    check_served(port)
    texts = [text_of(text) for text in texts]
    models = {}
    for name in names:
        model, tokenizer = load_any("see", name or default_folder())

        def reader(text: str, model=model, tokenizer=tokenizer) -> Reading:  # type: ignore[no-untyped-def]
            tokens = len(tokenizer.encode(encodable(text)).ids)
            if tokens > LONGEST:
                raise ArgumentError(must("see", "TEXT", f"have at most {LONGEST:,} tokens", f"{tokens:,}"))
            return read(model, tokenizer, text)

        models[name or "all-MiniLM-L6-v2"] = reader
    serve(models, texts, port=port, browser=browser, language=language)
