"""Corpora made ready once."""

import pytest

from qkv import errors
from qkv.text.tokenizer import END_OF_TEXT, characters, train_byte_bpe
from qkv.training import prepared
from qkv.training.held_out import is_held_out
from qkv.training.prepared import prepare_pairs, prepare_texts

TEXT = "The cat chased a small grey mouse into its hole.\n" * 60


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("QKV_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_text_of_which_nothing_can_be_held_out_is_named(tmp_path):
    path = tmp_path / "short.txt"
    path.write_text("hi")
    text = rf"^train: {path} must hold at least 20 tokens; got 2 \(a part of them is held out: give more text\)$"
    with pytest.raises(errors.FileError, match=text):
        prepare_texts(str(path), characters, "characters")


@pytest.mark.parametrize("held_out", [False, True])
def test_a_pair_that_is_too_long_is_named_by_its_line(tmp_path, held_out):
    lines = [f"{number} cats\t{number} chats" for number in range(100)]
    # A pair twice, and a blank line: its number among those learned from is another.
    lines[3:3] = ["", lines[0], lines[1]]
    at = next(line for line in range(50, 90) if is_held_out(f"{lines[line]}") == held_out)
    source = next(f"{'long' * 9} {tail}" for tail in range(99) if is_held_out(f"{'long' * 9} {tail}") == held_out)
    lines[at] = f"{source}\tshort"
    lines.append(f"{'longer' * 9}\tshort")
    path = tmp_path / "pairs.tsv"
    path.write_text("\n".join(lines))
    count = len(source) + 1
    more = "" if is_held_out("longer" * 9) != held_out else "; and 1 more pairs"
    text = (
        rf"^train: {path} must hold pairs of at most 20 tokens; got {count} "
        rf"\(line {at + 1}, with its end{more}: leave it out, or give --positions\)$"
    )
    others = lines[:at] + lines[at + 1 : -1]
    with pytest.raises(errors.FileError, match=text):
        prepare_pairs(str(path), characters, "characters", longest=20)
    path.write_text("\n".join(others))
    assert len(prepare_pairs(str(path), characters, "characters", longest=20).training[0]) > 50


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
