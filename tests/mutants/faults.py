"""Small faults that a maintainer could make, each with the fast tests that should notice it. Faults that change nothing
that anyone can see (equivalents) are not listed."""

from __future__ import annotations

from typing import NamedTuple


class Fault(NamedTuple):
    """One fault: `before`, which stands once in `file`, becomes `after`."""

    name: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]


STEP = "methods/engine/training/step.py"
REFERENCE = "tests/test_reference_step.py"
PLAIN = (f"{REFERENCE}::test_training_equals_a_loop_by_hand[plain]",)
REPEATS = (f"{REFERENCE}::test_training_equals_a_loop_by_hand[repeats]",)
PROCESSES = (f"{REFERENCE}::test_training_equals_a_loop_by_hand[processes]",)

TRAINING = (
    Fault(
        "schedule one step late",
        STEP,
        "apply_schedule(self.optimizer, self.schedule, step)",
        "apply_schedule(self.optimizer, self.schedule, max(step - 1, 0))",
        PLAIN,
    ),
    Fault("mixing never applied", STEP, "if self.mix is not None:", "if self.mix is not None and step < 0:", PLAIN),
    Fault(
        "mixing draws the same at every step",
        STEP,
        "np.random.default_rng((self.recipe.seed, step, micro, self.accelerator.process_index))",
        "np.random.default_rng((self.recipe.seed, 0, micro, self.accelerator.process_index))",
        PLAIN,
    ),
    Fault(
        "mixing draws the same in every process",
        STEP,
        "np.random.default_rng((self.recipe.seed, step, micro, self.accelerator.process_index))",
        "np.random.default_rng((self.recipe.seed, step, micro, 0))",
        PROCESSES,
    ),
    Fault(
        "mixing draws the same in every micro-batch",
        STEP,
        "np.random.default_rng((self.recipe.seed, step, micro, self.accelerator.process_index))",
        "np.random.default_rng((self.recipe.seed, step, 0, self.accelerator.process_index))",
        REPEATS,
    ),
    Fault(
        "one dropout mask for all steps",
        STEP,
        "torch.manual_seed(_seed(recipe.seed, step, accelerator.process_index))",
        "torch.manual_seed(_seed(recipe.seed, 0, accelerator.process_index))",
        PLAIN,
    ),
    Fault(
        "one dropout mask for all processes",
        STEP,
        "torch.manual_seed(_seed(recipe.seed, step, accelerator.process_index))",
        "torch.manual_seed(_seed(recipe.seed, step))",
        PROCESSES,
    ),
    Fault(
        "moving average decays the wrong way",
        "methods/engine/training/train.py",
        "decay=recipe.ema_decay",
        "decay=1 - recipe.ema_decay",
        PLAIN,
    ),
    Fault(
        "repeated augmentation ignored",
        "methods/engine/training/setup.py",
        "order = method.epoch_order(recipe, samples) or shuffled(samples, recipe.seed)",
        "order = shuffled(samples, recipe.seed)",
        REPEATS,
    ),
    Fault(
        "views of a repeated image share their augmentation",
        "methods/engine/training/sampler.py",
        "return epoch * counts.max(initial=1) + views",
        "return epoch * counts.max(initial=1) + 0 * views",
        REPEATS,
    ),
    Fault(
        "micro-batches weigh the same, whatever their size",
        "methods/engine/training/sampler.py",
        "return [len(share) * self.processes / total for share in shares[rank :: self.processes]]",
        "return [1 / self.accumulation for share in shares[rank :: self.processes]]",
        PROCESSES,
    ),
    Fault(
        "one order for all epochs",
        "methods/engine/training/sampler.py",
        "np.random.default_rng((seed, epoch)).permutation(samples)",
        "np.random.default_rng((seed, 0)).permutation(samples)",
        PLAIN,
    ),
    Fault(
        "the optimiser's beta is not scheduled",
        "methods/engine/training/optim.py",
        'group["betas"] = (settings["beta1"], group["betas"][1])',
        'group["betas"] = group["betas"]',
        (f"{REFERENCE}::test_two_steps_of_each_demo_recipe_equal_a_loop_by_hand[ida]",),
    ),
)

TRAIN = "methods/engine/training/train.py"
CHECKPOINT = "methods/engine/training/checkpoint.py"
LOAD = "methods/engine/load.py"
SELECTION = ("tests/test_selection.py",)

