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

SAMPLES = "data/datasets.py"
OF_SAMPLES = ("tests/test_data_datasets.py",)
PREPARE = ("tests/test_data_prepare.py",)
OBJECTS = "methods/engine/bias/objects.py"
OF_OBJECTS = ("tests/test_objects.py",)
REPEATED = "tests/test_repeated_figures.py"
POLICIES = (
    "tests/test_end_to_end.py::test_evaluation_repeats_the_run_s_figures_and_leaves_out_unlabelled_images[drawn]",
)

DATA = (
    Fault(
        "the same augmentation in every epoch",
        SAMPLES,
        "with seeded(self.seed, epoch, index):",
        "with seeded(self.seed, 0, index):",
        OF_SAMPLES,
    ),
    Fault(
        "the same augmentation for every image",
        SAMPLES,
        "with seeded(self.seed, epoch, index):",
        "with seeded(self.seed, epoch, 0):",
        OF_SAMPLES,
    ),
    Fault(
        "augmentation ignores the seed",
        SAMPLES,
        "with seeded(self.seed, epoch, index):",
        "with seeded(0, epoch, index):",
        OF_SAMPLES,
    ),
    Fault(
        "a crop's width taken as its right side",
        SAMPLES,
        "picture.crop((x, y, x + w, y + h))",
        "picture.crop((x, y, w, h))",
        OF_SAMPLES,
    ),
    Fault(
        "persons are not cut out",
        SAMPLES,
        "if record.crop is not None:\n            x, y",
        "if record.crop is None:\n            x, y",
        OF_SAMPLES,
    ),
    Fault(
        "boxes of a crop are those of the whole image",
        SAMPLES,
        "[box.x - left, box.y - top,",
        "[box.x, box.y,",
        OF_SAMPLES,
    ),
    Fault(
        "unlabelled images stay", SAMPLES, "if drop_unlabelled:", "if drop_unlabelled and unknown is None:", OF_SAMPLES
    ),
    Fault(
        "images without labels count as labelled where a label is unknown",
        SAMPLES,
        "(targets == 1).any(axis=1)",
        "(targets != 0).any(axis=1)",
        OF_SAMPLES,
    ),
    Fault(
        "labels of one image, pixels of another",
        SAMPLES,
        "self.records = [index.records[i] for i in kept]",
        "self.records = index.records[: len(kept)]",
        OF_SAMPLES,
    ),
    Fault("unknown labels become positive", SAMPLES, "np.maximum(targets, 0)", "np.abs(targets)", OF_SAMPLES),
    Fault(
        "the policies of training and evaluation change places",
        "methods/engine/batches.py",
        "recipe.unknown_train if train else recipe.unknown_eval",
        "recipe.unknown_eval if train else recipe.unknown_train",
        ("tests/test_evaluation_wiring.py",),
    ),
    Fault(
        "training takes the evaluation's policy of unknown labels",
        "methods/engine/batches.py",
        "recipe.unknown_train if train else recipe.unknown_eval",
        "recipe.unknown_eval",
        ("tests/test_evaluation_wiring.py",),
    ),
    Fault(
        "two of VOC's classes change places",
        "data/sets/voc.py",
        '"bus", "car", "cat",',
        '"bus", "cat", "car",',
        ("tests/test_weights_command.py::test_names_of_voc_and_imagenet_are_in_the_order_of_torchvisions_weights",),
    ),
    Fault(
        "drop_unlabelled does not arrive",
        "methods/engine/batches.py",
        "drop_unlabelled=recipe.drop_unlabelled",
        "drop_unlabelled=False",
        POLICIES,
    ),
    Fault(
        "fast decoding ignores the orientation",
        SAMPLES,
        "read_picture(path, self.index.orientation, enough)",
        'read_picture(path, "stored", enough)',
        ("tests/test_fast_decode.py",),
    ),
    Fault(
        "exact decoding ignores the orientation",
        SAMPLES,
        "read_picture(self.index.root / record.path, self.index.orientation)",
        "read_picture(self.index.root / record.path)",
        ("tests/test_fast_decode.py",),
    ),
    Fault(
        "predict ignores the orientation",
        "methods/engine/evaluation/predict.py",
        'orientation="upright"',
        'orientation="stored"',
        ("tests/test_orientation.py",),
    ),
    Fault(
        "fast decoding shrinks too far",
        "data/fast_decode.py",
        "round(2 * max(step.size) / smallest)",
        "round(max(step.size) / 2)",
        ("tests/test_fast_decode.py",),
    ),
    Fault(
        "height and width of boxes change places",
        SAMPLES,
        "canvas_size=(picture.height, picture.width))\n        with seeded",
        "canvas_size=(picture.width, picture.height))\n        with seeded",
        OF_SAMPLES,
    ),
    Fault(
        "left-out files are not kept with the set",
        "data/prepare.py",
        "left_out=reading.left_out,",
        "left_out=Tally(),",
        ("tests/test_left_out.py",),
    ),
    Fault(
        "remarks are not kept with the set",
        "data/prepare.py",
        "remarks=noticed,",
        "remarks=Tally(),",
        ("tests/test_orientation.py",),
    ),
    Fault("crowds are objects", "data/sets/coco.py", 'crowd=bool(annotation.get("iscrowd"))', "crowd=False", PREPARE),
    Fault(
        "crowds are no positives",
        "data/sets/coco.py",
        'positives[annotation["image_id"]].add(label)',
        'positives[annotation["image_id"]].update([label] * (not annotation.get("iscrowd")))',
        PREPARE,
    ),
    Fault(
        "classes of a COCO file by name",
        "data/sets/coco.py",
        'categories = content["categories"]',
        'categories = sorted(content["categories"], key=lambda category: str(category["name"]))',
        OF_OBJECTS,
    ),
    Fault(
        "images of a COCO file as it lists them",
        "data/sets/coco.py",
        'sorted(content["images"], key=lambda image: image["id"])',
        'content["images"]',
        PREPARE,
    ),
    Fault(
        "VOC's boxes begin one pixel late", "data/sets/voc.py", "left - 1, top - 1, right", "left, top, right", PREPARE
    ),
    Fault(
        "VOC's difficult objects are positives",
        "data/sets/voc.py",
        "1 if not box.difficult else target[box.label] or -1",
        "1",
        PREPARE,
    ),
    Fault(
        "VOC's difficult objects undo others",
        "data/sets/voc.py",
        "1 if not box.difficult else target[box.label] or -1",
        "1 if not box.difficult else -1",
        PREPARE,
    ),
    Fault(
        "WIDER's unspecified attributes are absent",
        "data/sets/wider.py",
        "{1: 1, -1: 0, 0: -1}",
        "{1: 1, -1: 0, 0: 0}",
        PREPARE,
    ),
    Fault(
        "WIDER's persons lose their place",
        "data/sets/wider.py",
        'crop=(person["bbox"][0], person["bbox"][1],',
        'crop=(person["bbox"][1], person["bbox"][0],',
        PREPARE,
    ),
    Fault(
        "boxes are lost when an index is read",
        "data/index.py",
        "tuple(map(Box._make, boxes)) if boxes else ()",
        "()",
        PREPARE,
    ),
    Fault(
        "crops are lost when an index is read",
        "data/index.py",
        "tuple(crop) if crop else None",
        "None",
        ("tests/test_data_index.py",),
    ),
    Fault("masks of crowds are objects", "data/masks.py", 'bool(item.get("iscrowd", 0))', "False", OF_OBJECTS),
    Fault(
        "masks are of other classes",
        "data/masks.py",
        'labels[item["category_id"]] for item',
        'item["category_id"] - 1 for item',
        OF_OBJECTS,
    ),
)

