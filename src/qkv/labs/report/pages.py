"""The pages: the list of questions, a page for each lab, the article's mistakes, and the follow-ups."""

import html
import re
from collections.abc import Mapping, Sequence

from qkv.errors import QkvError
from qkv.labs.lab import Both, Claim, Figures, Lab, Verdict, means, written
from qkv.labs.report.choices import CHOICES, FOLLOW_UPS
from qkv.labs.report.code import code
from qkv.labs.report.frame import both, page
from qkv.labs.report.plots import svg
from qkv.labs.running.results import Result, figures_of

Results = Mapping[str, Sequence[Result]]
"""The results of each lab, by its name; none of one that was not run."""

MANY = 16
"""More figures than these are folded."""

UNMEASURED = Both("not measured", "未测量")


def index(labs: Sequence[Lab], results: Results) -> str:
    """List the questions: verdict, one line of figures, and the time it took."""
    measured = [lab for lab in labs if results[lab.name]]
    seconds = sum(result.seconds for lab in measured for result in results[lab.name])
    lead = Both(
        f"{len(measured)} of {len(labs)} questions of an interview article on attention (“NLP 面试揭秘：解锁注意力机制”, "
        f"7 October 2024), answered by experiments whose thresholds were fixed beforehand; {seconds / 60:.0f} minutes of "
        "computing.",
        f"一篇注意力面试文章（《NLP 面试揭秘：解锁注意力机制》，2024 年 10 月 7 日）中的 {len(labs)} 个问题，已用事先定好阈值的实验回答 {len(measured)} 个；共计算 {seconds / 60:.0f} 分钟。",
    )
    items = "".join(_item(lab, results[lab.name]) for lab in labs)
    return page(
        Both("Attention, measured", "实测注意力"), f'<p class="lead">{both(lead)}</p><ol class="list">{items}</ol>'
    )


def _item(lab: Lab, results: Sequence[Result]) -> str:
    figures = figures_of(results)
    line, took = "", ""
    if results:
        numbers = means(figures)
        line = both(Both(lab.headline.en.format_map(numbers), lab.headline.zh.format_map(numbers)))
        seconds = sum(result.seconds for result in results)
        took = both(Both(f"{seconds:.0f} s, {len(results)} seeds", f"{seconds:.0f} 秒，{len(results)} 个种子"))
    return (
        f'<li><span class="number">{"·".join(lab.rows)}</span><a href="{lab.name}.html">{both(lab.question)}</a>'
        f'{_verdict(lab, results)}<span class="headline"><span>{line}</span><span>{took}</span></span></li>'
    )


def lab_page(lab: Lab, results: Sequence[Result]) -> str:
    """Write the page of a lab: the answer, the claims, what was measured, and the experiment's code."""
    figures = figures_of(results)
    parts = [
        f"<p>{_verdict(lab, results)}</p>",
        both(lab.answer, "p"),
        _part(Both("The follow-up", "追问"), both(lab.follow_up, "p")),
        _part(Both("The trap", "陷阱"), both(lab.trap, "p")),
        _part(Both("What the article says", "文章怎么说"), _claims(lab.claims, lab, results)),
    ]
    if lab.dispute is not None:
        parts.append(_part(Both("What is disputed", "争议所在"), both(lab.dispute, "p")))
    if results:
        plot = _plot(lab, figures)
        parts += [
            _part(Both("What was measured", "测得了什么"), plot + _table(lab, results)),
            _conditions(lab, results),
        ]
    command = f"qkv lab run {lab.name} --seeds 3{lab.options}"
    parts += [
        _part(Both("Run it again", "重新运行"), f"<pre><code>{html.escape(command)}</code></pre>"),
        _part(Both("References", "参考文献"), "".join(f"<p>{_linked(paper)}</p>" for paper in lab.papers)),
        _part(Both("The experiment", "实验代码"), _source(lab)),
    ]
    return page(lab.question, "\n".join(parts))


def _plot(lab: Lab, figures: Sequence[Figures]) -> str:
    try:
        plots = "".join(f'<div lang="{name}">{svg(lab, figures, name)}</div>' for name in ("en", "zh"))
    # A result's lists may be anything; the other pages need not suffer for it.
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        if isinstance(error, QkvError):
            raise
        lost = Both(
            "The plot cannot be drawn from these results: run the lab again.", "无法由这些结果作图：请重新运行。"
        )
        return both(lost, "p")
    return f'<figure><div class="wide">{plots}</div><figcaption>{both(lab.caption)}</figcaption></figure>'


def mistakes(labs: Sequence[Lab], results: Results) -> str:
    """List what the article gets wrong, what is so, and which lab shows it."""
    parts = []
    for lab in labs:
        wrong = [claim for claim in lab.claims if claim.mistake]
        if wrong:
            link = f'<p class="quiet"><a href="{lab.name}.html">{both(lab.question)}</a></p>'
            parts.append(_claims(wrong, lab, results[lab.name]) + link)
    lead = Both(
        "What the article says in our own words, what is so, and the experiment that shows it.",
        "以我们自己的话转述文章的说法、事实如何，以及由哪个实验说明。",
    )
    return page(Both("The article’s mistakes", "文章的错误"), f'<p class="lead">{both(lead)}</p>' + "".join(parts))


