"""A user's pairs: named by what they say, refused where they are none."""

import re
import shutil

import pytest
from tables import write_table

from qkv import errors
from qkv.labs.table import LEAST, Table


def test_a_table_is_named_by_what_it_says(tmp_path):
    table = Table.read(write_table(tmp_path / "numbers.tsv"))
    elsewhere = shutil.copy(table.path, tmp_path / "other.tsv")
    assert Table.read(elsewhere) == table and repr(Table.read(elsewhere)) == repr(table)
    lines = table.path.read_text().splitlines(keepends=True)
    (tmp_path / "other.tsv").write_text("".join(lines[:-1]))
    assert Table.read(elsewhere) != table


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "must be a file or a folder; got No such file or directory"),
        ("", "must hold text; got an empty file"),
        ("one\tun\ntwo\n", "must hold text in two columns, a tab between them; got ['two'] (line 2)"),
        (
            "one\tun\n" * 2000,
            f"must hold {LEAST} pairs to be held out; got 0 (a source in 20 is held out: give some thousand pairs)",
        ),
    ],
)
def test_what_is_no_table(tmp_path, text, complaint):
    path = tmp_path / "pairs.tsv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(errors.FileError, match=re.escape(f"{path} {complaint}")):
        Table.read(path)
