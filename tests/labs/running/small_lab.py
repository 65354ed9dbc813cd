"""A lab of no time at all, in a process of its own: what it does is in the environment."""

import os
import signal
import time
from dataclasses import dataclass

from qkv.labs.lab import Both, Claim, Lab, at_least

TEXT = Both("small", "小")


@dataclass(frozen=True)
class Size:
    factor: float = 2.0


@dataclass(frozen=True)
class Full(Size):
    table: object = None


def measure(seed, size, progress):
    for _ in progress.over(range(2), "counting"):
        pass
    does = os.environ.get(f"SMALL_{seed}", "")
    if does == "fails":
        raise ValueError("no luck today")
    if does == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if does == "sleeps":
        time.sleep(600)
    return {"x": size.factor * (seed + 1), "curve": [seed, 1.0]}


def plot(figure, results, say):
    figure.subplots().plot([result["x"] for result in results], "o")


LAB = Lab(
    name="small", rows=("0",), question=TEXT, answer=TEXT, follow_up=TEXT, trap=TEXT,
    claims=(Claim(Both("it is <b>bold</b>", "粗"), TEXT, lambda means: means["x"] > 0, mistake=True),),
    papers=("Nobody 2020, arXiv:2001.00001",), thresholds=(at_least("x", 3.0, TEXT),), labels={"x": TEXT},
    headline=Both("x is {x:.1f}", "x 为 {x:.1f}"), quick=Size(), full=Full(20.0), measure=measure, plot=plot,
    caption=TEXT, seconds=1.0,
)  # fmt: skip
