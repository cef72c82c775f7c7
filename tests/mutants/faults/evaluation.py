"""Faults of evaluation: modes, scales of objects, pairs of runs, batches."""

from __future__ import annotations

from fault import Fault

STEP = "methods/engine/training/step.py"
OBJECTS = "methods/engine/bias/objects.py"
OF_OBJECTS = "tests/engine/test_objects.py"
REPEATED = "tests/engine/test_repeated_figures.py"
COMPARISON = "methods/engine/evaluation/comparison.py"
STORED = "methods/engine/stored_evaluations.py"
PAIRED = "tests/engine/test_paired_runs.py"
ROBUSTNESS = "methods/engine/evaluation/robustness.py"
CONTEXT = "methods/engine/bias/context.py"
WIRING = "tests/cli/test_evaluation_wiring.py"
OF_VAL = "tests/cli/test_val_options.py"

FAULTS = (
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
        (f"{OF_OBJECTS}::test_objects_follow_their_image_into_the_input_and_crowds_stay_apart",),
    ),
    Fault(
        "boxes are scaled as if the image were turned",
        OBJECTS,
        "canvas_size=(original.height, original.width)",
        "canvas_size=(original.width, original.height)",
        (f"{OF_OBJECTS}::test_difficult_objects_are_neither_object_nor_background",),
    ),
    Fault(
        "areas are scaled by one side",
        OBJECTS,
        "areas[own].sum() * across * down",
        "areas[own].sum() * down * down",
        (f"{OF_OBJECTS}::test_objects_follow_their_image_into_the_input_and_crowds_stay_apart",),
    ),
    Fault(
        "boxes of crowds are objects",
        OBJECTS,
        "box.crowd or box.difficult for box",
        "box.difficult for box",
        (f"{OF_OBJECTS}::test_objects_follow_their_image_into_the_input_and_crowds_stay_apart",),
    ),
    Fault(
        "difficult objects count",
        OBJECTS,
        "box.crowd or box.difficult for box",
        "box.crowd for box",
        (f"{OF_OBJECTS}::test_difficult_objects_are_neither_object_nor_background",),
    ),
    Fault(
        "crowds are background",
        OBJECTS,
        "planes[crowd].any(0),",
        "planes[crowd].any(0) & False,",
        (f"{OF_OBJECTS}::test_difficult_objects_are_neither_object_nor_background",),
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
        "methods/engine/metrics.py",
        "Change.of(after - before)",
        "Change.of(before - after)",
        ("tests/engine/test_paired_runs.py::test_a_clearly_better_second_run_gains_and_its_interval_lies_above_zero",),
    ),
    Fault(
        "runs are paired whatever their labels",
        "methods/engine/evaluation/comparison.py",
        "(differs := first.differs(scores))",
        "(differs := first.differs(scores)) and not differs",
        ("tests/engine/test_paired_runs.py::test_runs_whose_labels_or_images_differ_are_not_paired",),
    ),
    Fault(
        "batches of an evaluation are of one size",
        "methods/engine/evaluation/probe.py",
        "batch_size=request.eval_batch_size,",
        "batch_size=64,",
        (
            "tests/cli/test_evaluation_wiring.py::test_the_batch_size_reaches_every_part_of_an_evaluation_and_changes_no_figure",
        ),
    ),
    Fault(
        "curves of the weights that are best on the last split",
        COMPARISON,
        'first = measured[0]["split"]',
        'first = measured[-1]["split"]',
        (f"{PAIRED}::test_curves_are_of_the_weights_that_are_best_on_the_first_split",),
    ),
    Fault(
        "curves of the worse weights",
        COMPARISON,
        "best = max((line for",
        "best = min((line for",
        (f"{PAIRED}::test_curves_are_of_the_weights_that_are_best_on_the_first_split",),
    ),
    Fault(
        "what was stored is never renewed",
        STORED,
        "{**(_content(folder) or {}), **content}",
        "{**content, **(_content(folder) or {})}",
        (f"{PAIRED}::test_a_new_evaluation_of_the_same_weights_is_the_one_that_is_read",),
    ),
    Fault(
        "results of other weights stay beside new ones",
        STORED,
        'old["weights"] != weights',
        'old["weights"] == ""',
        (f"{PAIRED}::test_nothing_of_other_weights_stays_beside_an_evaluation",),
    ),
    Fault(
        "one random start for all batches",
        ROBUSTNESS,
        "(recipe.seed, int(sample))",
        "(recipe.seed, 0)",
        (f"{WIRING}::test_every_batch_has_a_random_start_of_its_own_and_the_same_each_time",),
    ),
    Fault(
        "attacks on pixels make them easier",
        "methods/engine/evaluation/attacks.py",
        "+ step_size * gradient.sign()",
        "- step_size * gradient.sign()",
        ("tests/cli/test_val_tasks.py::test_an_attack_raises_the_loss_of_the_labelled_pixels_within_its_ball",),
    ),
    Fault(
        "unlabelled pixels are context",
        OBJECTS,
        "unlabelled = labels == IGNORE",
        "unlabelled = labels == 254",
        ("tests/cli/test_val_tasks.py::test_val_measures_where_a_segmenter_looks_and_says_against_what",),
    ),
    Fault(
        "a hot dog is a dog",
        "methods/engine/bias/asked_objects.py",
        "(-len(categories[label]), label)",
        "(len(categories[label]), label)",
        ("tests/cli/test_val_tasks.py::test_a_text_names_a_category_by_whole_words_in_the_singular_or_the_plural",),
    ),
    Fault(
        "what a text names is in every image",
        "methods/engine/bias/asked_objects.py",
        "if _has(record, label)",
        "if True",
        ("tests/cli/test_val_tasks.py::test_questions_are_held_against_the_objects_that_they_name",),
    ),
    Fault(
        "attacks are of val whatever the split",
        ROBUSTNESS,
        "self._split(split)\n        if isinstance",
        'self._split("val")\n        if isinstance',
        (f"{OF_VAL}::test_attacks_and_corruptions_are_of_the_split_that_was_typed",),
    ),
    Fault(
        "clean figures are of val whatever the split",
        ROBUSTNESS,
        "self._open(self.loaded.recipe.dataset, split)",
        'self._open(self.loaded.recipe.dataset, "val")',
        (f"{OF_VAL}::test_attacks_and_corruptions_are_of_the_split_that_was_typed",),
    ),
    Fault(
        "corruptions are of val whatever the split",
        ROBUSTNESS,
        "split)\n        rows: list",
        '"val")\n        rows: list',
        (f"{OF_VAL}::test_attacks_and_corruptions_are_of_the_split_that_was_typed",),
    ),
    Fault(
        "attacks stop at an image that is to be left out",
        ROBUSTNESS,
        "on_bad_image=self.on_bad_image",
        'on_bad_image="error"',
        (f"{OF_VAL}::test_attacks_read_images_as_typed_and_leave_out_what_cannot_be_read",),
    ),
    Fault(
        "attacks read every pixel whatever is typed",
        ROBUSTNESS,
        "decode=self.decode",
        'decode="exact"',
        (f"{OF_VAL}::test_attacks_read_images_as_typed_and_leave_out_what_cannot_be_read",),
    ),
    Fault(
        "every checkpoint has pairs of its own",
        CONTEXT,
        "if self.pairs is None:",
        "if self.pairs is None or measured.number:",
        (f"{OF_VAL}::test_pairs_are_those_of_the_split_that_was_typed_and_of_the_first_checkpoint",),
    ),
    Fault(
        "pairs are of the split that is measured",
        CONTEXT,
        "measured.request.context, measured",
        "measured.split, measured",
        (f"{OF_VAL}::test_pairs_are_those_of_the_split_that_was_typed_and_of_the_first_checkpoint",),
    ),
    Fault(
        "PGD starts in half the ball",
        "methods/engine/evaluation/attacks.py",
        "start * radius).clamp",
        "start * radius / 2).clamp",
        ("tests/cli/test_evaluation_wiring.py::test_a_random_start_fills_the_whole_ball",),
    ),
    Fault(
        "the pointing game's radius is of the input",
        "methods/engine/bias/report.py",
        "np.array([sample.scale for sample in samples])",
        "np.array([1.0 for sample in samples])",
        ("tests/cli/test_evaluation_wiring.py::test_the_pointing_games_radius_shrinks_with_the_image",),
    ),
    Fault(
        "the object alone stands on grey",
        "methods/engine/bias/reliance.py",
        "torch.where(mask, image, other)",
        "torch.where(mask, image, 0 * other)",
        ("tests/engine/test_bias_report.py::test_the_versions_of_an_image_show_and_hide_what_they_are_called_after",),
    ),
    Fault(
        "a donor may show the class",
        "methods/engine/bias/reliance.py",
        "target[label] == 0 if task",
        "target[label] <= 1 if task",
        (
            "tests/engine/test_bias_report.py::test_the_other_image_surely_lacks_the_class_and_has_as_little_as_can_be_where_the_object_was",
        ),
    ),
    Fault(
        "faithfulness takes the first samples",
        "methods/engine/bias/faithfulness.py",
        "every[position] for position in evenly(len(every), count)",
        "every[position] for position in range(min(count, len(every)))",
        ("tests/cli/test_evaluation_wiring.py::test_faithfulness_takes_its_samples_from_the_whole_split",),
    ),
    Fault(
        "unknown labels are negative in the table of scores",
        "methods/engine/evaluation/evaluate.py",
        "*map(int, row),",
        "*(max(int(value), 0) for value in row),",
        ("tests/cli/test_evaluation_wiring.py::test_unknown_labels_stay_unknown_in_the_table",),
    ),
    Fault(
        "differences read together are not ordered",
        "methods/engine/statistics.py",
        "np.arange(len(order), 0, -1)",
        "len(order)",
        ("tests/engine/test_statistics.py::test_p_values_of_many_tests_are_those_of_holm",),
    ),
    Fault(
        "intervals of unpaired runs lean the wrong way",
        "methods/engine/statistics.py",
        "(first_interval[1] - first) ** 2)",
        "(first - first_interval[0]) ** 2)",
        (
            "tests/engine/test_statistics.py::test_intervals_that_are_not_symmetric_make_that_of_newcombe_s_published_example",
        ),
    ),
    Fault(
        "unknown labels are negative in intervals of mAP",
        "methods/engine/statistics.py",
        "(labels >= 0).astype(np.float64)",
        "(labels >= -1).astype(np.float64)",
        ("tests/engine/test_statistics.py::test_precision_leaves_out_unknown_labels_and_classes_without_a_positive",),
    ),
    Fault(
        "the scaled pointing game goes by the shorter side",
        "methods/engine/attention_measures.py",
        "SCALED * max(held.masks.shape[1:])",
        "SCALED * min(held.masks.shape[1:])",
        ("tests/engine/test_bias.py::test_the_scaled_pointing_game_forgives_three_per_cent_of_the_longer_side",),
    ),
    Fault(
        "a place between baselines is counted from the oracle",
        "methods/engine/attention_measures.py",
        "(value - centre) / (oracle - centre)",
        "(value - oracle) / (centre - oracle)",
        (
            "tests/engine/test_bias_report.py::test_the_oracle_of_a_map_s_grid_scores_one_between_the_baselines_and_the_centre_nothing",
        ),
    ),
    Fault(
        "the centre of mass counts what does not count",
        "methods/engine/attention_measures.py",
        "_centroid_shift(held.energy * held.valid,",
        "_centroid_shift(held.energy,",
        ("tests/engine/test_bias.py::test_ignored_pixels_do_not_count",),
    ),
    Fault(
        "what was stored before is forgotten",
        "methods/engine/stored_evaluations.py",
        "{**(_content(folder) or {}), **content}",
        "{**content}",
        ("tests/cli/test_compare.py::test_bias_is_kept_by_map",),
    ),
    Fault(
        "differences of compare lose their sign in the CSV",
        "methods/engine/evaluation/comparison_tables.py",
        "(found.difference, *edges,",
        "(abs(found.difference), *edges,",
        ("tests/cli/test_compare.py::test_tables_hold_the_same_figures",),
    ),
)
