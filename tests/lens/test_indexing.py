"""An index is made of any texts, with its size told before, and the same whatever interrupts it."""

import json
import shutil
import signal
import subprocess
import sys

import architectures
import numpy as np
import pytest
import torch
from mouse_texts import TEXTS

import qkv
from qkv.errors import ArgumentError, FileError, KindError, UnsupportedError
from qkv.lens.indexing import plan, words


def test_places_of_a_frequent_word_are_spread(bert, tokenizer, tmp_path):
    texts = [f"{'click ' * (number + 1)}cat" for number in range(9)]
    index = words(tmp_path / "index", texts, bert, tokenizer, most=3, layers=[2])
    assert index.layers == (0, 2)
    assert [len(index.find(word)) for word in ("cat", "click")] == [3, 3]
    # Of 9 places those at 1/3, 2/3 and the end.
    assert [index.text(int(index.places["sentence"][row[0]])) for row in index.find("cat")] == texts[2::3]
    assert len(words(tmp_path / "all", texts, bert, tokenizer, most=None).find("cat")) == 9


def test_the_size_is_told_before(bert, tokenizer, tmp_path):
    before = plan(tmp_path / "index", TEXTS, bert, tokenizer)
    assert (before.sentences, before.words, before.done) == (6, 18, False)
    told = []
    before.build(lambda done, total: told.append((done, total)))
    size = sum(path.stat().st_size for path in (tmp_path / "index").glob("*.bin"))
    assert size - 3 * 8 * 4 <= before.bytes <= size + 200
    assert told[-1] == (6, 6) and told == sorted(told)
    # What is there is opened, and nothing is read again.
    again = plan(tmp_path / "index", TEXTS, bert, tokenizer)
    assert again.done
    again.build(lambda done, total: pytest.fail("read again"))


def test_a_part_may_hold_no_word(bert, tokenizer, tmp_path, monkeypatch):
    whole = words(tmp_path / "whole", TEXTS, bert, tokenizer)
    monkeypatch.setattr("qkv.lens.sentences.PART", 1)
    parts = words(tmp_path / "parts", [". .", *TEXTS], bert, tokenizer)
    assert (parts.places == whole.places).all() and [parts.text(number) for number in range(5)] == [
        whole.text(number) for number in range(5)
    ]


def test_texts_of_all_lengths_and_kinds(bert, tokenizer, tmp_path):
    texts = ["cat " * 300, "x" * 1_000_000, "\x1b]0;owned\x07 cat \u202e", "cat \ud800 mouse", "\x00 cat", "   "]
    index = words(tmp_path / "index", texts, bert, tokenizer)
    # Of the first 62 tokens between [CLS] and [SEP].
    assert len(index.find("cat")) == 62 + 3
    assert index.places["stop"].max() < 1000
    torch.manual_seed(1)
    assert torch.isfinite(index.vectors(index.find("mouse"), 2)).all()


LONG = [f"click {'the ' * (number % 5)}mouse cat" for number in range(40)]

CRASH = """
import os, signal, sys, torch, qkv
from tokenizers import Tokenizer
from qkv.lens import batches, indexing, sentences
sentences.PART, batches.TOKENS = 2, 8
torch.set_num_threads(3)
torch.manual_seed(0)
bert = qkv.Bert(qkv.BertConfig(13, width=8, layers=2, heads=2, feed_forward=16, positions=64))
texts = [f"click {'the ' * (number % 5)}mouse cat" for number in range(40)]
tell = lambda done, total: done >= 13 and os.kill(os.getpid(), signal.SIGKILL)
indexing.words(sys.argv[2], texts, bert, Tokenizer.from_file(sys.argv[1]), most=30, tell=tell)
"""