WEIGHTS = (
    Fault(
        "the last of --eval-splits decides the best",
        TRAIN,
        "if place == 0:  # the first split decides",
        "if place == len(self.eval_sets) - 1:",
        SELECTION,
    ),
    Fault(
        "the best checkpoint is pruned", CHECKPOINT, "[-self.keep :], progress.best_step}", "[-self.keep :]}", SELECTION
    ),
    Fault("--keep ignored", CHECKPOINT, "[-self.keep :], progress", "[-2:], progress", SELECTION),
    Fault(
        "of equal values the last is best",
        TRAIN,
        "(progress.best is None or value > progress.best)",
        "(progress.best is None or value >= progress.best)",
        SELECTION,
    ),
    Fault(
        "raw weights load where the averaged ones were best",
        LOAD,
        'progress.best_weights == "ema"',
        'progress.best_weights == "averaged"',
        SELECTION,
    ),
    Fault(
        "predict --weights: raw and ema swapped",
        "cli/predict.py",
        '{"raw": "model", "ema": "ema", None: None}[weights]',
        '{"raw": "ema", "ema": "model", None: None}[weights]',
        SELECTION,
    ),
    Fault(
        "val --weights ignored",
        "cli/val.py",
        '{"raw": "model", "ema": "ema", None: None}[weights]',
        "None",
        SELECTION,
    ),
    Fault(
        "export --weights ignored",
        "cli/export.py",
        '{"raw": "model", "ema": "ema", None: None}[weights]',
        "None",
        SELECTION,
    ),
    Fault(
        "best is never the averaged weights",
        TRAIN,
        'for weights in ("raw", "ema"):',
        'for weights in ("raw",):',
        SELECTION,
    ),
)

VISUALIZE = "cli/visualize.py"
EXHIBIT = "methods/engine/display/exhibit.py"
LOOK = "methods/engine/display/look.py"
DISPLAY = ("tests/test_display.py",)

DRAWING = (
    Fault("--opacity ignored", VISUALIZE, "        opacity=request.opacity,\n", "", DISPLAY),
    Fault("--contour ignored", VISUALIZE, "        contour=request.contour,\n", "", DISPLAY),
    Fault("--no-boxes ignored", VISUALIZE, "        boxes=request.boxes,\n", "", DISPLAY),
    Fault("--normalisation ignored", VISUALIZE, "rule=request.normalisation))", 'rule="minmax"))', DISPLAY),
    Fault("boxes of all classes drawn", EXHIBIT, "if self.boxes and box.label == label]", "if self.boxes]", DISPLAY),
    Fault(
        "the page forgets the opacity",
        EXHIBIT,
        "            opacity=self.opacity,\n            boxes",
        "            boxes",
        DISPLAY,
    ),
    Fault(
        "lowest-scored predictions drawn first",
        LOOK,
        "key=lambda label: -highest[place, label]",
        "key=lambda label: highest[place, label]",
        DISPLAY,
    ),
    Fault(
        "predictions drawn before true labels",
        LOOK,
        "ranked = [*true, *sorted(others, key=lambda label: -highest[place, label])]",
        "ranked = [*sorted(others, key=lambda label: -highest[place, label]), *true]",
        DISPLAY,
    ),
    Fault("unknown labels lost", LOOK, "unknown=_labels(target == -1) if multilabel else (),", "unknown=(),", DISPLAY),
)

ATOMIC = "data/atomic.py"
DURABLE = ("tests/test_durable_files.py",)
OVERWRITE = ("tests/test_overwrite.py::test_resume_and_overwrite_contradict_each_other",)

FILES = (
    Fault(
        "files of a checkpoint are not flushed",
        CHECKPOINT,
        "flush_to_disk(part / name)",
        "(part / name).exists()",
        DURABLE,
    ),
    Fault(
        "the manifest of a checkpoint is not flushed",
        CHECKPOINT,
        "flush_to_disk(part / MANIFEST)",
        "(part / MANIFEST).exists()",
        DURABLE,
    ),
    Fault("the folder of a checkpoint is not flushed", CHECKPOINT, "flush_to_disk(part)\n", "part.exists()\n", DURABLE),
    Fault(
        "the rename of a checkpoint is not flushed",
        CHECKPOINT,
        "flush_to_disk(self.checkpoints)",
        "self.checkpoints.exists()",
        DURABLE,
    ),
    Fault("small files are not flushed", ATOMIC, "os.fsync(file.fileno())", "file.fileno()", DURABLE),
    Fault("small files are flushed before they are written", ATOMIC, "file.flush()\n", "pass\n", DURABLE),
    Fault("the rename of small files is not flushed", ATOMIC, "flush_to_disk(path.parent)", "path.exists()", DURABLE),
    Fault(
        "a half-written small file takes its place",
        ATOMIC,
        "part.unlink(missing_ok=True)",
        "part.replace(path)",
        DURABLE,
    ),
    Fault(
        "--resume with --overwrite empties the run",
        "methods/engine/training/options.py",
        "if self.resume is not None and self.overwrite:",
        "if self.resume == self.overwrite:",
        OVERWRITE,
    ),
    Fault(
        "checksums of a checkpoint not compared",
        CHECKPOINT,
        "if crc32(path) != files[name].crc32:",
        "if crc32(path) == -1:",
        ("tests/test_damaged_checkpoints.py::test_one_byte_that_changed_is_noticed_by_whoever_reads_it",),
    ),
    Fault(
        "an archive of another time is believed",
        "data/fetch/download.py",
        '(known.get("bytes"), known.get("mtime_ns")) == (stat.st_size, stat.st_mtime_ns)',
        'known.get("bytes") == stat.st_size',
        ("tests/test_download.py::test_a_file_of_another_time_is_verified_again",),
    ),
)

