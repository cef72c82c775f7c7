"""A typed option arrives: each option of each command has a test that shows it to change what is computed or written.

A new option needs a line in SHOWN; a line whose option or test is gone must go as well. Recipe fields, which are
options of each method's commands too, are all covered by one test at the end.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click
import pytest

from attnbias.cli.app import program
from attnbias.methods import METHODS
from attnbias.methods.engine import kernels, launch
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.method import Method
from attnbias.methods.engine.recipe import OLD_NAMES, TRAINING, check_read, panel_of, parse, read_recipe, write_recipe
from attnbias.methods.engine.registry import get_method
from tests.helpers.command_line import attnbias, typed

TESTS = Path(__file__).parents[1]

SHOWN: dict[str, dict[str, str]] = {
    "prepare-data": {
        "data/test_in_place.py::test_it_is_typed_and_said": "--in-place",
        "data/test_prepare_wrong.py::test_archives_are_fetched_or_only_verified_as_typed": "NAME --download --offline",
        "data/test_prepare_wrong.py::test_what_a_person_fetched_is_verified_unpacked_and_told_file_by_file": "--source",
        "data/test_own_tables.py::test_a_set_is_called_after_its_whole_folder_or_as_asked": "--name",
        "cli/test_prepare_options.py::test_the_demo_sets_scenes_follow_seed_and_preset": "--data-root --seed --preset",
        "cli/test_prepare_options.py::test_the_demo_set_is_as_large_as_typed": "--size --train --eval",
        "cli/test_prepare_options.py::test_broken_images_are_named_where_checking_is_typed": "--verify",
        "cli/test_prepare_options.py::test_a_dry_run_writes_nothing": "--dry-run",
        "cli/test_prepare_options.py::test_only_the_splits_that_were_typed_are_prepared": "--splits",
        "cli/test_prepare_options.py::test_as_many_workers_decode_as_typed": "--workers",
        "cli/test_prepare_options.py::test_masks_are_named_as_typed": "--masks",
        "cli/test_prepare_options.py::test_folders_of_contexts_are_groups_as_typed": "--contexts",
        "cli/test_prepare_options.py::test_images_are_read_as_typed": "--orientation",
        "cli/test_prepare_options.py::test_the_splits_that_were_typed_train_and_evaluate": (
            "--train-split --val-split --overwrite"
        ),
        "cli/test_prepare_options.py::test_the_share_that_was_typed_is_held_out_by_the_seed_that_was_typed": (
            "--val-fraction"
        ),
        "data/test_language_sets.py::test_the_command_line_knows_the_sets_and_their_option": "--min-answers",
        "data/test_official_archives.py::test_inaturalists_classes_are_of_the_level_and_the_year_that_were_typed": (
            "--level"
        ),
    },
    "train": {
        "cli/test_help.py::test_help_is_two_screens_and_help_all_shows_every_option": "--help-all",
        "cli/test_recipe_options.py::test_what_was_typed_is_in_the_run_folder_and_in_its_weights": (
            "--recipe --out --data-root"
        ),
        "cli/test_recipe_options.py::test_dry_run_shows_the_arithmetic_and_writes_nothing": "--dry-run",
        "engine/test_memory.py::test_a_dry_run_measures_and_writes_nothing": "--measure",
        "engine/test_cache.py::test_scores_and_runs_are_the_same_to_the_byte": "--cache",
        "cli/test_progress.py::test_a_run_begins_with_what_it_is_in_few_lines": "--verbose",
        "cli/test_sweep.py::test_runs_go_on_side_by_side_and_a_failure_of_one_stops_no_other": "--seeds --jobs",
        "cli/test_sweep.py::test_a_killed_sweep_resumes_to_the_same_bytes": "--grid",
        "cli/test_load_from.py::test_another_number_of_classes": "--load-from --reset-head",
        "cli/test_broken_images.py::test_unreadable_images_are_left_out_and_counted": "--on-bad-image",
        "engine/test_pretrained.py::test_pretrained_weights_come_through_the_hub_with_their_images_and_it_is_said": (
            "--pretrained"
        ),
        "methods/test_absvit.py::test_a_run_is_a_start_for_another_size_and_a_second_pass": "--backbone-weights",
        "methods/test_starting_weights.py::test_another_network_than_the_recipes_begins_at_random_and_says_why": (
            "--from-scratch"
        ),
        "engine/test_metrics_log.py::test_a_run_resumed_into_another_folder_counts_its_own_lines": "--resume",
        "cli/test_overwrite.py::test_a_run_replaces_a_run": "--overwrite",
        "methods/test_reference_step.py::test_training_equals_a_loop_by_hand": "--accumulation",
        "engine/test_selection.py::test_another_first_split_picks_another_checkpoint": "--eval-splits",
        "weights/test_options.py::test_a_pickle_that_may_run_code_is_read_only_where_trust_is_typed": (
            "--trust-checkpoint"
        ),
        "cli/test_run_options.py::test_as_many_processes_start_as_typed_on_the_device_that_was_typed": (
            "--gpus --processes --device"
        ),
        "cli/test_run_options.py::test_loaders_have_as_many_workers_as_typed": "--workers",
        "cli/test_run_options.py::test_evaluation_takes_as_many_images_at_once_as_typed": "--eval-batch-size",
        "cli/test_run_options.py::test_threads_are_those_that_were_typed": "--threads",
        "cli/test_run_options.py::test_every_nth_epoch_and_the_last_one_are_evaluated": "--eval-every",
        "engine/test_bias_watch.py::test_the_same_few_images_are_looked_at_each_time": "--bias-every",
        "cli/test_run_options.py::test_checkpoints_are_also_saved_every_so_many_steps": "--save-steps",
        "cli/test_run_options.py::test_as_many_checkpoints_are_kept_beside_the_best_as_typed": "--keep",
        "cli/test_run_options.py::test_training_is_logged_every_so_many_steps_and_at_the_end_of_an_epoch": (
            "--log-every"
        ),
        "cli/test_run_options.py::test_a_tracker_gets_what_is_logged": "--log-with",
        "cli/test_run_options.py::test_a_model_is_compiled_where_that_is_typed": "--compile",
        "cli/test_run_options.py::test_memory_format_and_kernels_are_those_that_were_typed": (
            "--channels-last --deterministic"
        ),
        "cli/test_run_options.py::test_activations_are_computed_twice_where_that_is_typed": "--grad-checkpointing",
        "engine/test_kernels.py::test_a_run_steps_in_tf32_unless_that_is_refused": "--tf32",
        "engine/test_kernels.py::test_processes_have_the_time_to_end_that_was_typed": "--shutdown-timeout",
    },
    "val": {
        "engine/test_cache.py::test_scores_and_runs_are_the_same_to_the_byte": "--cache",
        "engine/test_estimated_masks.py::test_an_audit_and_val_say_estimated_wherever_they_say_what_was_found": (
            "--masks --segmenter"
        ),
        "cli/test_help.py::test_help_is_two_screens_and_help_all_shows_every_option": "--help-all",
        "cli/test_priors.py::test_a_file_of_the_heads_rows_draws_and_measures_as_the_classes_themselves": (
            "--prior --gain"
        ),
        "weights/test_options.py::test_what_a_file_does_not_tell_comes_from_the_recipe_that_was_typed": "--recipe",
        "weights/test_options.py::test_a_pickle_that_may_run_code_is_read_only_where_trust_is_typed": (
            "--trust-checkpoint"
        ),
        "engine/test_selection.py::test_val_measures_the_weights_that_were_asked_for": "--weights",
        "cli/test_val_options.py::test_every_checkpoint_and_split_that_was_typed_is_measured": (
            "--load-from --split --data-root --json"
        ),
        "engine/test_own_networks.py::test_weights_of_a_file_fill_the_network_and_nothing_else_takes_them": (
            "--weights-file"
        ),
        "engine/test_class_matching.py::test_val_scores_a_set_of_other_classes_and_keeps_what_was_matched": (
            "--class-map"
        ),
        "cli/test_val_options.py::test_each_class_has_its_row_where_that_is_typed": "--per-class",
        "cli/test_val_options.py::test_some_samples_are_drawn_and_every_figure_says_that_it_is_of_some": "--limit",
        "engine/test_calibration.py::test_val_shows_them_in_short_and_writes_all": "--calibration",
        "cli/test_val_options.py::test_the_map_that_was_typed_is_held_against_the_objects": "--map",
        "cli/test_val_options.py::test_context_and_faithfulness_are_measured_where_that_is_typed": (
            "--bias --context --reliance --backgrounds --faithfulness"
        ),
        "engine/test_found_groups.py::test_val_measures_the_groups_that_it_found": "--find-groups",
        "engine/test_last_layer.py::test_val_measures_the_layer_that_was_trained_anew": "--last-layer",
        "cli/test_val_options.py::test_a_published_set_that_was_asked_for_is_the_one_that_is_opened": (
            "--imagenet-c --imagenet-a --imagenet-r --imagenet-sketch"
        ),
        "cli/test_val_options.py::test_an_attack_is_as_strong_as_typed": (
            "--attack --epsilon --attack-step --attack-steps"
        ),
        "cli/test_val_options.py::test_corrupted_images_are_measured_and_written_where_that_is_typed": (
            "--corrupt --robustness-out"
        ),
        "test_end_to_end.py::test_imagenets_validation_images_are_also_rated_by_their_reassessed_labels": (
            "--real-labels"
        ),
        "data/test_orientation.py::test_val_and_predict_agree_on_turned_images": "--csv",
        "cli/test_evaluation_wiring.py::test_tau_and_truth_reach_the_measures_of_attention": "--truth --tau",
        "cli/test_evaluation_wiring.py::test_the_severities_that_are_typed_are_measured": "--severity",
        "cli/test_val_tasks.py::test_a_watermark_is_drawn_in_the_font_that_was_typed": "--watermark",
        "cli/test_val_tasks.py::test_questions_are_held_against_the_objects_that_they_name": "--objects",
        "data/test_own_coco.py::test_bias_is_held_against_boxes_where_masks_lack_and_says_so": "--bias-out",
        "cli/test_compare.py::test_bias_is_kept_by_map": "--store",
        "cli/test_compare.py::test_nothing_stored_is_replaced_unasked": "--overwrite",
        "cli/test_broken_images.py::test_unreadable_images_are_left_out_and_counted": "--on-bad-image",
        "cli/test_run_options.py::test_as_many_processes_start_as_typed_on_the_device_that_was_typed": (
            "--gpus --processes --device"
        ),
        "cli/test_run_options.py::test_loaders_have_as_many_workers_as_typed": "--workers",
        "cli/test_run_options.py::test_evaluation_takes_as_many_images_at_once_as_typed": "--eval-batch-size",
        "cli/test_run_options.py::test_threads_are_those_that_were_typed": "--threads",
        "cli/test_run_options.py::test_a_faster_reading_is_taken_where_that_is_typed": "--decode",
        "engine/test_precision.py::test_val_computes_in_the_precision_that_was_typed_and_says_so": "--amp",
    },
    "audit": {
        "engine/test_estimated_masks.py::test_an_audit_and_val_say_estimated_wherever_they_say_what_was_found": (
            "--masks --segmenter"
        ),
        "cli/test_audit.py::test_an_audit_writes_what_python_returns_and_says_trust_and_answer_first": (
            "LOAD_FROM DATA --out --limit --faithfulness --data-root"
        ),
        "cli/test_audit.py::test_a_folder_is_replaced_only_where_that_is_typed_and_only_what_an_audit_wrote": (
            "--overwrite --tau"
        ),
        "cli/test_audit.py::test_conditions_decide_the_exit_code_and_are_written_for_machines": (
            "--fail-if --junit --markdown"
        ),
        "cli/test_audit.py::test_the_map_its_layer_and_its_truth_are_those_that_were_typed": (
            "--map --layer --truth --split"
        ),
        "cli/test_audit.py::test_before_and_after_are_paired_on_the_same_objects": "--against",
        "engine/test_own_networks.py::test_an_audit_takes_a_function_its_weights_and_a_map_of_classes": (
            "--class-map --weights-file"
        ),
        "cli/test_audit.py::test_whose_weights_and_which_are_read_as_typed": "--method --recipe --weights",
        "cli/test_audit.py::test_unreadable_images_are_left_out_where_that_is_typed": "--on-bad-image",
        "cli/test_audit.py::test_the_machine_and_the_batch_are_as_typed": "--gpus --device --eval-batch-size",
        "cli/test_run_options.py::test_loaders_have_as_many_workers_as_typed": "--workers",
        "cli/test_run_options.py::test_threads_are_those_that_were_typed": "--threads",
        "weights/test_options.py::test_a_pickle_that_may_run_code_is_read_only_where_trust_is_typed": (
            "--trust-checkpoint"
        ),
    },
    "predict": {
        "engine/test_own_networks.py::test_weights_of_a_file_fill_the_network_and_nothing_else_takes_them": (
            "--weights-file"
        ),
        "cli/test_predict.py::test_class_names_and_scores_are_the_models": "--load-from PATHS --json --csv",
        "cli/test_predict.py::test_bad_images_are_named": "--on-bad-image",
        "cli/test_predict_tasks.py::test_label_maps_overlays_and_areas_are_those_of_evaluation": "--out",
        "cli/test_predict_tasks.py::test_questions_that_are_typed_are_asked_of_every_image": "--question",
        "cli/test_predict_tasks.py::test_a_submission_is_in_the_form_of_vqas_server": "--submission",
        "cli/test_predict_tasks.py::test_images_are_ranked_by_a_text": "--find",
        "engine/test_selection.py::test_predict_scores_with_the_weights_that_were_asked_for": "--weights",
        "weights/test_options.py::test_what_a_file_does_not_tell_comes_from_the_recipe_that_was_typed": "--recipe",
        "weights/test_options.py::test_a_pickle_that_may_run_code_is_read_only_where_trust_is_typed": (
            "--trust-checkpoint"
        ),
        "weights/test_options.py::test_a_method_that_is_typed_is_believed_or_refused": "--method",
        "weights/test_options.py::test_what_is_there_is_replaced_only_where_that_is_typed": "--overwrite",
        "weights/test_options.py::test_classes_are_named_as_the_set_where_the_data_lie": "--data-root",
        "weights/test_options.py::test_top_k_and_threshold_choose_what_predict_names": "--top-k --threshold",
        "engine/test_precision.py::test_predict_and_visualize_compute_in_the_precision_that_was_typed_and_say_so": (
            "--amp"
        ),
        "cli/test_run_options.py::test_as_many_processes_start_as_typed_on_the_device_that_was_typed": (
            "--gpus --processes --device"
        ),
        "cli/test_run_options.py::test_loaders_have_as_many_workers_as_typed": "--workers",
        "cli/test_run_options.py::test_evaluation_takes_as_many_images_at_once_as_typed": "--eval-batch-size",
        "cli/test_run_options.py::test_threads_are_those_that_were_typed": "--threads",
    },
    "visualize": {
        "cli/test_help.py::test_help_is_two_screens_and_help_all_shows_every_option": "--help-all",
        "cli/test_priors.py::test_a_file_of_the_heads_rows_draws_and_measures_as_the_classes_themselves": (
            "--prior --gain"
        ),
        "cli/test_visualize.py::test_a_folder_of_images_becomes_overlays_a_page_and_raw_maps": (
            "PATHS --classes --npz --out"
        ),
        "cli/test_visualize.py::test_runs_maps_and_heads_stand_side_by_side": "--load-from --map --head --overwrite",
        "engine/test_own_networks.py::test_weights_of_a_file_fill_the_network_and_nothing_else_takes_them": (
            "--weights-file"
        ),
        "engine/test_class_matching.py::test_visualize_draws_a_set_in_its_own_classes": "--class-map",
        "cli/test_visualize.py::test_the_images_where_a_map_peaks_highest_come_first": "--top",
        "cli/test_visualize.py::test_the_published_style_draws_as_the_papers_program": "--style",
        "cli/test_visualize.py::test_an_unreadable_image_is_named_or_left_out_by_request": "--on-bad-image",
        "cli/test_visualize.py::test_wrong_requests_are_refused_in_one_line": "--device",
        "cli/test_visualize_questions.py::test_questions_of_a_photograph": "--question",
        "engine/test_precision.py::test_predict_and_visualize_compute_in_the_precision_that_was_typed_and_say_so": (
            "--amp"
        ),
        "cli/test_run_options.py::test_one_process_computes_on_the_device_that_was_typed": "--gpus",
        "cli/test_run_options.py::test_threads_are_those_that_were_typed": "--threads",
        "cli/test_run_options.py::test_loaders_have_as_many_workers_as_typed": "--workers",
        "cli/test_display.py::test_opacity_and_contour_are_drawn_as_typed": "--opacity --contour",
        "cli/test_display.py::test_boxes_of_the_drawn_class_are_drawn_unless_refused": "--boxes",
        "cli/test_display.py::test_maps_are_stretched_or_divided_as_typed": "--normalisation",
        "cli/test_display.py::test_the_first_images_of_the_split_that_was_typed_are_drawn": (
            "--split --limit --data-root"
        ),
        "engine/test_selection.py::test_visualize_and_export_take_the_weights_that_were_asked_for": "--weights",
        "weights/test_options.py::test_what_a_file_does_not_tell_comes_from_the_recipe_that_was_typed": "--recipe",
        "weights/test_options.py::test_a_pickle_that_may_run_code_is_read_only_where_trust_is_typed": (
            "--trust-checkpoint"
        ),
    },
    "explore": {
        "cli/test_explore.py::test_models_and_images_stand_on_the_page_as_they_were_typed": (
            "LOAD_FROM PATHS --beside --port"
        ),
        "cli/test_explore.py::test_a_host_that_others_reach_is_warned_of": "--host",
        "cli/test_explore.py::test_whose_weights_and_which_are_read_as_typed": (
            "--method --recipe --weights --data-root --trust-checkpoint"
        ),
        "cli/test_explore.py::test_weights_of_a_file_fill_a_network_of_ones_own": "--weights-file",
        "cli/test_explore.py::test_unreadable_images_stop_it_or_are_left_out_as_typed": "--on-bad-image",
        "cli/test_explore.py::test_the_machine_is_as_typed": "--gpus --device --threads",
    },
    "priors": {
        "cli/test_priors.py::test_a_vector_is_the_mean_token_of_a_class_less_the_mean_over_classes": (
            "LOAD_FROM --split --made-from --out --data-root"
        ),
        "cli/test_priors.py::test_what_was_typed_decides_whose_weights_are_read_and_what_is_replaced": (
            "--method --recipe --weights --trust-checkpoint --limit --overwrite"
        ),
        "cli/test_priors.py::test_unreadable_images_stop_it_or_are_left_out_as_typed": "--on-bad-image",
        "cli/test_visualize_questions.py::test_texts_kept_as_priors_draw_as_the_questions_themselves": "--text",
        "cli/test_run_options.py::test_one_process_computes_on_the_device_that_was_typed": "--gpus --device",
        "cli/test_run_options.py::test_threads_are_those_that_were_typed": "--threads",
        "cli/test_run_options.py::test_loaders_have_as_many_workers_as_typed": "--workers",
    },
    "export": {
        "cli/test_help.py::test_help_is_two_screens_and_help_all_shows_every_option": "--help-all",
        "cli/test_priors.py::test_a_file_of_the_heads_rows_draws_and_measures_as_the_classes_themselves": (
            "--prior --gain"
        ),
        "cli/test_export.py::test_maps_of_classes_that_were_named": "--load-from --format --out --classes --head",
        "cli/test_export.py::test_torch_export_answers_as_the_model": "PATHS --check",
        "cli/test_run_options.py::test_one_process_computes_on_the_device_that_was_typed": "--gpus --device",
        "cli/test_run_options.py::test_threads_are_those_that_were_typed": "--threads",
        "cli/test_run_options.py::test_loaders_have_as_many_workers_as_typed": "--workers",
        "cli/test_export.py::test_maps_checks_and_classes_are_as_typed": "--map --top-k --limit --data-root",
        "engine/test_selection.py::test_visualize_and_export_take_the_weights_that_were_asked_for": "--weights",
        "weights/test_options.py::test_a_pickle_that_may_run_code_is_read_only_where_trust_is_typed": (
            "--trust-checkpoint"
        ),
        "weights/test_options.py::"
        "test_a_graph_is_of_the_recipe_that_was_typed_and_replaces_another_only_where_that_is_typed": (
            "--recipe --overwrite"
        ),
    },
    "compare": {
        "cli/test_compare.py::test_tables_hold_the_same_figures": "RUNS --measure --out",
        "cli/test_compare.py::test_maps_are_compared_by_name_or_as_each_model_s_own_where_both_are_of_one_kind": (
            "--map"
        ),
        "cli/test_compare.py::test_the_page_holds_as_many_images_of_the_split_as_typed": (
            "--page --split --limit --data-root"
        ),
        "cli/test_compare.py::test_plots_show_every_run_and_the_authors_own_curves": "--plots",
        "cli/test_compare.py::test_a_report_is_one_page_that_says_who_wins": "--report",
        "cli/test_overwrite.py::test_pages_replace_what_was_written_before_them": "--overwrite",
    },
    "weights fetch": {"weights/test_command.py::test_fetching_what_only_a_browser_gets": "NAMES"},
    "weights inspect": {
        "weights/test_command.py::test_an_authors_file_is_told_apart": "LOAD_FROM --method --json",
        "weights/test_command.py::test_what_a_file_does_not_tell_can_be_said_as_in_val": "--recipe",
        "weights/test_options.py::test_classes_are_named_as_the_set_where_the_data_lie": "--data-root",
        "weights/test_options.py::test_a_pickle_that_may_run_code_is_read_only_where_trust_is_typed": (
            "--trust-checkpoint"
        ),
    },
    "weights convert": {
        "weights/test_command.py::test_plain_weights_load_strictly_in_timm": "LOAD_FROM --to --to-plain",
        "weights/test_options.py::test_a_converted_file_holds_the_recipe_that_was_typed": "--recipe",
        "weights/test_options.py::test_raw_or_averaged_weights_are_read_as_typed": "--weights",
        "weights/test_options.py::test_classes_are_named_as_the_set_where_the_data_lie": "--data-root",
        "weights/test_options.py::test_a_pickle_that_may_run_code_is_read_only_where_trust_is_typed": (
            "--trust-checkpoint"
        ),
        "weights/test_options.py::test_a_method_that_is_typed_is_believed_or_refused": "--method",
        "weights/test_options.py::test_what_is_there_is_replaced_only_where_that_is_typed": "--overwrite",
    },
    "weights push": {
        "weights/test_push.py::test_a_run_is_pushed_with_all_it_needs_and_loads_back_by_its_name": (
            "RUN TARGET --private"
        ),
        "weights/test_push.py::test_a_repository_that_is_there_is_only_added_to_where_that_is_typed": (
            "--overwrite --weights"
        ),
    },
    "show": {"cli/test_listing.py::test_a_recipe_is_found_by_what_names_it": "RECIPE"},
    "cite": {"cli/test_listing.py::test_a_paper_is_cited_with_its_program_as_bibtex": "METHOD"},
    "doctor": {
        "cli/test_doctor.py::test_a_folder_that_cannot_be_made_is_a_problem_that_names_its_option": (
            "--data-root --json"
        ),
        "cli/test_doctor.py::test_the_network_is_asked_where_that_is_typed": "--network",
    },
    "list recipes": {"cli/test_listing.py::test_recipes_of_one_method_with_their_sources": "METHOD --verbose"},
    "list datasets": {"cli/test_listing.py::test_which_datasets_are_ready_and_more_of_each": "--data-root --verbose"},
    "list weights": {
        "weights/test_command.py::test_every_published_file_is_listed_with_its_link_and_licence": ("METHOD --verbose")
    },
}
"""Command -> {a test -> the options (arguments in capitals) whose effect it shows}."""


def commands(
    command: Any, context: click.Context, words: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """All commands below one, with the words that are typed for each."""
    if not hasattr(command, "list_commands"):
        yield words, command
        return
    for name in command.list_commands(context):
        below = command.get_command(context, name)
        yield from commands(below, click.Context(below, parent=context, info_name=name), (*words, name))


@cache
def options() -> dict[str, set[str]]:
    """Command -> its options and arguments; those of a method's command without the fields of its recipe.

    Nor their old names, which methods/test_old_names.py shows to be other names of today's.
    """
    root = program()
    found: dict[str, set[str]] = {}
    for words, command in commands(root, click.Context(root)):
        method = words[-1] if words[-1] in METHODS else None
        for parameter in command.params:
            option = parameter.param_type_name == "option"
            field = option and "paper: " in (parameter.help or "")  # which a field of a recipe says of itself
            if not field and parameter.name not in OLD_NAMES:
                name = parameter.opts[0] if option else parameter.name.upper()
                found.setdefault(" ".join(words[:-1] if method else words), set()).add(name)
    return found


def test_each_option_of_each_command_has_one_test_that_shows_its_effect() -> None:
    for command, found in options().items():
        listed = [name for names in SHOWN.get(command, {}).values() for name in names.split()]
        assert sorted(listed) == sorted(found), command
    assert SHOWN.keys() == options().keys()


@cache
def definitions(file: str) -> dict[str, ast.AST]:
    """What a test file defines at its top level, by name."""
    named: dict[str, ast.AST] = {}
    for node in ast.parse((TESTS / file).read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            named[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            named |= {part.id: node for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)}
    return named


def words_of(file: str, test: str) -> str:
    """All texts of a test and of what it uses in its own file: helpers, fixtures, constants."""
    named, seen, waiting, texts = definitions(file), set[str](), [test], list[str]()
    while waiting:
        name = waiting.pop()
        if name in seen or name not in named:
            continue
        seen.add(name)
        for part in ast.walk(named[name]):
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                texts.append(part.value)
            elif isinstance(part, ast.Name | ast.arg):
                waiting.append(part.id if isinstance(part, ast.Name) else part.arg)
    return "\n".join(texts)


@pytest.mark.parametrize("command", SHOWN)
def test_each_test_of_the_table_types_what_it_shows(command: str) -> None:
    for test, names in SHOWN[command].items():
        file, name = test.split("::")
        assert name in definitions(file), f"{test} is gone"
        words = words_of(file, name)
        aliases = {"--data-root": "--root"}
        for wanted in (*command.split(), *(name for name in names.split() if name.startswith("-"))):
            spelled = "|".join(re.escape(word) for word in (wanted, aliases.get(wanted, wanted)))
            assert re.search(rf"(?<![\w-])({spelled})(?![\w-])", words), f"{test} does not type {wanted}"


# The fields of recipes ------------------------------------------------------------------------------------------------

COMPANIONS: dict[str, dict[str, Any]] = {
    "legacy_shared_lr": {"scheduler": "onecycle", "param_groups": "backbone_factor"},
    "ema_epoch": {"ema_decay": 0.5},
}
"""Fields that take another value beside others only, which no named recipe has."""


def other_values(annotation: Any, now: Any) -> Iterator[Any]:
    """Values of a field's type, near the present one."""
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    elif get_origin(annotation) is tuple:
        first = now[0] if now else None
        for length in (max(len(now or ()), 1), 1, 2, 3):
            values = [*other_values(get_args(annotation)[0], first)]
            yield from ((value,) * length for value in values)
            if length > 1 and all(isinstance(value, float) for value in values):
                yield from (tuple(value * (part + 1) / length for part in range(length)) for value in values)
    elif annotation is bool:
        yield not now
    elif annotation in (int, float):
        number = annotation(now or 0)
        near = (number + 1, 2 * number, number - 1, number / 2, number + 0.25, 1, 2, 4, 64, 0.5)
        yield from dict.fromkeys(map(annotation, near))
    elif annotation is str:
        yield "vit_tiny_patch16_224"  # a network's name, too
    else:
        for part in get_args(annotation):
            yield from (None,) if part is type(None) else other_values(part, now)


