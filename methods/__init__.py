"""The table of methods. A method is one folder and one line here; it is imported only when it is asked for.

methods/engine/registry.py looks it up.
"""

from __future__ import annotations

METHODS: dict[str, str] = {
    "absvit": "attnbias.methods.absvit",
    "absvit-segmentation": "attnbias.methods.absvit.segmentation",
    "absvit-vision-language": "attnbias.methods.absvit.vision_language",
    "csra": "attnbias.methods.csra",
    "ida": "attnbias.methods.ida",
    "llb": "attnbias.methods.llb",
    "lsas": "attnbias.methods.lsas",
    "plain": "attnbias.methods.plain",
}

TASKS: dict[str, dict[str, str]] = {
    "absvit": {
        "classification": "absvit",
        "segmentation": "absvit-segmentation",
        "vqa": "absvit-vision-language",
        "snli-ve": "absvit-vision-language",
        "nlvr2": "absvit-vision-language",
        "retrieval": "absvit-vision-language",
    }
}
"""Papers with several tasks: what `--task` names -> the method that does it, which has a folder and a line above."""
