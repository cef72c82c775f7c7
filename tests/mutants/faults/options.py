"""Faults of the command line: an option that is typed and never arrives."""

from __future__ import annotations

from fault import Fault

TRAIN = "methods/engine/training/train.py"
VISUALIZE = "cli/visualize.py"
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

FAULTS = (
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
        "methods/engine/method.py",
        "if train else recipe.unknown_eval",
        'if train else "negative"',
        (f"{WIRING}::test_unknown_labels_count_as_the_recipe_says_of_training_and_of_evaluation",),
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
)
