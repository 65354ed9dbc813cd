"""`qkv words` indexes a corpus, and `qkv see --index` reads it."""

import json

import pytest

import qkv
from qkv.commands.words import index_words
from qkv.errors import ArgumentError, FileError
from qkv.lens.index import WordIndex
from qkv.lens.reading import read
from qkv.lens.see import see


def test_a_corpus_is_indexed_and_asked(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    corpus, out = tmp_path / "corpus.txt", tmp_path / "index"
    corpus.write_text("the cat\n\n\x1b[31mclick the mouse\n[bold]the mouse[/bold]\n")
    index_words(str(corpus), out, model=folder, layers=None, most=100, field=None)
    said = capsys.readouterr().err
    assert "3 sentences; 9 words at layers 0, 1: at most 0.0 MB" in said and "9 words. Try: qkv see" in said
    bert, tokenizer = qkv.load_bert(folder), qkv.load_tokenizer(folder)
    index = WordIndex(out)
    index.check(bert, tokenizer)
    numbers = tmp_path / "numbers.json"
    see([read(bert, tokenizer, "cat mouse")], model="tiny", word="mouse", index=index, numbers=numbers)
    shown = capsys.readouterr().out
    assert "“mouse” in cat «mouse»" in shown and "after L0" in shown and "Of 2 places in index." in shown
    assert "\x1b[31m" not in shown and "[bold]the «mouse»" in shown
    (found,) = json.loads(numbers.read_text())["nearest"]
    assert [layer["layer"] for layer in found["layers"]] == [0, 1]
    expected = index.nearest(read(bert, tokenizer, "cat mouse"), "mouse").layers[1].centred[0]
    assert found["layers"][1]["centred"][0] == {
        "text": expected.text, "start": expected.start, "stop": expected.stop, "near": expected.near
    }  # fmt: skip


def test_what_does_not_fit_is_said(folder, tmp_path, monkeypatch):
    corpus, out = tmp_path / "corpus.txt", tmp_path / "index"
    corpus.write_text("the cat\n")
    with pytest.raises(ArgumentError, match=r"^words: --layers must be numbers with commas between them; got 'a'$"):
        index_words(str(corpus), out, model=folder, layers="a", most=100, field=None)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10}))
    with pytest.raises(FileError, match=r"^words: --out must have room for 0.0 MB; got 0.0 MB \(fewer --layers or a s"):
        index_words(str(corpus), out, model=folder, layers="0", most=100, field=None)
    assert not out.exists()


def test_an_index_is_asked_for_a_word(folder, tmp_path):
    corpus, out = tmp_path / "corpus.txt", tmp_path / "index"
    corpus.write_text("the cat\n")
    index_words(str(corpus), out, model=folder, layers=None, most=0, field=None)
    reading = read(qkv.load_bert(folder), qkv.load_tokenizer(folder), "the mouse")
    with pytest.raises(ArgumentError, match=r"^see: --index must come with --word; got none \(the word to look up\)$"):
        see([reading], model="tiny", index=WordIndex(out))
    with pytest.raises(ArgumentError, match=r"^words: word must stand in the index; got 'mouse'$"):
        see([reading], model="tiny", word="mouse", index=WordIndex(out))
