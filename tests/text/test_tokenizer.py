"""Tokenizers of a folder: BERT's words, the whole file, and all that can be wrong."""

import json

import pytest

from qkv import errors
from qkv.text.tokenizer import load_tokenizer

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "the",
    "mouse",
    "##s",
    "caf",
    "##e",
    "##é",
    "老",
    "鼠",
    "The",
    "!",
    "老鼠",
]
TEXTS = ["The mouses!", "café 老鼠 the", "THE [MASK] mouse", "", "unknown the", "ca\u0301fe\u0301 café"]


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers", reason="transformers is an extra")


def write_words(folder, **options):
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    if options:
        (folder / "tokenizer_config.json").write_text(json.dumps(options))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"do_lower_case": False},
        {"tokenize_chinese_chars": False},
        {"do_lower_case": True, "strip_accents": False},
        {"do_lower_case": False, "strip_accents": True},
        {"unk_token": {"__type": "AddedToken", "content": "[UNK]"}},
    ],
    ids=str,
)
def test_words_make_berts_tokenizer(options, transformers, tmp_path):
    write_words(tmp_path, **options)
    ours = load_tokenizer(tmp_path)
    theirs = transformers.BertTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        expected = theirs(text, return_offsets_mapping=True)
        got = ours.encode(text)
        assert got.ids == expected["input_ids"], text
        assert got.offsets == expected["offset_mapping"], text
    pair, expected = ours.encode("the mouse", "the"), theirs("the mouse", "the")
    assert pair.ids == expected["input_ids"] and pair.type_ids == expected["token_type_ids"]
    assert ours.decode(pair.ids) == theirs.decode(expected["input_ids"], skip_special_tokens=True)


def test_a_tokenizer_neither_pads_nor_truncates(tmp_path):
    write_words(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    tokenizer.enable_padding(length=12)
    tokenizer.enable_truncation(3)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert load_tokenizer(tmp_path).encode("the the the the").ids == [2, 5, 5, 5, 5, 3]


@pytest.mark.parametrize(
    "name, data, message",
    [
        ("tokenizer.json", b'{"model"', "/tokenizer.json must hold a tokenizer; got "),
        ("vocab.txt", b"\xff\xfe", "/vocab.txt must hold words in UTF-8, one a line; got 'utf-8' codec"),
        ("vocab.txt", b"[PAD]\n[CLS]\n", "/vocab.txt must hold [UNK], [SEP]; got 2 other words"),
        ("merges.txt", b"", " must hold tokenizer.json or vocab.txt; got merges.txt"),
    ],
)
def test_broken_tokenizers(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(errors.FileError) as raised:
        load_tokenizer(tmp_path)
    assert str(raised.value).startswith(f"load_tokenizer: {tmp_path}{message}")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"unk_token": 5}, "give unk_token as a string; got 5"),
        ({"unk_token": ["a"]}, "give unk_token as a string; got ['a']"),
        ({"sep_token": {}}, "give sep_token as a string; got None"),
        ({"do_lower_case": "no"}, "give do_lower_case as true, false or null; got 'no'"),
        ({"strip_accents": 1}, "give strip_accents as true, false or null; got 1"),
    ],
)
def test_broken_options_of_a_tokenizer(tmp_path, options, message):
    write_words(tmp_path, **options)
    with pytest.raises(errors.FileError) as raised:
        load_tokenizer(tmp_path)
    assert str(raised.value) == f"load_tokenizer: {tmp_path / 'tokenizer_config.json'} must {message}"
