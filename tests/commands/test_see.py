"""`qkv see`: pictures for a vision model, what is wrong before the model is loaded, and Chinese."""

import json
import re

import pytest
import torch
from architectures import ENCODERS, PICTURES, tiny

from qkv.commands import see as module

# Typer gives None where the shape checks want what is written.
pytestmark = pytest.mark.unhooked


@pytest.fixture
def vision(tmp_path, capsys):
    """A tiny ViT with its image processor, and a picture."""
    pytest.importorskip("transformers", reason="transformers is an extra")
    image = pytest.importorskip("PIL.Image", reason="pillow is an extra")
    tiny(PICTURES["vit"]).save_pretrained(tmp_path / "vit")
    processor = {"image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 16}}
    (tmp_path / "vit" / "preprocessor_config.json").write_text(json.dumps(processor))
    image.fromarray((torch.rand(20, 30, 3) * 255).byte().numpy()).save(tmp_path / "noise.png")
    # How it was saved is told too.
    capsys.readouterr()
    return "vit"


def views_of(path):
    text = re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.S)[1]
    return json.loads(text)


def test_a_vision_model_sees_a_picture(qkv, vision, tmp_path):
    status, out, err = qkv("see", "noise.png", "--model", vision, "--out", "page.html", "--ablate", "--sort", "first")
    assert status == 0, err
    assert "where [CLS] looks in 4 × 4 patches" in out and "Heads switched off" in out and "page: page.html" in out
    (view,) = views_of(tmp_path / "page.html")["views"]
    image = view["image"]
    assert (image["rows"], image["columns"], image["before"], image["colours"]) == (4, 4, 1, True)
    assert view["tokens"][:2] == ["[CLS]", "r0c0"] and view["keys"] is None and view["query"] == 0


def test_what_is_no_picture_is_said_before_the_model_is_loaded(qkv, vision, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "load_architecture", lambda folder: pytest.fail("a model was loaded"))
    told = qkv("see", "The cat.", "--model", vision)[2]
    assert told == "qkv: see: TEXT must be a picture's file, as a ViTModel sees pictures; got 'The cat.'\n"
    told = qkv("see", "noise.png", "--model", vision, "--word", "cat")[2]
    assert told == "qkv: see: --word must be left out with a model that sees pictures; got 'cat'\n"
    (tmp_path / "vit" / "preprocessor_config.json").unlink()
    told = qkv("see", "noise.png", "--model", vision)[2]
    assert "load_image_processor: vit/preprocessor_config.json must exist; got a folder with config.json" in told
    monkeypatch.setattr(module, "load_any", lambda command, place: pytest.fail("a model was loaded"))
    told = qkv("see", "noise.png", "--model", folder)[2]
    assert told.startswith("qkv: see: TEXT must be a sentence; got the picture 'noise.png' (this model reads")


def test_a_vision_model_neither_serves_nor_indexes(qkv, vision, corpus):
    rule = "see: the model in vit must read text; got ViTModel (qkv see --model FOLDER PICTURE.png shows"
    assert rule in qkv("see", "--serve", "--no-open", "--port", 0, "--model", vision)[2]
    assert rule.replace("see: ", "words: ", 1) in qkv("words", corpus, "--out", "index", "--model", vision)[2]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--sort", "x"], "see: --sort must be one of entropy, diagonal, previous, following, first, separator, same_"),
        (["--index", "nowhere"], "see: --index must come with --word; got none (the word to look up)"),
        (["--index", "nowhere", "--word", "cat"], "must be an index; got nothing (qkv words CORPUS --out INDEX mak"),
        (["--depth", "2"], "see: --depth must come with --out and one text; got no --out"),
        (["--layer", "1"], "see: layer must lie in 0..0; got 1 (the model has 1 layers)"),
        (["--layer", "-1"], "see: layer must lie in 0..0; got -1 (the model has 1 layers)"),
        (["--head", "2"], "see: head must lie in 0..1; got 2 (the model has 2 heads)"),
        (["--lang", "fr"], "see: --lang must be one of en, zh; got 'fr'"),
        (["--serve", "--index", "x"], "see: --index must be left out with --serve; got x (the page shows it)"),
        (["--serve", "--ablate"], "see: --ablate must be left out with --serve; got True (the page shows it)"),
    ],
)
def test_what_is_wrong_is_said_before_the_model_is_loaded(qkv, folder, monkeypatch, options, text):
    monkeypatch.setattr(module, "load_any", lambda command, place: pytest.fail("a model was loaded"))
    status, out, err = qkv("see", "the cat", "--model", folder, *options)
    assert (status, out) == (1, "") and text in err, err


