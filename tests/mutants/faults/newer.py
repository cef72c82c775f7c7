"""Faults of what came later: the interface for Python, any classifier, starting weights, seeds, the hub, backgrounds,
the last layer, strange files, models tried by hand, estimated masks."""

from __future__ import annotations

from fault import Fault

MODEL, RESULTS = "src/attnbias/model.py", "src/attnbias/results.py"
PYTHON, ARGUMENTS = "tests/cli/test_python.py::", "tests/cli/test_python_arguments.py::"
BACKGROUNDS, BACKGROUND_TESTS = "methods/engine/bias/backgrounds.py", "tests/engine/test_backgrounds.py"
LAST_LAYER, LAST_LAYER_TESTS = "methods/engine/bias/last_layer.py", "tests/engine/test_last_layer.py"
SEEDS, SEED_TESTS = "methods/engine/evaluation/over_seeds.py", "tests/engine/test_over_seeds.py"
PUSH, PUSH_TESTS = "methods/engine/publish.py", "tests/weights/test_push.py"
EXPLORE, EXPLORE_TESTS = "methods/engine/explore/", "tests/engine/test_explore.py::"
ESTIMATED, ESTIMATED_TESTS = "methods/engine/estimated_masks.py", "tests/engine/test_estimated_masks.py::"
LIMITS, LIMIT_TESTS = "weights/limits.py", "tests/weights/test_limits.py::test_a_small_file_takes_no_gigabytes"

