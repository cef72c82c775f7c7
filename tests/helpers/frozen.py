"""Imported last by the process that others are forked from: the collector of garbage looks at nothing that is there.

Half a million objects of libraries would else be walked again, and their memory copied, in every process.
"""

from __future__ import annotations

import gc

gc.collect()
gc.freeze()
