"""Words in context are kept on the disk, found again, and nothing but a whole index of this model is read."""

import json
import os
import shutil
import signal
import subprocess
import sys

import architectures
import numpy as np
import pytest
import torch

import qkv
from qkv.errors import ArgumentError, FileError, KindError, UnsupportedError
from qkv.lens.index import Words
from qkv.lens.indexing import plan, words
from qkv.lens.reading import read

TEXTS = [
    "the cat playing the mouse .",
    "click the mouse",
    "",
    "The Mouse click .",
    "鼠标 click",
    "鼠 鼠标 cat",
    ". . .",
]


@pytest.fixture
def bert():
    torch.manual_seed(0)
    config = qkv.BertConfig(13, width=8, layers=2, heads=2, feed_forward=16, positions=64)
    return qkv.Bert(config).eval()


@pytest.fixture
def index(bert, tokenizer, tmp_path):
    return words(tmp_path / "index", TEXTS, bert, tokenizer)


def test_every_word_has_the_mean_of_its_tokens_vectors(bert, tokenizer, index):
    # "playing" is two tokens; [CLS], [SEP] and "." are no words; the text without a word is not kept.
    assert index.about["sentences"] == 5 and len(index) == 5 + 3 + 3 + 3 + 4
    (row,) = index.find("playing")
    reading = read(bert, tokenizer, TEXTS[0])
    for layer in (0, 1, 2):
        expected = reading.hidden[layer][3:5].mean(0)
        torch.testing.assert_close(index.vectors(row[None], layer)[0], expected, atol=2e-3, rtol=1e-3)
    assert {str(path.name) for path in index.path.iterdir()} == {
        "words.json", "texts.bin", "edges.bin", "places.bin", "centre.bin", "layer-0.bin", "layer-1.bin", "layer-2.bin"
    }  # fmt: skip


def test_a_word_is_found_in_any_case_and_across_characters(index):
    assert [index.text(int(index.places["sentence"][row[0]])) for row in index.find("MOUSE")] == [
        TEXTS[0], TEXTS[1], TEXTS[3]
    ]  # fmt: skip
    found = [index.text(int(index.places["sentence"][row[0]])) for row in index.find("鼠标")]
    assert found == [TEXTS[4], TEXTS[5]] and index.find("鼠标").shape == (2, 2)
    assert len(index.find("鼠")) == 3
    assert len(index.find("mouse click")) == 1
    for nothing in ("dog", "", "  ", "!", "cat cat", "鼠click"):
        with pytest.raises(ArgumentError, match=r"^words: word must stand in the index; got "):
            index.find(nothing)


def test_the_nearest_are_those_of_the_largest_cosine(bert, tokenizer, index):
    asked = "click the cat mouse"
    reading = read(bert, tokenizer, asked)
    found = index.nearest(reading, "mouse", count=2)
    assert (found.text, found.start, found.stop) == (asked, 14, 19)
    places = {TEXTS[0]: 6, TEXTS[1]: 3, TEXTS[3]: 2}
    every = {text: read(bert, tokenizer, text) for text in TEXTS if any(one.isalnum() for one in text)}
    for layer in (0, 1, 2):
        kept = [
            one.hidden[layer][place]
            for one in every.values()
            for place, label in enumerate(one.labels)
            if label not in ("[CLS]", "[SEP]", ".", "play", "##ing")
        ]
        centre = torch.stack([*kept, every[TEXTS[0]].hidden[layer][3:5].mean(0)]).mean(0)
        for got, less in ((found.layers[layer].raw, 0), (found.layers[layer].centred, centre)):
            mine = reading.hidden[layer][4] - less
            cosines = [
                float(torch.cosine_similarity(mine, every[text].hidden[layer][place] - less, 0))
                for text, place in places.items()
            ]
            assert [one.near for one in got] == pytest.approx(sorted(cosines, reverse=True)[:2], abs=5e-3)
            assert all(one.text[one.start : one.stop].lower() == "mouse" for one in got)
    # Its token is the fourth after [CLS]; those of the others the sixth, third and second.
    assert [(one.text, one.near) for one in found.position] == [(TEXTS[1], -1), (TEXTS[0], -2)]
    assert len({one.text[one.start : one.stop].lower() for one in found.others}) == 2
    assert "mouse" not in {one.text[one.start : one.stop].lower() for one in found.others}
    assert found.found.texts[-1] == asked and len(found.found.vectors) == 3
    assert [len(part) for part in (found.found.texts, found.found.marks, found.found.vectors[0])] == [4, 4, 4]


