"""Pictures with captions: what is read of them, and what is refused, naming the line."""

import json
import zlib

import numpy as np
import pytest
import torch

from qkv.errors import ArgumentError, FileError
from qkv.text.batching import Sequences
from qkv.text.pictures import END, START, PictureBatches, pixel_file, read_captions, read_picture

Image = pytest.importorskip("PIL.Image", reason="pillow is an extra")


def paint(path, shades):
    Image.fromarray(np.array(shades, dtype=np.uint8)).save(path)


@pytest.fixture
def table(tmp_path):
    paint(tmp_path / "dark.png", [[0, 51], [102, 255]])
    paint(tmp_path / "light.png", [[255, 255], [255, 0]])
    (tmp_path / "birds.tsv").write_text("dark.png\ta dark bird\nlight.png\t一只鸟\ndark.png\tthe same\n")
    return tmp_path / "birds.tsv"


def test_a_table_and_json_lines_say_the_same(table, tmp_path):
    rows = read_captions(table)
    assert [picture.name for picture in rows.pictures] == ["dark.png", "light.png", "dark.png"]
    assert rows.captions == ("a dark bird", "一只鸟", "the same")
    pairs = zip(rows.pictures, rows.captions, strict=True)
    lines = [json.dumps({"image": path.name, "caption": text}) for path, text in pairs]
    (tmp_path / "birds.jsonl").write_text("\n".join(lines))
    assert read_captions(tmp_path / "birds.jsonl").captions == rows.captions


def test_a_picture_is_grey_and_in_the_middle(table, tmp_path):
    seen = read_picture(tmp_path / "dark.png", 4, 6)
    expected = torch.zeros(1, 4, 6)
    expected[0, 1:3, 2:4] = torch.tensor([[0, 0.2], [0.4, 1]])
    torch.testing.assert_close(seen, expected)
    # Of ink on paper, what is written alone is left.
    chalk = read_picture(tmp_path / "light.png", 4, 6, chalk=True)
    assert chalk.nonzero().tolist() == [[0, 2, 3]]
    paint(tmp_path / "wide.png", np.full((10, 40), 255))
    assert read_picture(tmp_path / "wide.png", 8, 8)[0].any(1).sum() == 2


@pytest.mark.parametrize(("name", "kind"), [("a.png", "uint16"), ("a.tif", "uint16"), ("a.tif", "int32")])
def test_shades_of_16_bits_are_shades(tmp_path, name, kind):
    Image.fromarray(np.array([[0, 51 * 257], [102 * 257, 65535]], kind)).save(tmp_path / name)
    expected = torch.tensor([[[0, 0.2], [0.4, 1]]])
    torch.testing.assert_close(read_picture(tmp_path / name, 2, 2), expected)


@pytest.mark.parametrize(
    ("shades", "got"),
    [
        (np.array([[0.0, 1.0]], np.float32), "numbers with a point"),
        (np.array([[0, 70000]], np.int32), "numbers from 0 to 70000"),
        (np.array([[-1, 5]], np.int32), "numbers from -1 to 5"),
    ],
)
def test_numbers_that_do_not_say_what_is_white_are_refused(tmp_path, shades, got):
    Image.fromarray(shades).save(tmp_path / "a.tif")
    with pytest.raises(FileError, match=rf"a\.tif must be a picture; got {got}: save it with 8 or 16 bits a pixel"):
        read_picture(tmp_path / "a.tif", 2, 2)


@pytest.mark.parametrize(("height", "width", "name"), [(0, 0, "height"), (2, 0, "width"), (-1, 2, "height")])
def test_a_picture_has_a_size(table, tmp_path, height, width, name):
    with pytest.raises(ArgumentError, match=rf"^read_picture: {name} must be >= 1; got "):
        read_picture(tmp_path / "dark.png", height, width)


def test_the_pixels_are_made_once_and_again_when_a_picture_changes(table, tmp_path):
    rows = read_captions(table)
    pixels = pixel_file(tmp_path / "pixels.npy", rows, 4, 4)
    assert pixels.shape == (3, 4, 4) and pixels.dtype == np.uint8
    assert pixels[0, 1:3, 1:3].tolist() == [[0, 51], [102, 255]] and np.array_equal(pixels[0], pixels[2])
    before = rows.identity
    paint(tmp_path / "dark.png", [[0, 0, 9], [0, 0, 9]])
    assert read_captions(table).identity != before


def test_batches_are_a_function_of_seed_and_step():
    pixels = np.arange(7 * 16, dtype=np.uint8).reshape(7, 4, 4)
    captions = Sequences.of(torch.arange(3, 3 + count) for count in range(7))
    rows = torch.tensor([0, 2, 3, 5, 6])
    batches = PictureBatches(pixels, captions, rows, size=2, seed=1)
    assert len(batches) == 3
    orders = []
    for epoch in range(3):
        seen = [batches[3 * epoch + step] for step in range(3)]
        orders.append(tuple((torch.cat([batch.target.lengths for batch in seen]) - 1).tolist()))
        assert sorted(orders[-1]) == rows.tolist()
        for batch in seen:
            assert (batch.targets == END).sum() == len(batch.images)
            for picture, said in zip(batch.images, batch.target.split(), strict=True):
                # The picture of row r begins with the pixel 16 r, and its caption has r words.
                assert round(float(picture[0, 0, 0]) * 255) == 16 * (len(said) - 1) and said[0] == START
    assert len(set(orders)) > 1
    assert torch.equal(batches[4].images, PictureBatches(pixels, captions, rows, size=2, seed=1)[4].images)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("dark.png", r"birds\.tsv must hold text in two columns, a tab between them; .*line 2"),
        (
            "gone.png\ta bird",
            r"read_captions: .*gone\.png must be a picture; got no such file \(.*birds\.tsv, line 2\)",
        ),
        (
            f"{'x' * 5000}.png\ta bird",
            r"read_captions: .*x\.png must be a picture; got no such file \(.*birds\.tsv, line 2\)",
        ),
        ("birds.tsv\ta bird", r"read_picture: .*birds\.tsv must be a picture; got .*birds\.tsv, line 2"),
        ("short.png\ta bird", r"read_picture: .*short\.png must be a picture; got .*birds\.tsv, line 2"),
    ],
)
def test_what_is_refused_names_the_line(table, tmp_path, line, complaint):
    paint(tmp_path / "short.png", np.random.default_rng(0).integers(0, 255, (99, 99)))
    whole = (tmp_path / "short.png").read_bytes()
    (tmp_path / "short.png").write_bytes(whole[: len(whole) // 2])
    table.write_text(f"dark.png\tone\n{line}\n")
    with pytest.raises(FileError, match=complaint):
        pixel_file(tmp_path / "pixels.npy", read_captions(table), 8, 8)
    assert not (tmp_path / "pixels.npy").exists()


def test_a_picture_that_unpacks_to_gigabytes_is_refused(tmp_path):
    size = 60_000
    header = b"IHDR" + size.to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
    parts = [header, b"IDAT" + zlib.compress(bytes(1000)), b"IEND"]
    chunks = [(len(part) - 4).to_bytes(4, "big") + part + zlib.crc32(part).to_bytes(4, "big") for part in parts]
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    with pytest.raises(FileError, match=r"read_picture: .*bomb\.png must be a picture; got Image size"):
        read_picture(tmp_path / "bomb.png", 8, 8)
