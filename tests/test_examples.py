"""The examples: the commands that they run, and how they part their data. Their trainings take minutes."""

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def examples(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.chdir(tmp_path)
    # Only what is measured needs it.
    monkeypatch.setitem(sys.modules, "sacrebleu", ModuleType("sacrebleu"))


def test_a_run_begins_and_goes_on(examples, monkeypatch, tmp_path):
    from examples import runs

    asked = []
    monkeypatch.setattr(runs.subprocess, "run", lambda command, check: asked.append(command[3:]))
    assert runs.trained("dates-0", "translate", "--seed", "0") == Path("runs/dates-0")
    (tmp_path / "runs" / "dates-0").mkdir(parents=True)
    (tmp_path / "runs" / "dates-0" / "run.json").write_text("{}")
    runs.trained("dates-0", "translate", "--seed", "0")
    begun = ["train", "translate", "--seed", "0", "--out", "runs/dates-0"]
    assert asked == [begun, [*begun, "--resume"]]


def test_figures_of_a_run(examples, tmp_path):
    from examples import runs

    lines = [{"step": 1, "seconds": 1.5}, {"step": 1, "validation_loss": 3.0}, {"step": 2, "validation_loss": 2.5}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert runs.train_seconds(tmp_path) == 1.5 and runs.best_validation(tmp_path) == 2.5
    assert runs.spread([1.0, 2.0]) == "1.5 (1, 2)"


def test_no_sentence_of_the_test_is_learned_from(examples, tmp_path):
    from examples.tatoeba import group, split

    rows = [(f"Sentence {number}.", f"句子{number % 70}。") for number in range(200)]
    (tmp_path / "cmn.txt").write_text("".join(f"{one}\t{other}\tCC-BY\n" for one, other in rows), encoding="utf-8")
    path, test = split(str(tmp_path / "cmn.txt"))
    learned = [tuple(line.split("\t")) for line in path.read_text(encoding="utf-8").splitlines()]
    assert test and learned and set(learned) | set(test) <= set(rows)
    assert not {side for pair in learned for side in pair} & {side for pair in test for side in pair}
    assert [group("a " * words) for words in (1, 5, 6, 12, 13)] == [
        "1-5 words", "1-5 words", "6-7 words", "10-12 words", "13 words and more",
    ]  # fmt: skip


# Typer gives None where the shape checks want what is written.
@pytest.mark.unhooked
@pytest.mark.parametrize("name", ["dates", "digits", "shakespeare", "tatoeba"])
def test_each_can_be_imported_and_its_options_are_known(examples, name):
    import importlib

    from typer.testing import CliRunner

    from qkv.cli import app

    module = importlib.import_module(f"examples.{name}")
    assert callable(module.main)
    asked = CliRunner().invoke(app, ["train", "--help"])
    assert asked.exit_code == 0, asked.output
    known = asked.stdout
    options = {word for word in getattr(module, "OPTIONS", []) if word.startswith("--")}
    assert not {option for option in options if option not in known}