CONTROL = "methods/engine/control.py"
STOPPING = "tests/test_stopping.py"
UPDATES = "tests/test_updates.py"
FORWARDED = (f"{STOPPING}::test_a_signal_that_the_launcher_forwards_is_no_second_one",)

STOPS = (
    Fault(
        "a signal saves nothing",
        TRAIN,
        "if signal_number:\n                self._save()\n",
        "if signal_number:\n",
        (f"{STOPPING}::test_a_signal_saves_inside_an_epoch_without_save_steps",),
    ),
    Fault("a forwarded signal counts as the second", CONTROL, "SAME = 1.0", "SAME = 0.0", FORWARDED),
    Fault(
        "a second signal changes nothing",
        CONTROL,
        "elif now - first > SAME:",
        "elif now - first > 1000 * SAME:",
        (f"{STOPPING}::test_a_second_signal_stops_at_once",),
    ),
    Fault(
        "the last of the failing processes is shown",
        "methods/engine/launch.py",
        "written[0].read_text",
        "written[-1].read_text",
        ("tests/test_launch.py",),
    ),
    Fault(
        "the gradient scaler is not restored",
        TRAIN,
        'self.accelerator.scaler.load_state_dict(state["scaler"])',
        "self.accelerator.scaler.load_state_dict(self.accelerator.scaler.state_dict())",
        (f"{UPDATES}::test_the_scaler_of_a_resumed_run_goes_on_where_it_stood",),
    ),
    Fault(
        "the gradient scaler is not saved",
        TRAIN,
        '"scaler": scaler.state_dict() if scaler else None',
        '"scaler": None',
        (f"{UPDATES}::test_the_scaler_of_a_resumed_run_goes_on_where_it_stood",),
    ),
    Fault(
        "fp16 skips steps for ever",
        STEP,
        "scaler.get_scale() < SMALLEST_SCALE",
        "scaler.get_scale() < 0",
        (f"{UPDATES}::test_under_fp16_a_gradient_that_is_never_finite_is_counted_and_ends_the_run",),
    ),
    Fault(
        "fp16 stops at the first overflow",
        STEP,
        "if bad or (overflow and scaler is None):",
        "if bad or overflow:",
        (f"{UPDATES}::test_under_fp16_an_overflow_is_left_to_the_scaler",),
    ),
    Fault(
        "skipped steps are averaged, not counted",
        TRAIN,
        'total if name == "skipped_steps" else total / len(window)',
        "total / len(window)",
        (f"{UPDATES}::test_skipped_steps_are_said_on_the_line",),
    ),
    Fault(
        "the gradient itself is not looked at",
        STEP,
        "int(not finite_gradient)",
        "0",
        (f"{UPDATES}::test_a_gradient_that_is_not_finite_never_reaches_the_weights",),
    ),
    Fault(
        "only the last micro-batch's loss is looked at",
        STEP,
        "finite &= torch.isfinite(losses[-1])",
        "finite = torch.isfinite(losses[-1])",
        (f"{UPDATES}::test_under_fp16_a_loss_that_is_not_finite_stops_at_once",),
    ),
    Fault(
        "--clip-grad ignored",
        STEP,
        "self.accelerator.clip_grad_norm_(parameters, limit)",
        "self.accelerator.clip_grad_norm_(parameters, 1e9 * limit)",
        PLAIN,
    ),
    Fault(
        "the average is updated before the step",
        STEP,
        "        self.optimizer.step()  # under",
        "        if self.ema is not None and step >= averages_from:\n            self.ema.update(self.model)\n"
        "            averages_from = step + 1\n        self.optimizer.step()  # under",
        PLAIN,
    ),
)

FAULTS: tuple[Fault, ...] = (*TRAINING, *WEIGHTS, *DRAWING, *FILES, *STOPS)
