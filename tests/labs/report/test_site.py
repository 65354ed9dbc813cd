"""The report: pages in both languages, text that stays text, nothing asked of the network."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from qkv import errors
from qkv.labs import all_labs, find_lab
from qkv.labs.report.site import write_report
from qkv.labs.running.results import Result, code_of
from qkv.labs.table import Table


def result(lab, seed, **figures):
    return Result(lab.name, lab.form, seed, figures, 2.0, "2026-01-01 10:00", "CPU", {"torch": "2"}, code_of(lab))


@pytest.fixture
def site(small, tmp_path):
    results = {"small": [result(small, seed, x=4.0 + seed, curve=[1.0]) for seed in range(2)]}
    assert write_report(tmp_path / "report", [small], results) == tmp_path / "report" / "index.html"
    return tmp_path / "report"


def test_every_page_is_whole_and_asks_for_nothing(site):
    pages = sorted(site.iterdir())
    assert [page.name for page in pages] == ["choose.html", "index.html", "mistakes.html", "small.html"]
    for page in pages:
        text = page.read_text(encoding="utf-8")
        HTMLParser().feed(text)
        assert text.startswith("<!doctype html>") and text.rstrip().endswith("</html>")
        assert "default-src 'none'" in text and text.count("<script>") == 1
        assert not re.search(r'(src|href)="(?!https://arxiv\.org|data:|#|[a-z]+\.html)', text)
        links = set(re.findall(r'href="([a-z]+\.html)"', text))
        assert all((site / link).is_file() for link in links)
        said = text[text.index("<main>") :]
        assert said.count('lang="en"') == said.count('lang="zh"') > 0


def test_texts_stay_texts(site):
    text = (site / "mistakes.html").read_text(encoding="utf-8")
    assert "it is &lt;b&gt;bold&lt;/b&gt;" in text and "<b>bold" not in text


def test_a_labs_page_has_figures_threshold_plot_and_code(site):
    text = (site / "small.html").read_text(encoding="utf-8")
    assert ">4.5<" in text and "4, 5" in text and "≥ 3" in text and "reached" in text
    plots = text[text.index("<svg") : text.rindex("</svg>")]
    assert text.count("<svg") == 2 and "var(--series-0)" in plots and "#0072b2" not in plots
    assert "https://arxiv.org/abs/2001.00001" in text
    assert "x is 4.5" in (site / "index.html").read_text(encoding="utf-8")


def test_without_results_it_says_not_measured(small, tmp_path):
    write_report(tmp_path, [small], {"small": []})
    assert "not measured" in (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "<svg" not in (tmp_path / "small.html").read_text(encoding="utf-8")


def test_what_did_not_come_out_says_so(small, tmp_path):
    write_report(tmp_path, [small], {"small": [result(small, 0, x=1.0, curve=[])]})
    assert "did not come out" in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_lists_that_cannot_be_drawn_cost_one_plot(small, tmp_path):
    def plot(figure, results, say):
        figure.subplots().plot(results[0]["lost"])

    write_report(tmp_path, [replace(small, plot=plot)], {"small": [result(small, 0, x=4.0, curve=[])]})
    text = (tmp_path / "small.html").read_text(encoding="utf-8")
    assert "<svg" not in text and "The plot cannot be drawn" in text and ">4<" in text


def test_the_page_of_a_full_form(tmp_path):
    lab = find_lab("local", full=True, table=Table(tmp_path / "my <pairs>.tsv", "1a2b"))
    figures = dict.fromkeys(lab.labels, 6.0) | {"p_behind": -0.03, "location_behind": 0.05}
    write_report(tmp_path, [lab], {"local": [result(lab, seed, **figures) for seed in range(2)]})
    text = (tmp_path / "local.html").read_text(encoding="utf-8")
    assert "full form on my &lt;pairs&gt;.tsv" in text and "完整形式（数据：my &lt;pairs&gt;.tsv）" in text
    assert f"qkv lab run local --seeds 3 --full --data &#x27;{tmp_path}/my &lt;pairs&gt;.tsv&#x27;" in text
    assert "<summary>qkv/labs/papers/local.py</summary>" in text and text.count("<svg") == 2
    assert "≤ 0 + σ" in text and "does not hold" in text


def test_a_page_of_another_program_stays(small, tmp_path):
    folder = tmp_path / "report"
    folder.mkdir()
    (folder / "index.html").write_text("mine")
    with pytest.raises(errors.FileError, match=r"index.html must be new or a page of qkv's own; got another file"):
        write_report(folder, [small], {"small": []})
    assert (folder / "index.html").read_text() == "mine" and len(list(folder.iterdir())) == 1


def test_all_labs_have_pages(tmp_path):
    labs = all_labs()
    write_report(tmp_path, labs, {lab.name: [] for lab in labs})
    assert {f"{lab.name}.html" for lab in labs} <= {page.name for page in tmp_path.iterdir()}
