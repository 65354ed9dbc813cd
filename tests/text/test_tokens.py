"""Token files: what was written is read, and nothing that is half, stale or another's is ever read."""

import os
import pickle
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from qkv.errors import ArgumentError, FileError
from qkv.text import tokens as module
from qkv.text.corpus import read_texts
from qkv.text.tokenizer import END_OF_TEXT, characters, train_byte_bpe
from qkv.text.tokens import TokenFile, token_file

TEXTS = ["hello", "老鼠", "", "world, hello"]
LETTERS = characters(TEXTS, special=("[UNK]", END_OF_TEXT))


def made(folder, texts=TEXTS, tokenizer=LETTERS, identity="texts", **options):
    return token_file(folder / "a.tokens", texts, tokenizer, identity=identity, progress=False, **options)


def test_what_is_written_is_read(tmp_path):
    file = made(tmp_path)
    assert [LETTERS.decode(document.tolist()) for document in file] == TEXTS
    assert (len(file), file.lengths.tolist(), file.vocabulary) == (4, [5, 2, 0, 12], LETTERS.get_vocab_size())
    assert file.start is None
    assert file.part(4, 7).tolist() == LETTERS.encode("o老鼠").ids
    assert file.tokens.dtype == np.uint16 and file[0].dtype == torch.long
    assert os.listdir(tmp_path) == ["a.tokens"]


def test_documents_begin_with_the_start(tmp_path):
    file = made(tmp_path, start=END_OF_TEXT)
    assert (file.start, file.lengths.tolist()) == (1, [6, 3, 1, 13]) and all(document[0] == 1 for document in file)


def test_more_texts_than_are_held_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_AT_ONCE", 50)
    texts = ["a" * random.Random(number).randint(0, 90) for number in range(100)]
    file = made(tmp_path, texts, characters(["a"]))
    assert file.lengths.tolist() == list(map(len, texts))


def test_a_large_vocabulary_takes_more_room(tmp_path):
    letters = [chr(code) for code in range(0x10000, 0x10000 + 66_000)]
    tokenizer = characters(["".join(letters)])
    file = made(tmp_path, [letters[-1], letters[0]], tokenizer)
    assert file.tokens.dtype == np.uint32
    assert [tokenizer.decode(document.tolist()) for document in file] == [letters[-1], letters[0]]


def test_it_is_made_once_and_anew_when_something_changed(tmp_path):
    def read(texts):
        reads.append(1)
        yield from texts

    reads = []
    for _ in range(2):
        made(tmp_path, read(TEXTS))
    assert len(reads) == 1
    assert len(made(tmp_path, read(["other"]), identity="other texts")) == 1
    assert made(tmp_path, read(["hello"]), train_byte_bpe(["hello"], 257), identity="other texts").vocabulary == 257
    made(tmp_path, read(["hello"]), train_byte_bpe(["hello"], 257), identity="other texts", start=END_OF_TEXT)
    assert len(reads) == 4


def test_files_are_their_own_identity(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("hello\n\nworld")
    assert len(token_file(tmp_path / "a.tokens", read_texts(path), LETTERS)) == 2
    path.write_text("hello\n\nworld\n\nhello")
    assert len(token_file(tmp_path / "a.tokens", read_texts(path), LETTERS)) == 3


def test_the_last_tokens_are_held_out(tmp_path):
    file = made(tmp_path, ["hello"] * 20)
    training, validation = file.split(0.1)
    assert (len(training), len(validation)) == (18, 2)
    assert training[17].tolist() == validation[0].tolist() == file[0].tolist()
    first, second = training.split(0.5)
    assert (len(first), len(second), second.lengths.tolist()) == (9, 9, [5] * 9)


def test_one_document_is_cut_where_it_must_be(tmp_path):
    training, validation = made(tmp_path, ["hello" * 20]).split(0.1)
    assert training.lengths.tolist() == [90] and validation.lengths.tolist() == [10]
    assert LETTERS.decode(validation[0].tolist()) == "hellohello"
    with pytest.raises(ArgumentError, match=r"^TokenFile.split: share must leave tokens on both sides; got 0.0 \("):
        validation.split(0.0)


def test_another_process_opens_it_again(tmp_path):
    _, validation = made(tmp_path, ["hello"] * 1000).split(0.5)
    packed = pickle.dumps(validation)
    assert len(packed) < 1000
    assert [document.tolist() for document in pickle.loads(packed)] == [document.tolist() for document in validation]


PROGRAM = """
import os, signal, sys
from qkv.text.tokenizer import characters
from qkv.text import tokens

def texts():
    for number in range(50_000):
        if number == {at}:
            os.kill(os.getpid(), signal.SIGKILL)
        yield "hello"

if {patch!r}:
    setattr(os, {patch!r}, lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL))
tokens.token_file({path!r}, texts(), characters(["hello"]), identity={identity!r}, progress=False)
print("made")
"""


@pytest.mark.slow
@pytest.mark.parametrize("at, patch", [(0, ""), (40_000, ""), (-1, "fsync"), (-1, "replace")])
def test_killed_half_way_nothing_half_is_read(tmp_path, at, patch):
    path = str(tmp_path / "a.tokens")
    program = PROGRAM.format(at=at, patch=patch, path=path, identity="texts")
    assert subprocess.run([sys.executable, "-c", program]).returncode == -signal.SIGKILL
    assert not os.path.exists(path)
    # What it left behind goes when it is old.
    (left,) = [name for name in os.listdir(tmp_path) if name.startswith(".a.tokens.")]
    made(tmp_path, identity="texts")
    assert left in os.listdir(tmp_path)
    os.utime(tmp_path / left, (time.time() - 7200,) * 2)
    assert len(made(tmp_path, identity="other")) == 4
    assert os.listdir(tmp_path) == ["a.tokens"]


@pytest.mark.slow
def test_killed_while_made_anew_the_old_one_is_whole(tmp_path):
    made(tmp_path)
    program = PROGRAM.format(at=40_000, patch="", path=str(tmp_path / "a.tokens"), identity="other")
    assert subprocess.run([sys.executable, "-c", program]).returncode == -signal.SIGKILL
    assert len(TokenFile(tmp_path / "a.tokens")) == 4


@pytest.mark.slow
def test_several_processes_make_the_same_file(tmp_path):
    program = PROGRAM.format(at=-1, patch="", path=str(tmp_path / "a.tokens"), identity="texts")
    running = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) for _ in range(2)]
    assert [process.communicate()[0] for process in running] == [b"made\n"] * 2
    assert len(TokenFile(tmp_path / "a.tokens")) == 50_000 and os.listdir(tmp_path) == ["a.tokens"]


