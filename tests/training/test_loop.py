"""The loop: it learns, averages over targets, stops in order, and refuses before any work."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from processes import finish, metrics_of, start, tensors_of
from safetensors.torch import load_file
from tiny import Numbers, TinyTask
from torch.nn import functional as F

from qkv.errors import ArgumentError, FileError, TrainingError, UnsupportedError
from qkv.training.checkpoints import newest_checkpoint
from qkv.training.loop import Outcome, train
from qkv.training.options import Options
from qkv.training.run import Run, open_run
from qkv.training.schedules import linear


def options(**changed):
    return Options(**{"steps": 6, "rate": 0.01, "validate_every": 2, "checkpoint_every": 3} | changed)


def steps_of(run):
    return [path.name for path in sorted((run / "checkpoints").iterdir())]


def test_a_run_from_beginning_to_end(tmp_path, capsys):
    run = tmp_path / "run"
    outcome = train(TinyTask(), run, options(schedule=linear(6, warm_up=2)), about={"data": "numbers"})
    lines = metrics_of(run)
    training = [line for line in lines if "loss" in line]
    validation = [line for line in lines if "validation_loss" in line]
    assert [line["step"] for line in training] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in validation] == [2, 4, 6]
    assert [line["rate"] for line in training] == pytest.approx([0.005, 0.01, 0.008, 0.006, 0.004, 0.002])
    best = min(line["validation_loss"] for line in validation)
    assert outcome == Outcome(6, training[-1]["loss"], best, True)
    # The last two, and the best if it is another.
    assert steps_of(run)[-2:] == ["step-00000004", "step-00000006"]
    record = open_run(run).record()
    assert record["kind"] == "tiny" and record["about"] == {"data": "numbers"} and record["options"]["seed"] == 0
    said = capsys.readouterr().err
    assert "step 2 · validation loss" in said and "5 → " in said and "step 6/6 · loss" in said


def test_it_learns(tmp_path):
    outcome = train(TinyTask(), tmp_path / "run", options(steps=150, rate=0.05, validate_every=50), shown=False)
    assert outcome.validation_loss < 0.1
    weights = load_file(tmp_path / "run" / "model" / "model.safetensors")
    task = TinyTask(seed=1)
    task.model.load_state_dict(weights)
    batch = Numbers(1, seed=1)[0]
    assert torch.equal(task.model.eval()(batch.tokens).argmax(-1), batch.targets)


def test_a_step_descends_on_the_sum_of_losses_over_the_sum_of_targets(tmp_path):
    task, oracle = TinyTask(), TinyTask()
    for each in (task, oracle):
        each.model.dropout.p = 0.0
    train(task, tmp_path / "run", options(steps=1, accumulate=3, clip=0.1), shown=False)
    batches = [oracle.batches[number] for number in range(3)]
    assert len({len(batch.targets) for batch in batches}) == 3
    tokens, targets = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("tokens", "targets"))
    loss = F.cross_entropy(oracle.model(tokens), targets)
    loss.backward()
    (line,) = (line for line in metrics_of(tmp_path / "run") if "loss" in line)
    assert line["loss"] == pytest.approx(loss.item(), abs=1e-6) and line["tokens"] == len(targets)
    norm = torch.nn.utils.clip_grad_norm_(oracle.model.parameters(), 0.1)
    assert line["norm"] == pytest.approx(norm.item(), rel=1e-6)
    groups = [
        {"params": [p for p in oracle.model.parameters() if p.ndim == 2], "weight_decay": 0.01},
        {"params": [p for p in oracle.model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    torch.optim.AdamW(groups, lr=0.01).step()
    for ours, theirs in zip(task.model.parameters(), oracle.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_what_is_descended_on_beside_the_loss_is_told_apart(tmp_path, capsys):
    class Paying(TinyTask):
        def loss(self, batch):
            total, count = super().loss(batch)
            price = self.model.out.weight.square().sum() if self.model.training else total.new_zeros(())
            return {"loss": total, "attention_loss": price}, count

    task, plain = Paying(), TinyTask()
    for each in (task, plain):
        each.model.dropout.p = 0.0
    price = task.model.out.weight.square().sum().item()
    train(task, tmp_path / "run", options(steps=2, validate_every=2, accumulate=2))
    train(plain, tmp_path / "plain", options(steps=1, validate_every=2, accumulate=2), shown=False)
    first, second, measured = (line for line in metrics_of(tmp_path / "run") if "sample" not in line)
    assert first["loss"] == metrics_of(tmp_path / "plain")[0]["loss"]
    assert first["attention_loss"] == pytest.approx(2 * price / first["tokens"], rel=1e-6)
    # It is descended on, and no part of what is measured.
    assert second["attention_loss"] * second["tokens"] < first["attention_loss"] * first["tokens"]
    task.model.eval()
    batches = [task.validation[number] for number in range(3)]
    losses = [task.loss(batch)[0]["loss"].item() for batch in batches]
    assert measured["validation_loss"] == pytest.approx(sum(losses) / sum(len(b.targets) for b in batches), rel=1e-6)
    assert f"· attention loss {second['attention_loss']:.4f}" in capsys.readouterr().err


def test_bf16_computes_in_bf16_and_keeps_float32(tmp_path):
    seen = []
    task = TinyTask()
    task.model.out.register_forward_hook(lambda module, inputs, out: seen.append(out.dtype))
    train(task, tmp_path / "run", options(precision="bf16"), shown=False)
    assert set(seen[:1]) == {torch.bfloat16}
    assert {value.dtype for value in task.model.parameters()} == {torch.float32}
    train(TinyTask(), tmp_path / "other", options(), shown=False)


def test_without_validation_data_the_newest_model_is_kept(tmp_path):
    outcome = train(TinyTask(validation=0), tmp_path / "run", options(), shown=False)
    assert outcome.validation_loss is None and (tmp_path / "run" / "model" / "model.safetensors").exists()
    assert not any("validation_loss" in line for line in metrics_of(tmp_path / "run"))


def test_resuming_gives_the_same_bits_and_metrics(tmp_path):
    at_once, in_parts = tmp_path / "once", tmp_path / "parts"
    train(TinyTask(), at_once, options(steps=8, keep=9), shown=False)
    train(TinyTask(), in_parts, options(steps=8, keep=9), shown=False)
    for step in (5, 6, 7, 8):
        shutil.rmtree(in_parts / "checkpoints" / f"step-{step:08}", ignore_errors=True)
    again = train(TinyTask(seed=9), in_parts, options(steps=8, keep=9), resume=True, shown=False)
    assert again.finished and metrics_of(in_parts) == metrics_of(at_once)
    ours, theirs = tensors_of(in_parts, 8), tensors_of(at_once, 8)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    # A finished run has nothing left to do, and can be given more.
    assert train(TinyTask(), in_parts, options(steps=8, keep=9), resume=True, shown=False) == again
    assert train(TinyTask(), in_parts, options(steps=10, keep=9), resume=True, shown=False).step == 10


def test_an_existing_run_is_neither_overwritten_nor_taken_for_another(tmp_path):
    run = tmp_path / "run"
    train(TinyTask(), run, options(), shown=False)
    before = (run / "metrics.jsonl").read_bytes(), steps_of(run)
    with pytest.raises(FileError, match=r"^train: .* must be new; got a run \(resume it, or choose another name\)$"):
        train(TinyTask(), run, options(), shown=False)
    with pytest.raises(
        ArgumentError, match=r"^train: options.rate must be the run's 0.01 when it is resumed; got 0.5$"
    ):
        train(TinyTask(), run, options(rate=0.5), resume=True, shown=False)
    text = r"^load_weights: .*weights.safetensors must hold the weights of this model; got .*not float32\[16\]"
    with pytest.raises(FileError, match=text):
        train(TinyTask(width=16), run, options(steps=9), resume=True, shown=False)
    with pytest.raises(FileError, match=r"^train: .*none must be a run, with its run.json; got nothing$"):
        train(TinyTask(), tmp_path / "none", options(), resume=True, shown=False)
    task = TinyTask()
    task.batches = Numbers(0)
    with pytest.raises(ArgumentError, match=r"^train: task.batches must hold at least one batch; got 0$"):
        train(task, tmp_path / "none", options(), shown=False)
    assert before == ((run / "metrics.jsonl").read_bytes(), steps_of(run)) and not (tmp_path / "none").exists()


def test_a_step_of_another_size_is_said(tmp_path, capsys):
    run = tmp_path / "run"
    train(TinyTask(), run, options(steps=2, accumulate=2))
    train(TinyTask(), run, options(steps=3), resume=True)
    assert "from here on" not in capsys.readouterr().err
    train(TinyTask(), run, options(steps=4, accumulate=3), resume=True)
    told = "a step holds 3 batches from here on, where it held 2: it is another training than one that was not stopped"
    assert told in capsys.readouterr().err
    train(TinyTask(), run, options(steps=5), resume=True)
    assert "from here on" not in capsys.readouterr().err
    found, _ = newest_checkpoint(run / "checkpoints")
    assert found.state["micro_batches"] == 3 and found.state["position"] == 2 * 3 + 3 * 2


def test_a_state_of_another_version_is_named(tmp_path, monkeypatch):
    run = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr("qkv.training.loop.random_states", dict)
        train(TinyTask(), run, options(), shown=False)
    text = r"state\.json must say where a training of this version stands; got no 'python'$"
    with pytest.raises(FileError, match=text):
        train(TinyTask(), run, options(), resume=True, shown=False)


def test_tensorboard_is_looked_for_before_a_folder_is_made(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    text = r"^train: tensorboard must be installed; got no such package \(pip install tensorboard\)$"
    with pytest.raises(UnsupportedError, match=text):
        train(TinyTask(), tmp_path / "run", options(tensorboard=True))
    assert not (tmp_path / "run").exists()


def test_a_half_checkpoint_is_named_and_passed_over(tmp_path, capsys):
    run = tmp_path / "run"
    train(TinyTask(), run, options(), shown=False)
    (run / "checkpoints" / "step-00000006" / "checkpoint.json").unlink()
    train(TinyTask(), run, options(), resume=True)
    said = capsys.readouterr().err
    assert "passed over step-00000006: it was not written to its end" in said and "going on after step 4" in said


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_loss_that_is_no_number_ends_it_with_step_and_batch(tmp_path, accumulate):
    run = tmp_path / "run"
    text = (
        rf"^train: loss must be finite; got nan \(at step {5 // accumulate + 1}, in batch 5; "
        "the newest checkpoint is the last good one: a smaller rate may help"
    )
    with pytest.raises(TrainingError, match=text):
        train(TinyTask(bad=5), run, options(accumulate=accumulate, checkpoint_every=1), shown=False)
    found, skipped = newest_checkpoint(run / "checkpoints")
    assert found.step == 5 // accumulate and skipped == []
    assert all(value.isfinite().all() for value in found.tensors("weights").values())
    assert metrics_of(run)[-1]["step"] == 5 // accumulate


def test_gradients_that_are_no_numbers_end_it_before_they_reach_the_weights(tmp_path):
    task = TinyTask()
    before = {name: value.clone() for name, value in task.model.named_parameters()}
    task.model.out.weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(
        TrainingError, match=r"^train: the gradients' norm must be finite; got (nan|inf) \(at step 1, in"
    ):
        train(task, tmp_path / "run", options(), shown=False)
    assert all(torch.equal(value, before[name]) for name, value in task.model.named_parameters())


def test_a_full_disk_ends_it_clearly(tmp_path, monkeypatch):
    run = tmp_path / "run"
    train(TinyTask(), run, options(), shown=False)

    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("qkv.training.folder.sync", full)
    with pytest.raises(FileError, match=r"must be writable; got No space left on device"):
        train(TinyTask(), run, options(steps=9, validate_every=9), resume=True, shown=False)
    assert newest_checkpoint(run / "checkpoints")[0].step == 6


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare, to mount a disk that cannot be written to")
@pytest.mark.slow
def test_a_read_only_folder_is_refused_before_training(tmp_path):
    run = tmp_path / "run"
    train(TinyTask(), run, options(), shown=False)
    if subprocess.run(
        ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", str(tmp_path)], capture_output=True
    ).returncode:
        pytest.skip("no disk can be mounted here")
    script = (
        f"mount --bind {run} {run} && mount -o remount,bind,ro {run} && "
        f"exec {sys.executable} -c 'from qkv.training.run import open_run; open_run({str(run)!r}).hold()'"
    ).replace("'" + str(run) + "'", '"' + str(run) + '"')
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, timeout=120)
    assert f"train: {run} must be writable; got Read-only file system" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_and_is_resumed_to_the_same_bits(tmp_path, number):
    class Interrupted(TinyTask):
        def tokens(self, batch):
            self.read = getattr(self, "read", 0) + 1
            if self.read == 4:
                os.kill(os.getpid(), number)
            return super().tokens(batch)

    run, at_once = tmp_path / "run", tmp_path / "once"
    outcome = train(Interrupted(), run, options(keep=9, checkpoint_every=100), shown=False)
    assert not outcome.finished and outcome.step == 4 and steps_of(run)[-1] == "step-00000004"
    assert train(TinyTask(), run, options(keep=9, checkpoint_every=100), resume=True, shown=False).finished
    train(TinyTask(), at_once, options(keep=9, checkpoint_every=100), shown=False)
    assert metrics_of(run) == metrics_of(at_once)
    ours, theirs = tensors_of(run, 6), tensors_of(at_once, 6)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.slow
def test_ctrl_c_in_a_process_of_its_own(tmp_path):
    """With two data workers, which a terminal's Ctrl-C reaches too; then a second one."""
    run = tmp_path / "run"
    asked = {"task": {"pause": 1.0}, "options": {"workers": 2, "accumulate": 3, "steps": 500}}

    def interrupted(times):
        process = start(run, start_new_session=True, **asked)
        for line in process.stderr:
            if "validation loss" in line or "going on" in line:
                break
        for _ in range(times):
            os.killpg(process.pid, signal.SIGINT)
            # The echo that a launcher sends is no second one.
            os.kill(process.pid, signal.SIGINT)
            if times > 1:
                import time

                time.sleep(0.8)
        return process

    asked["options"]["validate_every"] = 1
    said = finish(interrupted(1))
    outcome = json.loads(next(line for line in said.splitlines() if line.startswith("{")))
    assert not outcome["finished"] and "SIGINT: this step is finished and kept; once more to leave at once" in said
    assert f"stopped after step {outcome['step']}, which is kept: the same command with --resume goes on" in said
    assert newest_checkpoint(Run(run).checkpoints)[0].step == outcome["step"]
    # Not SIGINT's own status: what torch does at exit makes it 1, in any program that ends by this.
    process = interrupted(2)
    _, said = process.communicate(timeout=120)
    # The echo of the second may come while Python is leaving: then a colon follows.
    assert process.returncode != 0 and said.splitlines()[-1].rstrip(": ") == "KeyboardInterrupt"
