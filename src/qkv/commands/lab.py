"""`qkv lab`: questions about attention, answered by experiments."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qkv.errors import ArgumentError, must
from qkv.labs import all_labs, find_lab
from qkv.labs.lab import Both, Lab, Verdict, means, written
from qkv.labs.running.results import Result, figures_of, find_results
from qkv.labs.running.runner import run_labs
from qkv.lens.language import sayer
from qkv.text.printable import printable

if TYPE_CHECKING:
    from qkv.labs.table import Table


def list_labs(out: Path, language: str, *, full: bool, data: Path | None) -> None:
    """Print each lab with its question, and its verdict if it was run."""
    say = _sayer(language)
    for lab in all_labs(full=full, table=_table(data, full)):
        results, _ = find_results(out, lab)
        verdict = f"  [{say(lab.verdict(figures_of(results)).value)}]" if results else ""
        print(f"{lab.name:12} {say(lab.question)}{verdict}")


def show_lab(name: str, out: Path, language: str, *, full: bool, data: Path | None) -> None:
    """Print a lab's question and answer, and what it measured last."""
    lab, say = find_lab(name, full=full, table=_table(data, full)), _sayer(language)
    words = {"follow_up": Both("The follow-up", "追问"), "trap": Both("The trap", "陷阱")}
    print(f"{say(lab.question)}\n\n{say(lab.answer)}")
    for part, title in words.items():
        print(f"\n{say(title)}{'：' if language == 'zh' else ': '}{say(getattr(lab, part))}")
    print()
    results, wrong = find_results(out, lab)
    _print_wrong(wrong)
    if results:
        print_results(lab, results, language)
    else:
        command = f"qkv lab run {name}{lab.options}"
        print(say(Both(f"not measured yet: {command}", f"尚未测量：{command}")))


def run(
    names: Sequence[str],
    *,
    seeds: int,
    first_seed: int,
    full: bool,
    data: Path | None,
    chinese: Path | None,
    out: Path,
    again: bool,
    language: str,
) -> bool:
    """Run labs, print what they measured, and say whether every seed did, and every lab came out."""
    for option, value, least, most in (("--seeds", seeds, 1, 1000), ("--first-seed", first_seed, 0, 2**31)):
        if not least <= value <= most:
            raise ArgumentError(must("lab run", option, f"be {least} … {most}", value))
    say, asked = _sayer(language), range(first_seed, first_seed + seeds)
    table = _table(data, full)
    chosen = [find_lab(name, full=full, table=table, chinese=chinese) for name in dict.fromkeys(names) if name != "all"]
    labs = all_labs(full=full, table=table) if "all" in names else chosen
    if chinese is not None:
        if "all" in names:
            raise ArgumentError(must("lab run", "--chinese", "go with contextual", "all", "run it by itself"))
        from qkv.models.pretrained import load_bert
        from qkv.text.tokenizer import load_tokenizer

        # What is wrong with a model is said before any work.
        load_bert(chinese)
        load_tokenizer(chinese)
    # What was measured without the model is measured again with it.
    fine = not run_labs(labs, seeds=asked, out=out, again=again or chinese is not None)
    for lab in labs:
        results, wrong = find_results(out, lab)
        results = [result for result in results if result.seed in asked]
        _print_wrong(wrong)
        fine = fine and len(results) == seeds
        if results:
            print(f"\n{lab.name} · {say(lab.question)}")
            print_results(lab, results, language)
            fine = fine and lab.came_out(figures_of(results))
    return fine


def _print_wrong(lines: Sequence[str]) -> None:
    """Print what was passed over: a file may hold anything."""
    for line in lines:
        print(printable(line))


def report(out: Path, *, full: bool, data: Path | None) -> None:
    """Write the report of all results."""
    from qkv.labs.report.site import write_report

    labs, results = all_labs(full=full, table=_table(data, full)), {}
    for lab in labs:
        results[lab.name], wrong = find_results(out, lab)
        _print_wrong(wrong)
    place = write_report(out / "report", labs, results)
    print(f"report: {place}, open it in a browser")


def print_results(lab: Lab, results: Sequence[Result], language: str) -> None:
    """Print the figures with their spread, the thresholds, and the verdict on each claim."""
    say, figures = _sayer(language), figures_of(results)
    averages = means(figures)
    rules = {threshold.figure: threshold for threshold in lab.thresholds}
    for name, label in lab.labels.items():
        values = ", ".join(written(figure[name]) for figure in figures)
        judged = ""
        if name in rules:
            came = say(Both("reached", "达到") if rules[name].met(figures) else Both("did not come out", "未达到"))
            judged = f"   {rules[name].rule}: {came}"
        print(f"  {say(label)}: {written(averages[name])} ({values}){judged}")
    verdict = lab.verdict(figures)
    print(f"  → {say(verdict.value)}")
    if verdict is not Verdict.OPEN:
        for claim in lab.claims:
            held = say(Both("so", "属实") if claim.holds(averages) else Both("not so", "不实"))
            print(f"    [{held}] {say(claim.says)}")


def _table(data: Path | None, full: bool) -> "Table | None":
    """Read a user's pairs, before any work."""
    if data is None:
        return None
    if not full:
        raise ArgumentError(must("lab", "--data", "go with --full", str(data), "the quick forms make their own data"))
    from qkv.labs.table import Table

    return Table.read(data)


def _sayer(language: str) -> Any:
    say = sayer("lab", language)
    return lambda both: say(both.en, both.zh)
