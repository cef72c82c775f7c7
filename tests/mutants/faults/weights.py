"""Faults of weight files and backbones: what may be in a file, which network a name is."""

from __future__ import annotations

from fault import Fault

FAULTS = (
    Fault(
        "tensors may claim a huge empty side",
        "weights/limits.py",
        "math.prod(max(side, 1) for side in t.shape)",
        "math.prod(t.shape)",
        ("tests/weights/test_limits.py::test_a_small_file_takes_no_gigabytes[empty-side.pth]",),
    ),
    Fault(
        "the loss of a Lightning module is its model's",
        "weights/files.py",
        "left_out = tuple(name for name in state if NOT_OF_THE_MODEL.match(name))",
        "left_out: tuple[str, ...] = ()",
        ("tests/weights/test_files.py::test_what_wraps_a_model_is_taken_off",),
    ),
    Fault(
        "weights that are not finite load",
        "weights/files.py",
        "return bool(finite.all())",
        "return True",
        ("tests/weights/test_damaged_checkpoints.py::test_weights_that_are_not_finite_are_refused_by_every_command",),
    ),
    Fault(
        "vit_l16 is the base network",
        "methods/engine/backbones.py",
        '"vit_l16": "vit_large_patch16_224"',
        '"vit_l16": "vit_base_patch16_224"',
        ("tests/engine/test_backbones.py::test_a_paper_s_short_name_is_the_transformer_of_that_size",),
    ),
    Fault(
        "prefix tokens are patches",
        "methods/engine/backbones.py",
        "features[:, self.prefix_tokens :]",
        "features[:, : features.shape[1] - self.prefix_tokens]",
        ("tests/engine/test_backbone_families.py::test_a_family_trains_every_parameter_and_takes_its_own_weights",),
    ),
)
