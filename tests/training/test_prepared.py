"""Corpora made ready once."""

import pytest

from qkv import errors
from qkv.text.tokenizer import END_OF_TEXT, characters, train_byte_bpe
from qkv.training import prepared
from qkv.training.prepared import prepare_pairs, prepare_texts

TEXT = "The cat chased a small grey mouse into its hole.\n" * 60


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("QKV_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def bpe(texts):
    return train_byte_bpe(texts, 270, special=(END_OF_TEXT,))


def test_a_text_is_made_ready_once(tmp_path, cache):
    path = tmp_path / "mouse.txt"
    path.write_text(TEXT)
    first = prepare_texts(str(path), bpe, "bpe", start=END_OF_TEXT)
    (training,), (held_out,) = first.training, first.held_out
    assert len(held_out.tokens) / (len(held_out.tokens) + len(training.tokens)) == pytest.approx(0.05, abs=0.03)
    assert first.tokenizer.decode(training.part(0, 40).tolist()).startswith("The cat chased")

    def never(texts):
        raise AssertionError("made again")

    again = prepare_texts(str(path), never, "bpe", start=END_OF_TEXT)
    assert again.identity == first.identity and again.tokenizer.to_str() == first.tokenizer.to_str()
    path.write_text(TEXT + "More.")
    text = (
        rf"^train: DATA must be what the run has begun with; got {path}, changed or moved since \(a run learns from one"
    )
    with pytest.raises(errors.FileError, match=text):
        prepare_texts(str(path), never, "bpe", start=END_OF_TEXT, begun=first.identity)
    assert prepare_texts(str(path), bpe, "bpe", start=END_OF_TEXT).identity != first.identity


def test_the_standard_library_where_nothing_is_given(monkeypatch):
    texts = {False: ["def f():\n    return 1\n" * 20], True: ["def g():\n    return 2\n" * 20]}
    monkeypatch.setattr(prepared.stdlib, "code", lambda *, held_out=False: iter(texts[held_out]))
    made = prepare_texts(None, bpe, "bpe", start=END_OF_TEXT)
    assert made.tokenizer.decode(made.training[0].tokens.tolist()) == texts[False][0]
    assert made.tokenizer.decode(made.held_out[0].tokens.tolist()) == texts[True][0]


def test_pairs(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text("".join(f"number {number}\tnombre {number}\n" for number in range(100)))
    made = prepare_pairs(str(path), characters, "characters")
    source, target = made.training
    assert len(source) == len(target) and len(source) + len(made.held_out[0]) == 100
    said = [made.tokenizer.decode(side[3].tolist()) for side in made.training]
    assert said[0].replace("number", "nombre") == said[1]


def test_dates_where_no_pairs_are_given(monkeypatch):
    pytest.importorskip("babel", reason="babel is an extra")
    monkeypatch.setattr(prepared, "DATES", 50)
    monkeypatch.setattr(prepared, "DATES_HELD_OUT", 7)
    made = prepare_pairs(None, characters, "characters")
    assert (len(made.training[0]), len(made.held_out[0])) == (50, 7)
    assert len(made.tokenizer.decode(made.training[1][0].tolist())) == 10


def test_a_cache_that_cannot_be(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("QKV_CACHE", str(tmp_path / "file"))
    path = tmp_path / "mouse.txt"
    path.write_text(TEXT)
    with pytest.raises(errors.FileError, match=r"must be writable; got Not a directory \(QKV_CACHE names"):
        prepare_texts(str(path), bpe, "bpe")
