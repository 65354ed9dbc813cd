"""What seeing attention costs: `qkv.watch` beside eager's `output_attentions`, and the page beside BertViz's way.

python -m benchmarks.see

A 6 × 384 GPT-2 of 12 heads (72, as MiniLM's), random, in transformers. Runs take turns in one process, on one thread
and in processor time: medians, and quartiles of the ratio to the same model as it runs unseen. Memory is what stays
when the pass is over. BertViz embeds every weight as decimal text: where it is not installed, its bytes are counted by
writing them so. `python -m benchmarks.see times` (or memory, bytes) is one part.
"""

import io
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import qkv

LENGTHS = (128, 512)
ROUNDS = 15


def model_of(implementation: str) -> nn.Module:
    """Make the model."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=8192, n_embd=384, n_layer=6, n_head=12, n_positions=1024, bos_token_id=0, eos_token_id=0
    )
    return GPT2LMHeadModel._from_config(config, attn_implementation=implementation).eval()


def runs_of(length: int) -> dict[str, Callable[[], object]]:
    """Make one pass of each kind: unseen, watched, and by eager's dense weights."""
    unseen, eager = model_of("sdpa"), model_of("eager")
    tokens = torch.randint(0, 8192, (1, length), generator=torch.Generator().manual_seed(0))

    def watched() -> object:
        with qkv.watch(unseen) as seen:
            unseen(tokens)
        return seen

    return {
        "unseen (sdpa)": lambda: unseen(tokens),
        "qkv.watch (sdpa)": watched,
        "output_attentions (eager)": lambda: eager(tokens, output_attentions=True).attentions,
    }


def check(length: int) -> None:
    """Raise unless both see the same."""
    runs = runs_of(length)
    seen, weights = runs["qkv.watch (sdpa)"](), runs["output_attentions (eager)"]()
    for layer, theirs in enumerate(weights):  # type: ignore[arg-type]
        torch.testing.assert_close(seen[layer].dense(), theirs, rtol=0, atol=1e-5)  # type: ignore[index]


def page_bytes(maps: list[Tensor], labels: list[str]) -> tuple[int, int]:
    """Count the bytes of qkv's page and of every weight written as decimals, as BertViz embeds them."""
    from qkv.lens.page.build import write_page
    from qkv.lens.page.view import View

    view = View("text", labels, [one[0].numpy() for one in maps])
    with tempfile.TemporaryDirectory() as folder:
        ours = write_page(Path(folder) / "page.html", [view], title="Attention")
    try:
        from bertviz import head_view

        with io.StringIO() as out:
            out.write(head_view(maps, labels, html_action="return").data)
            return ours, len(out.getvalue())
    except ImportError:
        return ours, sum(len(json.dumps(one[0].tolist())) for one in maps)


def pages() -> None:
    """Write the pages, and print their bytes."""
    for length in LENGTHS:
        maps = list(runs_of(length)["output_attentions (eager)"]())  # type: ignore[call-overload]
        ours, theirs = page_bytes(maps, [f"word{at}" for at in range(length)])
        print(
            f"{length} tokens, page: qkv {ours / 1e6:.2f} MB, as BertViz embeds weights {theirs / 1e6:.1f} MB",
            flush=True,
        )


def times() -> None:
    """Measure time, and print it."""
    torch.set_num_threads(1)
    for length in LENGTHS:
        check(length)
        runs = runs_of(length)
        took: dict[str, list[float]] = {name: [] for name in runs}
        for turn in range(ROUNDS + 1):
            for name, run in runs.items():
                start = time.process_time()
                run()
                # The first turn warms up.
                if turn:
                    took[name].append(time.process_time() - start)
        print(f"{length} tokens", flush=True)
        for name, each in took.items():
            ratios = sorted(one / base for one, base in zip(each, took["unseen (sdpa)"], strict=True))
            low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
            median = 1e3 * statistics.median(each)
            print(
                f"  {name:28} {median:8.1f} ms  {statistics.median(ratios):5.2f} ({low:.2f} to {high:.2f})", flush=True
            )


def memory() -> None:
    """Count the bytes that stay when a pass is over, and print them."""
    for length in LENGTHS:
        runs = runs_of(length)
        seen, weights = runs["qkv.watch (sdpa)"](), runs["output_attentions (eager)"]()
        maps = [seen[layer] for layer in range(len(weights))]  # type: ignore[index,arg-type]
        ours = sum(x.untyped_storage().nbytes() for one in maps for x in (one.query, one.key))
        theirs = sum(x.untyped_storage().nbytes() for x in weights)  # type: ignore[attr-defined]
        print(
            f"{length} tokens, kept: qkv.watch {ours / 1e6:.1f} MB, output_attentions {theirs / 1e6:.1f} MB", flush=True
        )


PARTS = {"times": times, "memory": memory, "bytes": pages}

if __name__ == "__main__":
    with torch.no_grad():
        for part in sys.argv[1:] or PARTS:
            PARTS[part]()
