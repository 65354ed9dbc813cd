"""Code as HTML: nothing is lost, and what it says cannot become markup."""

import html
import re
from pathlib import Path

import pytest

import qkv.labs.scaling
from qkv.labs.report.code import code


@pytest.mark.parametrize(
    "source",
    [
        "x = 1\n",
        'def f(a):\n    """Say <b>."""\n    return "a & b"  # why < how\n',
        "x = '''one\ntwo'''\n\n\ny = f'{x!r} <i>'\n",
        Path(qkv.labs.scaling.__file__).read_text(encoding="utf-8"),
    ],
)
def test_nothing_is_lost(source):
    marked = code(source)
    assert html.unescape(re.sub(r"</?span[^>]*>", "", marked)) == source
    assert not re.search(r"<(?!/?span)", marked)


def test_what_is_marked():
    marked = code("if x:  # why\n    pass\n")
    assert '<span class="keyword">if</span>' in marked and '<span class="comment"># why</span>' in marked
