"""Users' texts: each kind of file, and each way in which a file can be broken."""

import gzip
import json
import os
import sys
from types import SimpleNamespace

import pytest

from qkv.errors import ArgumentError, FileError
from qkv.text.corpus import each_file, each_line, read_pairs, read_texts

zstandard = pytest.importorskip("zstandard", reason="zstandard is an extra")

TEXT = "one\ntwo\n\n \n老鼠\r\n\r\nlast line"


def written(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_plain_text_is_split_at_blank_lines(tmp_path):
    path = written(tmp_path, "a.txt", TEXT)
    assert list(read_texts(path)) == ["one\ntwo", "老鼠", "last line"]
    assert list(read_texts(path, split=each_line)) == ["one", "two", "老鼠", "last line"]
    assert list(read_texts(path, split=each_file)) == ["one\ntwo\n\n \n老鼠\n\nlast line"]


def test_texts_can_be_read_again(tmp_path):
    texts = read_texts(str(written(tmp_path, "a.txt", TEXT)))
    assert list(texts) == list(texts)


def test_a_byte_order_mark_is_no_text(tmp_path):
    assert list(read_texts(written(tmp_path, "a.txt", b"\xef\xbb\xbfone"))) == ["one"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.jsonl.gz"])
def test_json_lines(tmp_path, name):
    lines = [
        {"text": "one", "other": "x"},
        "two",
        {"text": ["three", "four"], "other": "y"},
        {"text": " ", "other": "z"},
    ]
    content = "\n\n".join(map(json.dumps, lines)).encode()
    path = written(tmp_path, name, gzip.compress(content) if name.endswith(".gz") else content)
    assert list(read_texts(path)) == ["one", "two", "three\nfour"]


def test_json_lists_and_fields(tmp_path):
    path = written(tmp_path, "a.json", json.dumps([{"poem": ["秦川", "函谷"]}, {"poem": "x"}], indent=2))
    assert list(read_texts(path, "poem")) == ["秦川\n函谷", "x"]
    assert list(read_texts(written(tmp_path, "b.json", '{"text": "x"}'))) == ["x"]


def test_half_of_a_surrogate_pair_becomes_a_question_mark(tmp_path):
    assert list(read_texts(written(tmp_path, "a.jsonl", r'{"text": "a \ud83d b \ud83d\udc2d"}'))) == ["a ? b 🐭"]


def test_folders_are_read_in_order(tmp_path):
    for name, content in {
        "b/2.txt": "third",
        "b/10.txt": "second",
        "a.md": "first",
        "empty.txt": "",
        "picture.png": b"\0",
        ".hidden.txt": "no",
        ".git/config.txt": "no",
        "c.txt.gz": gzip.compress(b"fourth"),
        "d.jsonl.zst": zstandard.compress(b'"fifth"'),
    }.items():
        written(tmp_path, name, content)
    assert list(read_texts(tmp_path)) == ["first", "second", "third", "fourth", "fifth"]


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_packed_files(tmp_path, pack):
    suffix = {gzip.compress: ".gz"}.get(pack, ".zst")
    lines = [f"line {number} " + os.urandom(20).hex() for number in range(20_000)]
    content = "\n".join(lines).encode()
    texts = read_texts(
        written(tmp_path, f"a.txt{suffix}", pack(content[:1000]) + pack(content[1000:])), split=each_line
    )
    assert list(texts) == lines
    measured = [read for _, read in texts.measured()]
    assert 0 < measured[0] < measured[-1] == texts.size
    for broken in (pack(content)[:-9], pack(content)[:300_000], pack(content)[:5] + b"no" * 9, b"no pack"):
        path = written(tmp_path, f"b.txt{suffix}", broken)
        with pytest.raises(
            FileError, match=r"^read_texts: .*/b\.txt\.\w+ must be readable to its end; got .* \(line \d+\)$"
        ):
            list(read_texts(path, split=each_line))


def test_a_line_of_ten_megabytes(tmp_path):
    path = written(tmp_path, "a.txt", b"x" * 10_000_000 + b"\nshort")
    assert [len(text) for text in read_texts(path, split=each_line)] == [10_000_000, 5]


def test_the_identity_changes_with_the_files(tmp_path):
    path = written(tmp_path, "a.txt", "one")
    before = read_texts(path).identity
    assert read_texts(path).identity == before
    assert len({before, read_texts(path, "x").identity, read_texts(path, split=each_line).identity}) == 3
    os.utime(path, ns=(1, 1))
    assert read_texts(path).identity != before


def test_pairs(tmp_path):
    table = written(tmp_path, "a.tsv", "Hi.\t嗨。\tfrom Tatoeba\n\nRun.\t你用跑的。\r\n")
    assert list(read_pairs(table)) == [("Hi.", "嗨。"), ("Run.", "你用跑的。")]
    lines = written(tmp_path, "b.jsonl", '{"source": "a", "target": "b"}\n{"source": "c", "target": "d\\ud800"}')
    assert list(read_pairs(lines)) == [("a", "b"), ("c", "d?")]
    assert list(read_pairs(tmp_path)) == [*read_pairs(table), *read_pairs(lines)]
    named = written(tmp_path, "c.json", '[{"en": "a", "zh": "b"}]')
    assert list(read_pairs(named, ("en", "zh"))) == [("a", "b")]
    assert read_pairs(named).identity != read_pairs(named, ("en", "zh")).identity


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.txt", "", "a.txt must hold text; got an empty file"),
        ("a.txt", " \n \n", "a.txt must hold text; got none"),
        ("a.txt", b"one\nt\0o", "a.txt must be text; got a zero byte at byte 5 (line 2; is it a binary file?)"),
        ("a.txt", b"one\n\ncaf\xe9 x", "a.txt must be UTF-8; got byte 0xe9 at byte 8 (line 3; convert it with iconv)"),
        ("a.txt", "one".encode("utf-16"), "a.txt must be UTF-8; got UTF-16 (line 1; iconv -f UTF-16 -t UTF-8 a.txt)"),
        ("a.jsonl", '"one"\n{"text": ', "a.jsonl must hold JSON; got Expecting value (line 2; column 10)"),
        ("a.jsonl", "[" * 100_000, "a.jsonl must hold JSON; got "),
        ("a.jsonl", "9" * 5000, "a.jsonl must hold JSON; got Exceeds the limit"),
        ("a.jsonl", '"one"\n{"a": "b"}', "a.jsonl must hold text in the field 'text'; got the fields 'a' (line 2)"),
        ("a.jsonl", '{"text": 5}', "a.jsonl must hold text in the field 'text'; got int in it (line 1)"),
        ("a.jsonl", "5", "a.jsonl must hold text in the field 'text'; got int (line 1)"),
        ("a.json", '["one",\n "two"', "a.json must hold JSON; got Expecting ',' delimiter (line 2; column 7)"),
        ("a.json", '["one", {}]', "a.json must hold text in the field 'text'; got the fields  (item 1)"),
    ],
)
def test_broken_texts(tmp_path, name, content, message):
    path = written(tmp_path, name, content)
    with pytest.raises(FileError) as raised:
        list(read_texts(path))
    assert str(raised.value).startswith(f"read_texts: {tmp_path}/{message}")


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.tsv", "", "a.tsv must hold text; got an empty file"),
        ("a.tsv", "\n\n", "a.tsv must hold pairs; got none"),
        ("a.tsv", "a\tb\nalone\n", "a.tsv must hold text in two columns, a tab between them; got ['alone'] (line 2)"),
        ("a.tsv", "a\tb\n \tc\n", "a.tsv must hold text in two columns, a tab between them; got [' ', 'c'] (line 2)"),
        (
            "a.jsonl",
            '{"source": "a"}',
            "a.jsonl must hold text in the fields ('source', 'target'); got ['a', None]",
        ),
        ("a.jsonl", '["a", "b"]', "a.jsonl must hold JSON objects; got list (line 1)"),
        ("a.tsv", b"a\tb\n\xff\tc", "a.tsv must be UTF-8; got byte 0xff at byte 4 (line 2;"),
    ],
)
def test_broken_pairs(tmp_path, name, content, message):
    path = written(tmp_path, name, content)
    with pytest.raises(FileError) as raised:
        list(read_pairs(path))
    assert str(raised.value).startswith(f"read_pairs: {tmp_path}/{message}")