@pytest.mark.parametrize("size", [0, 5, 30, 100, -1, -20])
def test_a_file_that_was_cut_off_is_not_read_but_made_anew(tmp_path, size):
    path = made(tmp_path, TEXTS * 9).path
    content = path.read_bytes()
    path.write_bytes(content[:size])
    with pytest.raises(FileError, match=r"^TokenFile: .*/a\.tokens must be a whole token file; got \d+ bytes of"):
        TokenFile(path)
    if size > len(module._BEGIN) or size < 0:
        assert len(made(tmp_path)) == 4


def test_a_file_whose_numbers_do_not_fit_is_not_read(tmp_path):
    path = made(tmp_path).path
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"tokens": 19', b'"tokens": 99'))
    with pytest.raises(FileError, match=r"^TokenFile: .* must hold 99 tokens; got \d+ bytes$"):
        TokenFile(path)
    path.write_bytes(content.replace(b'"uint16"', b'"uint0x"'))
    with pytest.raises(FileError, match=r"^TokenFile: .* must be a whole token file; got data type 'uint0x' not under"):
        TokenFile(path)


def test_another_file_is_not_written_over(tmp_path):
    (tmp_path / "a.tokens").write_text("precious")
    with pytest.raises(FileError, match=r"^token_file: .*/a\.tokens must be a token file, or new; got something else"):
        made(tmp_path)
    assert (tmp_path / "a.tokens").read_text() == "precious"
    (tmp_path / "a.tokens").unlink()
    (tmp_path / "a.tokens").mkdir()
    with pytest.raises(FileError, match=r"must be a token file, or new; got Is a directory"):
        made(tmp_path)


def test_what_cannot_be_made(tmp_path, monkeypatch):
    with pytest.raises(ArgumentError, match=r"^token_file: identity must be a name for these texts; got None$"):
        made(tmp_path, identity=None)
    with pytest.raises(ArgumentError, match=r"^token_file: start must be a token of the tokenizer; got '<s>'$"):
        made(tmp_path, start="<s>")
    with pytest.raises(FileError, match=r"^token_file: texts must hold a token; got 2 texts without one$"):
        made(tmp_path, ["", ""])
    with pytest.raises(
        FileError, match=r"^token_file: .*/none/a\.tokens must be writable; got No such file or directory$"
    ):
        made(tmp_path / "none")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileError, match=r"^token_file: .*/a\.tokens must be writable; got No space left on device$"):
        made(tmp_path)
    assert os.listdir(tmp_path) == []


def test_half_of_a_surrogate_pair_is_no_crash(tmp_path):
    assert made(tmp_path, ["a\ud800"]).lengths.tolist() == [2]


def test_the_bar_shows_rate_and_estimate(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    path = tmp_path / "a.txt"
    path.write_text("hello\n\n" * 50)
    token_file(tmp_path / "a.tokens", read_texts(path), LETTERS)
    shown = capsys.readouterr().err
    assert "250" in shown and "tokens" in shown and "/s" in shown
