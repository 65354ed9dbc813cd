"""The training loop, on one CPU or on many GPUs.

    train(task, "runs/first", Options(steps=10_000, rate=3e-4, schedule=cosine(10_000, warm_up=500)))

accelerate gives the devices, the precision, DDP and FSDP2. The order of the data is ours: a step's micro-batch number a
goes to a rank as batch m = position + a · ranks + rank of the data, and draws from generators seeded with m. So a step
is the same on one rank or many, before a crash or after it, as long as accumulate · ranks is; a run that goes on on
another number of ranks keeps that product unless it is told otherwise, and then says so.
"""

import copy
import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch

from qkv.errors import ArgumentError, must
from qkv.folders import file_error
from qkv.training import gradients
from qkv.training.checkpoints import STATE, Checkpoint, newest_checkpoint, prune_checkpoints, save_checkpoint
from qkv.training.devices import Objective, accelerator_for
from qkv.training.finite import check_losses, check_norm, check_validation
from qkv.training.folder import whole_folder
from qkv.training.interrupt import Interrupt
from qkv.training.metrics import Metrics, board_writer
from qkv.training.micro_batches import micro_batches
from qkv.training.options import Options, check_same, micro_batches_of
from qkv.training.progress import Shown
from qkv.training.randomness import deterministic, random_states, restore_random_states, seed_all, seed_for
from qkv.training.run import Run, create_run, open_run, versions
from qkv.training.states import (
    adamw,
    load_optimizer_state,
    load_weights,
    optimizer_state,
    weights_of,
    whole,
    whole_model,
)
from qkv.training.task import Task
from qkv.training.validation import validation_loss


@dataclass(frozen=True)
class Outcome:
    """How a training ended: after which step, with which losses, and whether it was all of it."""

    step: int
    loss: float
    validation_loss: float | None
    finished: bool


def train(
    task: Task,
    folder: str | PathLike[str],
    options: Options,
    *,
    resume: bool = False,
    about: Mapping[str, Any] | None = None,
    shown: bool = True,
) -> Outcome:
    """Train a model into a new run's folder, or go on with a run from its newest whole checkpoint, bit for bit.

    `about` is kept in run.json: what JSON can hold of the data and the model, which a resumed run must not change.

    Raises: FileError for a folder that is in the way, no run, or not writable; ArgumentError if a run would go on as
    something else; TrainingError if a loss or a gradient is not finite: nothing is kept of that step.
    """
    if len(task.batches) == 0:
        raise ArgumentError(must("train", "task.batches", "hold at least one batch", 0))
    if options.tensorboard:
        board_writer("train")
    with deterministic():
        accelerator = accelerator_for(options.precision)
        record = {"kind": task.kind, "options": options.record(), "about": dict(about or {})}
        record |= {"versions": versions(), "command": sys.argv}
        record["micro_batches"] = micro_batches_of(options, accelerator.num_processes, None) * accelerator.num_processes
        if accelerator.is_main_process and not resume:
            create_run(folder, record)
        accelerator.wait_for_everyone()
        run = open_run(folder, "train")
        with run.hold() if accelerator.is_main_process else nullcontext():
            begun = run.record()
            check_same(begun, record)
            checkpoint, skipped = newest_checkpoint(run.checkpoints)
            before = (checkpoint.state if checkpoint else begun).get("micro_batches")
            training = _Training(task, run, options, accelerator, checkpoint, before)
            if accelerator.is_main_process:
                run.rewrite({**record, "micro_batches": training.micro_batches})
            with (
                Shown(options.steps, training.step, shown=shown and accelerator.is_main_process) as progress,
                Interrupt(progress.say) as interrupt,
            ):
                for name in skipped:
                    progress.say(f"passed over {name}: it was not written to its end")
                if resume:
                    progress.say(f"going on after step {training.step}")
                if before not in (None, training.micro_batches):
                    told = f"a step holds {training.micro_batches} batches from here on, where it held {before}"
                    progress.say(f"{told}: it is another training than one that was not stopped")
                return training.run_to_end(progress, interrupt)