def fits(method: Method, base: dict[str, Any], typed: dict[str, Any]) -> bool:
    """Whether these fields may be typed, and are all read."""
    try:
        check_read(parse(method.recipe_type, {**base, **typed}), typed)
    except UsageError:
        return False
    return True


def companions(method: Method, base: dict[str, Any], name: str) -> dict[str, Any]:
    """What a field must be typed beside."""
    unread = parse(method.recipe_type, base).unread
    wanted = {unread[name][0]: unread[name][1][0]} if name in unread else {}
    return {**wanted, **COMPANIONS.get(name, {})}


def changes(method: Method) -> Iterator[tuple[str, dict[str, Any]]]:
    """Named recipes, each with new values of some fields that go together; every field has one of them."""
    fields = method.recipe_type.model_fields
    left = {name for name, info in fields.items() if len(get_args(info.annotation)) != 1 or info.annotation is bool}
    for recipe, named in method.recipes.items():
        before, chosen = named.recipe.model_dump(), dict[str, Any]()
        for name in [name for name in fields if name in left]:
            others = [getattr(other.recipe, name) for other in method.recipes.values()]
            for value in (*others, *other_values(fields[name].annotation, before[name])):
                together = {**chosen, **companions(method, {**before, **chosen}, name), name: value}
                if value != before[name] and fits(method, before, together):
                    chosen = together
                    left.remove(name)
                    break
        if chosen:
            yield recipe, chosen
    assert not left, f"{method.name}: no recipe takes another value of {left}"


