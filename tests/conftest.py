"""What every test shares: the `--goldens` option, one thread and one seed, and where real images lie."""

from __future__ import annotations

import gc
import os
import random
import shutil
import zlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

if TYPE_CHECKING:
    from tests.helpers.browser import Browser

HERE = Path(__file__).parent
pytest.register_assert_rewrite("tests.methods.contract")
# Every draw of a test is the same in every run: those of hypothesis here, the global generators below.
hypothesis.settings.register_profile("seeded", derandomize=True)
hypothesis.settings.load_profile("seeded")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--goldens",
        type=Path,
        default=None,
        metavar="DIR",
        help="folder of golden cases to hold the code against, large ones included (default: tests/goldens)",
    )


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Thousands of tests and what they import stay to the end: the collector of garbage never looks at them, and
    seldom at what tests leave behind."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()
        gc.set_threshold(10_000)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One worker more than cores: where tests wait, for a process, a deadline or a browser, another one computes."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # macOS has none
    return cores + 1


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Keep figures and timings independent of the number of cores."""
    import torch

    torch.set_num_threads(1)


def seed_generators(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed also keeps a traceback for GPUs that nobody uses


@pytest.fixture(autouse=True)
def seeded() -> None:
    """A test draws the same numbers alone, after any other, and on any worker."""
    seed_generators(0)


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any]) -> None:
    """So does a fixture that tests share, whichever of them asks for it first."""
    if fixturedef.scope != "function":
        seed_generators(zlib.crc32(fixturedef.argname.encode()))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of small real data sets in their official layouts, which stands beside a working copy, never in it."""
    folder = HERE.parent.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real images at {folder}")
    return folder


@pytest.fixture(scope="session", params=["drawn", pytest.param("photographs", marks=pytest.mark.slow)])
def coco_source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in COCO's layout: a set drawn by `helpers/drawn.py`, and, where they lie, 128 real photographs."""
    if request.param == "photographs":
        return Path(request.getfixturevalue("real_data")) / "coco128"
    from tests.helpers.drawn import draw_coco

    return draw_coco(tmp_path_factory.mktemp("drawn"))


@pytest.fixture(scope="session")
def demo_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with small demo sets (72 training and 24 evaluation images a split)."""
    from attnbias.data.prepare import prepare
    from attnbias.data.sets.contract import PrepareOptions

    root = tmp_path_factory.mktemp("datasets")
    for name in ("demo", "demo-single"):
        prepare(name, None, root, PrepareOptions(settings={"train": 72, "eval": 24}))
    return root


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Headless Chromium; skips where there is none."""
    from tests.helpers.browser import Browser

    driver, chromium = shutil.which("chromedriver"), shutil.which("chromium") or shutil.which("google-chrome")
    if driver is None or chromium is None:
        pytest.skip("no chromium and chromedriver on this machine")
    browser = Browser(driver, chromium)
    yield browser
    browser.close()
