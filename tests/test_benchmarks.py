"""The benchmarks' page shows the figures that are kept, and says truly which reach what they are to."""

import json

import pytest

from benchmarks.run import MARK, README, RESULTS, compare, wanted, worst, written


def test_the_page_shows_the_figures_that_are_kept() -> None:
    assert README.read_text("utf-8").split(MARK)[1] == written(json.loads(RESULTS.read_text("utf-8")))


def test_a_ratio_is_the_peers_time_by_ours() -> None:
    ((peer, figures),) = compare({"qkv": [1.0, 2.0, 1.0, 2.0], "SDPA": [4.0, 4.0, 2.0, 8.0]})
    assert peer == "SDPA" and figures == [2.6667, 2.0, 4.0, 1500.0, 4000.0]


@pytest.mark.parametrize(
    ("name", "threads", "figures", "text", "reached"),
    [
        ("window 257 of 4,096 / SDPA, mask given", 1, [8.9, 8, 9, 1, 9], "≥ 9", False),
        ("window 257 of 4,096 / SDPA, mask given", 2, [8.9, 8, 9, 1, 9], "≥ 7.5", True),
        ("window 256 of 2,048 / the same of 32,768 (16 is linear)", 1, [19.3, 19, 20, 1, 19], "12.8 to 19.2", False),
        ("call, 128 keys / SDPA", 1, [0.9, 0.9, 0.9, 0.216, 0.2], "≤ 15 µs more", False),
        ("call, 128 keys / SDPA", 1, [0.9, 0.9, 0.9, 0.214, 0.2], "≤ 15 µs more", True),
        ("a case that nobody asked for / SDPA", 1, [0.1, 0.1, 0.1, 1, 1], "", True),
    ],
)
def test_what_is_wanted_and_whether_it_is_reached(
    name: str, threads: int, figures: list[float], text: str, reached: bool
) -> None:
    said, holds = wanted(name, threads)
    assert said == text and holds(figures) is reached


def test_the_worst_of_a_sweep_is_its_lowest_ratio() -> None:
    found = {"one / SDPA": [3.0], "two / SDPA": [2.0], "apart / SDPA": [1.0]}
    cases = {"one": "shapes_window", "two": "shapes_window"}
    assert list(worst(found, cases)) == ["the worst of shapes_window to SDPA: 2.00 (two)"]
