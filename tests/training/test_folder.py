"""A folder is written whole or not at all, wherever a crash comes."""

import os
import shutil

import pytest
from crashes import killed_at_every_call

from qkv.training.folder import leftovers, present, remove_folder, whole_folder


def write(path, text):
    with whole_folder(path) as temporary:
        (temporary / "inside").mkdir()
        (temporary / "a").write_text(text)
        (temporary / "inside" / "b").write_text(text)


def read(path):
    return (path / "a").read_text(), (path / "inside" / "b").read_text()


def test_it_appears_and_is_replaced(tmp_path):
    write(tmp_path / "model", "one")
    assert read(tmp_path / "model") == ("one", "one")
    write(tmp_path / "model", "two")
    assert read(tmp_path / "model") == ("two", "two")
    assert os.listdir(tmp_path) == ["model"]


def test_an_error_inside_leaves_the_old_and_nothing_else(tmp_path):
    write(tmp_path / "model", "one")
    with pytest.raises(RuntimeError), whole_folder(tmp_path / "model") as temporary:
        (temporary / "a").write_text("two")
        raise RuntimeError
    assert read(tmp_path / "model") == ("one", "one")
    assert os.listdir(tmp_path) == ["model"]


def test_killed_at_any_call_the_old_or_the_new_is_there(tmp_path):
    path = tmp_path / "model"
    found = set()

    def setup():
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()
        write(path, "old")

    def check():
        found.add(read(present(path)))
        # What a crash left is in nobody's way.
        write(path, "next")
        assert read(present(path)) == ("next", "next")

    assert killed_at_every_call(lambda: write(path, "new"), setup, check) >= 8
    assert found == {("old", "old"), ("new", "new")}


def test_a_removed_folder_is_gone_at_once(tmp_path):
    path = tmp_path / "step"

    def setup():
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()
        write(path, "old")

    def check():
        assert not path.exists() or read(path) == ("old", "old")
        assert path.exists() or len(leftovers(tmp_path)) <= 1

    assert killed_at_every_call(lambda: remove_folder(path), setup, check) >= 2


def test_present_is_the_path_itself_when_nothing_is_there(tmp_path):
    assert present(tmp_path / "model") == tmp_path / "model"
