"""Results there and back; what is broken or older is named."""

import json
import os
from dataclasses import replace

import pytest

from qkv import errors
from qkv.labs import find_lab
from qkv.labs.running.results import (
    Result,
    _taken,
    check_folder,
    code_of,
    device,
    figures_of,
    find_results,
    now,
    read_result,
    write_result,
)
from qkv.labs.table import Table


@pytest.fixture
def result(small):
    figures = {"x": 2.0, "curve": [1, 2]}
    return Result("small", "quick", 0, figures, 1.5, now(), device(), {"torch": "2"}, code_of(small))


def test_there_and_back(small, result, tmp_path):
    for seed in (10, 2):
        write_result(tmp_path, small, replace(result, seed=seed))
    found, wrong = find_results(tmp_path, small)
    assert [one.seed for one in found] == [2, 10] and not wrong
    assert found[1] == replace(result, seed=10) and figures_of(found) == [result.figures] * 2
    assert find_results(tmp_path, replace(small, form="full")) == ([], [])


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda text: text[: len(text) // 2], "must be a result; got JSONDecodeError"),
        (lambda text: "[]", "must be a result; got TypeError"),
        (lambda text: "", "must be a result"),
        (lambda text: json.dumps(json.loads(text) | {"format": 9}), "must be in format 1; got 9"),
        (lambda text: json.dumps(json.loads(text) | {"code": "0"}), "must be of this version of the lab; got an older"),
        (lambda text: json.dumps(json.loads(text) | {"figures": {}}), "must hold all figures of small"),
        (lambda text: json.dumps(json.loads(text) | {"figures": {"x": "much"}}), "must hold all figures of small"),
        (lambda text: json.dumps(json.loads(text) | {"more": 1}), "must be a result; got TypeError"),
        (lambda text: "[" * 100_000, "must be a result; got RecursionError"),
        (lambda text: json.dumps(json.loads(text) | {"seed": 7}), "must hold all figures of small"),
        (lambda text: json.dumps(json.loads(text) | {"device": "\ud800"}), "must hold all figures of small"),
        (lambda text: json.dumps(json.loads(text) | {"figures": {"x": 10**400}}), "must hold all figures of small"),
    ],
)
def test_what_is_no_result_is_named_and_passed_over(small, result, tmp_path, change, complaint):
    write_result(tmp_path, small, result)
    write_result(tmp_path, small, replace(result, seed=1))
    path = tmp_path / "results" / "small.quick.0.json"
    path.write_text(change(path.read_text()))
    found, wrong = find_results(tmp_path, small)
    assert [one.seed for one in found] == [1]
    assert len(wrong) == 1 and str(path) in wrong[0] and complaint in wrong[0]
    with pytest.raises(errors.FileError):
        read_result(path, small)


def test_a_folder_that_cannot_be_made(small, result, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.FileError, match="must be a folder that can be written to; got"):
        write_result(tmp_path / "file", small, result)


def test_words_and_plots_may_change_and_sizes_may_not(small):
    code = code_of(small)
    assert code_of(replace(small, answer=small.question, seconds=9.0)) == code
    assert code_of(replace(small, quick=replace(small.quick, factor=3.0))) != code
    assert code_of(replace(small, form="full")) != code


def test_results_of_other_pairs_are_other_results(small, result, tmp_path):
    full = replace(small, form="full")
    labs = [full, *(replace(full, full=replace(full.full, table=Table(tmp_path, name))) for name in ("1a", "2b"))]
    for number, lab in enumerate(labs):
        write_result(tmp_path, lab, replace(result, form="full", code=code_of(lab), figures={"x": float(number)}))
    assert [find_results(tmp_path, lab)[0][0].figures["x"] for lab in labs] == [0, 1, 2]
    assert len({code_of(lab) for lab in labs}) == len(list((tmp_path / "results").iterdir())) == 3
    moved = replace(full, full=replace(full.full, table=Table(tmp_path / "elsewhere", "2b")))
    assert find_results(tmp_path, moved) == find_results(tmp_path, labs[2])
    # One of other pairs under this name was measured by other code, as it were.
    (tmp_path / "results" / "small.full-1a.0.json").replace(tmp_path / "results" / "small.full-2b.0.json")
    found, wrong = find_results(tmp_path, moved)
    assert not found and "must be of this version of the lab; got an older result" in wrong[0]


def test_the_code_of_a_papers_table_is_its_own():
    full = find_lab("heads", full=True)
    assert code_of(full) != code_of(find_lab("heads"))
    files = {path.name for path in _taken(full.source, {})}
    assert {"heads.py", "translations.py", "table.py", "chrf.py", "fit.py"} == files
    assert full.source.parent.name == "papers"


@pytest.mark.unhooked
@pytest.mark.parametrize("change", [{"seed": "0"}, {"seconds": None}, {"versions": ["2"]}, {"figures": []}])
def test_parts_of_another_kind_make_no_result(small, result, tmp_path, change):
    write_result(tmp_path, small, result)
    path = tmp_path / "results" / "small.quick.0.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    found, wrong = find_results(tmp_path, small)
    assert not found and len(wrong) == 1 and "must hold all figures of small; got others" in wrong[0]


def test_only_files_of_the_right_name_are_seeds(small, result, tmp_path):
    write_result(tmp_path, small, result)
    folder = tmp_path / "results"
    text = (folder / "small.quick.0.json").read_text()
    for name in ("small.quick.0 (copy).json", "small.quick.x.json", "small.quick.0.json.log"):
        (folder / name).write_text(text)
    os.mkfifo(folder / "small.quick.1.json")
    found, wrong = find_results(tmp_path, small)
    assert [one.seed for one in found] == [0]
    assert len(wrong) == 1 and "small.quick.1.json must be a result" in wrong[0]


def test_what_cannot_be_looked_into(small, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.FileError, match="must be a folder that can be read; got Not a directory"):
        find_results(tmp_path / "file", small)
    with pytest.raises(errors.FileError, match="must be a folder that can be written to; got Not a directory"):
        check_folder(tmp_path / "file")
    check_folder(tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder" / "results").iterdir()) == []
