"""The training loop, on one CPU or on many GPUs.

    train(task, "runs/first", Options(steps=10_000, rate=3e-4, schedule=cosine(10_000, warm_up=500)))

accelerate gives the devices, the precision, DDP and FSDP2. The order of the data is ours: micro-batch m of the data goes
to one rank at one moment, m = position + (micro-batch of the step) · ranks + rank, and draws from a generator seeded
with m. So a step is the same on one rank or many, before or after a crash.
"""

import copy
import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from qkv.errors import ArgumentError, TrainingError, UnsupportedError, must
from qkv.folders import file_error
from qkv.training.checkpoints import Checkpoint, newest_checkpoint, prune_checkpoints, save_checkpoint
from qkv.training.folder import whole_folder
from qkv.training.interrupt import Interrupt, ignore_interrupts
from qkv.training.metrics import Metrics
from qkv.training.options import Options, check_same
from qkv.training.progress import Shown
from qkv.training.randomness import deterministic, random_states, restore_random_states, seed_all, seed_for
from qkv.training.run import Run, create_run, open_run, versions
from qkv.training.states import adamw, load_optimizer_state, load_weights, optimizer_state, weights_of, whole
from qkv.training.task import Task


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
    with deterministic():
        accelerator = _accelerator(options.precision)
        record = {"kind": task.kind, "options": options.record(), "about": dict(about or {})}
        record |= {"versions": versions(), "command": sys.argv}
        if accelerator.is_main_process and not resume:
            create_run(folder, record)
        accelerator.wait_for_everyone()
        run = open_run(folder, "train")
        with run.hold() if accelerator.is_main_process else nullcontext():
            check_same(run.record(), record)
            checkpoint, skipped = newest_checkpoint(run.checkpoints)
            training = _Training(task, run, options, accelerator, checkpoint)
            if accelerator.is_main_process:
                run.rewrite(record)
            with Shown(options.steps, training.step, shown=shown and accelerator.is_main_process) as progress:
                for name in skipped:
                    progress.say(f"passed over {name}: it was not written to its end")
                if resume:
                    progress.say(f"going on after step {training.step}")
                return training.run_to_end(progress)