@pytest.mark.parametrize("name", METHODS)
def test_every_recipe_field_that_is_typed_is_run_stored_and_handed_to_val(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to torch's own launcher, which gets what each process shall do."""
    started: list[str] = []
    monkeypatch.setattr(launch, "elastic_launch", lambda *_: lambda worker, job, *rest: started.append(job))
    monkeypatch.setattr(kernels, "refusals", lambda request: [])  # of a CPU, which cannot do all of it
    method = get_method(name)
    two = ("--gpus", 0, "--processes", 2)
    for recipe, chosen in changes(method):
        flags = [typed(field, value) for field, value in chosen.items()]
        attnbias("train", name, "--recipe", recipe, *flags, *two, expect=0)
        resolved = parse(method.recipe_type, json.loads(started.pop())["recipe"])
        told = resolved.model_dump()
        assert {field: told[field] for field in chosen} == chosen
        write_recipe(tmp_path / "recipe.yaml", resolved, name)
        assert read_recipe(tmp_path / "recipe.yaml", method.recipe_type, name) == resolved

        data = {
            field: value
            for field, value in chosen.items()
            if panel_of(method.recipe_type.model_fields[field]) != TRAINING
            and typed(field, value).split("=")[0] not in options()["val"]  # val has its own of that name
        }
        flags = [typed(field, value) for field, value in data.items()]
        # A published test set in the place of splits, which would have to be prepared.
        attnbias("val", name, "--load-from", "weights", "--imagenet-a", *flags, *two, expect=0)
        handed = json.loads(started.pop())["fields"]
        assert handed == json.loads(json.dumps(data))
