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
)

FAULTS: tuple[Fault, ...] = (*TRAINING, *WEIGHTS, *DRAWING, *FILES)
