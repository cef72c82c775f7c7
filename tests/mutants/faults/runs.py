"""Faults of a run: which weights are best and load, what is kept, signals, files that survive a power cut."""

from __future__ import annotations

from fault import Fault

TRAIN = "methods/engine/training/train.py"
CHECKPOINT = "methods/engine/run_folder.py"
LOAD = "methods/engine/load.py"
SELECTION = "tests/engine/test_selection.py"
ATOMIC = "data/atomic.py"
DURABLE = "tests/engine/test_durable_files.py"
OVERWRITE = ("tests/cli/test_overwrite.py::test_resume_and_overwrite_contradict_each_other",)
FOLDERS = "tests/engine/test_checkpoint_folders.py"
CONTROL = "methods/engine/control.py"
STOPPING = "tests/engine/test_stopping.py"
FORWARDED = (f"{STOPPING}::test_a_signal_that_the_launcher_forwards_is_no_second_one",)

FAULTS = (
    Fault(
        "the last of --eval-splits decides the best",
        TRAIN,
        "if number == 0:  # the first split decides",
        "if place == len(self.eval_sets) - 1:",
        (f"{SELECTION}::test_visualize_and_export_take_the_weights_that_were_asked_for",),
    ),
    Fault(
        "the best checkpoint is pruned",
        CHECKPOINT,
        "[-self.keep :], progress.best_step}",
        "[-self.keep :]}",
        (f"{SELECTION}::test_visualize_and_export_take_the_weights_that_were_asked_for",),
    ),
    Fault(
        "--keep ignored",
        CHECKPOINT,
        "[-self.keep :], progress",
        "[-2:], progress",
        (f"{SELECTION}::test_another_first_split_picks_another_checkpoint",),
    ),
    Fault(
        "of equal values the last is best",
        TRAIN,
        "(progress.best is None or value > progress.best)",
        "(progress.best is None or value >= progress.best)",
        (f"{SELECTION}::test_of_equal_values_the_first_is_best",),
    ),
    Fault(
        "raw weights load where the averaged ones were best",
        LOAD,
        'progress.best_weights == "ema"',
        'progress.best_weights == "averaged"',
        (f"{SELECTION}::test_val_measures_the_weights_that_were_asked_for",),
    ),
    Fault(
        "predict --weights: raw and ema swapped",
        "methods/engine/requests.py",
        'return "model" if self.weights == "raw" else self.weights',
        'return "model" if self.weights == "ema" else self.weights and "ema"',
        (f"{SELECTION}::test_predict_scores_with_the_weights_that_were_asked_for",),
    ),
    Fault(
        "val --weights ignored",
        "methods/engine/requests.py",
        'return "model" if self.weights == "raw" else self.weights',
        'return self.weights and "ema"',
        (f"{SELECTION}::test_val_measures_the_weights_that_were_asked_for",),
    ),
    Fault(
        "export --weights ignored",
        "methods/engine/requests.py",
        'return "model" if self.weights == "raw" else self.weights',
        "return None",
        (f"{SELECTION}::test_visualize_and_export_take_the_weights_that_were_asked_for",),
    ),
    Fault(
        "best is never the averaged weights",
        TRAIN,
        'for weights in ("raw", "ema"):',
        'for weights in ("raw",):',
        (f"{SELECTION}::test_visualize_and_export_take_the_weights_that_were_asked_for",),
    ),
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
        ("tests/engine/test_launch.py::test_the_first_of_two_failures_is_shown_and_no_file_is_left",),
    ),
    Fault(
        "files of a checkpoint are not flushed",
        CHECKPOINT,
        "flush_to_disk(part / name)",
        "(part / name).exists()",
        (f"{DURABLE}::test_a_checkpoint_is_on_the_disk_before_it_bears_its_name",),
    ),
    Fault(
        "the manifest of a checkpoint is not flushed",
        CHECKPOINT,
        "flush_to_disk(part / MANIFEST)",
        "(part / MANIFEST).exists()",
        (f"{DURABLE}::test_a_checkpoint_is_on_the_disk_before_it_bears_its_name",),
    ),
    Fault(
        "the folder of a checkpoint is not flushed",
        CHECKPOINT,
        "flush_to_disk(part)\n",
        "part.exists()\n",
        (f"{DURABLE}::test_a_checkpoint_is_on_the_disk_before_it_bears_its_name",),
    ),
    Fault(
        "the rename of a checkpoint is not flushed",
        CHECKPOINT,
        "flush_to_disk(self.checkpoints)",
        "self.checkpoints.exists()",
        (f"{DURABLE}::test_a_checkpoint_is_on_the_disk_before_it_bears_its_name",),
    ),
    Fault(
        "small files are not flushed",
        ATOMIC,
        "os.fsync(file.fileno())",
        "file.fileno()",
        (f"{DURABLE}::test_a_file_is_on_the_disk_before_it_takes_its_place",),
    ),
    Fault(
        "small files are flushed before they are written",
        ATOMIC,
        "file.flush()\n",
        "pass\n",
        (f"{DURABLE}::test_a_file_is_on_the_disk_before_it_takes_its_place",),
    ),
    Fault(
        "the rename of small files is not flushed",
        ATOMIC,
        "flush_to_disk(path.parent)",
        "path.exists()",
        (f"{DURABLE}::test_a_file_is_on_the_disk_before_it_takes_its_place",),
    ),
    Fault(
        "a half-written small file takes its place",
        ATOMIC,
        "part.unlink(missing_ok=True)",
        "part.replace(path)",
        (f"{DURABLE}::test_a_file_whose_writing_fails_stays_as_it_was",),
    ),
    Fault(
        "--resume with --overwrite empties the run",
        "methods/engine/requests.py",
        "if self.resume is not None and self.overwrite:",
        "if self.resume == self.overwrite:",
        OVERWRITE,
    ),
    Fault(
        "checksums of a checkpoint not compared",
        CHECKPOINT,
        "if crc32(path) != files[name].crc32:",
        "if crc32(path) == -1:",
        ("tests/weights/test_damaged_checkpoints.py::test_one_byte_that_changed_is_noticed_by_whoever_reads_it",),
    ),
    Fault(
        "an archive that was touched is believed",
        "data/fetch/download.py",
        '"mtime_ns": stat.st_mtime_ns, "ctime_ns": stat.st_ctime_ns}',
        '"mtime_ns": stat.st_mtime_ns}',
        ("tests/data/test_download.py::test_a_file_that_was_touched_is_verified_again",),
    ),
    Fault(
        "checkpoints of a course that was left stay",
        CHECKPOINT,
        "for step in self.steps() if step <= progress.step][",
        "for step in self.steps()][",
        (f"{FOLDERS}::test_a_run_resumed_before_its_end_leaves_no_later_checkpoint_of_the_course_it_left",),
    ),
    Fault(
        "a step's old checkpoint goes before the new one stands",
        CHECKPOINT,
        "                final.rename(old)\n",
        "                shutil.rmtree(final)\n                old.mkdir()\n",
        (f"{FOLDERS}::test_a_step_that_is_saved_again_is_there_at_every_moment",),
    ),
    Fault(
        "halves of checkpoints stay",
        CHECKPOINT,
        "                shutil.rmtree(leftover)\n",
        "                pass\n",
        (f"{FOLDERS}::test_what_a_kill_left_of_a_save_is_put_right_by_the_next_start",),
    ),
    Fault(
        "a checkpoint between its two names is lost",
        CHECKPOINT,
        "if name != leftover.name and not",
        "if name == leftover.name and not",
        (f"{FOLDERS}::test_what_a_kill_left_of_a_save_is_put_right_by_the_next_start",),
    ),
    Fault(
        "a folder is held by several at once",
        "data/lock.py",
        "        lock.acquire()\n",
        "",
        ("tests/engine/test_lock.py::test_a_folder_is_held_once_and_free_after_an_error",),
    ),
    Fault(
        "training starts from the raw weights of a run whose average is best",
        LOAD,
        "_resolve(locate(source), None)",
        '_resolve(locate(source), "model")',
        (f"{SELECTION}::test_training_starts_from_the_best_weights_of_another_run",),
    ),
    Fault(
        "a signal while evaluating saves nothing",
        TRAIN,
        "writes those lines, again\n                self._save()\n",
        "writes those lines, again\n",
        (f"{STOPPING}::test_a_signal_while_evaluating_or_saving",),
    ),
    Fault(
        "an evaluation goes on after a signal",
        "methods/engine/evaluation/evaluate.py",
        "control.raise_if_stopped()",
        "pass",
        (f"{STOPPING}::test_a_signal_while_evaluating_or_saving",),
    ),
    Fault(
        "a torn line of the log counts when a run is resumed",
        "methods/engine/metrics_log.py",
        "                if number == len(lines):\n                    break\n",
        "                if number == len(lines) and most is None:\n                    break\n",
        ("tests/engine/test_metrics_log.py::test_a_torn_last_line_is_cut_off_and_said",),
    ),
)