def test_nothing_to_read(tmp_path):
    written(tmp_path, "picture.png", b"x")
    with pytest.raises(FileError, match=r"^read_texts: .* must hold files that end in \.txt, .*; got picture\.png$"):
        read_texts(tmp_path)
    with pytest.raises(FileError, match=r"^read_pairs: .*/none must be a file or a folder; got No such file"):
        read_pairs(tmp_path / "none")
    with pytest.raises(FileError, match=r"must be a file or a folder; got .*null"):
        read_texts("a\0b")


def test_extras_are_asked_for_by_name(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    monkeypatch.setitem(sys.modules, "datasets", None)
    path = written(tmp_path, "a.txt.zst", b"x")
    rule = r"must be unpacked, as zstandard is not installed; got a \.zst file \(pip install zstandard\)$"
    with pytest.raises(FileError, match=rule):
        list(read_texts(path))
    with pytest.raises(FileError, match=r"datasets is not installed; got 'datasets:x/y' \(pip install datasets\)$"):
        list(read_texts("datasets:x/y"))


def test_a_data_set_of_the_hub_streams(monkeypatch):
    asked = []

    def load_dataset(*names, **options):
        asked.append((names, options))
        return [{"text": "one"}, {"text": "two\ud800"}]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    assert list(read_texts("datasets:x/y:small")) == ["one", "two?"]
    assert asked == [(("x/y", "small"), {"split": "train", "streaming": True})]
    with pytest.raises(ArgumentError, match=r"^read_texts: field must name a text of x/y; got 'story' \('text'\)$"):
        list(read_texts("datasets:x/y", "story"))