class _Objective(nn.Module):
    """A task's loss as a module: what DDP and FSDP2 wrap."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.model = task.model
        self._task = task

    def forward(self, batch: Any) -> tuple[Tensor, int]:
        return self._task.loss(batch)


class _Training:
    """A training between two steps: all that a checkpoint holds, and what it acts on."""

    def __init__(
        self, task: Task, run: Run, options: Options, accelerator: Any, checkpoint: Checkpoint | None
    ) -> None:
        self.task, self.run, self.options, self.accelerator = task, run, options, accelerator
        self.step = self.position = 0
        self.loss, self.best, self.best_step = math.nan, math.inf, None
        self.main, self.ranks, self.rank = accelerator.is_main_process, accelerator.num_processes, accelerator.process_index
        if checkpoint:
            load_weights(task.model, checkpoint.tensors("weights"), checkpoint.file("weights"))
        # Only this copy can be saved and shown on one rank when the model itself is sharded over all.
        self._copy = copy.deepcopy(task.model) if accelerator.is_fsdp2 and self.main else None
        task.model.to(accelerator.device).train()
        if self.ranks > 1:
            for tensor in task.model.state_dict().values():
                torch.distributed.broadcast(tensor, 0)
        self.model, self.optimizer = accelerator.prepare(
            _Objective(task), adamw(task.model, options.weight_decay, options.betas)
        )
        seed_all(options.seed)
        if checkpoint:
            tensors, file = checkpoint.tensors("optimizer"), checkpoint.file("optimizer")
            load_optimizer_state(task.model, self.optimizer, tensors, file)
            state = checkpoint.state
            self.step, self.position, self.loss = state["step"], state["position"], state["loss"]
            if state["best"]:
                self.best, self.best_step = state["best"]["loss"], state["best"]["step"]
            restore_random_states(state["random"])

    def run_to_end(self, progress: Shown) -> Outcome:
        """Take the steps that are left, or those up to an interrupt."""
        options = self.options
        board = self.run.folder / "tensorboard" if options.tensorboard else None
        self.metrics = Metrics(self.run.metrics, self.step, board) if self.main else None
        stop, batches = False, self._batches()
        try:
            with Interrupt(progress.say) as interrupt:
                while self.step < options.steps and not stop:
                    numbers, stop = self._take(batches, interrupt)
                    self._write(**numbers)
                    progress.update(self.step, self.loss, numbers["tokens_per_second"])
                    better = False
                    if self.step % options.validate_every == 0 or self.step == options.steps:
                        better = self._validate(progress)
                    if better or stop or self.step % options.checkpoint_every == 0 or self.step == options.steps:
                        self._checkpoint()
        finally:
            if self.metrics:
                self.metrics.close()
        finished = self.step == options.steps
        if not finished:
            progress.say(f"stopped after step {self.step}, which is kept: the same command with --resume goes on")
        return Outcome(self.step, self.loss, self.best if math.isfinite(self.best) else None, finished)

    def _batches(self) -> Iterator[Any]:
        """Give this rank's micro-batches, from the place in the data on."""
        left = (self.options.steps - self.step) * self.options.accumulate * self.ranks
        places = range(self.position + self.rank, self.position + left, self.ranks)
        return iter(
            DataLoader(
                self.task.batches,  # type: ignore[arg-type]
                batch_size=None,
                sampler=places,
                num_workers=self.options.workers,
                collate_fn=_as_it_is,
                worker_init_fn=ignore_interrupts,
                # A loader draws a seed for its workers: not from the generator that the training draws from.
                generator=torch.Generator(),
            )
        )

    def _take(self, batches: Iterator[Any], interrupt: Interrupt) -> tuple[dict[str, float], bool]:
        """Take a step: descend on Σ losses / Σ targets over all its micro-batches, on all ranks."""
        began, options, accelerator = time.monotonic(), self.options, self.accelerator
        rate = options.rate * options.schedule(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        losses, targets, tokens = [], 0, 0
        for micro in range(options.accumulate):
            batch = next(batches)
            seed_for(options.seed, self.position + micro * self.ranks + self.rank)
            with nullcontext() if micro == options.accumulate - 1 else accelerator.no_sync(self.model):
                loss, count = self.model(batch.to(accelerator.device))
                accelerator.backward(loss)
            losses.append(loss.detach().float())
            targets, tokens = targets + int(count), tokens + self.task.tokens(batch)
        own = torch.stack([*losses, *torch.tensor([targets, tokens, bool(interrupt.asked)]).to(losses[0])])
        # One exchange a step: [ranks, losses of each micro-batch, targets, tokens, whether to stop].
        table = accelerator.gather(own[None]).double().cpu()
        losses, (targets, tokens, stops) = table[:, :-3], table[:, -3:].sum(0).tolist()
        self._check_finite(losses)
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                # accelerate averages over the ranks.
                parameter.grad.mul_(self.ranks / max(targets, 1))
        norm = accelerator.clip_grad_norm_(self.model.parameters(), options.clip or math.inf)
        norm = float(whole(norm))
        if not math.isfinite(norm):
            raise self._not_finite("gradients", norm, range(self.position, self.position + losses.numel()))
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step, self.position = self.step + 1, self.position + losses.numel()
        self.loss = float(losses.sum()) / max(targets, 1)
        seconds = time.monotonic() - began
        numbers = {"loss": self.loss, "rate": rate, "norm": norm, "tokens": tokens}
        return {**numbers, "seconds": seconds, "tokens_per_second": tokens / seconds}, bool(stops)

    def _check_finite(self, losses: Tensor) -> None:
        for rank, micro in (~losses.isfinite()).nonzero().tolist():
            batch = self.position + micro * self.ranks + rank
            raise self._not_finite("loss", losses[rank, micro].item(), range(batch, batch + 1))

    def _not_finite(self, what: str, got: float, batches: range) -> TrainingError:
        which = f"batch {batches[0]}" if len(batches) == 1 else f"batches {batches[0]} to {batches[-1]}"
        fix = f"step {self.step + 1}, {which}; nothing of this step is kept, the newest checkpoint is the last good one"
        return TrainingError(must("train", what, "be finite", got, fix))

    @torch.no_grad()
    def _validate(self, progress: Shown) -> bool:
        """Measure the loss on the validation data, show a sample, and save the model if it is the best so far."""
        batches, total = self.task.validation, torch.zeros(2, device=self.accelerator.device)
        self.model.eval()
        for start in range(0, len(batches), self.ranks):
            number = start + self.rank
            # Sharded models need all ranks in every forward pass: one without a batch reads the last, for nothing.
            seed_for(self.options.seed, number)
            loss, count = self.model(batches[min(number, len(batches) - 1)].to(self.accelerator.device))
            if number < len(batches):
                total += torch.stack([loss.float(), loss.new_tensor(count, dtype=torch.float32)])
        losses, targets = self.accelerator.reduce(total).tolist()
        measured = losses / max(targets, 1)
        if not math.isfinite(measured):
            raise self._not_finite("validation_loss", measured, range(len(batches)))
        better = not len(batches) or measured < self.best
        if len(batches):
            self._write(validation_loss=measured)
            progress.say(f"step {self.step} · validation loss {measured:.4f}" + " · the best so far" * better)
            self.best, self.best_step = (measured, self.step) if better else (self.best, self.best_step)
        with self._at_rest():
            seed_for(self.options.seed, self.step)
            if self.main and (text := self.task.sample()):
                self._write(sample=text)
                progress.say(text)
            if self.main and better:
                self._save_model()
        self.model.train()
        return better

    @contextmanager
    def _at_rest(self) -> Iterator[None]:
        """Let the task see its model whole on the main rank, also when it is sharded."""
        model = self.task.model
        weights = weights_of(model, keep=self.main) if self.accelerator.is_fsdp2 else {}
        if self._copy is not None:
            self._copy.load_state_dict(weights, strict=False)
            self.task.model = self._copy.eval()
        try:
            yield
        finally:
            self.task.model = model

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
        if self.main:
            best = {"step": self.best_step, "loss": self.best} if self.best_step is not None else None
            state = {"position": self.position, "loss": self.loss, "best": best, "random": random_states()}
            state |= {"kind": self.task.kind, "schedule": repr(self.options.schedule), "ranks": self.ranks}
            self.metrics.sync()
            save_checkpoint(self.run.checkpoints, self.step, tensors, state)
            prune_checkpoints(self.run.checkpoints, self.options.keep, self.best_step)

    def _write(self, **numbers: float | str) -> None:
        if self.metrics:
            self.metrics.write(self.step, **numbers)


def _accelerator(precision: str) -> Any:
    """Give accelerate's Accelerator, for one device, DDP or FSDP2."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedDataParallelKwargs, DistributedType, GradientAccumulationPlugin

    mixed = {"float32": "no", "bf16": "bf16"}[precision]
    # Its state is the process's, with one precision for all trainings.
    if AcceleratorState._shared_state.get("_mixed_precision", mixed) != mixed:
        AcceleratorState._reset_state()
    accelerator = Accelerator(
        mixed_precision=mixed,
        # The plugin, as a number would give way to the launcher's: we weigh micro-batches by their targets.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        # A head that a task does not train has no gradient.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    kind = accelerator.distributed_type
    if kind in (DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM, DistributedType.XLA) or (
        kind == DistributedType.FSDP and not accelerator.is_fsdp2
    ):
        rule = "be launched for one device, DDP or FSDP2"
        raise UnsupportedError(must("train", "accelerate", rule, kind.value, "--use_fsdp --fsdp_version 2"))
    return accelerator


def _as_it_is(batch: Any) -> Any:
    return batch
