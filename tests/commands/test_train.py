"""qkv train, from a corpus to a run that goes on."""

import json
import shutil

import pytest
from small import TINY

from qkv.text.tokenizer import characters
from qkv.training.metrics import read_metrics

# Typer gives None where the shape checks want what is written.
pytestmark = pytest.mark.unhooked


def steps_of(run):
    return [line["step"] for line in read_metrics(run / "metrics.jsonl") if "loss" in line]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("gpt", ["--vocabulary", 300]),
        ("gpt", ["--tokenizer", "characters"]),
        ("gpt", ["--tokenizer", "characters", "--position-kind", "rotary"]),
        ("gpt", ["--tokenizer", "characters", "--position-kind", "alibi"]),
        ("gpt", ["--tokenizer", "characters", "--position-kind", "sinusoidal"]),
        ("gpt", ["--tokenizer", "characters", "--position-kind", "none"]),
        ("gpt", ["--tokenizer", "characters", "--placement", "post", "--watch", "gradients"]),
        ("bert", ["--vocabulary", 80]),
        ("bert", ["--vocabulary", 80, "--placement", "pre"]),
        ("bert", ["--vocabulary", 80, "--objective", "spans", "--next-sentence"]),
    ],
)
def test_texts(qkv, corpus, tmp_path, kind, options):
    status, out, err = qkv("train", kind, corpus, "--out", "run", *TINY, *options)
    assert status == 0, err
    assert "run: finished" in out
    run = tmp_path / "run"
    assert steps_of(run) == [1, 2, 3, 4]
    assert (run / "model" / "model.safetensors").is_file() and (run / "model" / "tokenizer.json").is_file()
    about = json.loads((run / "run.json").read_text())["about"]
    assert about["data"] == str(corpus) and about["recipe"]["width"] == 16


def test_a_run_goes_on_as_if_it_had_never_stopped(qkv, corpus, tmp_path, monkeypatch):
    how = ("--tokenizer", "characters", "--schedule", "constant", "--warm-up", 1, "--seed", 3, "--precision", "bf16")
    how = (*how, "--watch", "gradients")
    given = ("train", "gpt", "corpus.txt", *TINY, *how)
    assert qkv(*given, "--out", "whole")[0] == 0
    assert qkv(*given, "--out", "parts", "--steps", 2)[0] == 0
    # From anywhere: the run knows where its data is.
    monkeypatch.chdir("/")
    status, _, err = qkv("train", "gpt", "--out", tmp_path / "parts", "--resume", "--steps", 4)
    assert status == 0, err
    weights = [(tmp_path / run / "model" / "model.safetensors").read_bytes() for run in ("whole", "parts")]
    assert weights[0] == weights[1]
    watched = [(tmp_path / run / "gradients.jsonl").read_text().splitlines() for run in ("whole", "parts")]
    assert len(watched[0]) == len(watched[1]) >= 4


def test_nothing_is_overwritten(qkv, corpus):
    given = ("train", "gpt", corpus, "--out", "run", *TINY, "--tokenizer", "characters")
    assert qkv(*given)[0] == 0
    status, _, err = qkv(*given)
    assert status == 1 and "must be new; got a run (resume it, or choose another name)" in err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["gpt", "--steps", 6], "train: --steps must be the run's 4 when it is resumed; got 6 (its rate falls towards"),
        (["gpt", "--width", 8], "train: --width must be the run's 16 when it is resumed; got 8 (or left out)"),
        (["gpt", "--tokenizer", "bpe"], "train: --tokenizer must be the run's characters when it is resumed; got bpe"),
        (["gpt", "--preset", "base"], "train: --preset must be the run's quick when it is resumed; got base"),
        (["gpt", "--position-kind", "rotary"], "train: --position-kind must be the run's default when it is resumed"),
        (["gpt", "--seed", 1], "train: options.seed must be the run's 0 when it is resumed; got 1"),
        (["bert"], "train: KIND must be gpt, as the run in run is; got bert (qkv train gpt --out run --resume)"),
        (["gpt", "other.txt"], "train: DATA must be what the run has begun with; got other.txt, changed or moved"),
    ],
)
def test_what_a_run_cannot_go_on_with_is_named(qkv, corpus, tmp_path, words, complaint):
    (tmp_path / "other.txt").write_text(corpus.read_text())
    given = ("--out", "run", *TINY, "--tokenizer", "characters")
    assert qkv("train", "gpt", corpus, *given)[0] == 0
    before = (tmp_path / "run" / "run.json").read_text()
    status, _, err = qkv("train", *words, "--out", "run", "--resume")
    assert status == 1 and complaint in err and err.count("\n") == 1
    assert (tmp_path / "run" / "run.json").read_text() == before
    # What the run has said is no change.
    assert qkv("train", "gpt", corpus, "--resume", "--preset", "quick", *given)[0] == 0


