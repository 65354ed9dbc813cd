"""`make bench`, or `make bench CASE=window`: each case against its peers, in one run, after a check that they agree.

Peers take turns, so that a busy machine slows them alike; the table gives medians, the ratio of the peer's time to ours
and its quartiles. One thread and processor time, unless THREADS says otherwise: then wall time. A ratio that falls more
than 15% below the committed one, beyond the spread, fails the run; `--save` commits to new ones.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.cases import CASES, Case

RESULTS = Path(__file__).parent / "results.json"
LOSS = 0.15


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
    for round_ in range(rounds + 1):
        for name, call in runs.items():
            took = seconds(call, case.calls)
            if round_:
                times[name].append(took)
    return times


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
    makers = [make for name, make in CASES.items() if chosen.case in name]
    if not makers:
        options.error(f"no case holds {chosen.case!r}: {', '.join(CASES)}")
    committed = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    before = committed.get(f"{threads} threads", {})
    clock = "processor" if threads == 1 else "wall"
    title = f"{clock} time, threads: {threads}, medians of {chosen.rounds}, torch {torch.__version__}"
    table = Table("case", "qkv, ms", "peer", "ms", "ratio", "quartiles", "committed", title=title)
    found, lost = {}, []
    with Progress(transient=True) as progress:
        for make in progress.track(makers):
            case = make()
            times = measure(case, chosen.rounds)
            ours = statistics.median(times["qkv"])
            for peer in case.peers:
                theirs = statistics.median(times[peer])
                ratios = sorted(their / our for their, our in zip(times[peer], times["qkv"], strict=True))
                low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
                name = f"{case.name} / {peer}"
                found[name] = [round(theirs / ours, 3), round(low, 3), round(high, 3)]
                was = before.get(name)
                if was and high < was[1] * (1 - LOSS):
                    lost.append(f"{name}: {theirs / ours:.2f}, was {was[0]:.2f}")
                row = (
                    f"{1e3 * ours:.3f}",
                    peer,
                    f"{1e3 * theirs:.3f}",
                    f"{theirs / ours:.2f}",
                    f"{low:.3g}–{high:.3g}",
                )
                table.add_row(case.name, *row, f"{was[0]:.2f}" if was else "")
            if not case.peers:
                table.add_row(case.name, "", "its limit", "", "held", "", "")
    Console(width=max(Console().width, 120)).print(table)
    if chosen.save:
        kept = committed | {"torch": torch.__version__, f"{threads} threads": before | found}
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
    for line in lost:
        print(f"slower than committed: {line}", file=sys.stderr)
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