FAULTS = (
    Fault(
        "Python: on_bad_image ignored",
        MODEL,
        '"on_bad_image": on_bad_image}',
        '"on_bad_image": "error"}',
        (PYTHON + "test_unreadable_images_are_named_or_left_out",),
    ),
    Fault(
        "Python: predictions are of the images in another order",
        MODEL,
        "Prediction(given[n].name, row, self.classes, self.task, given[n].read)",
        "Prediction(given[-1 - n].name, row, self.classes, self.task, given[-1 - n].read)",
        (PYTHON + "test_predict_gives_the_scores_of_the_command",),
    ),
    Fault(
        "Python: answers are not by class",
        MODEL,
        'np.put_along_axis(scores, said.scores["labels"].astype(np.int64), said.scores["scores"], axis=1)',
        'scores = said.scores["scores"]',
        ("tests/cli/test_predict_tasks.py::test_python_gives_the_answers_of_the_command",),
    ),
    Fault(
        "Python: the maps of every further part are lost",
        MODEL,
        "for begin in range(0, len(given), BATCH):",
        "for begin in range(0, min(len(given), BATCH), BATCH):",
        (PYTHON + "test_attention_is_what_visualize_draws",),
    ),
    Fault(
        "Python: gain ignored",
        MODEL,
        "method.default_gain(self.module) if gain is None else gain",
        "method.default_gain(self.module)",
        (PYTHON + "test_absvit_is_steered_by_a_class_or_by_any_vector",),
    ),
    Fault(
        "Python: raw weights whatever is asked",
        MODEL,
        '"weights": weights,',
        '"weights": "raw",',
        (ARGUMENTS + "test_raw_or_averaged_weights_are_loaded_as_asked",),
    ),
    Fault(
        "Python: the lowest classes are the best",
        RESULTS,
        'np.argsort(-self.scores, kind="stable")[:k]',
        'np.argsort(self.scores, kind="stable")[:k]',
        (PYTHON + "test_a_prediction_says_its_best_classes",),
    ),
    Fault(
        "Python: one class alone in multi-label work",
        RESULTS,
        'if self.task == "multilabel":',
        "if False:",
        (PYTHON + "test_a_prediction_says_its_best_classes",),
    ),
    Fault(
        "Python: overlays are all of one strength",
        RESULTS,
        "frame=seen_part(self.frame, image), opacity=opacity,",
        "frame=seen_part(self.frame, image), opacity=0.7,",
        (ARGUMENTS + "test_an_overlay_is_as_strong_as_asked_and_rings_the_focus_where_asked",),
    ),
    Fault(
        "any classifier: of a class that is several, the lowest logit",
        "methods/plain/model.py",
        "logits[:, own].amax(1)",
        "logits[:, own].amin(1)",
        ("tests/methods/test_plain.py::test_a_class_of_several_of_the_network_s_own_has_the_highest_of_their_logits",),
    ),
    Fault(
        "typed images lose against those of the starting weights",
        "methods/engine/pretrained.py",
        "for name, value in known.items() if name not in typed}",
        "for name, value in known.items()}",
        ("tests/engine/test_pretrained.py", "tests/methods/test_plain.py"),
    ),
    Fault(
        "another network starts from the recipe's weights",
        "methods/engine/resolve.py",
        'if "init" in typed or base.init == FRESH:',
        "if True:",
        (
            "tests/methods/test_starting_weights.py::test_another_network_than_the_recipes_begins_at_random_and_says_why",
        ),
    ),
    Fault(
        "a recipe keeps the secrets of a URL",
        "methods/engine/resolve.py",
        "if shown(init) != init:",
        "if False:",
        ("tests/weights/test_urls.py::test_a_recipe_keeps_no_secret_of_where_its_weights_lie",),
    ),
    Fault(
        "seeds: every seed is held against the first one's",
        SEEDS,
        "table[seed] - alike[0][seed] for seed in alike[0] if seed in table",
        "table[seed] - alike[0][min(alike[0])] for seed in alike[0] if seed in table",
        (SEED_TESTS,),
    ),
    Fault(
        "seeds: deviations of a whole population",
        SEEDS,
        "from statistics import fmean, stdev",
        "from statistics import fmean, pstdev as stdev",
        (SEED_TESTS,),
    ),
    Fault(
        "seeds: runs of other data are taken together",
        SEEDS,
        "json.dumps(recipe, sort_keys=True), run.data,",
        'json.dumps(recipe, sort_keys=True), "",',
        (SEED_TESTS,),
    ),
    Fault(
        "at equal accuracy: the higher of both levels",
        SEEDS,
        "level = min(max(",
        "level = max(max(",
        (SEED_TESTS,),
    ),
    Fault(
        "the hub gets raw weights whatever is asked",
        PUSH,
        "described = describe(method, request.run, {}, entry=request.entry)",
        'described = describe(method, request.run, {}, entry="model")',
        (PUSH_TESTS,),
    ),
    Fault(
        "everything is pushed for all to see",
        PUSH,
        "private=request.private,",
        "private=False,",
        (PUSH_TESTS,),
    ),
    Fault(
        "a model card has the figures of other weights",
        PUSH,
        'if line["step"] == step and line.get("weights") == kind:',
        'if line["step"] == step:',
        (PUSH_TESTS,),
    ),
    Fault(
        "backgrounds: the same class and another one change places",
        BACKGROUNDS,
        "for wanted in (True, False))",
        "for wanted in (False, True))",
        (BACKGROUND_TESTS,),
    ),
    Fault(
        "backgrounds: an image lends itself its context",
        BACKGROUNDS,
        "& (self.positions != sample.image)",
        "& (self.positions >= 0)",
        (BACKGROUND_TESTS,),
    ),
    Fault(
        "backgrounds: noise of the object lies on the context",
        BACKGROUNDS,
        "for where in (mask, ~mask)]",
        "for where in (~mask, mask)]",
        (BACKGROUND_TESTS,),
    ),
    Fault(
        "the last layer's penalty is picked on what it is trained on",
        LAST_LAYER,
        "reached[penalty] = worst(layer, odd)",
        "reached[penalty] = worst(layer, even)",
        (LAST_LAYER_TESTS,),
    ),
    Fault(
        "the last layer is the one of half of the images",
        LAST_LAYER,
        "return retrained(features, targets, torch.from_numpy(balanced(groups)).float(), classes, best), best",
        "return retrained(features[even], targets[even], weights, classes, best), best",
        (LAST_LAYER_TESTS,),
    ),
    Fault(
        "the last layer reads the split that is measured",
        LAST_LAYER,
        "kept, given = features_of(loaded, other, range(len(other)), measured.accelerator, size)",
        "kept, given = features_of(loaded, dataset, range(len(other)), measured.accelerator, size)",
        (LAST_LAYER_TESTS,),
    ),
    Fault(
        "bytes grow by calls",
        LIMITS,
        '(texts[1:] != ["latin1"] or texts[0] is None)',
        "(texts[0] == 0)",
        (LIMIT_TESTS + "[hexadecimal.pth]",),
    ),
    Fault(
        "keys without end",
        LIMITS,
        "if made.size > LARGEST_TUPLE:",
        "if made.size < 0:",
        (LIMIT_TESTS + "[key.pth]",),
    ),
    Fault(
        "a split called unlabelled is the one left over",
        "data/splits.py",
        " and not set(NEITHER) & set(_words(split))]",
        "]",
        ("tests/data/test_splits.py::test_what_names_do_not_decide_is_refused_with_the_flag_that_does",),
    ),
    Fault(
        "explore: other sites may let their names lead to it",
        EXPLORE + "server.py",
        "return address.is_loopback or not self.is_local",
        "return True",
        (EXPLORE_TESTS + "test_requests_of_other_sites_and_of_no_sensible_length_are_refused",),
    ),
    Fault(
        "explore: other sites may ask",
        EXPLORE + "server.py",
        'self.headers.get("Origin", ',
        'self.headers.get("Referer", ',
        (EXPLORE_TESTS + "test_requests_of_other_sites_and_of_no_sensible_length_are_refused",),
    ),
    Fault(
        "explore: all but what was painted is filled",
        EXPLORE + "images.py",
        "Image.composite(FILLS[fill](held.image), held.image, covers)",
        "Image.composite(held.image, FILLS[fill](held.image), covers)",
        (EXPLORE_TESTS + "test_what_is_painted_over_is_what_the_models_get",),
    ),
    Fault(
        "explore: gain ignored",
        EXPLORE + "subject.py",
        "if asked.gain is None or not isinstance",
        "if True or not isinstance",
        (EXPLORE_TESTS + "test_a_prior_is_as_strong_as_asked",),
    ),
    Fault(
        "explore: requests meet in a network",
        EXPLORE + "subject.py",
        "with self.lock:",
        "with Lock():",
        (EXPLORE_TESTS + "test_a_network_is_asked_by_one_request_at_a_time",),
    ),
    Fault(
        "explore: a dropped photo lies on its side",
        "data/images.py",
        'return upright_rgb(image) if mode == "RGB"',
        'return upright_rgb(image, "stored") if mode == "RGB"',
        (EXPLORE_TESTS + "test_scores_and_maps_of_an_uploaded_file_are_those_of_predict_and_attention",),
    ),
    Fault(
        "an audit: estimated masks pass for drawn ones",
        "methods/engine/audit/audit.py",
        'truth_kind="estimated" if estimated else "measured"',
        'truth_kind="measured"',
        (ESTIMATED_TESTS + "test_an_audit_and_val_say_estimated_wherever_they_say_what_was_found",),
    ),
    Fault(
        "estimated masks: of classes that an image does not show, too",
        ESTIMATED,
        "for label in _true(index.records[position]):",
        "for label in members:",
        (ESTIMATED_TESTS + "test_a_mask_is_where_the_segmenter_sees_a_true_class_and_is_estimated_once",),
    ),
)