def follow_ups() -> str:
    """Answer which one to choose, and what is asked next."""
    parts = [
        _part(title, "<dl>" + "".join(f"<dt>{both(ask)}</dt><dd>{both(answer)}</dd>" for ask, answer in some) + "</dl>")
        for title, some in (
            (Both("Which would you choose, and when?", "你会选哪个，何时选？"), CHOICES),
            (Both("What is asked next", "接下来会问什么"), FOLLOW_UPS),
        )
    ]
    return page(Both("Choices and follow-ups", "选择与追问"), "".join(parts))


def _part(title: Both, inside: str) -> str:
    return f"<section><h2>{both(title)}</h2>{inside}</section>"


def _verdict(lab: Lab, results: Sequence[Result]) -> str:
    if not results:
        return f'<span class="verdict none">{both(UNMEASURED)}</span>'
    verdict = lab.verdict(figures_of(results))
    return f'<span class="verdict {verdict.name.lower()}">{both(verdict.value)}</span>'


def _claims(claims: Sequence[Claim], lab: Lab, results: Sequence[Result]) -> str:
    figures = figures_of(results)
    known = bool(results) and lab.verdict(figures) is not Verdict.OPEN
    items = []
    for claim in claims:
        mark = f'<span class="verdict none">{both(UNMEASURED if not results else Verdict.OPEN.value)}</span>'
        if known:
            held = claim.holds(means(figures))
            mark = f'<span class="verdict {"holds" if held else "fails"}">{both((Verdict.HOLDS if held else Verdict.FAILS).value)}</span>'
        items.append(f'<li><p class="says">{both(claim.says)} {mark}</p><p>{both(claim.truth)}</p></li>')
    return f'<ul class="claims">{"".join(items)}</ul>'


def _table(lab: Lab, results: Sequence[Result]) -> str:
    """Show the figures that are judged, and the others: folded, if they are many."""
    judged = {threshold.figure for threshold in lab.thresholds}
    first, others = ([name for name in lab.labels if (name in judged) == wanted] for wanted in (True, False))
    if not others:
        return _rows(lab, results, first)
    title = both(Both(f"{len(others)} other figures", f"其余 {len(others)} 项数值"))
    shown = "" if len(others) > MANY else " open"
    rest = f"<details{shown}><summary>{title}</summary>{_rows(lab, results, others)}</details>"
    return _rows(lab, results, first) + rest


def _rows(lab: Lab, results: Sequence[Result], names: Sequence[str]) -> str:
    figures = figures_of(results)
    rules = {threshold.figure: threshold for threshold in lab.thresholds}
    heads = [Both("figure", "数值"), Both("mean", "均值"), Both("each seed", "各种子")]
    if names[0] in rules:
        heads += [Both("threshold", "阈值"), Both("why", "理由")]
    rows = ["".join(f"<th>{both(head)}</th>" for head in heads)]
    for name in names:
        values = ", ".join(written(figure[name]) for figure in figures)
        row = f"<td>{both(lab.labels[name])}</td>"
        row += f'<td class="figure">{written(means(figures)[name])}</td><td class="figure quiet">{values}</td>'
        if name in rules:
            reached = rules[name].met(figures)
            word = both(Both("reached", "达到") if reached else Both("did not come out", "未达到"))
            rule = f'{html.escape(rules[name].rule)} <span class="{"holds" if reached else "fails"}">{word}</span>'
            row += f'<td class="figure">{rule}</td><td class="quiet">{both(rules[name].why)}</td>'
        rows.append(row)
    return f'<div class="wide"><table>{"".join(f"<tr>{row}</tr>" for row in rows)}</table></div>'


def _conditions(lab: Lab, results: Sequence[Result]) -> str:
    """Say where and when, and with what."""
    last, on = results[-1], Both("", "")
    if lab.takes_pairs:
        pairs = Both(lab.table.path.name, lab.table.path.name) if lab.table else Both("rows of dates", "成行的日期")
        on = Both(f" on {pairs.en}", f"（数据：{pairs.zh}）")
    versions = ", ".join(f"{name} {version}" for name, version in last.versions.items())
    seconds = " + ".join(f"{result.seconds:.0f}" for result in results)
    said = Both(
        f"{last.form} form{on.en}, {last.date}, {last.device}; {versions}; {seconds} s",
        f"{'快速' if last.form == 'quick' else '完整'}形式{on.zh}，{last.date}，{last.device}；{versions}；{seconds} 秒",
    )
    return f'<p class="quiet">{both(said)}</p>'


def _source(lab: Lab) -> str:
    text = lab.source.read_text(encoding="utf-8")
    name = lab.measure.__module__.replace(".", "/")
    return f"<details><summary>{name}.py</summary><pre><code>{code(text)}</code></pre></details>"


def _linked(paper: str) -> str:
    """Link an arXiv number."""
    return re.sub(r"arXiv:(\d{4}\.\d{4,5})", r'<a href="https://arxiv.org/abs/\1">arXiv:\1</a>', html.escape(paper))