def test_the_texts_own_sentence_is_no_neighbour(bert, tokenizer, index):
    found = index.nearest(read(bert, tokenizer, TEXTS[1]), "mouse")
    assert {one.text for one in found.position} == {TEXTS[0], TEXTS[3]}
    with pytest.raises(ArgumentError, match=r"must stand in another sentence of the index; got 'playing' \(this one"):
        index.nearest(read(bert, tokenizer, TEXTS[0]), "playing")
    with pytest.raises(ArgumentError, match=r"^Words.nearest: count must be >= 1; got 0"):
        index.nearest(read(bert, tokenizer, TEXTS[1]), "mouse", 0)


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
torch.manual_seed(0)
bert = qkv.Bert(qkv.BertConfig(13, width=8, layers=2, heads=2, feed_forward=16, positions=64))
texts = [f"click {'the ' * (number % 5)}mouse cat" for number in range(40)]
tell = lambda done, total: done >= 13 and os.kill(os.getpid(), signal.SIGKILL)
indexing.words(sys.argv[2], texts, bert, Tokenizer.from_file(sys.argv[1]), most=30, tell=tell)
"""


def test_an_index_goes_on_after_a_crash_bit_for_bit(bert, tokenizer, tmp_path, monkeypatch):
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


def test_another_model_or_corpus_is_refused(bert, tokenizer, index, tmp_path):
    index.check(bert, tokenizer)
    torch.manual_seed(1)
    other = qkv.Bert(bert.config)
    rule = r"must be of this model; it was made with another; got another model or tokenizer \(load the model that"
    with pytest.raises(FileError, match=rf"^Words.check: .*index {rule}"):
        index.check(other, tokenizer)
    for texts, model in ((TEXTS[:2], bert), (TEXTS, other)):
        with pytest.raises(FileError, match=r"^words: .*index must be new, or an index of this .*; got another index"):
            words(tmp_path / "index", texts, model, tokenizer)


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: (path / "words.json").unlink(),
        lambda path: (path / "words.json").write_text("[]"),
        lambda path: (path / "words.json").write_text('{"format": "qkv words 1"}'),
        lambda path: (path / "words.json").write_bytes(b"\xff\x00"),
        lambda path: (path / "layer-1.bin").write_bytes(b""),
        lambda path: os.truncate(path / "places.bin", 5),
        lambda path: (path / "texts.bin").unlink(),
    ],
)
def test_what_is_broken_is_said(index, harm):
    harm(index.path)
    with pytest.raises(FileError, match=r"^Words: .*index must be an index that is whole; got .* \(qkv words CORPUS"):
        Words(index.path)


@pytest.mark.parametrize("name", ["words.json", "places.bin", "edges.bin", "centre.bin"])
def test_other_bytes_of_the_same_size_are_seen_at_once(index, name):
    path = index.path / name
    content = path.read_bytes()
    # A letter of the vocabulary, and of numbers any byte.
    at = content.index(b"playing") if name == "words.json" else len(content) // 2
    path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    with pytest.raises(FileError, match=rf"^Words: .*index must be .*got .*{name}"):
        Words(index.path)


@pytest.mark.parametrize("name", ["texts.bin", "layer-0.bin", "layer-2.bin"])
def test_other_vectors_and_texts_are_seen_where_they_are_read(bert, tokenizer, index, name):
    size = (index.path / name).stat().st_size
    (index.path / name).write_bytes(b"\xff" * size)
    rule = rf"index must be as it was written; got other bytes from 0 on in {name} \(remove it; qkv words"
    with pytest.raises(FileError, match=rf"^Words: .*{rule}"):
        Words(index.path).nearest(read(bert, tokenizer, "click the cat mouse"), "mouse")


def test_what_is_no_index_is_left_alone(bert, tokenizer, index, tmp_path):
    with pytest.raises(FileError, match=r"^Words: .*none must be an index; got nothing \(qkv words CORPUS --out"):
        Words(tmp_path / "none")
    mine = tmp_path / "mine"
    mine.write_text("mine")
    with pytest.raises(FileError, match=r"^words: .*mine must be new or an index; got a file \(choose another name"):
        words(mine, TEXTS, bert, tokenizer)
    assert mine.read_text() == "mine"
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(FileError, match=r"^words: .*folder must be new or an index; got a folder without words.json"):
        words(folder, TEXTS, bert, tokenizer)


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
