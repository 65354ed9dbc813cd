"""What the models cost beside transformers' own of the same size, in one run, after a check that both give the same.

python -m benchmarks.models [CASE] [--save]

Peers take turns; the table gives medians of wall time (on one thread of processor time), the ratio of theirs to ours
and its quartiles. Peak memory is what a process of its own needs for one step above what it held before. `--save` keeps
the ratios in models.json.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import qkv
from qkv.models.bert import Bert, BertConfig
from qkv.models.generation import generate
from qkv.models.gpt import Gpt, GptConfig
from qkv.models.layouts.bert import BertLayout
from qkv.models.layouts.gpt import GptLayout

RESULTS = Path(__file__).parent / "models.json"
PEER = "transformers"


@dataclass(frozen=True)
class Case:
    """Ours against theirs; `agree` raises unless both give the same."""

    runs: dict[str, Callable[[], object]]
    agree: Callable[[], None]
    has_peak: bool = False


def training_step(model: torch.nn.Module, loss: Callable[[], torch.Tensor]) -> Callable[[], float]:
    """Make a step of training: forward, backward, AdamW."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.0)

    def step() -> float:
        optimiser.zero_grad()
        found = loss()
        found.backward()
        optimiser.step()
        return found.item()

    return step


def masked_training() -> Case:
    """BERT: 4 layers × 256, vocabulary 30,522, 16 texts of up to 128 tokens that fill 60%, 15% masked."""
    from transformers import BertConfig as TheirConfig
    from transformers import BertForMaskedLM

    config = BertConfig(30522, 256, 4, 4, 1024, 128)
    theirs = BertForMaskedLM(
        TheirConfig(
            vocab_size=30522, hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024,
            max_position_embeddings=128,
        )
    )  # fmt: skip
    ours = Bert(config)
    ours.pooler = ours.next_sentence = None
    ours.load_state_dict(BertLayout().ours(BertLayout().plain("benchmark", theirs.state_dict()), ours.state_dict()))
    lengths = torch.tensor([128, 26, 70, 100, 60, 90, 77, 45, 110, 64, 81, 55, 95, 84, 72, 72])
    keep = torch.arange(128) < lengths[:, None]
    padded = torch.randint(1000, 30522, (16, 128)) * keep
    masked = keep & (torch.rand(16, 128) < 0.15)
    labels = padded.masked_fill(~masked, -100)
    tokens = padded[keep][None]
    positions = torch.arange(128).expand(16, 128)[keep][None]
    places, mask = masked[keep].nonzero().squeeze(-1), qkv.documents(lengths)
    targets = tokens[0, places]

    def our_loss() -> torch.Tensor:
        loss, count = ours.loss(tokens, places, targets, positions=positions, mask=mask)
        return loss / count

    def their_loss() -> torch.Tensor:
        return theirs(padded, attention_mask=keep.long(), labels=labels).loss

    return Case(
        {"qkv": training_step(ours, our_loss), PEER: training_step(theirs, their_loss)},
        lambda: same_without_dropout(ours, our_loss, theirs, their_loss),
    )


