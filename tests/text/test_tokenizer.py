"""Tokenizers of a folder: BERT's words, GPT-2's bytes, the whole file; those made from texts; all that can be wrong."""

import argparse
import inspect
import json
import subprocess
import sys

import pytest

from qkv import errors
from qkv.text.tokenizer import (
    characters,
    load_tokenizer,
    train_byte_bpe,
    train_unigram,
    train_wordpiece,
    words,
)

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
        ("merges.txt", b"", " must hold tokenizer.json, vocab.txt, or vocab.json and merges.txt; got merges.txt"),
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


TEXT = inspect.getsource(argparse)
CHINESE = ["老鼠爱大米。", "老鼠 loves 大米, 老鼠 loves rice", "naïve 🐭 mice"] * 3


@pytest.fixture
def gpt(tmp_path):
    """A folder in GPT-2's layout, made here from a trained tokenizer."""
    model = json.loads(train_byte_bpe([TEXT, *CHINESE], 600).to_str())["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
    merges = "\n".join(" ".join(pair) for pair in model["merges"])
    (tmp_path / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("options", [{}, {"add_prefix_space": True}], ids=str)
def test_bytes_and_merges_make_gpt2s_tokenizer(options, transformers, gpt):
    if options:
        (gpt / "tokenizer_config.json").write_text(json.dumps(options))
    ours = load_tokenizer(gpt)
    theirs = transformers.GPT2TokenizerFast.from_pretrained(gpt)
    others = ["", "  two\n\n\tspaces ", "end<|endoftext|>of text", "don't we'll 3 $1,000.00", "\x00\u202e"]
    for text in [*CHINESE, TEXT[:2000], *others]:
        expected = theirs(text, return_offsets_mapping=True)
        got = ours.encode(text)
        assert got.ids == expected["input_ids"], text
        assert got.offsets == expected["offset_mapping"], text
        assert ours.decode(got.ids) == theirs.decode(expected["input_ids"], skip_special_tokens=True)


@pytest.mark.parametrize(
    "name, data, message",
    [
        ("vocab.json", b"{", "vocab.json must hold JSON; got "),
        ("vocab.json", b'{"a": "b"}', "vocab.json must give a number for each token; got something else"),
        ("vocab.json", b'{"a": -1}', "vocab.json must give a number for each token; got something else"),
        ("merges.txt", b"\xff", "merges.txt must hold merges in UTF-8, one a line; got 'utf-8' codec"),
        ("merges.txt", b"#version: 0.2\na b\nc\n", "merges.txt must hold two tokens a line; got 'c' (line 3)"),
        ("merges.txt", b"zzz qqq\n", "merges.txt must merge tokens of vocab.json; got "),
        (
            "tokenizer_config.json",
            b'{"add_prefix_space": 1}',
            "tokenizer_config.json must give add_prefix_space as",
        ),
        ("tokenizer_config.json", b'{"eos_token": 1}', "tokenizer_config.json must give eos_token as a string; got 1"),
    ],
)
def test_broken_bytes_and_merges(gpt, name, data, message):
    (gpt / name).write_bytes(data)
    with pytest.raises(errors.FileError) as raised:
        load_tokenizer(gpt)
    assert str(raised.value).startswith(f"load_tokenizer: {gpt}/{message}")


def test_bytes_know_every_text():
    tokenizer = train_byte_bpe(CHINESE, 280)
    for text in [*CHINESE, "🦑 unseen \x00"]:
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert tokenizer.get_vocab_size() == 280
    assert tokenizer.token_to_id("<|endoftext|>") == 0
    assert tokenizer.encode("a<|endoftext|>").ids[-1] == 0


def test_words_and_their_pieces():
    tokenizer = train_wordpiece(["talking talked talks, walking walked walks", "老鼠"] * 2, 40)
    assert tokenizer.encode("walked 鼠老 x").tokens == ["[CLS]", "walked", "鼠", "老", "[UNK]", "[SEP]"]
    assert [tokenizer.id_to_token(index) for index in range(6)] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ","]
    assert any(token.startswith("##") for token in tokenizer.get_vocab())
    assert tokenizer.encode("a [MASK] b").tokens[2] == "[MASK]"
    assert tokenizer.decode(tokenizer.encode("walked, talked").ids) == "walked, talked"
    # 鼠 begins every word that it is in, as each character stands alone.
    assert "##鼠" not in tokenizer.get_vocab()


def test_case_is_kept_or_not():
    assert "Été" in train_wordpiece(["Été Été"], 12).get_vocab()
    assert "ete" in train_wordpiece(["Été Été"], 11, lowercase=True).get_vocab()


def test_rare_characters_can_be_left_out():
    tokenizer = train_wordpiece(["aab aab", "q"], 11, alphabet=2)
    assert tokenizer.encode("aab q").tokens == ["[CLS]", "aab", "[UNK]", "[SEP]"]


def test_unigram_pieces():
    tokenizer = train_unigram([TEXT, *CHINESE], 400)
    assert tokenizer.get_vocab_size() == 400
    assert [tokenizer.id_to_token(index) for index in range(3)] == ["<unk>", "<s>", "</s>"]
    for text in CHINESE:
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_a_token_for_each_character():
    tokenizer = characters(["老鼠\n ab", "\r\tb"])
    assert tokenizer.encode("老 b\n\r\t").tokens == list("老 b\n\r\t")
    assert tokenizer.decode(tokenizer.encode("老 b\n\r\t").ids) == "老 b\n\r\t"
    assert tokenizer.encode("z").tokens == ["[UNK]"]
    assert tokenizer.get_vocab_size() == 9


def test_a_token_for_each_frequent_word():
    made = words(["The cat, the Dog", "a cat! 猫猫"], 99, special=("[PAD]", "[UNK]"), unknown="[UNK]")
    # Those that stand there twice, the most frequent first, then by name.
    assert sorted(made.get_vocab(), key=made.token_to_id) == ["[PAD]", "[UNK]", "cat", "the", "猫"]
    assert made.encode("A CAT the dog").tokens == ["[UNK]", "cat", "the", "[UNK]"]
    assert made.decode(made.encode("the cat").ids) == "the cat"
    assert words(["a a b b"], 3, special=("[PAD]", "[UNK]"), unknown="[UNK]").get_vocab_size() == 3
    # Where each stands once, all are kept.
    assert words(["one two"], 9, special=("[UNK]",), unknown="[UNK]").encode("two").tokens == ["two"]


def test_half_of_a_surrogate_pair_is_no_crash():
    text = "aa\ud800 aa"
    assert characters([text]).get_vocab_size() == 4
    for tokenizer in (train_byte_bpe([text], 258), train_wordpiece([text] * 2, 9), train_unigram([text], 6)):
        assert tokenizer.encode("aa").ids


TRAINED = (
    "import argparse, hashlib, inspect\n"
    "from qkv.text.tokenizer import characters, train_byte_bpe, train_wordpiece\n"
    "texts = [inspect.getsource(argparse)]\n"
    "trained = [characters(texts), train_byte_bpe(texts, 900), train_wordpiece(texts, 900)]\n"
    "hashes = [hashlib.sha256(tokenizer.to_str().encode()).hexdigest() for tokenizer in trained]\n"
)


def test_another_process_trains_the_same():
    # Hash tables have another order in each process.
    here: dict[str, list[str]] = {}
    exec(TRAINED, here)
    there = subprocess.run([sys.executable, "-c", TRAINED + "print(*hashes)"], capture_output=True, check=True)
    assert there.stdout.decode().split() == here["hashes"]


@pytest.mark.parametrize(
    "train, options, message",
    [
        (train_byte_bpe, {"vocabulary": 9999}, "vocabulary must be <= 294, all that the texts give; got 9999 (a"),
        (train_byte_bpe, {"vocabulary": 256}, "vocabulary must be >= 257, the special tokens and bytes; got 256"),
        (train_wordpiece, {"vocabulary": 9999}, "vocabulary must be <= 44, all that the texts give; got 9999 (a"),
        (train_wordpiece, {"vocabulary": 9}, "vocabulary must be >= 33, the special tokens and characters; got 9 (or"),
        (train_wordpiece, {"vocabulary": 9, "special": ("[UNK]",)}, "special must hold [UNK], [CLS] and [SEP]; got no"),
        (train_wordpiece, {"vocabulary": 99, "alphabet": 0}, "alphabet must be >= 1; got 0"),
        (train_unigram, {"vocabulary": 9999}, "vocabulary must be <= 27, all that the texts give; got 9999 (a"),
        (train_unigram, {"vocabulary": 9}, "vocabulary must be >= 24, the special tokens and characters; got 9"),
        (train_unigram, {"vocabulary": 9, "special": ()}, "special must hold a token for what is unknown; got none"),
        (characters, {"special": ()}, "special must hold [UNK], for what is unknown; got []"),
        (words, {"vocabulary": 9, "special": ("[PAD]",), "unknown": "[UNK]"}, "special must hold [UNK], for what is"),
        (words, {"vocabulary": 1, "special": ("[UNK]",), "unknown": "[UNK]"}, "vocabulary must be >= 2, the special"),
    ],
)
def test_what_cannot_be_trained(train, options, message):
    with pytest.raises(errors.ArgumentError) as raised:
        train(CHINESE, **options)
    assert str(raised.value).startswith(f"{train.__name__}: {message}")


def test_nothing_to_train_on():
    with pytest.raises(errors.ArgumentError, match=r"^characters: texts must hold a character; got none$"):
        characters([])
    with pytest.raises(errors.ArgumentError, match=r"^train_unigram: vocabulary must be >= 5, the special .*; got 4$"):
        train_unigram(["a"], 4)
    with pytest.raises(errors.ArgumentError, match=r"^train_byte_bpe: vocabulary must be <= 257, all that the texts"):
        train_byte_bpe([], 300)


def test_a_small_vocabulary_keeps_the_characters_that_there_is_room_for(caplog):
    han = "".join(chr(0x4E00 + at) for at in range(54))
    texts = [han[: at + 1] for at in range(54)] * 3
    whole = train_wordpiece(texts, 59, coverage=0.9999)
    assert set(han) <= set(whole.get_vocab()) and not caplog.records
    some = train_wordpiece(texts, 25, coverage=0.9999)
    # The bound, obeyed, holds: no other vocabulary is asked for.
    assert some.get_vocab_size() == 25 and set(han[:20]) <= set(some.get_vocab())
    assert "keeps 20 of 54 characters" in caplog.text
    assert some.encode(han[30], add_special_tokens=False).tokens == ["[UNK]"]


def test_fewer_tokens_are_taken_if_asked_for(caplog):
    for train, least in ((train_byte_bpe, 257), (train_wordpiece, 7), (train_unigram, 5)):
        with pytest.raises(errors.ArgumentError, match="be <= "):
            train(["ab ab"] * 2, 1000)
        assert least <= train(["ab ab"] * 2, 1000, fewer=True).get_vocab_size() < 300
        assert f"{train.__name__}: " in caplog.text


@pytest.mark.parametrize("coverage", [0.0, -1.0, 1.01, float("nan")])
def test_coverage_is_a_share(coverage):
    with pytest.raises(errors.ArgumentError, match=r"^train_wordpiece: coverage must be a number in \(0, 1\]"):
        train_wordpiece(["ab ab"], 20, coverage=coverage)
