"""Numbers that stand in the environment for us, PyTorch and Accelerate, which end with an error of their own where one
is none. No torch: OpenMP reads its own as that is loaded."""

from __future__ import annotations

import os

from attnbias.data.reading import is_whole_number, shown
from attnbias.methods.engine.errors import UsageError

LARGEST = 2**31 - 1
NUMBERS = {
    **dict.fromkeys(("OMP_NUM_THREADS", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "SLURM_STEP_NUM_TASKS"), (1, LARGEST)),
    **dict.fromkeys(("RANK", "LOCAL_RANK", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_JOB_ID"), (0, LARGEST)),
    "MASTER_PORT": (1, 65535),
}
"""Name -> the least and the largest number."""


def check_variables() -> None:
    """Refuse what is not the number that it should be, or not below another one; what is empty counts as unset.

    Raises:
        UsageError: see above.
    """
    for name, (least, largest) in NUMBERS.items():
        value = os.environ.get(name)
        if value == "":
            del os.environ[name]
        elif value is not None and not (is_whole_number(value) and least <= int(value) <= largest):
            raise UsageError(
                f"{name}={shown(value)} in the environment: expected a number from {least} to {largest}; set it so, or "
                f"run: unset {name}"
            )
    for rank, size in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")):
        if int(os.environ.get(rank, "0")) >= (count := int(os.environ.get(size, "1"))):
            raise UsageError(
                f"{rank}={os.environ[rank]} in the environment, of {count} ({size}): the first is 0; run: unset {rank}"
            )


def check_told(by: str, *names: str) -> None:
    """Refuse to join the processes of a launcher that has not told all: they would be waited for.

    Args:
        by: the variable by which it told that there is a launcher.
        names: the variables that it tells as well.

    Raises:
        UsageError: one is missing, or empty.
    """
    if missing := [name for name in names if not os.environ.get(name)]:
        raise UsageError(
            f"{by}={os.environ[by]} in the environment, as of a launcher, without {', '.join(missing)}; run: unset "
            f"{by}, or start the processes with torchrun or srun"
        )
