"""The notebooks: one a method, in one order, without a trace of the machine that ran them; and they run."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path

import pytest

import attnbias
from attnbias.methods import METHODS
from tests.helpers import notebooks
from tests.helpers.notebooks import NOTEBOOKS, REPO, code_cells, read

PAPERS = [name for name, module in METHODS.items() if (REPO.joinpath(*module.split(".")[1:])).parent.name == "methods"]
HEADINGS = {
    "plain": ["Prepare your folder", "Train a classifier, or load one", "Look", "Measure", "What next"],
    None: ["The data", "Train, with and without the method", "Look", "Measure", "Side by side"],
}
"""What each notebook goes through, in this order; a paper's may go on behind it."""
LARGEST = 400_000
"""Bytes of a notebook."""
by_method = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.parent.name)


def test_every_method_has_one() -> None:
    assert sorted(path.parent.name for path in NOTEBOOKS) == sorted(PAPERS)


@by_method
def test_its_cells_stand_in_order_and_use_what_there_is(path: Path) -> None:
    notebook, name = read(path), path.parent.name
    texts = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown"]
    found = re.findall(r"^## (.+)$", "\n".join(texts), re.MULTILINE)
    expected = HEADINGS.get(name, HEADINGS[None])
    assert found[: len(expected)] == expected
    sentences = re.findall(r"[.:] |[.]$", texts[0].rstrip())
    assert len(sentences) >= 5, "the paper in five sentences"
    for source in code_cells(notebook):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "attnbias":
                assert node.attr in attnbias.__all__
    links = re.findall(r"\]\(([^)#]+)\)", "\n".join(texts))
    assert all((path.parent / link).exists() for link in links if not link.startswith("http"))


@by_method
def test_its_outputs_are_there_and_hold_no_noise(path: Path) -> None:
    text, notebook = path.read_text(encoding="utf-8"), read(path)
    assert len(text) < LARGEST
    assert not re.search(r"/(tmp|home|root|work|Users|var)/|\d+(\.\d+)? ?(img/s|seconds)", text)
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] is None for cell in cells)
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert sum("image/png" in output["data"] for output in outputs) >= 2
    assert any("<table>" in "".join(output["data"].get("text/html", "")) for output in outputs)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_they_run_from_a_clean_state_and_show_as_much_as_is_committed() -> None:
    for package in ("nbclient", "ipykernel", "skimage", "transformers"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"notebooks are run with {package}, which is not installed: pip install -e '.[dev]'")
    for path in NOTEBOOKS:
        shown = [cell.get("outputs", []) for cell in notebooks.execute(path)["cells"]]
        committed = [cell.get("outputs", []) for cell in read(path)["cells"]]
        kinds = [[[*output["data"]] for output in outputs] for outputs in shown]
        assert kinds == [[[*output["data"]] for output in outputs] for outputs in committed], path