def test_an_index_goes_on_after_a_crash_bit_for_bit_on_any_number_of_threads(bert, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("qkv.lens.sentences.PART", 2)
    monkeypatch.setattr("qkv.lens.batches.TOKENS", 8)
    whole = words(tmp_path / "whole", LONG, bert, tokenizer, most=30)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    command = [sys.executable, "-c", CRASH, tmp_path / "tokenizer.json", tmp_path / "broken"]
    assert subprocess.run(command).returncode == -signal.SIGKILL
    growing = tmp_path / ".broken.growing"
    assert not (tmp_path / "broken").exists()
    assert json.loads((growing / "progress.json").read_text())["parts"] == 6
    # A part that was half written.
    with open(growing / "layer-1.bin", "ab") as file:
        file.write(b"half")

    def stop(done, total):
        assert done > 12
        if done > 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        words(tmp_path / "broken", LONG, bert, tokenizer, most=30, tell=stop)
    assert json.loads((growing / "progress.json").read_text())["parts"] == 15
    words(tmp_path / "broken", LONG, bert, tokenizer, most=30)
    assert not growing.exists()
    for path in whole.path.iterdir():
        assert path.read_bytes() == (tmp_path / "broken" / path.name).read_bytes(), path.name


def test_what_cannot_be_indexed_is_said_before(bert, tokenizer, tmp_path):
    target = tmp_path / "index"
    rule = r"be a Bert or Gpt of qkv, or a model of transformers; got Transformer$"
    with pytest.raises(UnsupportedError, match=rf"^words: model must {rule}"):
        words(target, TEXTS, qkv.Transformer(qkv.TransformerConfig(13, 8, 1, 2, 16)), tokenizer)
    with pytest.raises(KindError, match=r"^words: texts must be readable twice; got list_iterator \(a list, or"):
        words(target, iter(TEXTS), bert, tokenizer)
    with pytest.raises(ArgumentError, match=r"^words: texts must hold a word; got 1 texts without one$"):
        words(target, ["", ". ."], bert, tokenizer)
    with pytest.raises(ArgumentError, match=r"^words: layers must lie in 0\.\.2; got 3$"):
        words(target, TEXTS, bert, tokenizer, layers=[3])
    with pytest.raises(ArgumentError, match=r"^words: most must be >= 1; got 0"):
        words(target, TEXTS, bert, tokenizer, most=0)
    with torch.no_grad():
        bert.embeddings.norm.weight.mul_(1e6)
    with pytest.raises(UnsupportedError, match=r"^words: model must give vectors that float16 holds; got .* \(after l"):
        words(target, TEXTS, bert, tokenizer)
    assert not target.exists()


def test_another_corpus_or_model_is_refused(bert, tokenizer, tmp_path):
    words(tmp_path / "index", TEXTS, bert, tokenizer)
    torch.manual_seed(1)
    other = qkv.Bert(bert.config)
    for texts, model in ((TEXTS[:2], bert), (TEXTS, other)):
        with pytest.raises(FileError, match=r"^words: .*index must be new, or an index of this .*; got another index"):
            words(tmp_path / "index", texts, model, tokenizer)


def test_what_is_no_index_is_left_alone(bert, tokenizer, tmp_path):
    mine = tmp_path / "mine"
    mine.write_text("mine")
    with pytest.raises(FileError, match=r"^words: .*mine must be new or an index; got a file \(choose another name"):
        words(mine, TEXTS, bert, tokenizer)
    assert mine.read_text() == "mine"
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(FileError, match=r"^words: .*folder must be new or an index; got a folder without words.json"):
        words(folder, TEXTS, bert, tokenizer)


@pytest.mark.unhooked
def test_what_is_no_text_is_said(bert, tokenizer, tmp_path):
    target = tmp_path / "index"
    for texts, got in (("the cat", "str"), (None, "NoneType")):
        with pytest.raises(KindError, match=rf"^words: texts must be many strings; got {got} \(a list of sentences"):
            words(target, texts, bert, tokenizer)
    with pytest.raises(KindError, match=r"^words: texts must hold strings; got 1$"):
        words(target, ["the cat", 1], bert, tokenizer)
    assert not target.exists()


def test_two_processes_do_not_grow_one_index(bert, tokenizer, tmp_path):
    made = plan(tmp_path / "index", TEXTS, bert, tokenizer)
    made.growing.mkdir()
    hold = "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, made.growing / "lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        other.stdout.readline()
        with pytest.raises(FileError, match=r"^words: .*growing must not grow in another process; got "):
            made.build()
        other.communicate("\n")
    shutil.rmtree(made.growing)
    assert len(made.build()) == 18


def test_a_gpt_and_the_encoder_of_a_pair_are_indexed(tokenizer, tmp_path):
    gpt = qkv.Gpt(qkv.GptConfig(13, width=8, layers=1, heads=2, feed_forward=16, positions=16))
    assert words(tmp_path / "gpt", TEXTS, gpt, tokenizer).layers == (0, 1)
    pytest.importorskip("transformers", reason="transformers is not installed")
    bart = architectures.tiny(architectures.PAIRS["bart"])
    assert words(tmp_path / "bart", TEXTS, bart, tokenizer).layers == (0, 1, 2)


def test_models_of_transformers_are_indexed(tokenizer, tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=13, n_embd=8, n_layer=1, n_head=2, n_positions=16)
    model = transformers.GPT2Model(config)
    index = words(tmp_path / "index", TEXTS, model, tokenizer)
    assert model.training and index.layers == (0, 1)
    tokens = torch.tensor([tokenizer.encode(TEXTS[1]).ids])
    expected = model.eval()(input_ids=tokens, output_hidden_states=True).hidden_states[1][0, 3]
    row = index.find("mouse")[1]
    assert index.text(int(index.places["sentence"][row[0]])) == TEXTS[1]
    torch.testing.assert_close(index.vectors(row[None], 1)[0], expected, atol=2e-3, rtol=1e-3)
    assert np.isfinite(index.places["start"]).all()
