"""A vision model of transformers reads a picture: its patches, every layer's attention, the picture as it saw it."""

import json

import numpy as np
import pytest
import torch
from architectures import ENCODERS, PICTURES, tiny

from qkv.errors import FileError, UnsupportedError
from qkv.integrations.architectures import load_image_processor
from qkv.lens.look import look_at
from qkv.lens.patches import read_patches
from qkv.lens.reading import read
from qkv.lens.see import effects_of, flows_of, see

transformers = pytest.importorskip("transformers", reason="transformers is an extra")
Picture = pytest.importorskip("PIL.Image", reason="pillow is an extra")

BEFORE = {
    "vit": ["[CLS]"],
    "deit, a token to distil into": ["[CLS]", "[DIST]"],
    "dinov2, registers": ["[CLS]", "[REG1]", "[REG2]"],
}


@pytest.fixture
def processor(tmp_path):
    made = {"image_processor_type": "ViTImageProcessor", "do_resize": True, "size": {"height": 16, "width": 16}}
    made |= {"do_rescale": True, "do_normalize": True, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.25, 0.2]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(made))
    return load_image_processor(tmp_path)


@pytest.fixture
def path(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Picture.fromarray(pixels).save(tmp_path / "noise.png")
    return tmp_path / "noise.png"


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_read_by_its_patches(name, processor, path):
    model = tiny(PICTURES[name], "sdpa")
    reading = read_patches(model, processor, path)
    assert reading.labels[: len(BEFORE[name]) + 2] == [*BEFORE[name], "r0c0", "r0c1"] and reading.labels[-1] == "r3c3"
    assert (reading.image.rows, reading.image.columns, reading.image.before) == (4, 4, len(BEFORE[name]))
    # As large as the model sees it, so that the pixels are the file's.
    np.testing.assert_allclose(reading.image.pixels, np.asarray(Picture.open(path)) / 255, atol=1e-6)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        theirs = model(reading.batch, output_attentions=True, output_hidden_states=True)
    for seen, weights in zip(reading.maps, theirs.attentions, strict=True):
        torch.testing.assert_close(seen.dense(), weights, rtol=0, atol=1e-5)
    torch.testing.assert_close(reading.hidden[-1], theirs.hidden_states[-1][0], rtol=0, atol=1e-5)
    (view,) = reading.views()
    assert view.image is reading.image and view.keys is None


def test_the_class_token_chooses_the_head(processor, path):
    reading = read_patches(tiny(PICTURES["vit"]), processor, path)
    look = look_at(reading)
    weights = torch.stack([reading.weights(layer)[:, 0, 1:] for layer in range(2)])
    assert look.link[0] == look.query == 0 and look.link[2] == pytest.approx(float(weights.max()))
    assert float(weights[look.layer, look.head, look.link[1] - 1]) == pytest.approx(look.link[2])


def test_what_it_looks_at_is_shown_and_written(processor, path, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    model = tiny(PICTURES["deit, a token to distil into"])
    reading = read_patches(model, processor, path)
    page, numbers = tmp_path / "page.html", tmp_path / "numbers.json"
    flows, effects = flows_of(model, [reading]), effects_of(model, [reading], None)
    see([reading], model="tiny", layer=1, head=2, flows=flows, effects=effects, out=page, numbers=numbers)
    shown = capsys.readouterr().out
    assert "layer 1, head 2: where [CLS] looks in 4 × 4 patches; [CLS]→r" in shown
    assert "most on [DIST]" in shown and "The residual's share against attention: L0 " in shown
    assert "Heads switched off: 1 − cosine" in shown
    (found,) = json.loads(numbers.read_text())["texts"]
    assert found["image"] == {"rows": 4, "columns": 4, "before": 2} and len(found["tokens"]) == 18
    assert len(found["effects"]["heads"]) == 10
    assert '"before":2,"colours":true' in page.read_text()


def test_copies_of_a_picture_are_as_many_as_its_patches_allow(processor, path, monkeypatch):
    model, most = tiny(PICTURES["vit"]), []
    reading = read_patches(model, processor, path)
    monkeypatch.setattr("qkv.lens.ablate.AT_ONCE", 40)
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda batch, **more: (most.append(len(batch)), forward(batch, **more))[1])
    effects_of(model, [reading], None)
    assert max(most) == 2


def test_what_sees_no_picture_or_not_all_of_it_is_refused(processor, path, tmp_path, tokenizer):
    with pytest.raises(
        UnsupportedError, match=r"^read_patches: model must be a vision model of transformers; got Bert"
    ):
        read_patches(tiny(ENCODERS["bert"]), processor, path)
    model = tiny(PICTURES["vit"])
    (tmp_path / "no.png").write_text("no picture")
    with pytest.raises(FileError, match=r"^read_patches: .*no\.png must be a picture; got cannot identify image file"):
        read_patches(model, processor, tmp_path / "no.png")
    windows = ("SwinConfig", "SwinModel", {
        "image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4,
    })  # fmt: skip
    rule = (
        r"SwinModel must attend over all 8 × 8 patches of a picture in every layer; got maps of .*\(qkv\.watch\(model"
    )
    with pytest.raises(UnsupportedError, match=rf"^read_patches: {rule}"):
        read_patches(tiny(windows), processor, path)
    with pytest.raises(
        UnsupportedError, match=r"^read: model must be one that reads text; got ViTModel \(qkv see --mo"
    ):
        read(model, tokenizer, "the cat")


def test_a_processor_that_is_missing_or_broken_says_so(tmp_path):
    with pytest.raises(FileError, match=r"^load_image_processor: .*preprocessor_config\.json must exist; got a folder"):
        load_image_processor(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"image_processor_type": "NoSuch"}')
    with pytest.raises(FileError, match=r"preprocessor_config\.json must describe an image processor of transformers"):
        load_image_processor(tmp_path)


def test_a_vision_model_that_computes_no_numbers_is_refused(processor, path):
    model = tiny(PICTURES["vit"])
    with torch.no_grad():
        next(model.parameters()).fill_(torch.inf)
    with pytest.raises(UnsupportedError, match=r"^read_patches: model must give finite vectors; got NaN or infinity "):
        read_patches(model, processor, path)
