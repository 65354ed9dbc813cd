"""The norm of each layer's gradients is written and drawn, and watching changes no bit."""

import builtins
import math

import pytest
import torch
from processes import metrics_of, tensors_of
from tiny import TinyTask
from torch import nn

import qkv
from qkv.training.gradients import brief, draw, groups, norms
from qkv.training.loop import train
from qkv.training.metrics import read_metrics
from qkv.training.options import Options


def options(**changed):
    numbers = {"steps": 4, "rate": 0.01, "validate_every": 2, "checkpoint_every": 2, "watch_gradients": True}
    return Options(**numbers | changed)


def test_parameters_are_sorted_by_layer():
    gpt = qkv.Gpt(qkv.GptConfig(11, width=8, layers=2, heads=2, feed_forward=16, positions=8))
    assert list(groups(gpt)) == ["tokens", "places", "layers.0", "layers.1", "norm"]
    assert sum(map(len, groups(gpt).values())) == len(list(gpt.parameters()))
    translator = qkv.Transformer(qkv.TransformerConfig(11, 8, 1, 2, 16))
    assert {"encoder.0", "decoder.0"} <= set(groups(translator))


def test_norms_checked_by_hand():
    model = nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(1, 2), nn.Linear(2, 1)]), "out": nn.Linear(1, 1)})
    first, last = model["layers"]
    first.weight.grad, first.bias.grad = torch.tensor([[3.0], [0.0]]), torch.tensor([0.0, 4.0])
    last.weight.grad = torch.tensor([[1.0, 0.0]])
    assert norms(model) == {"layers.0": 5, "layers.1": 1, "out": 0}
    assert brief(norms(model)) == "gradients layers.0 5 layers.1 1"
    assert brief({"tokens": 1.0, **{f"layers.{at}": at / 10 for at in range(5)}, "norm": 2.0}) == (
        "gradients layers.0 0 layers.2 0.2 layers.4 0.4"
    )
    assert brief({"a": 1.0, "b": 0.001}) == "gradients a 1 b 0.001"


def test_watching_writes_and_draws_and_changes_no_bit(tmp_path, capsys):
    watched, plain, parts = (tmp_path / name for name in ("watched", "plain", "parts"))
    train(TinyTask(), watched, options())
    assert "gradients tokens " in capsys.readouterr().err
    train(TinyTask(), plain, options(watch_gradients=False), shown=False)
    # Stopped and gone on with, what an unwatched part did is not known.
    train(TinyTask(), parts, options(steps=2), shown=False)
    train(TinyTask(), parts, options(), resume=True, shown=False)
    for run in (plain, parts):
        ours, theirs = tensors_of(watched, 4), tensors_of(run, 4)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    lines = list(read_metrics(watched / "gradients.jsonl"))
    assert lines == list(read_metrics(parts / "gradients.jsonl"))
    assert [line["step"] for line in lines] == [1, 2, 3, 4] and set(lines[0]) == {"step", "tokens", "norm", "out"}
    # Together they are the norm of all.
    for line, whole in zip(lines, (one for one in metrics_of(watched) if "loss" in one), strict=True):
        assert math.hypot(line["tokens"], line["norm"], line["out"]) == pytest.approx(whole["norm"], rel=1e-5)
    assert not (plain / "gradients.jsonl").exists() and not (plain / "gradients.svg").exists()
    picture = (watched / "gradients.svg").read_text()
    assert "norm of the gradient" in picture and "tokens" in picture and "</svg>" in picture
    assert not list(watched.glob(".*.tmp"))


def test_the_last_layers_of_post_norm_have_the_largest_gradients_at_first():
    found = {}
    for name, placement in (("pre", qkv.pre_norm()), ("post", qkv.post_norm())):
        torch.manual_seed(0)
        config = qkv.BertConfig(30, width=32, layers=6, heads=2, feed_forward=64, positions=16, dropout=0.0)
        bert = qkv.Bert(config, placement=placement)
        # As Xiong et al. draw them: Xavier.
        for parameter in bert.parameters():
            if parameter.ndim == 2:
                nn.init.xavier_uniform_(parameter)
        tokens = torch.randint(30, (8, 16))
        bert.loss(tokens, torch.arange(128), tokens.flatten())[0].backward()
        by_layer = norms(bert)
        found[name] = by_layer["layers.5"] / by_layer["layers.0"]
    assert found["post"] > 1 > found["pre"]


def test_without_matplotlib_there_are_numbers_and_a_word(tmp_path, capsys, monkeypatch):
    real = builtins.__import__

    def refuse(name, *others):
        if name.startswith("matplotlib"):
            raise ModuleNotFoundError(name)
        return real(name, *others)

    monkeypatch.setattr(builtins, "__import__", refuse)
    train(TinyTask(), tmp_path / "run", options(steps=2))
    said = capsys.readouterr().err
    assert f"gradients: {tmp_path}/run/gradients.jsonl\n" in said
    assert "no picture of gradients.jsonl: pip install matplotlib" in said
    assert len(list(read_metrics(tmp_path / "run" / "gradients.jsonl"))) == 2
    assert not draw(tmp_path / "run")
