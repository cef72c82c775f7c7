"""Build sdist -> wheel, install the wheel in an empty environment outside the repository, run it, compare its files.

A package that setup.py forgets works in an editable install and is missing from the wheel; this finds it. The sdist is
the whole repository, its tests too; the wheel leaves out what only the repository's pages show.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
ROOMS = ("cli", "data", "methods", "weights")
SHOWN = {".jpg", ".png", ".ipynb"}
"""Files of the rooms that are not in the wheel."""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        dist = Path(folder) / "dist"
        subprocess.run([sys.executable, "-m", "build", "--quiet", "--outdir", str(dist), str(REPO)], check=True)
        wheel = next(dist.glob("*.whl"))
        check_members(wheel, next(dist.glob("*.tar.gz")))
        environment = Path(folder) / "empty"
        venv.create(environment, with_pip=True)
        python = environment / "bin" / "python"
        # The command line's start needs these alone; torch and its kin are imported by commands that compute.
        light = ["typer", "rich", "pydantic", "pyyaml"]
        subprocess.run([python, "-m", "pip", "install", "--quiet", *light], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", wheel], check=True)
        for command in (["attnbias", "--help"], ["attnbias", "--version"], ["attnbias", "list", "methods"]):
            run = [environment / "bin" / command[0], *command[1:]]
            subprocess.run(run, check=True, cwd=folder, stdout=subprocess.DEVNULL)
        probe = "import importlib.util as u; assert not any(map(u.find_spec, ('cli', 'data', 'methods', 'weights')))"
        subprocess.run([python, "-c", probe], check=True, cwd=folder)
    print(f"{wheel.name}: files equal the repository's, all in the sdist, starts in an empty environment")


def check_members(wheel: Path, sdist: Path) -> None:
    """Exit where a file is missing or too many, or the description has a link that leads nowhere on an index's page."""
    tracked = subprocess.run(["git", "ls-files"], check=True, cwd=REPO, capture_output=True, text=True).stdout.split(
        "\n"
    )
    rooms = [Path(name) for name in tracked if name.startswith(tuple(f"{room}/" for room in ROOMS))]
    expected = {f"attnbias/{path}" for path in rooms if path.suffix not in SHOWN}
    expected |= {f"attnbias/{path.name}" for path in (REPO / "src" / "attnbias").iterdir() if path.is_file()}
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        description = archive.read(metadata).decode()
    if found != expected:
        sys.exit(f"{wheel.name}: missing {sorted(expected - found)}, unexpected {sorted(found - expected)}")
    if lost := re.findall(r"\]\((?!https?:|#)[^)]*\)", description):
        sys.exit(f"{wheel.name}: its description has links to files of the repository: {lost}")
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    if absent := set(filter(None, tracked)) - packed:
        sys.exit(f"{sdist.name}: missing {sorted(absent)}")


if __name__ == "__main__":
    main()
