"""Faults of the command line: an option that is typed and never arrives."""

from __future__ import annotations

from fault import Fault

TRAIN = "methods/engine/training/train.py"
PREDICT = "methods/engine/prediction/predict.py"
REQUESTS = "methods/engine/requests.py"
LOAD = "methods/engine/load.py"
ARRIVE = "tests/cli/test_run_options.py"
WEIGHTS_OPTIONS = "tests/weights/test_options.py"
VAL_OPTIONS = "tests/cli/test_val_options.py"
WIRING = "tests/cli/test_evaluation_wiring.py"
EVERY = (f"{ARRIVE}::test_every_nth_epoch_and_the_last_one_are_evaluated",)
BATCH = (f"{ARRIVE}::test_evaluation_takes_as_many_images_at_once_as_typed",)
THREADS = (f"{ARRIVE}::test_threads_are_those_that_were_typed",)
PROCESSES_TYPED = (f"{ARRIVE}::test_as_many_processes_start_as_typed_on_the_device_that_was_typed",)
CHOSEN = (f"{WEIGHTS_OPTIONS}::test_top_k_and_threshold_choose_what_predict_names",)
TRUSTED = (f"{WEIGHTS_OPTIONS}::test_a_pickle_that_may_run_code_is_read_only_where_trust_is_typed",)
RECIPES_TYPED = (f"{WEIGHTS_OPTIONS}::test_what_a_file_does_not_tell_comes_from_the_recipe_that_was_typed",)
STRENGTH = (f"{VAL_OPTIONS}::test_an_attack_is_as_strong_as_typed",)


def lost(field: str, tests: tuple[str, ...]) -> Fault:
    """An option that never leaves the command line."""
    sound = "if typed.get(name) is not None}\n"
    after = f'if typed.get(name) is not None and name != "{field}"}}\n'
    return Fault(f"--{field.replace('_', '-')} never leaves the command line", "cli/options.py", sound, after, tests)


