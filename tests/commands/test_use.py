"""generate, fill, translate and caption: a trained model in use, and its attention in a page."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from small import TINY

from qkv.models.bert import Bert
from qkv.models.pretrained import load_model
from qkv.text.digits import scene

# Typer gives None where the shape checks want what is written.
pytestmark = pytest.mark.unhooked


def views_of(path):
    text = re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.S)[1]
    return json.loads(text)["views"]


@pytest.fixture
def gpt(qkv, corpus):
    assert qkv("train", "gpt", corpus, "--out", "run", *TINY, "--tokenizer", "characters")[0] == 0


def test_generate(qkv, gpt, tmp_path):
    status, out, err = qkv("generate", "run", "The cat", "--new", 5, "--temperature", 0, "--see", "page.html")
    assert status == 0, err
    line, told = out.splitlines()
    assert line.startswith("The cat") and len(line) == 12 and told.startswith("page: page.html")
    (view,) = views_of(tmp_path / "page.html")
    assert "".join(view["tokens"]) == line and view["keys"] is None
    assert view["words"][0] == [0, 3] and len(view["features"]["heads"]) == view["layers"] * view["heads"]
    assert qkv("generate", "run", "The cat", "--new", 5, "--temperature", 0)[1] == line + "\n"
    first, same, other = (qkv("generate", "run", "The cat", "--seed", seed)[1] for seed in (1, 1, 2))
    assert first == same != other
    assert qkv("generate", "run", "The cat", "--new", 5, "--beams", 3)[1].startswith("The cat")
    status, out, err = qkv("see", "The cat", "--model", "run", "--out", "seen.html")
    assert status == 0, err
    (view,) = views_of(tmp_path / "seen.html")
    assert "layer 0, head" in out and view["tokens"] == ["T", "h", "e", " ", "c", "a", "t"]
    status, _, err = qkv("see", "The cat", "--model", "run", "--target", "The dog")
    assert status == 1 and err == "qkv: read: target must be left out; got 'The dog' (a Gpt reads one text)\n"


def test_generate_refuses(qkv, gpt):
    status, _, err = qkv("generate", "run", "")
    assert status == 1 and "generate: TEXT must hold a token; got ''" in err
    status, _, err = qkv("generate", "run", "The cat " * 9)
    assert status == 1 and "generate: TEXT must have less than 32 tokens; got 72" in err
    status, _, err = qkv("fill", "run", "The [MASK]")
    assert status == 1 and "fill: the model in run must be Bert; got Gpt" in err
    status, _, err = qkv("generate", "nowhere", "The cat")
    assert status == 1 and err.startswith("qkv: load_model: ")


def test_what_the_vocabulary_does_not_hold_is_said(qkv, gpt):
    status, _, err = qkv("generate", "run", "The 猫 cat 猫 犬", "--new", 1)
    assert status == 0 and err == "generate: not in the model's vocabulary, so that it sees [UNK]: 猫 犬\n"


def test_what_would_control_the_terminal_is_not_printed(qkv, tmp_path):
    (tmp_path / "hostile.txt").write_text("a\x1b[31m\u202eb\n\tc " * 60)
    given = ("train", "gpt", "hostile.txt", "--out", "run", *TINY, "--tokenizer", "characters")
    status, _, err = qkv(*given)
    assert status == 0 and "▸" in err and "\x1b" not in err and "\u202e" not in err
    _, out, _ = qkv("generate", "run", "a\x1b[31m\n", "--new", 20, "--seed", 0)
    assert out.startswith("a�[31m\n") and "\x1b" not in out and "\u202e" not in out


def test_generate_says_where_the_positions_end(qkv, gpt):
    told = "generate: 25 of 100 new tokens: the model's 32 positions end here\n"
    assert qkv("generate", "run", "The cat", "--seed", 0)[2] == told
    assert qkv("generate", "run", "The cat", "--beams", 2)[2] == told
    assert qkv("generate", "run", "The cat", "--new", 25)[2] == ""


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--beams", 0], "generate: --beams must be >= 1; got 0"),
        (["--new", 0], "generate: --new must be >= 1; got 0"),
        (["--top-k", 0], "sample: top_k must be >= 1; got 0"),
        (["--temperature", "nan"], "sample: temperature must be a finite number > 0; got nan"),
        (
            ["--beams", 2, "--temperature", 0.5],
            "generate: --temperature must be left out beside --beams; got 0.5 (a search draws nothing)",
        ),
        (["--beams", 2, "--top-p", 0.5], "generate: --top-p must be left out beside --beams; got 0.5"),
        (["--beams", 99], "beam_search: beams must be at most half of the vocabulary of"),
    ],
)
def test_generate_prints_nothing_before_its_options_are_checked(qkv, gpt, options, complaint):
    status, out, err = qkv("generate", "run", "The cat", *options)
    assert status == 1 and out == "" and complaint in err and err.count("\n") == 1


def test_a_run_without_a_model_yet(qkv, gpt, tmp_path):
    (tmp_path / "run" / "model").rename(tmp_path / "elsewhere")
    for command in (["generate", "run", "The cat"], ["see", "The cat", "--model", "run"]):
        status, out, err = qkv(*command)
        assert status == 1 and out == ""
        assert f"qkv: {command[0]}: the run run must have a model; got none yet (it is written at the first" in err


@pytest.mark.parametrize("command", ["generate", "see"])
def test_weights_that_are_no_numbers(qkv, gpt, tmp_path, command):
    path = tmp_path / "run" / "model" / "model.safetensors"
    tensors = load_file(path)
    tensors["transformer.h.0.ln_1.weight"][3] = torch.nan
    save_file(tensors, path, metadata={"format": "pt"})
    words = ["generate", "run", "The cat"] if command == "generate" else ["see", "The cat", "--model", "run"]
    status, out, err = qkv(*words)
    assert status == 1 and out == ""
    assert f"qkv: {command}: the model in run must have finite weights; got nan in layers.0." in err


def test_fill(qkv, corpus, tmp_path):
    assert qkv("train", "bert", corpus, "--out", "run", *TINY, "--vocabulary", 80)[0] == 0
    status, out, err = qkv("fill", "run", "the [MASK] chased the [MASK].", "--best", 2, "--see", "page.html")
    assert status == 0, err
    first, *lines, told = out.splitlines()
    assert first == "[MASK] 1 of 2" and lines[2] == "[MASK] 2 of 2" and told.startswith("page: ")
    assert all(re.fullmatch(r" *\d+\.\d%  \S+", line) for line in (*lines[:2], *lines[3:])) and len(lines) == 5
    # However many there are, each stands on a line.
    more = qkv("fill", "run", "the [MASK] chased.", "--best", 40)[1].splitlines()
    assert len(more) == 41 and more[0] == "[MASK] 1 of 1" and more[1:3] != more[2:4]
    (view,) = views_of(tmp_path / "page.html")
    assert view["tokens"].count("[MASK]") == 2 and view["tokens"][view["query"]] == "[MASK]"
    assert isinstance(load_model(tmp_path / "run" / "model"), Bert)
    status, _, err = qkv("fill", "run", "no mask")
    assert status == 1 and "fill: TEXT must hold [MASK]; got 'no mask'" in err


@pytest.mark.parametrize("attention", [None, "additive", "local-p", "hard", "coverage"])
def test_translate(qkv, tmp_path, attention):
    (tmp_path / "pairs.tsv").write_text("".join(f"{n} cats\t{n} chats\n" for n in range(200)))
    option = [] if attention is None else ["--attention", attention]
    given = ("train", "translate", "pairs.tsv", "--out", "run", *TINY, "--tokenizer", "characters", *option)
    status, _, err = qkv(*given)
    assert status == 0, err
    status, out, err = qkv("translate", "run", "12 cats", "--beams", 0)
    assert status == 1 and out == "" and "translate: --beams must be >= 1; got 0" in err
    status, out, err = qkv("translate", "run", "12 cats", "7 cats", "--beams", 2, "--see", "page.html")
    assert status == 0, err
    assert len(out.splitlines()) == 3
    views = views_of(tmp_path / "page.html")
    assert len(views) == (6 if attention is None else 2)
    parts = ["cross", "encoder", "decoder"] if attention is None else [None]
    assert [view["part"] for view in views] == 2 * parts
    assert views[0]["keys"] == [*"12 cats", "</s>"] and views[0]["tokens"][-1] == "</s>"
    status, out, err = qkv("see", "12 cats", "--model", "run", "--target", "12 chats", "--out", "seen.html")
    if attention in ("hard", "coverage"):
        assert status == 1 and "computes its weights itself, and its result holds them" in err
        return
    assert status == 0, err
    assert "“12 cats” → “12 chats”" in out
    views = views_of(tmp_path / "seen.html")
    assert len(views) == (3 if attention is None else 1)
    assert views[-1]["keys"] == [*"12 cats", "</s>"] and views[-1]["tokens"] == [*"12 chats", "</s>"]


def test_without_attention_there_is_nothing_to_see(qkv, tmp_path):
    (tmp_path / "pairs.tsv").write_text("".join(f"{n} cats\t{n} chats\n" for n in range(200)))
    given = ("train", "translate", "pairs.tsv", "--out", "run", *TINY, "--tokenizer", "characters")
    assert qkv(*given, "--attention", "none", "--cell", "lstm")[0] == 0
    assert qkv("translate", "run", "12 cats")[0] == 0
    status, _, err = qkv("translate", "run", "12 cats", "--see", "page.html")
    assert status == 1 and "translate: --see must be left out; got a model without attention" in err


@pytest.mark.parametrize("attention", ["soft", "hard"])
def test_caption(qkv, tmp_path, attention):
    pytest.importorskip("sklearn", reason="scikit-learn is an extra")
    status, _, err = qkv("train", "caption", "--out", "run", *TINY, "--attention", attention)
    assert status == 0, err
    status, _, err = qkv("caption", "run", "--scene", 3, "--see", "page.html")
    assert status == 0 and f"(written in scene 3: {scene(3, held_out=True).caption})" in err
    (view,) = views_of(tmp_path / "page.html")
    assert view["image"]["rows"] * view["image"]["columns"] == len(view["keys"])
    image = pytest.importorskip("PIL.Image", reason="pillow is an extra")
    image.fromarray((torch.rand(50, 90) * 255).byte().numpy()).save(tmp_path / "noise.png")
    assert qkv("caption", "run", "noise.png")[0] == 0
    (tmp_path / "no.png").write_text("no picture")
    status, _, err = qkv("caption", "run", "no.png")
    assert status == 1 and "read_picture: no.png must be a picture; got cannot identify image file" in err
    status, _, err = qkv("caption", "run", "--scene", -1)
    assert status == 1 and "caption: --scene must be >= 0; got -1" in err
    status, _, err = qkv("caption", "run")
    assert status == 1 and "caption: IMAGE must be given, or --scene NUMBER in its place; got neither" in err


def test_caption_of_pictures_of_ones_own(qkv, tmp_path):
    pytest.importorskip("sklearn", reason="scikit-learn is an extra")
    image = pytest.importorskip("PIL.Image", reason="pillow is an extra")
    lines = []
    for number in range(60):
        one = scene(number)
        image.fromarray((255 * one.image[0]).byte().numpy()).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png\tI see {one.caption}.\n")
    (tmp_path / "table.tsv").write_text("".join(lines))
    status, _, err = qkv("train", "caption", "table.tsv", "--out", "run", *TINY, "--pixels", 32)
    assert status == 0, err
    assert "held-out pictures described word for word: “i see " in err
    status, _, err = qkv("caption", "run", "3.png", "--see", "page.html")
    assert status == 0, err
    (view,) = views_of(tmp_path / "page.html")
    assert (view["image"]["rows"], view["image"]["columns"]) == (8, 8) and len(view["tokens"]) >= 1
    status, out, err = qkv("caption", "run", "--scene", 3)
    assert status == 1 and out == ""
    assert "caption: --scene must be left out; got 3 (the model in run learned from other pictures: give it an" in err
    status, _, err = qkv("train", "caption", "--out", "run", "--resume")
    assert status == 0, err
    status, _, err = qkv("train", "caption", "table.tsv", "--out", "other", *TINY[:-4], "--positions", 4)
    assert status == 1 and "train caption: captions must have at most 4 tokens; got" in err and "line" in err
