"""`make bench`, or `make bench CASE=window`: each case against its peers, in one run, after a check that they agree.

Peers take turns, so that a busy machine slows them alike; the table gives medians, the ratio of the peer's time to ours
and its quartiles. One thread and processor time, unless THREADS says otherwise: then wall time. A ratio that falls more
than 15% below the committed one, beyond the spread, fails the run; `--save` commits to new ones and writes them into
README.md.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.cases import CASES, Case
from benchmarks.targets import LIMITS, MICROSECONDS, TARGETS

FOLDER = Path(__file__).parent
RESULTS, README = FOLDER / "results.json", FOLDER / "README.md"
MARK = "<!-- written by --save -->\n"
LOSS = 0.15
BUDGET = 8.0
"""Seconds after which a case takes no more turns, once it has had 3: the slowest peers take seconds a call."""

Found = dict[str, list[float]]
"""For each case and peer: the ratio, its quartiles, and both medians in milliseconds (early figures lack these)."""


def seconds(call: Callable[[], object], calls: int) -> float:
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    for _ in range(calls):
        call()
    return (clock() - start) / calls


def measure(case: Case, rounds: int) -> dict[str, list[float]]:
    case.agree()
    runs = {"qkv": case.ours, **case.peers}
    times: dict[str, list[float]] = {name: [] for name in runs}
    start = time.monotonic()
    for turn in range(rounds + 1):
        if turn > 3 and time.monotonic() - start > BUDGET:
            break
        for name, call in runs.items():
            took = seconds(call, case.calls)
            # The first turn warms up.
            if turn:
                times[name].append(took)
    return times


def compare(times: dict[str, list[float]]) -> Iterator[tuple[str, list[float]]]:
    """Give for each peer the ratio of its time to ours, the quartiles of that, and both medians in milliseconds."""
    ours = times["qkv"]
    for peer, theirs in times.items():
        if peer != "qkv":
            ratios = sorted(their / our for their, our in zip(theirs, ours, strict=True))
            low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
            medians = statistics.median(ours), statistics.median(theirs)
            yield peer, [round(x, 4) for x in (medians[1] / medians[0], low, high, *(1e3 * x for x in medians))]


def cases_of(name: str) -> Iterator[Case]:
    made = CASES[name]()
    yield from (made,) if isinstance(made, Case) else made


def wanted(name: str, threads: int) -> tuple[str, Callable[[list[float]], bool]]:
    """Say what is to be reached, and whether figures do."""
    if name in TARGETS:
        least = TARGETS[name][min(threads, 2) - 1]
        return f"≥ {least:.3g}", lambda figures: figures[0] >= least
    if name in LIMITS:
        low, high = LIMITS[name]
        return f"{low:g} to {high:g}", lambda figures: low <= figures[0] <= high
    if name in MICROSECONDS:
        most = MICROSECONDS[name]
        return f"≤ {most:g} µs more", lambda figures: 1e3 * (figures[3] - figures[4]) <= most
    return "", lambda figures: True


def worst(found: Found, cases: dict[str, str]) -> Iterator[str]:
    """Name the lowest ratio of each sweep to each peer; `cases` says which sweep a case is of."""
    lowest: dict[tuple[str, str], tuple[float, str]] = {}
    for name, figures in found.items():
        case, peer = name.split(" / ")
        if case in cases:
            at = cases[case], peer
            lowest[at] = min(lowest.get(at, (figures[0], case)), (figures[0], case))
    for (sweep, peer), (ratio, case) in lowest.items():
        yield f"the worst of {sweep} to {peer}: {ratio:.2f} ({case})"


def written(kept: dict) -> str:
    """Write the committed figures as a table in Markdown."""
    lines = []
    for threads in (1, 2):
        found = kept.get(f"{threads} threads")
        if found:
            s = "" if threads == 1 else "s"
            lines += [f"### {threads} thread{s}", "", f"{kept[f'{threads} threads on']}", ""]
            lines += [
                "| case | peer | qkv, ms | peer, ms | ratio | quartiles | to reach | |",
                "|---|---|--:|--:|--:|---|---|---|",
            ]
            for name, figures in found.items():
                ratio, low, high, *medians = figures
                ours, theirs = [f"{median:.3g}" for median in medians] or ("", "")
                text, reached = wanted(name, threads)
                told = text and (medians or name not in MICROSECONDS)
                verdict = ("yes" if reached(figures) else "no") if told else ""
                case = name.replace(" / ", " | ")
                cells = f"{ours} | {theirs} | {ratio:.2f} | {low:.2f}–{high:.2f} | {text} | {verdict}"
                lines.append(f"| {case} | {cells} |")
            lines.append("")
    return "\n".join(lines)


def save(found: Found, threads: int) -> None:
    """Keep the figures, and write all that are kept into README.md."""
    kept = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    name = f"{threads} threads"
    cpu = f"{torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} processors"
    kept |= {f"{name} on": f"{date.today()}, {cpu}, torch {torch.__version__}", name: kept.get(name, {}) | found}
    RESULTS.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", "utf-8")
    before, _, after = README.read_text("utf-8").split(MARK)
    README.write_text(MARK.join((before, written(kept), after)), "utf-8")


def main() -> int:
    """Run the cases, print the table, compare with the ratios committed."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--case", default=os.environ.get("CASE", ""), help="run the cases whose name holds this")
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--save", action="store_true", help=f"keep the ratios in {RESULTS.name}")
    chosen = options.parse_args()
    threads = int(os.environ.get("THREADS", "1"))
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    names = [name for name in CASES if chosen.case in name]
    if not names:
        options.error(f"no case holds {chosen.case!r}: {', '.join(CASES)}")
    committed = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    before = committed.get(f"{threads} threads", {})
    clock = "processor" if threads == 1 else "wall"
    title = f"{clock} time, threads: {threads}, medians of at most {chosen.rounds}, torch {torch.__version__}"
    table = Table("case", "qkv, ms", "peer", "ms", "ratio", "quartiles", "to reach", "committed", title=title)
    found: Found = {}
    sweeps: dict[str, str] = {}
    lost = []
    with Progress(transient=True) as progress:
        for maker in progress.track(names):
            for case in cases_of(maker):
                if maker.startswith("shapes_"):
                    sweeps[case.name] = maker
                for peer, figures in compare(measure(case, chosen.rounds)):
                    name = f"{case.name} / {peer}"
                    ratio, low, high, ours, theirs = found[name] = figures
                    was = before.get(name)
                    if was and high < was[1] * (1 - LOSS):
                        lost.append(f"{name}: {ratio:.2f}, was {was[0]:.2f}")
                    row = f"{ours:.3f}", peer, f"{theirs:.3f}", f"{ratio:.2f}", f"{low:.3g}–{high:.3g}"
                    table.add_row(case.name, *row, wanted(name, threads)[0], f"{was[0]:.2f}" if was else "")
                if not case.peers:
                    table.add_row(case.name, "", "its limit", "", "held", "", "", "")
    Console(width=max(Console().width, 140)).print(table)
    for line in worst(found, sweeps):
        print(line)
    if chosen.save:
        save(found, threads)
    for line in lost:
        print(f"slower than committed: {line}", file=sys.stderr)
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
