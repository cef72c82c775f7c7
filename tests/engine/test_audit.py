"""An audit: figures are plain means of samples.csv, checks go by intervals, answers are made of figures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import attnbias
from attnbias.methods.engine.audit.answer import answer
from attnbias.methods.engine.audit.checks import Condition, checks
from attnbias.methods.engine.audit.figures import Table
from attnbias.methods.engine.audit.measures import MEASURES
from attnbias.methods.engine.audit.pairs_and_groups import groups, pairs
from attnbias.methods.engine.audit.result import Audit, Causes, Figure, Sample
from attnbias.methods.engine.audit.trust import judge
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.text import read_csv
from tests.helpers import measure_tables
from tests.helpers.small_model import DIGITS, write_model

README = Path(__file__).parents[2] / "methods" / "engine" / "audit" / "README.md"
NOTHING = Causes((), (), (), (), {})
Rows = list[dict[str, str]]


@pytest.fixture(scope="module")
def audited(demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Audit, Path]:
    """An untrained model on the demo set, whose classes it names by a low score; and the folder that was written."""
    folder = tmp_path_factory.mktemp("audited")
    weights = write_model(folder / "model.safetensors", image_size=32)
    out = folder / "audit"
    found = attnbias.audit(weights, "demo", out=out, data_root=demo_root, device="cpu", faithfulness=4)
    return found, out


@pytest.fixture(scope="module")
def rows(audited: tuple[Audit, Path]) -> Rows:
    header, *lines = read_csv(audited[1] / "samples.csv")
    return [dict(zip(header, line, strict=True)) for line in lines]


def mean(rows: Rows, over: str, under: str = "") -> float:
    """By plain NumPy, of the rows that have both."""
    kept = [row for row in rows if row[over] and (not under or row[under])]
    value = np.mean([float(row[over]) for row in kept])
    return float(value / np.mean([float(row[under]) for row in kept])) if under else float(value)


COLUMNS = {measure.name: measure for measure in MEASURES if measure.over and "right" not in measure.over}


def test_figures_are_plain_means_of_the_table_of_samples(audited: tuple[Audit, Path], rows: Rows) -> None:
    found = {figure.name: figure for figure in audited[0].figures}
    assert {*COLUMNS} <= {*found}
    for name, measure in COLUMNS.items():
        figure = found[name]
        assert figure.value == pytest.approx(mean(rows, measure.over, measure.under), rel=1e-6), name
        assert figure.interval_95 is not None
        assert figure.interval_95[0] <= figure.value <= figure.interval_95[1]
        if measure.chance:
            assert figure.chance == pytest.approx(mean(rows, measure.chance, measure.under), rel=1e-6), name
        assert figure.n == sum(bool(row[measure.over]) for row in rows)
    true = [row for row in rows if row["class"]]
    assert found["accuracy"].value == pytest.approx(np.mean([row["right"] == "1" for row in true]))
    for row in true:
        named = [DIGITS[int(number)] for number in row["predicted"].split()]
        assert (row["class"] in named) == (row["right"] == "1") == (float(row["score"]) >= 0.5)


def test_the_two_by_two_counts_every_measured_object_once(audited: tuple[Audit, Path], rows: Rows) -> None:
    cells = audited[0].quadrants
    listed = sorted(row for cell in cells for row in cell.samples)
    assert listed == [number for number, row in enumerate(rows) if row["position_biased"]]
    assert sum(cell.count for cell in cells) == audited[0].about.measured_objects
    for cell in cells:
        assert len(cell.samples) == cell.count == round((cell.figure.value or 0) * cell.figure.n)
        for number in cell.samples:
            assert (rows[number]["right"] == "1", rows[number]["position_biased"] == "0") == (
                cell.right,
                cell.on_object,
            )


def test_classes_and_parts_are_means_of_their_own_samples(audited: tuple[Audit, Path], rows: Rows) -> None:
    found, out = audited
    header, *lines = read_csv(out / "classes.csv")
    table = {line[0]: dict(zip(header, line, strict=True)) for line in lines}
    assert [line[0] for line in lines] == [each.name for each in found.classes]
    for each in found.classes:
        own = [row for row in rows if row["class"] == each.name]
        assert each.objects == len(own) == int(table[each.name]["objects"])
        assert each.on_object is not None
        assert each.on_object.value == pytest.approx(mean(own, "energy"), rel=1e-6)
        assert each.context_only is not None
        assert each.context_only.value == pytest.approx(mean(own, "context_only", "probability"), rel=1e-6)
        assert float(table[each.name]["on_object"]) == pytest.approx(each.on_object.value, rel=1e-6)
        assert each.too_small == (len(own) < 10)
    for part in found.subsets:
        own = [rows[number] for number in part.samples]
        energy = next((figure for figure in part.figures if figure.name == "energy"), None)
        assert energy is not None
        assert energy.value == pytest.approx(mean(own, "energy"), rel=1e-6), part.name
    sizes = [part for part in found.subsets if part.family == "object size"]
    assert sorted(row for part in sizes for row in part.samples) == list(range(len(rows)))


def test_every_word_of_an_answer_and_of_a_suggestion_rests_on_a_figure(audited: tuple[Audit, Path]) -> None:
    found = audited[0]
    known = {figure.name for figure in found.figures} | {each.figure.name for each in found.causes.properties}
    assert 1 <= len(found.answer) <= 3
    assert len(found.suggestions) <= 3
    for names in (*(each.rests_on for each in found.answer), *(each.because for each in found.suggestions)):
        assert names
        assert {*names} <= known
    assert all(each.command.startswith("attnbias ") for each in found.suggestions)


# Checks ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "state"),
    [
        ("energy>0.1", "fails"),
        ("energy>0.25", "undecided"),
        ("energy>0.3", "holds"),
        ("energy>=0.2", "fails"),
        ("energy>0.2", "undecided"),
        ("energy>=0.3", "undecided"),
        ("energy<0.4", "fails"),
        ("energy < 0.25", "undecided"),
        ("energy<0.2", "holds"),
        ("energy<=0.3", "fails"),
        ("energy<=0.2", "undecided"),
    ],
)
def test_a_condition_fails_only_where_the_whole_interval_lies_beyond(typed: str, state: str) -> None:
    assert Condition.of(typed).state((0.2, 0.3)) == state


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("position_bias>0.2", "did you mean 'position_biased'?"),
        ("position_biased", "expected FIGURE>NUMBER"),
        ("position_biased>a", "a is not a number"),
        ("position_biased>nan", "nan is not a number"),
        ("", "expected FIGURE>NUMBER"),
    ],
)
def test_a_condition_that_is_none_is_named_with_the_nearest_figure(typed: str, words: str) -> None:
    with pytest.raises(UsageError) as refused:
        Condition.of(typed)
    assert words in str(refused.value)
    if "did you" in words:
        assert all(measure.name in str(refused.value) for measure in MEASURES)


@pytest.mark.parametrize(
    ("better", "edges", "state"),
    [
        ("lower", (0.1, 0.2), "holds"),
        ("lower", (0.4, 0.5), "fails"),
        ("lower", (0.2, 0.4), "undecided"),
        ("lower", (0.3, 0.4), "undecided"),
        ("higher", (0.4, 0.5), "holds"),
        ("higher", (0.1, 0.2), "fails"),
    ],
)
def test_what_covers_chance_is_undecided(better: str, edges: tuple[float, float], state: str) -> None:
    assert replace(figure("energy", None, edges), better=better).beside(0.3) == state


def figure(name: str, value: float | None, edges: tuple[float, float] | None, chance: float | None = None) -> Figure:
    measure = next(each for each in MEASURES if each.name == name)
    return Figure(name, measure.words, measure.family, value, edges, 40, better=measure.better, chance=chance)


def test_what_was_not_measured_is_said_with_its_reason_and_does_not_pass() -> None:
    asked = [Condition.of("energy>0.1"), Condition.of("accuracy<0.5")]
    found = checks(asked, [figure("accuracy", 1.0, None)], NOTHING, {"attention": "no masks"})
    states = {check.name: (check.state, check.reason) for check in found}
    assert states["energy>0.1"] == ("not run", "no masks")
    assert states["accuracy<0.5"] == ("undecided", "a single image says nothing of the spread")
    assert states["position_biased"] == ("not run", "no masks")


@pytest.mark.parametrize(
    ("edges", "words"),
    [
        ((0.1, 0.2), "less often than the map at the middle (30 %)"),
        ((0.2, 0.4), "not distinguishable from looking at the middle (30 %)"),
        ((0.4, 0.5), "more often than the map at the middle (30 %)"),
        (None, "not distinguishable from looking at the middle (30 %)"),
    ],
)
def test_an_answer_says_what_the_interval_allows(
    audited: tuple[Audit, Path], edges: tuple[float, float] | None, words: str
) -> None:
    about = audited[0].about
    (first,) = answer(about, {"position_biased": figure("position_biased", 0.25, edges, 0.3)}, NOTHING, None)
    assert words in first.text
    assert first.rests_on == ("position_biased",)


# Trust ----------------------------------------------------------------------------------------------------------------


def test_a_map_that_fails_one_test_is_not_trusted() -> None:
    good = {
        "deletion_gain": figure("deletion_gain", 0.2, (0.1, 0.3)),
        "insertion_gain": figure("insertion_gain", 0.2, (0.1, 0.3)),
        "agreement": figure("agreement", 0.5, (0.4, 0.6)),
        "untrained_agreement": figure("untrained_agreement", 0.1, (0.0, 0.2)),
        "shift_agreement": figure("shift_agreement", 0.9, (0.8, 1.0)),
    }
    assert judge(good, "").verdict == "passes"
    kept = judge({**good, "untrained_agreement": figure("untrained_agreement", 0.9, (0.8, 1.0))}, "")
    assert (kept.verdict, kept.text) == ("fails", "The map cannot be trusted: it fails untrained_agreement.")
    unsure = judge({**good, "agreement": figure("agreement", 0.1, (-0.1, 0.3))}, "")
    assert unsure.verdict == "undecided"
    untested = judge({}, "no image has a true class")
    assert untested.verdict == "not run"
    assert {entry.reason for entry in untested.entries} == {"no image has a true class"}
    assert figure("agreement", 1.0, None).beside(0) == "undecided"


# Company --------------------------------------------------------------------------------------------------------------


def test_a_class_that_is_named_by_its_company_is_found_and_another_is_not() -> None:
    """Cups stand on tables in half of their images, and are named only there; dogs are named wherever they are."""
    targets = np.array([[1, 1, 0], [1, 0, 0], [0, 1, 1], [0, 0, 1]] * 30)
    samples = [
        Sample(image, f"{image}.jpg", label, label == 2 or bool(row[1]), (), 0.5, "", {})
        for image, row in enumerate(targets)
        for label in np.flatnonzero(row).tolist()
    ]
    found = {
        pair.name: pair for pair in pairs(Table(samples), targets, np.arange(len(targets)), ("cup", "table", "dog"))
    }
    cup, dog = found["cup"], found["dog"]
    assert (cup.context, cup.together.value, cup.alone.value, cup.sure) == ("table", 1.0, 0.0, True)
    assert (dog.difference.value, dog.sure) == (0.0, False)


def test_the_worst_group_is_of_those_that_are_large_enough_and_is_held_against_its_class() -> None:
    counts = {("day", True): 30, ("day", False): 2, ("night", True): 5, ("night", False): 25, ("fog", False): 3}
    samples = [
        Sample(number, f"{number}.jpg", 0, right, (), 0.5, group, {})
        for number, (group, right) in enumerate(key for key, count in counts.items() for _ in range(count))
    ]
    found = {group.name: group for group in groups(Table(samples), ("car",))}
    assert found["car, night"].accuracy.value == pytest.approx(5 / 30)
    assert [(name, each.worst, each.sure, each.too_small) for name, each in found.items()] == [
        ("car, night", True, True, False),
        ("car, day", False, False, False),
        ("car, fog", False, False, True),
    ]


def test_the_result_leaves_no_number_that_json_does_not_have(audited: tuple[Audit, Path]) -> None:
    broken = replace(audited[0], figures=(figure("energy", float("nan"), (0.0, float("inf"))),))
    (only,) = broken.content()["figures"]
    assert (only["value"], only["interval_95"]) == (None, [0.0, None])


def test_the_documentation_lists_every_figure() -> None:
    assert measure_tables.audit() in README.read_text(encoding="utf-8")
