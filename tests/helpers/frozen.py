"""Imported last by the process that others are forked from: what each of them would make again is made here once.

The command line is built, and so are the outlines of the networks that most tests train. The collector of garbage looks
at nothing that is there: half a million objects of libraries would else be walked again, and their memory copied.
"""

from __future__ import annotations

import gc

from attnbias.cli.app import program
from attnbias.methods.engine.backbones import build_backbone

program()
for name in ("test_vit", "tiny_vit"):
    build_backbone(name, 32)
gc.collect()
gc.freeze()
