"""What all methods stand on.

The contract: `description.py` (what is known of a method without torch), `method.py` (its verbs), `abilities.py` (what
only some can do), `recipe.py`, `types.py`. Methods are found by name in `registry.py`.

Building blocks for methods: `backbones.py`, `losses.py`, `schedules.py`, `maps.py`, `metrics.py`.

Folders: `training/`, `evaluation/` (scores of a split, robustness, comparison), `bias/` (attention, context, reliance,
faithfulness; stands on `evaluation/`) and `display/` (overlays, galleries, pages).

A file beside the folders either imports none of them, and is for all of them, or stands above them and is for the
command line alone: `validate.py`.
"""
