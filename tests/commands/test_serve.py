"""`qkv see --serve`: what is wrong is said before any model is loaded; what is right is served."""

import re

import pytest
from typer.testing import CliRunner

import qkv.cli
from qkv.commands import serve as module
from qkv.errors import ArgumentError
from qkv.lens.reading import Reading

pytest.importorskip("uvicorn", reason="uvicorn is not installed")
# Typer gives None where the shape checks want what is written.
pytestmark = pytest.mark.unhooked


def invoke(*arguments):
    return CliRunner().invoke(qkv.cli.app, ["see", *arguments]).exception


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--serve", "--layer", "0"], "see: --layer must be left out with --serve; got 0 (the page shows it)"),
        (["--serve", "--sort", "first"], "see: --sort must be left out with --serve; got first (the page shows it)"),
        (["--serve", "--out", "x"], "see: --out must be left out with --serve; got x (the page shows it)"),
        (["a", "--port", "3"], "see: --port must come with --serve; got it alone (qkv see --serve opens a page)"),
        (["a", "--no-open"], "see: --no-open must come with --serve; got it alone (qkv see --serve opens a page)"),
        (["a", "--beside", "b"], "see: --beside must come with --serve; got it alone (qkv see --serve opens a page)"),
        ([], "see: TEXT must be given; got none (a sentence in quotes, or --serve)"),
        (["--serve", "--port", "-1"], "serve: port must lie in 0..65535; got -1 (0 takes any that is free)"),
    ],
)
def test_what_is_wrong_is_said_before_a_model_is_loaded(monkeypatch, arguments, text):
    monkeypatch.setattr(module, "load_any", lambda command, place: pytest.fail("a model was loaded"))
    found = invoke(*arguments)
    assert isinstance(found, ArgumentError) and str(found) == text


def test_models_are_served_by_the_names_they_were_given(monkeypatch):
    class Model:
        positions = 10

    class Tokenizer:
        def encode(self, text):
            return type("Encoding", (), {"ids": text.split()})

    served, read = {}, []
    monkeypatch.setattr(module, "load_any", lambda command, place: (Model(), Tokenizer()))

    def tell(model, tokenizer, text):
        read.append((model, text))
        return Reading(text, [], [], [], [], [], [])

    monkeypatch.setattr(module, "read", tell)
    monkeypatch.setattr(module, "serve", lambda models, texts, **options: served.update(models, texts=texts, **options))
    assert invoke("a b", "c", "--serve", "--model", "first", "--beside", "second", "--no-open", "--port", "0") is None
    assert list(served) == ["first", "second", "texts", "port", "browser", "language"]
    assert (served["texts"], served["port"], served["browser"]) == (["a b", "c"], 0, False)
    served["second"]("one two")
    served["first"]("one")
    assert [text for _, text in read] == ["one two", "one"] and read[0][0] is not read[1][0]
    monkeypatch.setattr(module, "LONGEST", 2)
    text = "see: TEXT must have at most 2 tokens; got 3"
    with pytest.raises(ArgumentError, match=f"^{re.escape(text)}$"):
        served["first"]("one two \ud800")
