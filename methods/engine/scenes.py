"""What recipes for the built-in scenes of 48 pixels have in common, so that methods differ in nothing else. No torch.

`make bench-bias` trains them: a grid of 6 x 6 for every network, on which each method leaves chance within minutes of
a CPU core. Weights of transformers do not decay, since methods differ in which of them would.
"""

from __future__ import annotations

from attnbias.methods.engine.types import Fields

SHARED: Fields = {
    "dataset": "demo",
    "image_size": 48,
    "normalize": "half",
    "epochs": 20,
    "batch_size": 64,
    "drop_last": True,
    "optimizer": "adamw",
    "clip_grad": 1.0,
    "scheduler": "onecycle",
    "seed": 0,
}
CONVOLUTIONAL: Fields = {**SHARED, "steps": 600, "lr": 4e-3, "weight_decay": 1e-2}
TRANSFORMER: Fields = {**SHARED, "steps": 900, "lr": 2e-3, "weight_decay": 0.0}

NOTE = "scenes of 48 pixels for the benchmark of bias"
PLAIN_NOTE = f"{NOTE}; the plain counterpart: nothing but the method itself is missing"