EVALUATION = (
    Fault(
        "models are evaluated as they train",
        "methods/engine/evaluation/evaluate.py",
        "    model.eval()\n",
        "",
        (f"{REPEATED}::test_models_are_evaluated_without_dropout_and_their_statistics_stay",),
    ),
    Fault(
        "training goes on as evaluation left it",
        STEP,
        "        self.wrapped.train()\n",
        "",
        (f"{REPEATED}::test_a_run_that_is_evaluated_often_trains_as_one_that_is_not",),
    ),
    Fault(
        "the scale of an image's width",
        OBJECTS,
        "return image, found_regions, down",
        "return image, found_regions, across",
        OF_OBJECTS,
    ),
    Fault(
        "boxes are scaled as if the image were turned",
        OBJECTS,
        "canvas_size=(picture.height, picture.width)",
        "canvas_size=(picture.width, picture.height)",
        OF_OBJECTS,
    ),
    Fault(
        "areas are scaled by one side",
        OBJECTS,
        "areas[own].sum() * across * down",
        "areas[own].sum() * down * down",
        OF_OBJECTS,
    ),
    Fault(
        "boxes of crowds are objects",
        OBJECTS,
        "box.crowd or box.difficult for box",
        "box.difficult for box",
        OF_OBJECTS,
    ),
    Fault("difficult objects count", OBJECTS, "box.crowd or box.difficult for box", "box.crowd for box", OF_OBJECTS),
    Fault(
        "crowds are background",
        OBJECTS,
        "planes[crowd].any(0), visible",
        "planes[crowd].any(0) & False, visible",
        OF_OBJECTS,
    ),
    Fault(
        "rows of two processes as they arrive",
        "methods/engine/evaluation/evaluate.py",
        "order = np.argsort(ids)",
        "order = np.arange(len(ids))",
        (f"{REPEATED}::test_val_alone_repeats_what_two_processes_logged",),
    ),
    Fault(
        "runs are compared the wrong way round",
        "methods/engine/evaluation/comparison.py",
        "bootstrap_precision(first.targets, first.scores, scores.scores)",
        "bootstrap_precision(first.targets, scores.scores, first.scores)",
        ("tests/test_paired_runs.py",),
    ),
    Fault(
        "runs are paired whatever their labels",
        "methods/engine/evaluation/comparison.py",
        "if differs := first.differs(scores):",
        "if (differs := first.differs(scores)) and not differs:",
        ("tests/test_paired_runs.py",),
    ),
    Fault(
        "batches of an evaluation are of one size",
        "methods/engine/evaluation/probe.py",
        "batch_size=job.batch_size,",
        "batch_size=64,",
        ("tests/test_evaluation_wiring.py",),
    ),
)

