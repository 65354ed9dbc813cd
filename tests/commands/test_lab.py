"""qkv lab: list, show, run, report."""

import pytest

pytestmark = pytest.mark.unhooked


def test_list_and_show(qkv):
    status, out, _ = qkv("lab", "list")
    assert status == 0 and "scaling" in out and "why divide by √d?" in out
    status, out, _ = qkv("lab", "show", "scaling", "--lang", "zh")
    assert status == 0 and "陷阱：" in out and "尚未测量" in out


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["show", "scalling"], "(did you mean scaling?)"),
        (["run", "scalling"], "(did you mean scaling?)"),
        (["run", "all", "scalling"], "(did you mean scaling?)"),
        (["run", "scaling", "--seeds", 0], "lab run: --seeds must be 1 … 1000; got 0"),
        (["run", "scaling", "--first-seed", -1], "lab run: --first-seed must be 0 … 2147483648; got -1"),
        (["list", "--lang", "de"], "lab: --lang must be one of en, zh; got 'de'"),
    ],
)
def test_what_is_not_known(qkv, words, complaint):
    status, out, err = qkv("lab", *words)
    assert status == 1 and out == "" and complaint in err


@pytest.mark.slow
def test_run_and_report(qkv, small, tmp_path):
    status, out, err = qkv("lab", "run", "all", "--seeds", 2, "--out", "labs")
    assert status == 0, err
    assert "small: 3 (2, 4)   ≥ 3: reached" in out and "→ holds" in out
    status, out, _ = qkv("lab", "run", "small", "--seeds", 1, "--first-seed", 7, "--out", "labs")
    assert status == 0 and "small: 16 (16)" in out
    status, out, _ = qkv("lab", "report", "--out", "labs")
    assert status == 0 and (tmp_path / "labs" / "report" / "index.html").is_file()
    status, out, _ = qkv("lab", "run", "small", "--seeds", 1, "--out", "labs1")
    assert status == 1 and "did not come out" in out
