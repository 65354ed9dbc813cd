"""The standard library as a corpus."""

import pytest

from qkv import errors
from qkv.text import stdlib


@pytest.fixture
def library(tmp_path, monkeypatch):
    files = {
        **{f"module{number:03}.py": f'"""About {number}.\n\n    More.\n    """\n' for number in range(60)},
        "broken.py": "def (",
        "latin.py": "# coding: latin-1\nx = 'caf\xe9'\n",
        "not_utf8.py": "x = 'caf\xe9'\n",
        "empty.py": "  \n",
        "test/inside.py": "x = 1",
        "package/site-packages/other.py": "x = 1",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode("latin-1"))
    monkeypatch.setattr(stdlib.sysconfig, "get_path", lambda name: str(tmp_path))


def test_every_file_is_in_one_part(library):
    kept, held = list(stdlib.code()), list(stdlib.code(held_out=True))
    assert len(kept) + len(held) == 62 and 0 < len(held) < 12
    assert not set(kept) & set(held)
    assert list(stdlib.code()) == kept


def test_any_coding_is_read_and_what_is_broken_is_passed_over(library):
    every = [*stdlib.code(), *stdlib.code(held_out=True)]
    assert "# coding: latin-1\nx = 'café'\n" in every
    assert not any("x = 1" in text for text in every)


def test_prose_is_the_docstrings(library):
    every = [*stdlib.prose(), *stdlib.prose(held_out=True)]
    assert len(every) == 60 and "About 7.\n\nMore." in every


def test_this_python_has_a_library():
    assert "def " in next(stdlib.code())


def test_a_python_without_sources(tmp_path, monkeypatch):
    monkeypatch.setattr(stdlib.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(errors.FileError, match=r"stdlib: .* must hold Python's sources; got none"):
        next(stdlib.code())
