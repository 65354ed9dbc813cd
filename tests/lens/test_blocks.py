"""A block is compared with its sum when it is first read, and no other is."""

import numpy as np
import pytest

from qkv.errors import FileError
from qkv.lens import blocks as module
from qkv.lens.blocks import Blocks, sums_of


def test_what_is_read_is_what_was_written(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 100)
    path = tmp_path / "numbers.bin"
    # A row of 12 bytes lies across blocks of 100: row 8 in the first and the second, row 24 in the last two.
    numbers = np.arange(90, dtype=np.int32).reshape(30, 3)
    path.write_bytes(numbers.tobytes())
    sums = sums_of(path)
    assert len(sums) == 4
    whole = Blocks(path, np.int32, (30, 3), sums)
    assert np.array_equal(whole.take(np.array([[29, 0], [8, 8]])), numbers[[[29, 0], [8, 8]]])
    assert np.array_equal(whole.span(20, 30), numbers[20:])
    content = bytearray(path.read_bytes())
    content[150] ^= 1
    path.write_bytes(content)
    harmed = Blocks(path, np.int32, (30, 3), sums)
    assert np.array_equal(harmed.take(np.array([0, 7, 17, 29])), numbers[[0, 7, 17, 29]])
    assert np.array_equal(harmed.span(0, 8), numbers[:8])
    for row in (8, 12, 16):
        with pytest.raises(FileError, match=r"must be as it was written; got other bytes from 100 on in numbers.bin"):
            harmed.take(np.array([row]))
    with pytest.raises(FileError, match="as it was written"):
        harmed.span(0, 20)
