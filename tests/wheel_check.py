"""Build sdist -> wheel, install the wheel in an empty environment outside the repository, run it, compare its files.

A package that setup.py forgets works in an editable install and is missing from the wheel; this finds it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
ROOMS = ("cli", "data", "methods", "weights")
KEPT = {".py", ".json", ".csv", ".html", ".css", ".js", ".md", ".jpg", ".png", ".ipynb"}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        dist = Path(folder) / "dist"
        subprocess.run([sys.executable, "-m", "build", "--quiet", "--outdir", str(dist), str(REPO)], check=True)
        wheel = next(dist.glob("*.whl"))
        check_members(wheel)
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
    print(f"{wheel.name}: files equal the repository's, starts in an empty environment")


def check_members(wheel: Path) -> None:
    listed = subprocess.run(["git", "ls-files", *ROOMS], check=True, cwd=REPO, capture_output=True, text=True).stdout
    expected = {f"attnbias/{name}" for name in listed.splitlines() if Path(name).suffix in KEPT}
    expected |= {f"attnbias/{path.name}" for path in (REPO / "src" / "attnbias").iterdir() if path.is_file()}
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    if found != expected:
        sys.exit(f"{wheel.name}: missing {sorted(expected - found)}, unexpected {sorted(found - expected)}")


if __name__ == "__main__":
    main()
