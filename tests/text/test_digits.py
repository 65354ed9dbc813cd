"""Scenes of handwritten digits."""

import pytest
import torch

from qkv import errors
from qkv.text import digits
from qkv.text.digits import HEIGHT, SIZE, WIDTH, WORDS, DigitScenes, scene
from qkv.text.pictures import END, START

pytest.importorskip("sklearn", reason="scikit-learn is an extra")


def test_digits_stand_where_the_scene_says_and_are_read_in_order():
    hands, labels = (part.clone() for part in digits._hands(False))
    for number in range(40):
        one = scene(number)
        assert one.image.shape == (1, HEIGHT, WIDTH) and one.image.min() >= 0 and one.image.max() <= 1
        covered = torch.zeros(HEIGHT, WIDTH, dtype=torch.int64)
        for digit, (row, column) in zip(one.digits, one.corners, strict=True):
            part = one.image[0, row : row + SIZE, column : column + SIZE]
            assert (hands[labels == digit] == part).flatten(1).all(1).any()
            covered[row : row + SIZE, column : column + SIZE] += 1
        assert covered.max() == 1
        assert not one.image[0][covered == 0].any()
        lines = [(row > one.corners[0][0] + 2, column) for row, column in one.corners]
        assert lines == sorted(lines)


def test_a_scene_is_a_function_of_its_number_and_seed():
    assert torch.equal(scene(3).image, scene(3).image) and scene(3).digits == scene(3).digits
    assert not torch.equal(scene(3).image, scene(4).image)
    assert not torch.equal(scene(3).image, scene(3, seed=1).image)


def test_no_hand_is_on_both_sides():
    kept, held = (digits._hands(side)[0].flatten(1) for side in (False, True))
    assert len(kept) + len(held) == 1797 and len(held) == 180
    assert not (kept[:, None] == held).all(-1).any()


def test_a_batch_holds_its_scenes_and_their_words():
    data = DigitScenes(5, size=4)
    batch, scenes = data[7], data.scenes(7)
    assert len(data) == 5 and torch.equal(batch.images, torch.stack([one.image for one in scenes]))
    rows, lengths = batch.target.padded()
    for one, row, length in zip(scenes, rows, lengths, strict=True):
        assert [WORDS[token] for token in row[1:length]] == one.caption.split()
        assert row[0] == START
    ends = batch.target.lengths.cumsum(0) - 1
    assert (batch.targets[ends] == END).all() and batch.count == len(batch.targets)
    assert torch.equal(
        batch.targets[:-1][batch.targets[:-1] != END], batch.target.tokens[1:][batch.target.tokens[1:] != START]
    )


def test_sizes_that_are_none():
    with pytest.raises(errors.ArgumentError, match="DigitScenes: size must be >= 1; got 0"):
        DigitScenes(1, size=0)