class _Training:
    """A training between two steps: all that a checkpoint holds, and what it acts on."""

    def __init__(
        self,
        task: Task,
        run: Run,
        options: Options,
        accelerator: Any,
        checkpoint: Checkpoint | None,
        before: int | None,
    ) -> None:
        self.task, self.run, self.options, self.accelerator = task, run, options, accelerator
        self.step = self.position = 0
        self.loss, self.best = math.nan, math.inf
        self.best_step: int | None = None
        self.metrics: Metrics | None = None
        self.gradients: Metrics | None = None
        self.main = accelerator.is_main_process
        self.ranks, self.rank = accelerator.num_processes, accelerator.process_index
        self.accumulate = micro_batches_of(options, self.ranks, before)
        self.micro_batches = self.accumulate * self.ranks
        if checkpoint:
            load_weights(task.model, checkpoint.tensors("weights"), checkpoint.file("weights"))
        # Only this copy can be saved and shown on one rank when the model itself is sharded over all.
        self._copy = copy.deepcopy(task.model) if accelerator.is_fsdp2 and self.main else None
        task.model.to(accelerator.device).train()
        if self.ranks > 1:
            for tensor in task.model.state_dict().values():
                torch.distributed.broadcast(tensor, 0)
        optimizer = adamw(task.model, options.weight_decay, options.betas)
        self.model, prepared = accelerator.prepare(Objective(task), optimizer)
        # Without accelerate's cover, which looks for a package on the disk at each step.
        self.optimizer = prepared.optimizer
        seed_all(options.seed)
        if checkpoint:
            tensors, file = checkpoint.tensors("optimizer"), checkpoint.file("optimizer")
            load_optimizer_state(task.model, self.optimizer, tensors, file)
            state = checkpoint.state
            try:
                self.step, self.position, self.loss = state["step"], state["position"], state["loss"]
                if state["best"]:
                    self.best, self.best_step = state["best"]["loss"], state["best"]["step"]
                restore_random_states(state["random"])
            except KeyError as error:
                rule = "say where a training of this version stands"
                raise file_error("train", checkpoint.folder / STATE, rule, f"no {error}") from error

    def run_to_end(self, progress: Shown, interrupt: Interrupt) -> Outcome:
        """Take the steps that are left, or those up to an interrupt."""
        options = self.options
        board = self.run.folder / "tensorboard" if options.tensorboard else None
        if self.main:
            self.metrics = Metrics(self.run.metrics, self.step, board)
            if options.watch_gradients:
                self.gradients = Metrics(self.run.folder / gradients.FILE, self.step)
        left = (options.steps - self.step) * self.micro_batches
        places = range(self.position + self.rank, self.position + left, self.ranks)
        stop, batches = False, micro_batches(self.task.batches, places, options.workers)
        try:
            if self.step == 0:
                # Resuming begins with these weights, whatever it is given; and a full disk is found out now.
                self._checkpoint()
            while self.step < options.steps and not stop:
                numbers, layers, stop = self._take(batches, interrupt)
                self._write(**numbers)
                if self.gradients:
                    self.gradients.write(self.step, **layers)
                told = [f"{n.replace('_', ' ')} {numbers[n]:.4f}" for n in numbers if n.endswith("_loss")]
                told += [gradients.brief(layers)] if layers else []
                progress.update(self.step, self.loss, numbers["tokens_per_second"], " · ".join(told))
                better = False
                if self.step % options.validate_every == 0 or self.step == options.steps:
                    better = self._validate(progress)
                if stop or self.step % options.validate_every == 0 or self.step == options.steps:
                    self._draw(progress)
                if better or stop or self.step % options.checkpoint_every == 0 or self.step == options.steps:
                    self._checkpoint()
        finally:
            for metrics in (self.metrics, self.gradients):
                if metrics:
                    metrics.close()
        finished = self.step == options.steps
        if not finished:
            progress.say(f"stopped after step {self.step}, which is kept: the same command with --resume goes on")
        return Outcome(self.step, self.loss, self.best if math.isfinite(self.best) else None, finished)

    def _take(self, batches: Iterator[Any], interrupt: Interrupt) -> tuple[dict[str, float], dict[str, float], bool]:
        """Take a step: descend on Σ losses / Σ targets over all its micro-batches, on all ranks.

        Gives its numbers, the norms of each layer's gradients before they are clipped, if they are watched, and whether
        to stop.
        """
        began, options, accelerator = time.monotonic(), self.options, self.accelerator
        rate = options.rate * options.schedule(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        losses, targets, tokens = [], 0, 0
        for micro in range(self.accumulate):
            batch = next(batches)
            seed_for(options.seed, self.position + micro * self.ranks + self.rank)
            with nullcontext() if micro == self.accumulate - 1 else accelerator.no_sync(self.model):
                parts, count = self.model(batch.to(accelerator.device))
                accelerator.backward(torch.stack(list(parts.values())).sum())
            losses.append(torch.stack(list(parts.values())).detach().float())
            targets, tokens = targets + int(count), tokens + self.task.tokens(batch)
        own = torch.cat([*losses, torch.tensor([targets, tokens, bool(interrupt.asked)]).to(losses[0])])
        # One exchange a step: [ranks, each micro-batch's losses, targets, tokens, whether to stop].
        table = accelerator.gather(own[None]).double().cpu()
        losses, (targets, tokens, stops) = table[:, :-3].unflatten(1, (-1, len(parts))), table[:, -3:].sum(0).tolist()
        check_losses(losses.sum(-1), self.step + 1, self.position)
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                # accelerate averages over the ranks.
                parameter.grad.mul_(self.ranks / max(targets, 1))
        layers = gradients.norms(self.task.model) if options.watch_gradients else {}
        norm = float(whole(accelerator.clip_grad_norm_(self.model.parameters(), options.clip or math.inf)))
        check_norm(norm, self.step + 1, range(self.position, self.position + self.micro_batches))
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step, self.position = self.step + 1, self.position + self.micro_batches
        means = dict(zip(parts, (losses.sum((0, 1)) / max(targets, 1)).tolist(), strict=True))
        self.loss, seconds = means["loss"], time.monotonic() - began
        numbers = {**means, "rate": rate, "norm": norm, "tokens": tokens}
        return {**numbers, "seconds": seconds, "tokens_per_second": tokens / seconds}, layers, bool(stops)

    def _validate(self, progress: Shown) -> bool:
        """Measure the validation loss and show a sample. If it is the best so far, save the model and say so."""
        batches = self.task.validation
        self.model.eval()
        measured = validation_loss(self.model, batches, self.accelerator, self.options.seed)
        check_validation(measured, self.step)
        better = not len(batches) or measured < self.best
        if len(batches):
            self._write(validation_loss=measured)
            progress.say(f"step {self.step} · validation loss {measured:.4f}" + " · the best so far" * better)
            self.best, self.best_step = (measured, self.step) if better else (self.best, self.best_step)
        with whole_model(self.task, self._copy, self.accelerator):
            seed_for(self.options.seed, self.step)
            if self.main and (text := self.task.sample()):
                self._write(sample=text)
                progress.say(text)
            if self.main and better:
                self._save_model()
        self.model.train()
        return better

    def _draw(self, progress: Shown) -> None:
        """Draw the gradients, so that who looks sees them grow."""
        if self.gradients:
            drawn = gradients.draw(self.run.folder)
            if self.step == self.options.steps:
                progress.say(f"gradients: {self.run.folder / (gradients.PICTURE if drawn else gradients.FILE)}")
                if not drawn:
                    progress.say(f"no picture of {gradients.FILE}: pip install matplotlib")

    def _save_model(self) -> None:
        folder = self.run.folder / "model"
        try:
            with whole_folder(folder) as temporary:
                self.task.save(temporary)
        except OSError as error:
            raise file_error("train", folder, "be writable", error.strerror or error) from error

    def _checkpoint(self) -> None:
        """Write a checkpoint, then remove those that are old."""
        tensors = {
            "weights": weights_of(self.task.model, keep=self.main),
            "optimizer": optimizer_state(self.task.model, self.optimizer, keep=self.main),
        }
        if self.metrics:
            best = {"step": self.best_step, "loss": self.best} if self.best_step is not None else None
            state = {
                "kind": self.task.kind,
                "schedule": repr(self.options.schedule),
                "micro_batches": self.micro_batches,
                "position": self.position,
                "loss": self.loss,
                "best": best,
                "random": random_states(),
            }
            self.metrics.sync()
            if self.gradients:
                self.gradients.sync()
            save_checkpoint(self.run.checkpoints, self.step, tensors, state)
            prune_checkpoints(self.run.checkpoints, self.options.keep, self.best_step)

    def _write(self, **numbers: float | str) -> None:
        if self.metrics:
            self.metrics.write(self.step, **numbers)
