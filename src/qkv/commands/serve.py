"""What `qkv see --serve` does."""

from collections.abc import Sequence

from qkv.lens.reading import Reading, read
from qkv.lens.serve import serve
from qkv.lens.serve.run import check_served
from qkv.models.pretrained import default_folder, load_bert
from qkv.text.tokenizer import load_tokenizer


def serve_models(names: Sequence[str | None], texts: Sequence[str], *, port: int | None, browser: bool) -> None:
    """Serve models, by their folders or names; None is MiniLM.

    Raises: as `serve`, before any model is loaded; FileError for what cannot be loaded.
    """
    check_served(port)
    models = {}
    for name in names:
        folder = name or default_folder()
        model, tokenizer = load_bert(folder), load_tokenizer(folder)

        def reader(text: str, model=model, tokenizer=tokenizer) -> Reading:  # type: ignore[no-untyped-def]
            return read(model, tokenizer, text)

        models[name or "all-MiniLM-L6-v2"] = reader
    serve(models, texts, port=port, browser=browser)
