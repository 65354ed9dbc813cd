"""What is kept is bounded, and what is let go says so."""

import pytest
import torch

import qkv
from qkv.errors import ArgumentError
from qkv.lens.serve import shelf as module
from qkv.lens.serve.shelf import Bounded, Shelf


def maps(layers=2, heads=2, tokens=6):
    return [qkv.attention_map(*torch.randn(2, 1, heads, tokens, 4).unbind()) for _ in range(layers)]


def test_what_was_used_longest_ago_goes_first():
    kept = Bounded(10)
    for name in "abc":
        kept.put(name, name.upper(), 4)
        kept.get("a")
    assert [kept.get(name) for name in "abc"] == ["A", None, "C"]
    kept.put("huge", 1, 100)
    assert len(kept) == 1 and kept.get("huge") == 1


def test_a_head_is_opened_and_read_in_idle_time(monkeypatch):
    shelf, given = Shelf(), maps()
    name = shelf.keep(given)
    assert not shelf.step()
    pyramid, peak = shelf.open(name, 1, 0)
    assert shelf.open(name, 1, 0)[0] is pyramid and shelf.open(name, 1, 1)[0] is not pyramid
    shelf.open(name, 1, 0)
    while shelf.step():
        pass
    assert pyramid.done
    weights = given[1].dense()[0, 0]
    torch.testing.assert_close(pyramid.tile(0, 0, 0).mean, weights)
    assert peak == pytest.approx(float(weights.amax(-1).mean()))
    shelf.open(name, 0, 0)
    monkeypatch.setattr(module, "PATIENCE", -1)
    assert not shelf.step()


@pytest.mark.parametrize(
    ("place", "text"),
    [
        (("other", 0, 0), r"^see: the map must be open; got 'other' \(it was let go: read the text again\)$"),
        ((None, 2, 0), r"^see: layer must lie in 0\.\.1; got 2$"),
        ((None, 0, 2), r"^see: head must lie in 0\.\.1; got 2$"),
    ],
)
def test_what_is_not_there_is_said(place, text):
    shelf = Shelf()
    name = shelf.keep(maps())
    with pytest.raises(ArgumentError, match=text):
        shelf.small(place[0] or name, *place[1:])
    with pytest.raises(ArgumentError, match=text):
        shelf.open(place[0] or name, *place[1:])


def test_old_maps_are_let_go():
    shelf = Shelf(maps=1)
    first, second = shelf.keep(maps()), shelf.keep(maps())
    shelf.open(second, 0, 0)
    with pytest.raises(ArgumentError, match="let go"):
        shelf.open(first, 0, 0)
