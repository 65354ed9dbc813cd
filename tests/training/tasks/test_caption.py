"""The caption task: what it measures, and that it learns to read."""

import pytest
import torch

from qkv.text.digits import HEIGHT, WIDTH, Scene, scene
from qkv.training.tasks.caption import PRESETS, CaptionTask, DigitAlbum, looks, on_digits, read_digits

pytest.importorskip("sklearn", reason="scikit-learn is an extra")


def test_the_share_of_attention_on_a_digit_by_hand():
    """A digit at rows 8..15 and columns 0..7 covers the cells [2..3] x [0..1]."""
    one = Scene(torch.zeros(1, HEIGHT, WIDTH), (4,), ((8, 0),))
    maps = torch.zeros(1, 2, 6, 10)
    maps[0, 0, 2, 1], maps[0, 0, 1, 2], maps[0, 0, 5, 9] = 0.5, 0.25, 0.25
    # The word after the digit's, the end, reads none.
    maps[0, 1] = 1
    torch.testing.assert_close(on_digits(maps, [one], margin=0), torch.tensor([0.5]))
    torch.testing.assert_close(on_digits(maps, [one]), torch.tensor([0.75]))
    # At rows 6..13 and columns 31..38 it covers more, in part: [1..3] x [7..9].
    maps[0, 0] = 1
    moved = Scene(one.image, (4,), ((6, 31),))
    torch.testing.assert_close(on_digits(maps, [moved], margin=0), torch.tensor([9.0]))
    torch.testing.assert_close(on_digits(maps, [moved]), torch.tensor([20.0]))


@pytest.mark.parametrize("attention", ["soft", "hard"])
def test_where_a_model_looks(attention):
    torch.manual_seed(0)
    model = CaptionTask(PRESETS["quick"], attention=attention).model.eval()
    scenes = [scene(number, held_out=True) for number in range(8)]
    maps = looks(model, scenes)
    longest = max(len(one.digits) for one in scenes)
    assert maps.shape == (8, longest + 1, HEIGHT // 4, WIDTH // 4)
    torch.testing.assert_close(maps.sum((-1, -2)), torch.ones(8, longest + 1))
    assert (maps.amax((-1, -2)) == 1).all() == (attention == "hard")
    assert len(on_digits(maps, scenes)) == sum(len(one.digits) for one in scenes)


def test_the_sample_tells_how_much_is_read():
    task = CaptionTask(PRESETS["quick"])
    task.model.eval()
    scenes = [one for step in range(4) for one in task.validation.scenes(step)]
    read = read_digits(task.model, torch.stack([one.image for one in scenes]))
    right = sum(said == list(one.digits) for said, one in zip(read, scenes, strict=True))
    assert task.sample().startswith(f"{right} of 256 scenes right, ")
    assert f"“{scenes[0].caption}” read as “" in task.sample()


def test_the_price_of_looking_is_told_apart_from_the_words_losses():
    album = DigitAlbum(PRESETS["quick"])
    batch = album.batches[0]
    assert list(CaptionTask(PRESETS["quick"], album).loss(batch)[0]) == ["loss"]
    assert list(CaptionTask(PRESETS["quick"], album, attention="hard").loss(batch)[0]) == ["loss", "attention_loss"]
    album.double = 1.0
    task = CaptionTask(PRESETS["quick"], album)
    parts, count = task.loss(batch)
    assert list(parts) == ["loss", "attention_loss"] and count == len(batch.targets)
    assert parts["attention_loss"] > 0
    torch.testing.assert_close(sum(parts.values()), task.model.loss(batch.images, batch.target, batch.targets)[0])


def test_hard_attention_goes_on_from_soft():
    before = CaptionTask(PRESETS["quick"]).model
    after = CaptionTask(PRESETS["quick"], attention="hard", start=before).model
    image = scene(0, held_out=True).image[None]
    assert torch.equal(before.eval().start(image).memory, after.eval().start(image).memory)
    maps = (model(image, torch.tensor([[1, 3]]))[1][:, 0] for model in (before, after))
    torch.testing.assert_close(*maps)
