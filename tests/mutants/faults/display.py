"""Faults of what is drawn: overlays, the order of classes, the page."""

from __future__ import annotations

from fault import Fault

VISUALIZE = "methods/engine/display/visualize.py"
EXHIBIT = "methods/engine/display/writer.py"
LOOK = "methods/engine/display/inference.py"
DISPLAY = "tests/cli/test_display.py"

FAULTS = (
    Fault(
        "--opacity ignored",
        EXHIBIT,
        "request.opacity, contour",
        "0.7, contour",
        (f"{DISPLAY}::test_opacity_and_contour_are_drawn_as_typed",),
    ),
    Fault(
        "--contour ignored",
        EXHIBIT,
        "contour=request.contour",
        "contour=False",
        (f"{DISPLAY}::test_opacity_and_contour_are_drawn_as_typed",),
    ),
    Fault(
        "--no-boxes ignored",
        EXHIBIT,
        "sample.boxes if request.boxes else ()",
        "sample.boxes",
        (f"{DISPLAY}::test_boxes_of_the_drawn_class_are_drawn_unless_refused",),
    ),
    Fault(
        "--normalisation ignored",
        VISUALIZE,
        "asked=asked, rule=request.normalisation",
        'asked=asked, rule="minmax"',
        (f"{DISPLAY}::test_maps_are_stretched_or_divided_as_typed",),
    ),
    Fault(
        "boxes of all classes drawn",
        EXHIBIT,
        "for box in boxes if box.label == label]",
        "for box in boxes]",
        (f"{DISPLAY}::test_boxes_of_the_drawn_class_are_drawn_unless_refused",),
    ),
    Fault(
        "the page forgets the opacity",
        EXHIBIT,
        "            opacity=self.request.opacity,\n",
        "",
        (f"{DISPLAY}::test_opacity_and_contour_are_drawn_as_typed",),
    ),
    Fault(
        "lowest-scored predictions drawn first",
        LOOK,
        "key=lambda label: -highest[position, label]",
        "key=lambda label: highest[position, label]",
        (f"{DISPLAY}::test_true_labels_go_first_and_unknown_ones_are_neither_true_nor_lost",),
    ),
    Fault(
        "predictions drawn before true labels",
        LOOK,
        "ranked = [*true, *sorted(others, key=lambda label: -highest[position, label])]",
        "ranked = [*sorted(others, key=lambda label: -highest[position, label]), *true]",
        (f"{DISPLAY}::test_true_labels_go_first_and_unknown_ones_are_neither_true_nor_lost",),
    ),
    Fault(
        "unknown labels lost",
        LOOK,
        "unknown=_labels(target == -1) if multilabel else (),",
        "unknown=(),",
        (f"{DISPLAY}::test_true_labels_go_first_and_unknown_ones_are_neither_true_nor_lost",),
    ),
    Fault(
        "visualize forgets typed fields",
        "cli/visualize.py",
        "method=method.name, fields=fields",
        "method=method.name, fields={}",
        (f"{DISPLAY}::test_fields_of_the_recipe_are_those_that_were_typed",),
    ),
    Fault(
        "classes in the order of the first model's scores",
        LOOK,
        "highest = np.max([answer.scores for answer in answers], axis=0)",
        "highest = answers[0].scores",
        (f"{DISPLAY}::test_of_several_models_predictions_those_of_the_highest_score_of_any_are_drawn_first",),
    ),
    Fault(
        "only what the first model predicts is drawn",
        LOOK,
        "for answer in answers for label in answer.predicted[position]}",
        "for answer in answers[:1] for label in answer.predicted[position]}",
        (f"{DISPLAY}::test_of_several_models_predictions_those_of_the_highest_score_of_any_are_drawn_first",),
    ),
    Fault(
        "--limit ignored for files",
        VISUALIZE,
        "found[: request.limit]",
        "found[:]",
        (f"{DISPLAY}::test_as_many_of_one_s_own_images_are_drawn_as_typed",),
    ),
    Fault(
        "the highest peaks of the first images alone",
        VISUALIZE,
        "(len(dataset) if request.top else SPLIT_LIMIT)",
        "SPLIT_LIMIT",
        (f"{DISPLAY}::test_the_highest_peaks_are_looked_for_in_the_whole_split",),
    ),
    Fault(
        "maps lie on the whole image",
        LOOK,
        "frame=answer.frames[position],",
        "frame=(0.0, 0.0, 1.0, 1.0),",
        (f"{DISPLAY}::test_a_map_is_drawn_on_the_part_of_the_image_that_the_model_saw",),
    ),
    Fault(
        "maps of enlarged images lie where those of the small ones would",
        EXHIBIT,
        "seen_part(view.frame, image)",
        "seen_part(view.frame, image.resize((image.width // 2, image.height // 2)))",
        (f"{DISPLAY}::test_a_map_is_drawn_on_the_part_of_the_image_that_the_model_saw",),
    ),
    Fault(
        "the image below a map keeps its colours",
        "methods/engine/display/overlay.py",
        "    photo += opacity * ((photo @ LUMA)[..., None] - photo)\n",
        "",
        ("tests/engine/test_overlay.py::test_the_image_s_own_colours_fade_as_opacity_grows",),
    ),
    Fault(
        "axes of a plot change places",
        "methods/engine/display/plots.py",
        'axes.plot(x, y, "o"',
        'axes.plot(y, x, "o"',
        ("tests/cli/test_compare.py::test_plots_show_every_run_and_the_authors_own_curves",),
    ),
    Fault(
        "every run on the page has the first one's figures",
        "methods/engine/display/comparison_page.py",
        "_run_figures(lines, split, position)",
        "_run_figures(lines, split, 0)",
        ("tests/cli/test_compare.py::test_every_run_on_the_page_has_its_own_figures",),
    ),
    Fault(
        "the worst answers are shown",
        "methods/engine/display/questions.py",
        "scores.topk(min(ANSWERS, scores.shape[1]))",
        "scores.topk(min(ANSWERS, scores.shape[1]), largest=False)",
        ("tests/cli/test_visualize_questions.py::test_maps_and_answers_are_the_models",),
    ),
    Fault(
        "--head ignored",
        "methods/engine/display/inference.py",
        "column.head,\n        column.loaded.steering",
        "None,\n        column.loaded.steering",
        ("tests/cli/test_visualize.py::test_runs_maps_and_heads_stand_side_by_side",),
    ),
    Fault(
        "classes that do not compete are drawn",
        "methods/engine/display/inference.py",
        "return scores if classes is None else",
        "return scores if True else",
        ("tests/data/test_published_tests.py::test_only_the_sets_own_classes_compete_by_name_and_by_flag",),
    ),
)
