"""Letters of the standard library, and windows of them."""

import torch

from qkv.labs.letters import every_window, letters, windows


def test_letters_are_bytes_and_what_is_held_out_differs():
    read, held_out = letters(500), letters(500, held_out=True)
    assert len(read) == len(held_out) == 500 and not torch.equal(read, held_out)
    assert bytes(read.tolist()).decode().isprintable() is False and 0 < read.min() <= read.max() < 256
    assert torch.equal(read[:100], letters(100))


def test_windows_are_pieces_with_what_follows():
    text = torch.arange(50)
    tokens, targets = windows(text, 7, 20, torch.Generator().manual_seed(0))
    assert tokens.shape == targets.shape == (20, 7)
    assert torch.equal(tokens + 1, targets)
    assert tokens.min() < 10 and targets.max() > 40
    # The last letter can be a target.
    assert torch.equal(windows(torch.arange(4), 3, 1, torch.Generator())[1], torch.tensor([[1, 2, 3]]))


def test_every_window_comes_once():
    found = list(every_window(torch.arange(14), 3, 2))
    assert [tokens.tolist() for tokens, _ in found] == [[[0, 1, 2], [3, 4, 5]], [[6, 7, 8], [9, 10, 11]]]
    assert all(torch.equal(tokens + 1, targets) for tokens, targets in found)
