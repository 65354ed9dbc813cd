"""qkv lab: list, show, run, report."""

import re

import pytest
from tables import write_table

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
        (["run", "heads", "--data", "pairs.tsv"], "lab: --data must go with --full; got pairs.tsv"),
        (["report", "--data", "pairs.tsv"], "lab: --data must go with --full; got pairs.tsv"),
        (["run", "heads", "--full", "--data", "none.tsv"], "none.tsv must be a file or a folder; got No such file"),
        (["run", "heads", "--full", "--data", "one.tsv"], "one.tsv must hold text in two columns, a tab between them"),
        (
            ["run", "scaling", "--full", "--data", "pairs.tsv"],
            "lab: --data must be given to the full form of alignment",
        ),
        (["run", "heads", "--chinese", "."], "lab: --chinese must be given to contextual; got heads"),
        (["run", "all", "--chinese", "."], "lab run: --chinese must go with contextual; got all (run it by itself)"),
        (["run", "contextual", "--chinese", "nowhere"], "load_bert: folder must be a folder"),
        (["list", "--lang", "de"], "lab: --lang must be one of en, zh; got 'de'"),
    ],
)
def test_what_is_not_known(qkv, tmp_path, words, complaint):
    write_table(tmp_path / "pairs.tsv")
    (tmp_path / "one.tsv").write_text("a column\n")
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


@pytest.mark.slow
def test_a_full_form_on_pairs_of_ones_own(qkv, small, tmp_path):
    write_table(tmp_path / "pairs.tsv")
    words = ("--full", "--data", "pairs.tsv")
    status, out, err = qkv("lab", "run", "all", *words, "--seeds", 1)
    assert status == 0 and "small: 20 (20)" in out, err
    (name,) = (path.name for path in (tmp_path / "labs" / "results").iterdir())
    assert re.fullmatch(r"small\.full-[0-9a-f]{8}\.0\.json", name)
    # There again, and not measured anew.
    status, _, err = qkv("lab", "run", "small", *words, "--seeds", 1)
    assert status == 0 and "1 of 1 are measured already" in err
    assert "[holds]" in qkv("lab", "list", *words)[1] and "small: 20 (20)" in qkv("lab", "show", "small", *words)[1]
    assert "[holds]" not in qkv("lab", "list", "--full")[1]
    assert "qkv lab run small --full\n" in qkv("lab", "show", "small", "--full")[1]
    assert qkv("lab", "report", *words)[0] == 0
    text = (tmp_path / "labs" / "report" / "small.html").read_text(encoding="utf-8")
    assert "qkv lab run small --seeds 3 --full --data pairs.tsv" in text and "full form on pairs.tsv" in text