def test_a_tokenizer_of_a_folder_is_known_by_what_it_holds(qkv, corpus, tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        tokenizer = characters([corpus.read_text(), name[0].upper()], unknown="[UNK]")
        tokenizer.save(str(tmp_path / name / "tokenizer.json"))
    sizes = []
    for name in ("first", "second", "second"):
        (tmp_path / "tokenizer").mkdir(exist_ok=True)
        shutil.copy(tmp_path / name / "tokenizer.json", tmp_path / "tokenizer")
        out = f"run{len(sizes)}"
        assert qkv("train", "gpt", corpus, "--out", out, *TINY, "--tokenizer", "tokenizer")[0] == 0
        sizes.append((tmp_path / out / "model" / "tokenizer.json").read_text())
    assert sizes[0] != sizes[1] == sizes[2]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["gpt2", "--out", "run"], "train: KIND must be one of bert, gpt, translate, caption; got 'gpt2'"),
        (["gpt", "--out", "run", "--preset", "huge"], "train: --preset must be one of quick, small, base; got 'huge'"),
        (
            ["bert", "nowhere.txt", "--out", "run", "--width", 64, "--heads", 7],
            "train bert: --heads must divide the width 64",
        ),
        (["gpt", "--out", "run", "--attention", "soft"], "train gpt: --attention must be left out; got 'soft'"),
        (
            ["translate", "--out", "run", "--attention", "soft"],
            "train translate: --attention must be one of none, additive, dot,",
        ),
        (
            ["gpt", "nowhere.txt", "--out", "run"],
            "read_texts: nowhere.txt must be a file or a folder; got No such",
        ),
        (
            ["gpt", "--out", "run", "--position-kind", "x"],
            "train gpt: --position-kind must be one of learned, sinusoidal,",
        ),
        (
            ["translate", "--out", "run", "--attention", "dot", "--placement", "post"],
            "train translate: --placement must be left out beside --attention; got 'post' (a recurrent model has no",
        ),
        (
            ["translate", "--out", "run", "--cell", "gru"],
            "train translate: --cell must come with --attention; got 'gru'",
        ),
        (["gpt", "nowhere.txt", "--out", "run", "--rate", "nan"], "Options: rate must be a finite number > 0; got nan"),
        (["gpt", "nowhere.txt", "--out", "run", "--dropout", "2"], "Recipe: dropout must lie in [0, 1]; got 2.0"),
        (["gpt", "--out", "run", "--placement", "x"], "train gpt: --placement must be one of pre, post; got 'x'"),
        (["caption", "--out", "run", "--placement", "pre"], "train caption: --placement must be left out; got 'pre'"),
        (["gpt", "--out", "run", "--watch", "x"], "train: --watch must be gradients; got 'x'"),
        (["bert", "--out", "run", "--tokenizer", "bpe"], "train: --tokenizer must be wordpiece, or a folder with one"),
        (["caption", "x", "--out", "run"], "read_pairs: x must be a file or a folder; got No such"),
        (["caption", "x", "--out", "run", "--pixels", "30"], "train caption: --pixels must be a multiple of 4; got 30"),
        (
            ["caption", "--out", "run", "--pixels", "32"],
            "train caption: --pixels must be left out without DATA; got 32",
        ),
        (
            ["caption", "x", "--out", "run", "--tokenizer", "unigram"],
            "train: --tokenizer must be words, bpe or characters, or a folder with one; got 'unigram'",
        ),
        (
            ["gpt", "--out", "run", "--tokenizer", "charakters/"],
            "train: --tokenizer must be bpe or characters, or a folder with one; got 'charakters/' (no such folder,",
        ),
        (["gpt", "--out", "run", "--resume"], "must be a run, with its run.json; got nothing"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_made(qkv, tmp_path, words, complaint):
    status, out, err = qkv("train", *words)
    assert status == 1 and out == ""
    assert complaint in err and err.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "data", "complaint"),
    [
        ("empty.txt", b"", "must hold text; got an empty file"),
        ("binary.txt", b"some\0thing\n" * 5, "line 1"),
        ("latin.txt", "café\n".encode("latin-1") * 5, "line 1"),
    ],
)
def test_data_that_is_no_text(qkv, tmp_path, name, data, complaint):
    (tmp_path / name).write_bytes(data)
    status, _, err = qkv("train", "gpt", name, "--out", "run", *TINY)
    assert status == 1 and complaint in err
    assert not (tmp_path / "run").exists()


def test_a_pair_with_one_side_is_named(qkv, tmp_path):
    (tmp_path / "pairs.tsv").write_text("one\tun\ntwo\n")
    status, _, err = qkv("train", "translate", "pairs.tsv", "--out", "run", *TINY)
    assert status == 1 and "pairs.tsv" in err and "line 2" in err


def test_a_vocabulary_larger_than_the_corpus_allows(qkv, corpus):
    status, _, err = qkv("train", "gpt", corpus, "--out", "run", *TINY, "--vocabulary", 8000)
    assert status == 1 and "train_byte_bpe: vocabulary must" in err


def test_documents_end_with_any_tokenizer_that_has_an_end(qkv, corpus, tmp_path):
    given = ("train", "gpt", corpus, *TINY)
    assert qkv(*given, "--out", "first", "--vocabulary", 300)[0] == 0
    status, _, err = qkv(*given, "--out", "second", "--tokenizer", tmp_path / "first" / "model")
    assert status == 0, err
    ends = [
        json.loads((tmp_path / run / "model" / "config.json").read_text())["eos_token_id"]
        for run in ("first", "second")
    ]
    assert ends[0] == ends[1] is not None


@pytest.mark.parametrize(
    ("record", "got"),
    [
        ({}, "no choices"),
        ({"about": 3}, "3"),
        ({"about": {"data": None, "recipe": {}, "choices": {}}}, "KeyError: 'options'"),
        (
            {
                "kind": "gpt",
                "about": {"data": None, "recipe": {"depth": 3}, "choices": {}},
                "options": {"seed": 0, "precision": "float32", "tensorboard": False, "watch_gradients": False},
            },
            "TypeError: ",
        ),
    ],
)
def test_a_run_of_something_else_does_not_go_on(qkv, tmp_path, record, got):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    status, _, err = qkv("train", "gpt", "--out", "run", "--resume")
    assert status == 1 and err.count("\n") == 1
    assert f"run.json must say what it is about, as a run of this command does; got {got}" in err
