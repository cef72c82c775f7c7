"""Make an environment with exactly the lowest versions that pyproject.toml declares, and run the tests there.

Tools of development (pytest, mypy, ruff and the like) are taken as they come: their bounds say nothing to a user.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

REPO = Path(__file__).parents[2]
ENVIRONMENT = REPO / ".venv-oldest"
TOOLS = "dev"


def lowest() -> list[str]:
    """`name==version` for each declared lower bound.

    Raises:
        SystemExit: a dependency declares none.
    """
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    declared = [*project["dependencies"], *(line for name, lines in extras.items() if name != TOOLS for line in lines)]
    pins: list[str] = []
    for requirement in map(Requirement, declared):
        bounds = [bound.version for bound in requirement.specifier if bound.operator == ">="]
        if len(bounds) != 1:
            sys.exit(f"pyproject.toml: {requirement} declares no lower bound")
        pins.append(f"{requirement.name}=={bounds[0]}")
    return pins


def main() -> None:
    """Install and test; leave with pytest's exit code."""
    pins = lowest()
    constraints = ENVIRONMENT / "constraints.txt"
    python = ENVIRONMENT / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--clear", ENVIRONMENT], check=True)
    constraints.write_text("\n".join(pins) + "\n")
    print("lowest declared versions:", *pins, sep="\n  ")
    install = [python, "-m", "pip", "install", "--quiet", "--constraint", constraints, "--editable", f".[{TOOLS}]"]
    subprocess.run(install, check=True, cwd=REPO)
    tests = [python, "-m", "pytest", "-m", "not slow", "--numprocesses", "auto", "--dist", "loadfile", *sys.argv[1:]]
    sys.exit(subprocess.run(tests, cwd=REPO).returncode)


if __name__ == "__main__":
    main()