def test_a_place_in_a_model_of_transformers_is_checked_by_its_config(qkv, tmp_path, monkeypatch, capsys):
    pytest.importorskip("transformers", reason="transformers is an extra")
    tiny(ENCODERS["distilbert"]).save_pretrained(tmp_path / "theirs")
    capsys.readouterr()
    monkeypatch.setattr(module, "load_any", lambda command, place: pytest.fail("a model was loaded"))
    for option, size in (("layer", 2), ("head", 4)):
        told = qkv("see", "the cat", "--model", "theirs", f"--{option}", size)[2]
        assert told == f"qkv: see: {option} must lie in 0..{size - 1}; got {size} (the model has {size} {option}s)\n"


def test_chinese(qkv, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    given = ("see", "the cat", "the mouse cat", "--model", folder, "--word", "cat", "--ablate", "--sort", "entropy")
    status, out, err = qkv(*given, "--lang", "zh", "--out", "page.html", "--json", "numbers.json")
    assert status == 0, err
    # What stays is names: of tokens, files, papers, layers and measures.
    kept = r"the|cat|mouse|Jain|Wallace|Wiegreffe|Pinter|page\.html|numbers\.json|MB|KL|nats?|entropy|SEP|[LHAB]"
    assert re.findall(r"[A-Za-z]{2,}", re.sub(kept, "", out)) == []
    assert "纵向为查询" in out and "逐个关闭注意力头" in out and "语境中的“cat”" in out and "网页：page.html" in out
    assert views_of(tmp_path / "page.html")["language"] == "zh"
    qkv(*given, "--out", "page.html")
    assert views_of(tmp_path / "page.html")["language"] is None
    status, _, err = qkv("see", "the cat", "--model", folder, "--layer", 3, "--lang", "zh")
    assert (status, err) == (1, "qkv: see：layer 必须在 0..0 之内；实际为：3（模型有 1 层）\n")


def test_an_index_in_chinese(qkv, folder, corpus):
    status, _, err = qkv("words", corpus, "--out", "index", "--model", folder, "--lang", "zh")
    assert status == 0 and "个句子；" in err and "处词。试试：qkv see SENTENCE --word WORD --index index" in err
    told = qkv("words", corpus, "--out", "other", "--model", folder, "--layers", "a", "--lang", "zh")[2]
    assert told == "qkv: words：--layers 必须是用逗号分开的数字；实际为：'a'\n"
    told = qkv("words", corpus, "--out", "other", "--lang", "fr")[2]
    assert told == "qkv: words: --lang must be one of en, zh; got 'fr'\n"


def test_a_text_file_is_read(qkv, folder, tmp_path):
    (tmp_path / "story.txt").write_text("the cat\nclick the mouse\n")
    # A word is no file's name, though there is such a file.
    (tmp_path / "cat").write_text("the mouse")
    status, _, err = qkv("see", "story.txt", "cat", "--model", folder, "--json", "numbers.json")
    assert status == 0, err
    assert [one["text"] for one in json.loads((tmp_path / "numbers.json").read_text())["texts"]] == [
        "the cat\nclick the mouse", "cat"
    ]  # fmt: skip
    status, _, err = qkv("see", "stroy.txt", "--model", folder)
    assert status == 1 and err == "qkv: see: TEXT must be a sentence or a file that is there; got 'stroy.txt'\n"
    (tmp_path / "noise.dat").write_bytes(bytes(range(256)))
    status, _, err = qkv("see", "noise.dat", "--model", folder)
    assert status == 1 and re.search(r"noise\.dat must be text; got a zero byte", err)
