"""Words in context are kept on the disk, found again, and nothing but a whole index of this model is read."""

import os

import pytest
import torch
from mouse_texts import TEXTS

import qkv
from qkv.errors import ArgumentError, FileError
from qkv.lens.index import WordIndex
from qkv.lens.indexing import words
from qkv.lens.reading import read


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
    with pytest.raises(ArgumentError, match=r"^WordIndex.nearest: count must be >= 1; got 0"):
        index.nearest(read(bert, tokenizer, TEXTS[1]), "mouse", 0)


def test_another_model_is_refused(bert, tokenizer, index):
    index.check(bert, tokenizer)
    torch.manual_seed(1)
    other = qkv.Bert(bert.config)
    rule = r"must be of this model; it was made with another; got another model or tokenizer \(load the model that"
    with pytest.raises(FileError, match=rf"^WordIndex.check: .*index {rule}"):
        index.check(other, tokenizer)


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
    with pytest.raises(FileError, match=r"^WordIndex: .*index must be an index that is whole; got .* \(qkv words C"):
        WordIndex(index.path)


@pytest.mark.parametrize("name", ["words.json", "places.bin", "edges.bin", "centre.bin"])
def test_other_bytes_of_the_same_size_are_seen_at_once(index, name):
    path = index.path / name
    content = path.read_bytes()
    # A letter of the vocabulary, and of numbers any byte.
    at = content.index(b"playing") if name == "words.json" else len(content) // 2
    path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    with pytest.raises(FileError, match=rf"^WordIndex: .*index must be .*got .*{name}"):
        WordIndex(index.path)


@pytest.mark.parametrize("name", ["texts.bin", "layer-0.bin", "layer-2.bin"])
def test_other_vectors_and_texts_are_seen_where_they_are_read(bert, tokenizer, index, name):
    size = (index.path / name).stat().st_size
    (index.path / name).write_bytes(b"\xff" * size)
    rule = rf"index must be as it was written; got other bytes from 0 on in {name} \(remove it; qkv words"
    with pytest.raises(FileError, match=rf"^WordIndex: .*{rule}"):
        WordIndex(index.path).nearest(read(bert, tokenizer, "click the cat mouse"), "mouse")


def test_what_is_no_index_is_said(tmp_path):
    with pytest.raises(FileError, match=r"^WordIndex: .*none must be an index; got nothing \(qkv words CORPUS --out"):
        WordIndex(tmp_path / "none")
