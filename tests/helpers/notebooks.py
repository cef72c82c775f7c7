"""The notebooks: executed from a clean state, and their outputs without noise.

`python -m tests.helpers.notebooks` writes the outputs that are committed (it needs nbclient and ipykernel)."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REPO = Path(__file__).parents[2]
NOTEBOOKS = sorted(REPO.glob("methods/*/demo.ipynb"))
SHOWN = ("text/html", "image/png", "text/plain")
"""The forms of an output that are kept: the first that there is."""


def read(path: Path) -> dict[str, Any]:
    """A notebook as plain values."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def code_cells(notebook: dict[str, Any]) -> Iterator[str]:
    """The source of each cell of code."""
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            yield "".join(cell["source"])


def execute(path: Path, timeout: int = 1800) -> dict[str, Any]:
    """Run all cells of a notebook in a kernel of its own, in an empty folder."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(notebook, timeout=timeout, resources={"metadata": {"path": folder}}).execute()
    return cleaned(json.loads(nbformat.writes(notebook)))


def cleaned(notebook: dict[str, Any]) -> dict[str, Any]:
    """Only what the last line of each cell is, in one form: no printed progress, no counts, no times."""
    for cell in notebook["cells"]:
        cell["metadata"] = {}
        if cell["cell_type"] == "code":
            cell["execution_count"] = None
            cell["outputs"] = [
                {"output_type": "display_data", "metadata": {}, "data": _shown(output["data"])}
                for output in cell["outputs"]
                if output["output_type"] == "execute_result"
            ]
    notebook["metadata"] = {name: notebook["metadata"][name] for name in ("kernelspec", "language_info")}
    notebook["metadata"]["language_info"] = {"name": "python"}
    return notebook


def _shown(data: dict[str, Any]) -> dict[str, Any]:
    kind = next(kind for kind in SHOWN if kind in data)
    return {kind: data[kind]}


def main(names: list[str]) -> None:
    """Execute notebooks, all or those of the named methods, and write their outputs."""
    for path in NOTEBOOKS:
        if not names or path.parent.name in names:
            path.write_text(json.dumps(execute(path), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