ARRIVE = "tests/test_run_options.py"
WEIGHTS_OPTIONS = "tests/test_weights_options.py"
VAL_OPTIONS = "tests/test_val_options.py"
WIRING = "tests/test_evaluation_wiring.py"
EVERY = (f"{ARRIVE}::test_every_nth_epoch_and_the_last_one_are_evaluated",)
BATCH = (f"{ARRIVE}::test_evaluation_takes_as_many_images_at_once_as_typed",)
THREADS = (f"{ARRIVE}::test_threads_are_those_that_were_typed",)
PROCESSES_TYPED = (f"{ARRIVE}::test_as_many_processes_start_as_typed_on_the_device_that_was_typed",)
CHOSEN = (f"{WEIGHTS_OPTIONS}::test_top_k_and_threshold_choose_what_predict_names",)
TRUSTED = (f"{WEIGHTS_OPTIONS}::test_a_pickle_that_may_run_code_is_read_only_where_trust_is_typed",)
RECIPES_TYPED = (f"{WEIGHTS_OPTIONS}::test_what_a_file_does_not_tell_comes_from_the_recipe_that_was_typed",)
STRENGTH = (f"{VAL_OPTIONS}::test_an_attack_is_as_strong_as_typed",)

OPTIONS = (
    Fault("--eval-every ignored", TRAIN, "epoch % self.options.eval_every == 0 or last", "True", EVERY),
    Fault("the last epoch is not evaluated", TRAIN, "eval_every == 0 or last:", "eval_every == 0:", EVERY),
    Fault("--eval-every never leaves the command", "cli/train.py", "            eval_every=eval_every,\n", "", EVERY),
    Fault(
        "--keep never leaves the command",
        "cli/train.py",
        "            keep=keep,\n",
        "",
        (f"{ARRIVE}::test_as_many_checkpoints_are_kept_beside_the_best_as_typed",),
    ),
    Fault(
        "--save-steps ignored",
        TRAIN,
        "if self.options.save_steps and",
        "if False and",
        (f"{ARRIVE}::test_checkpoints_are_also_saved_every_so_many_steps",),
    ),
    Fault(
        "--log-every ignored",
        TRAIN,
        "self.progress.step % self.options.log_every == 0",
        "self.progress.step % 50 == 0",
        (f"{ARRIVE}::test_training_is_logged_every_so_many_steps_and_at_the_end_of_an_epoch",),
    ),
    Fault(
        "--eval-batch-size ignored in training",
        TRAIN,
        "batch_size=self.options.eval_batch_size",
        "batch_size=64",
        BATCH,
    ),
    Fault("--eval-batch-size ignored in val", "cli/val.py", '"batch_size": eval_batch_size', '"batch_size": 64', BATCH),
    Fault(
        "--eval-batch-size ignored in predict",
        "cli/predict.py",
        '"batch_size": eval_batch_size',
        '"batch_size": 64',
        BATCH,
    ),
    Fault(
        "--threads ignored in training",
        "methods/engine/training/setup.py",
        "torch.set_num_threads(options.threads)",
        "pass",
        THREADS,
    ),
    Fault("--threads ignored in val", "cli/val.py", 'torch.set_num_threads(asked["threads"])', "pass", THREADS),
    Fault("--threads ignored in predict", "cli/predict.py", 'torch.set_num_threads(job["threads"])', "pass", THREADS),
    Fault(
        "--gpus 0 ignored",
        "methods/engine/launch.py",
        "return gpus == 0, count",
        "return False, count",
        PROCESSES_TYPED,
    ),
    Fault(
        "--processes ignored",
        "methods/engine/launch.py",
        "count = gpus or processes or 1",
        "count = gpus or 1",
        PROCESSES_TYPED,
    ),
    Fault(
        "--workers ignored in val",
        "cli/val.py",
        "default_workers(cpu, count) if workers is None else workers",
        "default_workers(cpu, count)",
        (f"{ARRIVE}::test_loaders_have_as_many_workers_as_typed",),
    ),
    Fault(
        "--channels-last ignored",
        "cli/train.py",
        "            channels_last=channels_last,\n",
        "",
        (f"{ARRIVE}::test_memory_format_and_kernels_are_those_that_were_typed",),
    ),
    Fault(
        "--deterministic ignored",
        "cli/train.py",
        "            deterministic=deterministic,\n",
        "",
        (f"{ARRIVE}::test_memory_format_and_kernels_are_those_that_were_typed",),
    ),
    Fault(
        "--compile ignored",
        "cli/train.py",
        "            compile=compile,\n",
        "",
        (f"{ARRIVE}::test_a_model_is_compiled_where_that_is_typed",),
    ),
    Fault(
        "--grad-checkpointing ignored by LLB",
        "methods/llb/model.py",
        "if checkpointing and torch.is_grad_enabled():",
        "if False:",
        (f"{ARRIVE}::test_activations_are_computed_twice_where_that_is_typed[method1]",),
    ),
    Fault(
        "--decode ignored in val",
        "cli/val.py",
        '            "decode": decode,\n',
        "",
        (f"{ARRIVE}::test_a_faster_reading_is_taken_where_that_is_typed",),
    ),
    Fault(
        "--severity ignored",
        "cli/val.py",
        '"severities": _severities(severity)',
        '"severities": [1, 2, 3, 4, 5]',
        (f"{WIRING}::test_the_severities_that_are_typed_are_measured",),
    ),
    Fault(
        "--tau ignored",
        "cli/val.py",
        '            "tau": tau,\n',
        "",
        (f"{WIRING}::test_tau_and_truth_reach_the_measures_of_attention",),
    ),
    Fault(
        "--truth ignored",
        "cli/val.py",
        '            "truth": truth,\n',
        "",
        (f"{WIRING}::test_tau_and_truth_reach_the_measures_of_attention",),
    ),
    Fault(
        "--map ignored in val",
        "cli/val.py",
        '"map": None if map_kind == "own" else map_kind',
        '"map": None',
        (f"{VAL_OPTIONS}::test_the_map_that_was_typed_is_held_against_the_objects",),
    ),
    Fault("--epsilon in other units", "cli/val.py", "epsilon and epsilon / 255", "epsilon and epsilon / 256", STRENGTH),
    Fault("--attack-steps ignored", "cli/val.py", '        typed["steps"] = steps\n', "        pass\n", STRENGTH),
    Fault(
        "--imagenet-r opens another set",
        "cli/val.py",
        '"imagenet-r": imagenet_r}',
        '"imagenet-a": imagenet_r}',
        (f"{VAL_OPTIONS}::test_a_published_set_that_was_asked_for_is_the_one_that_is_opened",),
    ),
    Fault(
        "unknown labels of an evaluation are negative, whatever the recipe says",
        "methods/engine/batches.py",
        "if train else recipe.unknown_eval",
        'if train else "negative"',
        (f"{WIRING}::test_unknown_labels_are_evaluated_as_the_recipe_says",),
    ),
    Fault("--threshold ignored", "cli/predict.py", 'job["top_k"], job["threshold"])', 'job["top_k"], None)', CHOSEN),
    Fault("--top-k ignored", "cli/predict.py", 'job["top_k"], job["threshold"])', 'None, job["threshold"])', CHOSEN),
    Fault("predict ignores --recipe", "cli/predict.py", 'recipe_name=job["recipe"]', "recipe_name=None", RECIPES_TYPED),
    Fault(
        "visualize ignores --recipe",
        VISUALIZE,
        "recipe_name=request.recipe if same else None",
        "recipe_name=None",
        RECIPES_TYPED,
    ),
    Fault("val trusts every file", "cli/val.py", '"trust": trust_checkpoint', '"trust": True', TRUSTED),
    Fault("export never trusts a file", "cli/export.py", "trust=trust_checkpoint", "trust=False", TRUSTED),
    Fault(
        "--top-k of export ignored",
        "cli/export.py",
        "classes=numbers, top_k=top_k",
        "classes=numbers, top_k=5",
        ("tests/test_export.py::test_maps_checks_and_classes_are_as_typed",),
    ),
    Fault(
        "--limit of compare ignored",
        "cli/compare.py",
        "kind=map_kind, limit=limit",
        "kind=map_kind, limit=48",
        ("tests/test_compare.py::test_the_page_holds_as_many_images_of_the_split_as_typed",),
    ),
    Fault(
        "a field that is switched off is kept",
        "cli/options.py",
        "{name: None if name in off else value for",
        "{name: value for",
        ("tests/test_options.py::test_every_recipe_field_that_is_typed_is_run_stored_and_handed_to_val",),
    ),
    Fault(
        "visualize forgets typed fields",
        VISUALIZE,
        "fields=typed_fields(method, fields)",
        "fields={}",
        (f"{DISPLAY[0]}::test_fields_of_the_recipe_are_those_that_were_typed",),
    ),
)

FAULTS: tuple[Fault, ...] = (*TRAINING, *WEIGHTS, *DRAWING, *FILES, *STOPS, *DATA, *EVALUATION, *OPTIONS)
