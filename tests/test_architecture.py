"""The rooms' imports run one way, the command line starts without torch, nothing lies outside `attnbias`."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from io import StringIO
from pathlib import Path
from tokenize import COMMENT, generate_tokens

import pytest

from attnbias.methods import METHODS
from tests.helpers.house import files, long_functions, uses_of
from tests.import_circles import circles, imported, imports, modules_of

REPO = Path(__file__).parent.parent
ALLOWED = {
    "data": {"data"},
    "weights": {"weights"},
    "methods.engine": {"methods.engine", "methods", "data", "weights"},
    "methods": {"methods", "methods.engine"},
    "cli": {"cli", "methods", "methods.engine", "data", "weights"},
}
BELOW_ALL = {"attnbias.__version__", "attnbias.errors.AttnbiasError"}
"""What every room may take from src/attnbias, whose other modules, the interface for Python, stand on all rooms."""


def room_of(parts: tuple[str, ...]) -> str:
    """The room of a module path below attnbias; `methods` itself is the table of methods."""
    if parts[0] == "methods" and len(parts) > 1 and (parts[1] == "engine" or parts[1] in METHODS):
        return f"methods.{parts[1]}"
    return parts[0]


@pytest.mark.parametrize("room", ["cli", "methods", "data", "weights"])
def test_imports_run_one_way(room: str) -> None:
    for path in sorted((REPO / room).rglob("*.py")):
        own = room_of(path.relative_to(REPO).with_suffix("").parts)
        allowed = ALLOWED.get(own, {own, "methods.engine", "data", "weights"})
        for module in imports(path):
            assert module.split(".")[0] not in ALLOWED, f"{path} imports a room by its folder's name: {module}"
            if module.startswith("attnbias.") and module not in BELOW_ALL:
                target = room_of(tuple(module.split(".")[1:]))
                assert target in allowed, f"{path} ({own}) imports {module}"


def test_no_file_and_no_folder_imports_itself_by_way_of_others() -> None:
    assert circles(REPO) == []


def test_a_file_beside_the_engines_folders_stands_below_all_of_them_or_above() -> None:
    """What imports one of the folders is for the command line alone: nothing in the engine imports it."""
    modules, folder = modules_of(REPO), "methods.engine."
    engine = {name: imported(path, modules) for name, path in modules.items() if name.startswith(folder)}
    beside = [name for name in engine if "." not in name.removeprefix(folder)]
    above = {name for name in beside if any(to.startswith(folder) and to not in beside for to in engine[name])}
    assert "methods.engine.validate" in above
    assert not above & set().union(*engine.values())


def test_circles_are_found_at_every_level(tmp_path: Path) -> None:
    files = {
        "data/a.py": "def f():\n    from attnbias.data.b import x",
        "data/b.py": "from attnbias.data import c",
        "data/c.py": "if TYPE_CHECKING:\n    from attnbias.data.a import y",
        "data/sets/x.py": "import attnbias.data.d",  # a folder beside its files: d stands below it, e above
        "data/d.py": "",
        "data/e.py": "from attnbias.data.sets.x import z",
        "cli/one/p.py": "from attnbias.cli.two import q",
        "cli/two/q.py": "",
        "cli/two/r.py": "from attnbias.cli.one.s import t",
        "cli/one/s.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert circles(tmp_path) == [("cli", ["one", "two"]), ("data", ["a", "b", "c"])]


def test_functions_are_short_and_values_have_types() -> None:
    """`python -m tests.helpers.house` names them. Any is for what a library leaves open."""
    long = long_functions()
    assert len(long) <= 5, long
    assert not [each for each in long if each[0].startswith("cli/")], long
    assert uses_of("Any") < 150
    assert uses_of("cast") <= 10


def test_the_engine_knows_no_method_by_name() -> None:
    for path in sorted((REPO / "methods" / "engine").rglob("*.py")):
        words = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
        assert not words & set(METHODS), path


def test_every_method_has_the_same_files() -> None:
    """A paper that has nothing to say of a concern has no file for it, rather than one that hands something on."""
    needed, optional = {"__init__.py", "method.py", "recipe.py", "model.py"}, {"loss.py", "convert.py", "attention.py"}
    for name, module in METHODS.items():
        folder = REPO.joinpath(*module.split(".")[1:])
        assert needed <= {path.name for path in folder.glob("*.py")}, name
        assert (folder / "README.md").is_file(), name
        assert "Shapes: " in (ast.get_docstring(ast.parse((folder / "model.py").read_text())) or ""), name
        for file in optional & {path.name for path in folder.glob("*.py")}:
            parts = ast.parse((folder / file).read_text()).body
            assert any(isinstance(part, ast.FunctionDef | ast.ClassDef) for part in parts), folder / file


SHAPE = re.compile(r"\(((?:[\w* /+-]+,)+[\w* /+.-]*)\)")
"""Lengths in brackets: (B, C, h * w)."""
LETTER = re.compile(r"\b[A-Za-z]\b")


def test_each_letter_of_a_shape_is_in_its_file_s_legend() -> None:
    """Images are (B, 3, H, W) throughout."""
    for path in sorted((REPO / "methods").rglob("*.py")):
        tree = ast.parse(source := path.read_text())
        if legend := re.search(r"Shapes: (.*?)(?:\n\n|\Z)", ast.get_docstring(tree) or "", re.DOTALL):
            texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)]
            said = [text.value for text in texts if isinstance(text, ast.Constant) and isinstance(text.value, str)]
            said += [token.string for token in generate_tokens(StringIO(source).readline) if token.type == COMMENT]
            letters = {letter for words in said for shape in SHAPE.findall(words) for letter in LETTER.findall(shape)}
            assert letters <= {*LETTER.findall(legend[1]), "H", "W"}, path


def test_whatever_is_said_goes_through_one_place() -> None:
    """A new table or file cannot forget that names are data: only screen.py prints, text.py writes CSV and HTML."""
    said = {"rich", "html", "string"}
    written = {"print", "echo", "secho", "writer", "DictWriter", "basicConfig", "stdout.write", "stderr.write"}
    for file in files():
        if file.path in ("methods/engine/screen.py", "methods/engine/text.py"):
            continue
        assert not {module.split(".")[0] for module in imports(REPO / file.path)} & said, file.path
        last = {".".join(name.split(".")[part:]) for name in file.calls for part in (-1, -2)}
        assert not last & written, file.path


PARSERS = {
    ("json.load", "json.loads"): {
        "data/reading.py",
        "data/coco_file.py",  # in three encodings, and of half a gigabyte
        "data/fingerprint.py",  # the others parse what this process, or its parent, has just written
        "methods/engine/export.py",
        "methods/engine/inspection.py",
        "data/sets/imagenet.py",  # a file of timm's own
    },
    ("yaml.load", "yaml.safe_load", "yaml.parse"): {"methods/engine/yaml_files.py"},
    ("torch.load",): {"weights/files.py", "weights/folders.py", "methods/engine/training/train.py"},
    ("np.load", "numpy.load"): set(),  # which makes room for whatever a header claims: data/arrays.py
    ("pickle.load", "pickle.loads"): set(),
}
"""What parses a file -> the modules that may call it."""


@pytest.mark.parametrize("calls", PARSERS, ids=lambda calls: calls[0])
def test_stored_files_are_parsed_in_few_places(calls: tuple[str, ...]) -> None:
    """Whatever is in a file that is read back, the answer is one line: data/reading.py sees to that."""
    found = {file.path for file in files() if file.calls & {*calls}}
    assert found <= PARSERS[calls]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["train", "csra", "--help"],
        *(["list", kind] for kind in ("methods", "recipes", "datasets", "weights")),
    ],
)
def test_command_line_starts_without_torch(arguments: list[str]) -> None:
    probe = (
        "import sys\nfrom attnbias.cli.app import main\nsys.argv = ['attnbias', *sys.argv[1:]]\n"
        "try:\n    main()\nexcept SystemExit as done:\n    assert not done.code, done.code\n"
        "heavy = {'torch', 'torchvision', 'timm', 'accelerate', 'numpy', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", probe, *arguments], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["list", "methods"]])
def test_the_start_needs_few_packages(arguments: list[str]) -> None:
    """What wheel_check.py tries in an empty environment: these commands run before the others can be installed."""
    probe = (
        "import sys\nbefore = set(sys.modules)\nfrom attnbias.cli.app import main\n"
        "sys.argv = ['attnbias', *sys.argv[1:]]\n"
        "try:\n    main()\nexcept SystemExit as done:\n    assert not done.code, done.code\n"
        "more = {'filelock', 'huggingface_hub', 'safetensors', 'scipy', 'pycocotools', 'requests'} & set(sys.modules)\n"
        "assert not more - before, more - before"
    )
    subprocess.run([sys.executable, "-c", probe, *arguments], check=True, stdout=subprocess.DEVNULL)


def test_only_attnbias_can_be_imported(tmp_path: Path) -> None:
    probe = "import importlib.util as u; assert not any(map(u.find_spec, ('cli', 'methods', 'weights')))"
    subprocess.run([sys.executable, "-c", probe], check=True, cwd=tmp_path)
    assert importlib.util.find_spec("attnbias") is not None


def test_no_binary_above_half_a_megabyte_is_tracked() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPO, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    large = [n for n in listed.stdout.split("\0") if n and (REPO / n).is_file() and (REPO / n).stat().st_size > 500_000]
    assert not large