def gpt_pair(vocabulary: int = 8000, positions: int = 256) -> tuple[Gpt, torch.nn.Module]:
    """Make a GPT-2 of 6 layers × 384, ours and theirs, with the same weights."""
    from transformers import GPT2Config, GPT2LMHeadModel

    their_config = GPT2Config(
        vocab_size=vocabulary, n_embd=384, n_layer=6, n_head=6, n_positions=positions,
        bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    theirs = GPT2LMHeadModel(their_config)
    ours = Gpt(GptConfig(vocabulary, 384, 6, 6, 1536, positions))
    ours.load_state_dict(GptLayout().ours(GptLayout().plain("benchmark", theirs.state_dict()), ours.state_dict()))
    return ours, theirs


def next_token_training() -> Case:
    """GPT-2: 6 layers × 384, vocabulary 8,000, 8 texts of 256 tokens."""
    ours, theirs = gpt_pair()
    tokens = torch.randint(8000, (8, 256))
    targets = torch.cat((tokens[:, 1:], torch.full((8, 1), -1)), 1)

    def our_loss() -> torch.Tensor:
        loss, count = ours.loss(tokens, targets)
        return loss / count

    def their_loss() -> torch.Tensor:
        return theirs(tokens, labels=tokens).loss

    return Case(
        {"qkv": training_step(ours, our_loss), PEER: training_step(theirs, their_loss)},
        lambda: same_without_dropout(ours, our_loss, theirs, their_loss),
        has_peak=True,
    )


def generation() -> Case:
    """GPT-2: 6 layers × 384, vocabulary 8,000: 200 tokens, greedily, after a prompt of 16, of one text."""
    ours, theirs = (model.eval() for model in gpt_pair(positions=256))
    tokens = torch.randint(8000, (1, 16))
    keep = torch.ones_like(tokens)

    def our_tokens() -> torch.Tensor:
        return torch.stack(list(generate(ours, ours.start(), tokens, new=200)), 1)

    def their_tokens() -> torch.Tensor:
        return theirs.generate(tokens, attention_mask=keep, max_new_tokens=200, do_sample=False, eos_token_id=None)

    def agree() -> None:
        assert torch.equal(our_tokens(), their_tokens()[:, 16:]), "other tokens"

    return Case({"qkv": our_tokens, PEER: their_tokens}, agree)


CASES = {
    "BERT, masked training step": masked_training,
    "GPT-2, training step": next_token_training,
    "GPT-2, 200 tokens greedily": generation,
}


def same_without_dropout(
    ours: torch.nn.Module, our_loss: Callable, theirs: torch.nn.Module, their_loss: Callable
) -> None:
    """Raise unless both losses are the same, and so are the token embedding's gradients; then train."""
    gradients = []
    for model, loss in ((ours.eval(), our_loss), (theirs.eval(), their_loss)):
        found = loss()
        found.backward()
        embedding = max(model.parameters(), key=lambda parameter: parameter.shape[0])
        gradients.append((found.detach(), embedding.grad))
        model.zero_grad()
        model.train()
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)


def peak(name: str, run: str) -> None:
    """Print what one step needs above what was held before, in MiB."""
    step = CASES[name]().runs[run]
    before = resident("VmRSS")
    # From here on the peak counts anew.
    Path("/proc/self/clear_refs").write_text("5")
    step()
    print(resident("VmHWM") - before)


def resident(field: str) -> float:
    """Read this process's memory, now (VmRSS) or at its highest (VmHWM), in MiB: `ru_maxrss` starts as the parent's."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def measured_peak(name: str, run: str) -> float:
    """Measure that in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.models", name, "--peak", run]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def main() -> None:
    """Run the cases, print the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("case", nargs="?", default="", help="run the cases whose name holds this")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--threads", type=int, default=torch.get_num_threads())
    options.add_argument("--save", action="store_true", help=f"keep the ratios in {RESULTS.name}")
    options.add_argument("--peak", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    # On one thread, processor time says what a busy machine does not change.
    clock = time.process_time if chosen.threads == 1 else time.perf_counter
    if chosen.peak:
        peak(chosen.case, chosen.peak)
        return
    table = Table("case", "qkv, ms", f"{PEER}, ms", "ratio", "quartiles", "peak, MiB", "ratio of peaks")
    found: dict[str, object] = {}
    for name in CASES:
        if chosen.case not in name:
            continue
        case = CASES[name]()
        case.agree()
        times: dict[str, list[float]] = {run: [] for run in case.runs}
        for round_ in range(chosen.rounds + 1):
            for run, call in case.runs.items():
                start = clock()
                call()
                if round_:
                    times[run].append(clock() - start)
        our, their = (statistics.median(times[run]) for run in case.runs)
        ratios = sorted(theirs / ours for ours, theirs in zip(*times.values(), strict=True))
        low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
        found[name] = {"ratio": round(their / our, 2), "quartiles": [round(low, 2), round(high, 2)]}
        row = [name, f"{1e3 * our:.0f}", f"{1e3 * their:.0f}", f"{their / our:.2f}", f"{low:.2f}–{high:.2f}"]
        if case.has_peak:
            peaks = [measured_peak(name, run) for run in case.runs]
            found[name] |= {"peak": round(peaks[0] / peaks[1], 2)}  # type: ignore[operator]
            row += [f"{peaks[0]:.0f} / {peaks[1]:.0f}", f"{peaks[0] / peaks[1]:.2f}"]
        table.add_row(*row)
    Console(width=max(Console().width, 120)).print(f"torch {torch.__version__}, threads: {chosen.threads}", table)
    if chosen.save:
        kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        before = kept.get(f"{chosen.threads} threads", {})
        kept |= {"torch": torch.__version__, f"{chosen.threads} threads": before | found}
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
