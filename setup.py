import re
import tomllib
from pathlib import Path

from setuptools import find_namespace_packages, setup

HERE = Path(__file__).parent
PROJECT = tomllib.loads((HERE / "pyproject.toml").read_text())["project"]
LINK = re.compile(r"(?P<image>!?)\[(?P<words>[^\]]*)\]\((?!https?:|#)(?P<path>[^)]+)\)")


def on_an_index_page(link: re.Match[str]) -> str:
    """A link of README.md to a file beside it, where that file is not there: at the project's `Repository`, where
    pyproject.toml names one; else a picture goes and a link is its words."""
    repository = PROJECT["urls"].get("Repository")
    if repository is None:
        return "" if link["image"] else link["words"]
    kind = "raw" if link["image"] else "blob"
    return f"{link['image']}[{link['words']}]({repository}/{kind}/main/{link['path']})"


# The rooms stand at the top of the repository and are imported as attnbias.<room>; the rest is in pyproject.toml.
package_dir = {"attnbias": "src/attnbias"} | {
    f"attnbias.{room}": room for room in ("cli", "data", "methods", "weights")
}
inner = {
    f"attnbias.{r}.{p}"
    for r in ("cli", "data", "methods", "weights")
    for p in find_namespace_packages(r, exclude=["*__pycache__*"])
}
setup(
    packages=[*package_dir, *sorted(inner)],
    package_dir=package_dir,
    long_description=LINK.sub(on_an_index_page, (HERE / "README.md").read_text()),
    long_description_content_type="text/markdown",
)