FAULTS = (
    Fault("--eval-every ignored", TRAIN, "epoch % self.request.eval_every == 0 or last", "True", EVERY),
    Fault("the last epoch is not evaluated", TRAIN, "eval_every == 0 or last:", "eval_every == 0:", EVERY),
    lost("eval_every", EVERY),
    lost("keep", (f"{ARRIVE}::test_as_many_checkpoints_are_kept_beside_the_best_as_typed",)),
    Fault(
        "--save-steps ignored",
        TRAIN,
        "if self.request.save_steps and",
        "if False and",
        (f"{ARRIVE}::test_checkpoints_are_also_saved_every_so_many_steps",),
    ),
    Fault(
        "--log-every ignored",
        TRAIN,
        "self.progress.step % self.request.log_every == 0",
        "self.progress.step % 50 == 0",
        (f"{ARRIVE}::test_training_is_logged_every_so_many_steps_and_at_the_end_of_an_epoch",),
    ),
    Fault(
        "--eval-batch-size ignored in training",
        TRAIN,
        "batch_size=self.request.eval_batch_size",
        "batch_size=64",
        BATCH,
    ),
    Fault(
        "--eval-batch-size ignored in val",
        "methods/engine/evaluation/probe.py",
        "batch_size=request.eval_batch_size",
        "batch_size=64",
        BATCH,
    ),
    Fault(
        "--eval-batch-size ignored in predict",
        "methods/engine/prediction/answering.py",
        "batch_size=request.eval_batch_size",
        "batch_size=64",
        BATCH,
    ),
    Fault("--threads ignored", "methods/engine/launch.py", "torch.set_num_threads(request.threads)", "pass", THREADS),
    Fault(
        "--gpus 0 ignored",
        "methods/engine/launch.py",
        "return gpus == 0, gpus or processes or 1",
        "return False, gpus or processes or 1",
        PROCESSES_TYPED,
    ),
    Fault(
        "--processes ignored",
        "methods/engine/launch.py",
        "return gpus == 0, gpus or processes or 1",
        "return gpus == 0, gpus or 1",
        PROCESSES_TYPED,
    ),
    lost("workers", (f"{ARRIVE}::test_loaders_have_as_many_workers_as_typed",)),
    lost("channels_last", (f"{ARRIVE}::test_memory_format_and_kernels_are_those_that_were_typed",)),
    lost("deterministic", (f"{ARRIVE}::test_memory_format_and_kernels_are_those_that_were_typed",)),
    lost("compile", (f"{ARRIVE}::test_a_model_is_compiled_where_that_is_typed",)),
    Fault(
        "--grad-checkpointing ignored by LLB",
        "methods/llb/model.py",
        "if checkpointing and torch.is_grad_enabled():",
        "if False:",
        (f"{ARRIVE}::test_activations_are_computed_twice_where_that_is_typed[method1]",),
    ),
    lost("decode", (f"{ARRIVE}::test_a_faster_reading_is_taken_where_that_is_typed",)),
    lost("severity", (f"{WIRING}::test_the_severities_that_are_typed_are_measured",)),
    lost("tau", (f"{WIRING}::test_tau_and_truth_reach_the_measures_of_attention",)),
    lost("truth", (f"{WIRING}::test_tau_and_truth_reach_the_measures_of_attention",)),
    Fault(
        "--map ignored in val",
        REQUESTS,
        'return None if self.map == "own" else self.map',
        "return None",
        (f"{VAL_OPTIONS}::test_the_map_that_was_typed_is_held_against_the_objects",),
    ),
    Fault("--epsilon in other units", REQUESTS, "self.epsilon / 255", "self.epsilon / 256", STRENGTH),
    Fault(
        "--attack-steps ignored",
        REQUESTS,
        '            typed["steps"] = self.attack_steps\n',
        "            pass\n",
        STRENGTH,
    ),
    Fault(
        "--imagenet-r opens another set",
        REQUESTS,
        'name.replace("-", "_")',
        'name.replace("-", "_").replace("_a", "_r")',
        (f"{VAL_OPTIONS}::test_a_published_set_that_was_asked_for_is_the_one_that_is_opened",),
    ),
    Fault(
        "unknown labels of an evaluation are negative, whatever the recipe says",
        "methods/engine/method.py",
        "if train else recipe.unknown_eval",
        'if train else "negative"',
        (f"{WIRING}::test_unknown_labels_count_as_the_recipe_says_of_training_and_of_evaluation",),
    ),
    Fault(
        "--threshold ignored",
        PREDICT,
        '"multilabel", request.top_k, request.threshold)',
        '"multilabel", request.top_k, None)',
        CHOSEN,
    ),
    Fault(
        "--top-k ignored",
        PREDICT,
        '"multilabel", request.top_k, request.threshold)',
        '"multilabel", None, request.threshold)',
        CHOSEN,
    ),
    Fault(
        "predict ignores --recipe",
        PREDICT,
        "loaded = load_asked(request,",
        'loaded = load_asked(request.model_copy(update={"recipe": None}),',
        RECIPES_TYPED,
    ),
    Fault(
        "visualize ignores --recipe",
        LOAD,
        "recipe_name=request.recipe if own else None",
        "recipe_name=None",
        RECIPES_TYPED,
    ),
    Fault("every file is trusted", LOAD, "trust=request.trust_checkpoint,\n", "trust=True,\n", TRUSTED),
    Fault(
        "export never trusts a file",
        LOAD,
        "trust=request.trust_checkpoint,\n",
        "trust=False,\n",
        TRUSTED,
    ),
    Fault(
        "--top-k of export ignored",
        "methods/engine/export.py",
        "classes=numbers, top_k=request.top_k",
        "classes=numbers, top_k=5",
        ("tests/cli/test_export.py::test_maps_checks_and_classes_are_as_typed",),
    ),
    Fault(
        "--limit of compare ignored",
        "methods/engine/display/comparison_page.py",
        "[: request.limit or SPLIT_LIMIT]",
        "[:48]",
        ("tests/cli/test_compare.py::test_the_page_holds_as_many_images_of_the_split_as_typed",),
    ),
    Fault(
        "a field that is switched off is kept",
        "cli/options.py",
        "{name: None if name in off else value for",
        "{name: value for",
        ("tests/cli/test_options.py::test_every_recipe_field_that_is_typed_is_run_stored_and_handed_to_val",),
    ),
    Fault(
        "--attack-step in other units",
        "methods/engine/requests.py",
        "self.attack_step and self.attack_step / 255",
        "self.attack_step",
        ("tests/cli/test_evaluation_wiring.py::test_the_strength_of_an_attack_is_typed_in_levels_of_255",),
    ),
    Fault(
        "FGSM of a typed epsilon keeps its step",
        "methods/engine/requests.py",
        '        elif step is None:\n            typed["step_size"] = epsilon\n',
        "",
        ("tests/cli/test_evaluation_wiring.py::test_the_strength_of_an_attack_is_typed_in_levels_of_255",),
    ),
    Fault(
        "val scores a split beside published sets that were asked for",
        "methods/engine/requests.py",
        '() if self.published_tests else ("val",)',
        '("val",)',
        (f"{VAL_OPTIONS}::test_a_published_set_that_was_asked_for_is_the_one_that_is_opened",),
    ),
)
