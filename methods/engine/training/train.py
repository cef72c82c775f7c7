"""The one training run: every method, every task, one process or many.

`train` makes a `_Run`, which says in what order to read it. One step is in step.py, what a run leaves behind in
run_folder.py.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import cast

import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from attnbias.data.atomic import replacing
from attnbias.data.errors import DataError
from attnbias.data.registry import open_split
from attnbias.methods.engine.abilities import LooksFirst, PublishesLog, StopsEarly
from attnbias.methods.engine.batches import batches, evenly
from attnbias.methods.engine.control import Control
from attnbias.methods.engine.errors import RunError, Stopped, UsageError
from attnbias.methods.engine.evaluation.cache import use_cache
from attnbias.methods.engine.evaluation.evaluate import evaluate_all
from attnbias.methods.engine.kernels import TrainingKernels, be_deterministic
from attnbias.methods.engine.launch import place
from attnbias.methods.engine.load import stored_info, weights_metadata
from attnbias.methods.engine.published import also_missing, recipes_weights, shown
from attnbias.methods.engine.recipe import FRESH, override, write_recipe
from attnbias.methods.engine.registry import get_method
from attnbias.methods.engine.requests import TrainRequest
from attnbias.methods.engine.run_folder import ENVIRONMENT, Progress, RunFolder, check_resumable, check_whole
from attnbias.methods.engine.screen import say
from attnbias.methods.engine.training.memory import (
    cut,
    images_at_once,
    is_out_of_memory,
    normalizes,
    peak,
    reset_peak,
    too_large,
)
from attnbias.methods.engine.training.optim import build_optimizer
from attnbias.methods.engine.training.progress import Reporter, Timings
from attnbias.methods.engine.training.same_run import DATA, Data, check_goes_on, check_processes_agree
from attnbias.methods.engine.training.sampler import StepSampler
from attnbias.methods.engine.training.setup import (
    CSV,
    build_accelerator,
    checkpoint_gradients,
    describe_splits,
    environment,
    options_first,
    plan_run,
    run_warnings,
    synchronized,
)
from attnbias.methods.engine.training.starting_weights import initial_weights
from attnbias.methods.engine.training.step import Called, Stepper, mean_in_rank_order
from attnbias.methods.engine.training.watch import BiasWatch
from attnbias.methods.engine.types import LogLine, Metrics
from attnbias.weights.errors import WeightsError
from attnbias.weights.files import write_weights


@dataclass
class Outcome:
    """What a run ended with."""

    progress: Progress
    out: Path
    measures: Metrics = field(default_factory=dict)


def train(request: TrainRequest, begin: Callable[[], None] = lambda: None) -> Outcome:
    """Train a method by a recipe, or continue a run; returns when done.

    The main process calls `begin` before the first step, when all that can be refused was looked at.

    Raises:
        UsageError, DataError, WeightsError: something asked for cannot be had; nothing was written.
        RunError: a non-finite loss, a full disk.
        Stopped: a signal asked to stop; the state was saved.
    """
    request = place(request)
    if request.measure:
        raise UsageError("--measure changes nothing without --dry-run")
    starts = request.init if request.resume is None and request.backbone_weights is None else None
    if request.deterministic:
        be_deterministic()
    accelerator = build_accelerator(request)
    folder = RunFolder(request.out, request.keep)
    control = Control()
    try:
        with control.signals():
            folder.check(resume=request.resume is not None, overwrite=request.overwrite)
            try:
                with options_first(request):
                    run = _Run(request, accelerator, folder, control)
            except DataError as error:
                raise DataError(f"{error}{also_missing(starts)}") from None
            if starts is not None:
                recipes_weights(starts)  # before processes wait for each other: it can take longest
            return run.fit(begin)
    finally:
        folder.close()


def peak_of_steps(request: TrainRequest, images: int) -> int:
    """The most memory, in bytes, that two steps of so many images take in one process; nothing is kept or written.

    In the second one the optimiser has its state already.
    """
    alone = {"processes": 1, "gpus": min(request.gpus or 0, 1), "accumulation": 1, "resume": None, "bias_every": None}
    # However short the run is to be.
    long = {"steps": None, "limit_train_batches": None, "epochs": max(request.recipe.epochs, 2)}
    recipe = override(request.recipe, {"batch_size": images, **long})
    request = request.model_copy(update={**alone, "log_with": (), "workers": 0, "recipe": recipe})
    accelerator = build_accelerator(request)
    run = _Run(request, accelerator, RunFolder(request.out, request.keep), Control())
    run._prepare(None)
    reset_peak(accelerator.device)
    with run.kernels.chosen():
        for step in range(2):
            run.stepper.step(step)
    return peak(accelerator.device)


class _Run:
    """One run on one process. Read `fit` first: `_read_start`, `_open_folder` and `_prepare`, each once, then `_loop`.

    The loop calls `_step` (one optimiser step), `_pass_evaluation_point` (evaluate, save, decide whether to stop) and
    `_save`.
    What a checkpoint must hold beside tensors is in `progress`.
    """

    def __init__(self, request: TrainRequest, accelerator: Accelerator, folder: RunFolder, control: Control) -> None:
        method, recipe = get_method(request.method), request.recipe
        self.method, self.recipe, self.request = method, recipe, request
        self.accelerator, self.folder, self.control = accelerator, folder, control
        self.main = accelerator.is_main_process

        index = open_split(recipe.dataset, "train", request.data_root)
        evaluated = {split: open_split(recipe.dataset, split, request.data_root) for split in request.eval_splits}
        self.data = Data.of({"train": index, **evaluated})
        check_processes_agree(control, request, self.data)
        self.task, self.classes = index.task, index.classes
        self.dataset = method.open_dataset(
            recipe, index, train=True, on_bad_image=request.on_bad_image, decode=recipe.decode
        )
        self.plan = plan_run(method, recipe, len(self.dataset), accelerator.num_processes, request.accumulation)
        self.eval_sets = [
            (split, method.open_dataset(recipe, index, on_bad_image=request.on_bad_image))
            for split, index in evaluated.items()
        ]
        self.watch = None
        if request.bias_every is not None:
            self.watch = BiasWatch(method, recipe, self.eval_sets[0][1], accelerator)
        self.splits = describe_splits(recipe.dataset, index, evaluated)
        self.warnings = run_warnings(self.plan, recipe, index, evaluated)
        self.progress = Progress(
            processes=accelerator.num_processes, accumulation=request.accumulation, data=self.data.digests()
        )
        self.pending: list[dict[str, Tensor]] = []
        self.measures: Metrics = {}

        torch.manual_seed(recipe.seed)
        self.model = method.build_model(recipe, len(self.classes), self.task)
        if request.grad_checkpointing:
            checkpoint_gradients(method, self.model)
        self.kernels = TrainingKernels.of(request, accelerator.device, self.model)

    # Set-up ----------------------------------------------------------------------------------------------------------

    def fit(self, begin: Callable[[], None]) -> Outcome:
        self._read_start()
        checkpoint = self._open_folder()
        if self.request.cache is not None:
            for _, dataset in self.eval_sets:
                use_cache(self.request.cache, dataset, self.accelerator, self.request.workers or 0)
        self._prepare(checkpoint)
        if self.request.log_with and self.main:
            name = "/".join(self.folder.path.absolute().parts[-2:])  # of --out, such as csra/demo
            config, named = self.recipe.model_dump(mode="json"), {"wandb": {"name": name}}
            self.accelerator.init_trackers("attnbias", config=config, init_kwargs=named)
        self.timings = Timings(self.folder.path, self.recipe.batch_size)
        if self.main:
            self.timings.rewind(self.progress.step)
        self.reporter = Reporter(self.accelerator, self.plan, self.timings) if self.main else None
        if self.reporter:
            begin()
            say(*self._about())
            for warning in self.warnings:
                self.reporter.warn(warning)
            if self.accelerator.device.type == "cuda":
                self.reporter.warn(self.kernels.words)
            if self.watch is not None:
                self.reporter.warn(self.watch.words)
        try:
            with self.reporter or contextlib.nullcontext():
                self._loop()
            self.accelerator.end_training()
        finally:
            del self.stepper  # with its loader, whose worker processes end
        return Outcome(self.progress, self.folder.path, self.measures)

    def _about(self) -> list[str]:
        """What the run is, in lines: its device, images, model, batch and folder."""
        device, data = self.accelerator.device, self.data.indices["train"]
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        evaluated = ", ".join(f"{len(dataset):,} of {split}" for split, dataset in self.eval_sets)
        goes_on = f"; goes on from step {self.progress.step:,}" if self.progress.step else ""
        return [
            f"{parameters:,} parameters on {device}; {len(self.dataset):,} training images of "
            f"'{data.dataset}/{data.split}', evaluated on {evaluated}",
            self.plan.arithmetic(self.request.accumulation),
            f"output folder: {self.folder.path}{goes_on}",
        ]

    def _read_start(self) -> None:
        """Check the checkpoint to resume, or read the starting weights: what is refused leaves the folder untouched."""
        request = self.request
        if request.resume == "auto":
            checkpoint, damaged = self.folder.newest_whole()
            if checkpoint is None and damaged:
                raise WeightsError(
                    f"no checkpoint of {self.folder.path} can be resumed: {damaged[0]}; restore one, start anew with "
                    "--overwrite, or choose another --out"
                )
            self.warnings += [f"warning: {each}; going on from an older one, {checkpoint}" for each in damaged]
        else:
            checkpoint = None if request.resume is None else Path(request.resume)
            if checkpoint is not None:
                check_resumable(checkpoint)
        if checkpoint is not None:
            self.warnings += check_goes_on(checkpoint, self.method, self.recipe, self.data, self.plan)
            began = stored_info(checkpoint / "model.safetensors", self.method).recipe
            self.recipe = override(self.recipe, {name: getattr(began, name) for name in self.recipe.at_random})
        else:
            loaded, warnings = initial_weights(
                self.method,
                self.model,
                self.recipe,
                load_from=request.load_from,
                backbone_weights=request.init,
                reset_head=request.reset_head,
                trust=request.trust_checkpoint,
                classes=self.data.indices["train"].classes,
                task=self.data.indices["train"].task,
            )
            if self.main and loaded:
                say(loaded)
            self.warnings += warnings
            if request.load_from is None and isinstance(self.method, LooksFirst):
                self.method.look_first(self.model, self.recipe, self._training_images, request.init is not None)

    def _training_images(self, count: int) -> torch.Tensor:
        """Up to `count` training images (N, 3, H, W) as in evaluation, evenly from the set."""
        shown = self.method.open_dataset(
            self.recipe, self.data.indices["train"], on_bad_image=self.request.on_bad_image
        )
        samples = [shown[position] for position in evenly(len(shown), count)]
        return torch.stack([sample["image"] for sample in samples if "image" in sample])

    def _open_folder(self) -> Path | None:
        """Open the run folder on the main process; return the checkpoint to resume from, if any."""
        if self.main:
            self.folder.open(resume=self.request.resume is not None, overwrite=self.request.overwrite)
        self.accelerator.wait_for_everyone()
        checkpoint = None
        if self.request.resume == "auto":
            checkpoint = self.folder.latest()
        elif self.request.resume is not None:
            checkpoint = Path(self.request.resume)
        if checkpoint is not None:
            check_goes_on(checkpoint, self.method, self.recipe, self.data, self.plan)
        start = Progress() if checkpoint is None else RunFolder.read_progress(checkpoint)
        _, last, first = self.control.agree(start.step, -start.step)
        if last != -first:
            raise RunError(
                f"some processes find step {-first} in {self.folder.path} and others step {last}; "
                "a run on several machines needs its folder on a disk that they share"
            )
        self.log_lines = start.log_lines
        if self.main:
            self.log_lines = self.folder.metrics.rewind(start.log_lines)
            request = self.request
            weights = shown(request.load_from or ("random" if self.recipe.init == FRESH else self.recipe.init))
            info = {**environment(), "data": self.splits, "starting_weights": weights}
            info["kernels"] = self.kernels.content()
            with replacing(self.folder.path / ENVIRONMENT) as file:  # tells a run
                file.write(json.dumps(info, indent=1))
            with replacing(self.folder.path / DATA) as file:
                file.write(self.data.text())
            write_recipe(self.folder.path / "recipe.yaml", self.recipe, self.method.name)
        return checkpoint

    def _prepare(self, checkpoint: Path | None) -> None:
        recipe, request, accelerator = self.recipe, self.request, self.accelerator
        if checkpoint is not None:
            self.model.load_state_dict(load_file(checkpoint / "model.safetensors"))
        if recipe.sync_bn and accelerator.num_processes > 1 and accelerator.device.type == "cuda":  # torch has no other
            self.model = synchronized(self.model)
        self.model.to(accelerator.device)
        if self.kernels.channels_last:
            self.model.to(memory_format=torch.channels_last)
        self.ema = None
        if recipe.ema_decay is not None:
            self.ema = ModelEmaV3(self.model, decay=recipe.ema_decay)
            if checkpoint is not None:
                check_whole(checkpoint, "ema.safetensors")  # its manifest may not name it
                self.ema.module.load_state_dict(load_file(checkpoint / "ema.safetensors"))
        groups = self.method.param_groups(self.model, recipe)
        optimizer = build_optimizer(groups, recipe, fused=accelerator.device.type == "cuda")
        called = cast("nn.Module", torch.compile(self.model)) if request.compile else self.model
        wrapped, self.optimizer = accelerator.prepare(Called(called), optimizer)
        if isinstance(wrapped, DistributedDataParallel) and accelerator.device.type == "cpu":
            # A lambda: torch compares a hook's annotations, which are texts here, with its types.
            wrapped.register_comm_hook(
                accelerator.num_processes, lambda count, bucket: mean_in_rank_order(count, bucket)
            )
        if checkpoint is not None:
            self._restore(checkpoint)
        sampler = StepSampler(self.plan, accelerator.process_index, self.progress.step)
        loader = batches(self.dataset, sampler, workers=request.workers or 0, device=accelerator.device)
        self.stepper = Stepper(
            method=self.method,
            recipe=recipe,
            task=self.task,
            plan=self.plan,
            schedule=self.method.schedule(recipe, self.plan.steps_per_epoch),
            mix=self.method.batch_transform(recipe, len(self.classes)),
            accelerator=accelerator,
            control=self.control,
            dataset=self.dataset,
            loader=iter(loader),
            model=self.model,
            wrapped=wrapped,
            optimizer=self.optimizer,
            ema=self.ema,
            folder=self.folder,
            channels_last=self.kernels.channels_last,
        )

    def _restore(self, checkpoint: Path) -> None:
        self.progress = RunFolder.read_progress(checkpoint)
        counted, self.progress.log_lines = self.progress.log_lines, self.log_lines
        if self.log_lines < counted:
            self.warnings.append(
                f"warning: {self.folder.metrics.path} holds {self.log_lines} of the {counted} lines up to this "
                "checkpoint; the run goes on behind them"
            )
        now = (self.accelerator.num_processes, self.request.accumulation)
        then = (self.progress.processes, self.progress.accumulation)
        if now != then and self.progress.step % self.plan.steps_per_epoch:
            raise UsageError(
                f"{checkpoint} stands inside an epoch cut for {then[0]} processes x {then[1]} accumulation steps; "
                f"resume it with the same numbers (asked for: {now[0]} x {now[1]})"
            )
        self.progress.processes, self.progress.accumulation = now
        self.progress.data = self.data.digests()
        state = torch.load(checkpoint / "optimizer.pt", map_location="cpu", weights_only=True)  # noqa: TID251 - our own
        self.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    # The loop --------------------------------------------------------------------------------------------------------

    def _loop(self) -> None:
        progress, plan = self.progress, self.plan
        while True:
            if progress.step > progress.milestone and self._is_evaluation_point(progress.step):
                self._pass_evaluation_point()
            if progress.step == plan.total_steps or progress.stopped_early:
                return
            self._step()
            (signal_number,) = self.control.agree()
            if signal_number:
                self._save()
                raise Stopped(signal_number)
            if self.request.save_steps and progress.step % self.request.save_steps == 0:
                self._save()

    def _is_evaluation_point(self, step: int) -> bool:
        """Whether the run halts after so many steps to evaluate and save: an epoch's end, or as the recipe says."""
        return step % (self.recipe.eval_steps or self.plan.steps_per_epoch) == 0 or step == self.plan.total_steps

    def _step(self) -> None:
        try:
            with self.timings.step(), self.kernels.chosen():
                terms, errors = self.stepper.step(self.progress.step)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            at_once = images_at_once(self.plan)
            how = too_large(self.plan, cut(self.plan, at_once // 2), normalizes(self.model))
            raise RunError(
                f"the memory of {self.accelerator.device} is full at step {self.progress.step}, with {at_once} images "
                f"at once; {how}; --dry-run --measure finds how many fit"
            ) from None
        self.progress.step += 1
        self.pending.append(terms)
        if self.reporter:
            self.reporter.skipped(errors)
        if self.progress.step % self.request.log_every == 0 or self._is_evaluation_point(self.progress.step):
            self._log_training()
        if self.reporter:
            self.reporter.step(self.progress.step)

    # Reporting and saving --------------------------------------------------------------------------------------------

    def _gather_pending(self) -> None:
        """Turn the steps since the last gathering into plain numbers, averaged over processes."""
        if not self.pending:
            return
        names = list(self.pending[0])
        values = torch.stack([torch.stack([step[name].float() for name in names]) for step in self.pending])
        values = self.accelerator.reduce(values, reduction="mean")
        self.progress.window += [dict(zip(names, row, strict=True)) for row in values.tolist()]
        self.pending.clear()

    def _log_training(self) -> None:
        self._gather_pending()
        window, self.progress.window = self.progress.window, []
        columns = {name: [row[name] for row in window if name in row] for name in window[-1]}
        means = {
            name: math.fsum(values) / (1 if name == "skipped_steps" else len(values))
            for name, values in columns.items()
        }
        done = self.progress.step
        line = {
            "step": done,
            "epoch": self.plan.epoch_of(done),
            "split": "train",
            "lr": [group["lr"] for group in self.optimizer.param_groups],
            **means,
        }
        if self.main:
            try:
                self.timings.log(done, self.plan.epoch_of(done), self.stepper.waited)
            except OSError as error:
                raise self.folder.cannot_write(str(self.timings.path), error.errno or 0) from None
        self._record(line)

    def _record(self, line: LogLine) -> None:
        self.progress.log_lines += 1
        if self.reporter:
            self.folder.log(line)
            self.reporter.line(line)

    def _pass_evaluation_point(self) -> None:
        """Evaluate raw and averaged weights where it is due, remember the best, save."""
        progress, plan = self.progress, self.plan
        epoch = plan.epoch_of(progress.step)
        last = progress.step == plan.total_steps
        if self.recipe.eval_steps or epoch % self.request.eval_every == 0 or last:
            lines = progress.log_lines
            try:
                entry = self._evaluate(epoch)
            except Stopped:
                progress.log_lines = lines  # a resumed run evaluates, and writes those lines, again
                self._save()
                raise
            progress.history.append(entry)
            for weights in ("raw", "ema"):
                value = entry.get(weights)
                if value is not None and (progress.best is None or value > progress.best):
                    progress.best, progress.best_step, progress.best_weights = value, progress.step, weights
            rule = self.method if self.main and isinstance(self.method, StopsEarly) else None
            stop = rule is not None and rule.should_stop(self.recipe, progress.history)
            progress.stopped_early = bool(self.control.agree(int(stop))[1])
        progress.milestone = progress.step
        if self.main and CSV in self.request.log_with:
            self.folder.metrics.write_table()
        if self.main and isinstance(self.method, PublishesLog):
            log = self.method.published_log(self.recipe, self.folder.metrics.records())
            if log is not None:
                with replacing(self.folder.path / log[0]) as file:
                    file.write(log[1])
        self._save()

    def _share_buffers(self) -> None:
        """Give every process the main one's BatchNorm statistics: each has seen other images, and all evaluate."""
        if self.accelerator.num_processes > 1:
            for model in (self.model, self.ema.module if self.ema else nn.Module()):
                for buffer in model.buffers():
                    torch.distributed.broadcast(buffer, src=0)

    def _evaluate(self, epoch: int) -> LogLine:
        self._share_buffers()
        entry: LogLine = {"epoch": epoch}
        models = {"raw": self.model, **({"ema": self.ema.module} if self.ema else {})}
        lines: dict[str, list[LogLine]] = {weights: [] for weights in models}
        for number, (split, dataset) in enumerate(self.eval_sets):
            watch = self.watch if number == 0 and self._is_watched() else None
            found = evaluate_all(
                self.method,
                [*models.values()],
                dataset,
                self.recipe,
                self.accelerator,
                batch_size=self.request.eval_batch_size,
                workers=self.request.workers or 0,
                control=self.control,
                everywhere=watch is not None,
            )
            if found[0].skipped and self.reporter:
                self.reporter.skipped(found[0].skipped)
            for weights, each in zip(models, found, strict=True):
                measures = each.measures
                line = {"step": self.progress.step, "epoch": epoch, "split": split, "weights": weights, **measures}
                if watch is not None:
                    line |= watch.measure(models[weights], each)
                lines[weights].append(line)
                self.measures[f"{split}/{weights}"] = measures
                if number == 0:  # the first split decides
                    entry[weights] = measures[self.method.monitor(self.task)]
        for line in chain(*lines.values()):
            self._record(line)
        return entry

    def _is_watched(self) -> bool:
        """Whether the attention bias is measured at this evaluation: every Nth one, and the last."""
        number = len(self.progress.history) + 1
        return number % (self.request.bias_every or 1) == 0 or self.progress.step == self.plan.total_steps

    def _save(self) -> None:
        self._gather_pending()
        if self.main:
            self.folder.save(self.progress, self._write_tensors)
        self.accelerator.wait_for_everyone()

    def _write_tensors(self, part: Path) -> None:
        metadata = weights_metadata(self.method, self.recipe, self.classes, self.task)
        for name, model in (("model", self.model), ("ema", self.ema.module if self.ema else None)):
            if model is None:
                continue
            state = model.state_dict()
            if not all(bool(torch.isfinite(v).all()) for v in state.values() if v.is_floating_point()):
                raise RunError(
                    f"the weights hold non-finite numbers after step {self.progress.step}; nothing was saved"
                )
            write_weights(part / f"{name}.safetensors", state, metadata)
        scaler = self.accelerator.scaler
        state = {"optimizer": self.optimizer.state_dict(), "scaler": scaler.state_dict() if scaler else None}
        with (part / "optimizer.pt").open("wb") as file:  # given a path, torch.save hides why it cannot write
            torch.save(state, file)
