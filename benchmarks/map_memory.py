"""What each question to a map of 1 head × 32,768² costs: memory beyond the inputs, and time on one thread.

python -m benchmarks.map_memory
"""

import resource
import subprocess
import sys
import time

import torch

import qkv

POSITIONS = 32768
QUESTIONS = {
    "row(5)": lambda seen: seen.row(5),
    "top_keys(8)": lambda seen: seen.top_keys(8),
    "entropy()": lambda seen: seen.entropy(),
    "received()": lambda seen: seen.received(),
    "pooled(256, 256)": lambda seen: seen.pooled(256, 256),
    "map[0, :64, :64]": lambda seen: seen[0, :64, :64],
    "map[0, :, 5]": lambda seen: seen[0, :, 5],
    "logsumexp()": lambda seen: seen.logsumexp(),
}


def ask(question: str) -> None:
    """Ask one question in this process, and print its line of the table."""
    torch.set_num_threads(1)
    query, key = torch.randn(2, 1, POSITIONS, 64)
    QUESTIONS[question](qkv.attention_map(query[:, :300], key[:, :300]))
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    QUESTIONS[question](qkv.attention_map(query, key))
    seconds = time.process_time() - start
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"{question:18} {peak:8.0f} {seconds:8.1f}", flush=True)


def main() -> None:
    """Ask each question in a process of its own."""
    print(f"{'question':18} {'peak MiB':>8} {'CPU s':>8}", flush=True)
    for question in QUESTIONS:
        subprocess.run([sys.executable, "-m", "benchmarks.map_memory", question], check=True)


if __name__ == "__main__":
    ask(sys.argv[1]) if len(sys.argv) > 1 else main()
