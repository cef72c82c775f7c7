"""report.html of an audit: which pictures it shows, what it says first, and that it works in a real browser."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest

from attnbias.methods.engine.audit.examples import choose, shown
from attnbias.methods.engine.audit.page import audit_page
from tests.helpers.accessibility import colour_scheme, low_contrast, needs_axe, serious_findings
from tests.helpers.audits import audit, gallery_items, trust
from tests.helpers.browser import Browser

HOSTILE = ("<b>bird</b></script><script>alert(1)</script>", "dog\u202egpj", "cat\x1b[31m\n", "=1+1", "", "a" * 300)


def content(page: str) -> dict[str, Any]:
    found = re.search(r'id="page">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])


# Which pictures -------------------------------------------------------------------------------------------------------


def test_a_finding_shows_its_four_clearest_images_and_four_are_drawn_by_chance() -> None:
    whole = audit(images=60)
    found = {finding.name: finding for finding in whole.pictures}
    assert all(len(finding.examples) <= 4 for finding in whole.pictures)
    samples = [whole.samples[example.sample] for example in found["right-elsewhere"].examples]
    assert all(sample.right and sample.values["position_biased"] == 1 for sample in samples)
    elsewhere = [s.score for s in whole.samples if s.right and s.values["position_biased"] == 1]
    assert [sample.score for sample in samples] == sorted(elsewhere, reverse=True)[:4]
    assert "seed 0" in found["random"].how
    first, again, other = (
        choose(whole.samples, whole.quadrants, whole.causes, whole.about.classes, seed)[-1] for seed in (0, 0, 1)
    )
    assert first == again == found["random"]
    assert {example.sample for example in other.examples} != {example.sample for example in first.examples}


def test_the_random_four_are_of_all_images_alike_whatever_was_found_on_them() -> None:
    whole = audit(images=20)
    drawn: dict[int, int] = dict.fromkeys(range(20), 0)
    for seed in range(400):
        for example in choose(whole.samples, whole.quadrants, whole.causes, whole.about.classes, seed)[-1].examples:
            drawn[whole.samples[example.sample].image] += 1
    assert all(45 <= count <= 120 for count in drawn.values())  # 80 each; below 45 or above 120 once in 10,000


def test_before_and_after_show_the_objects_that_changed_most_in_each_way() -> None:
    """Of 24 objects the second half is looked at as before; every third one is on the object now."""
    whole = audit()
    assert whole.against is not None
    found = {finding.name: finding for finding in whole.against.pictures}
    assert set(found) == {"to-object", "now-right"}  # nothing became worse
    rows = [example.sample for example in found["to-object"].examples]
    assert rows == [0, 3, 6, 9]
    assert found["to-object"].how == "all 4 such objects"
    assert {whole.samples[each.sample].image % 4 for each in found["now-right"].examples} == {0}
    assert found["now-right"].how.startswith("the 4 of 6 such objects")
    said = found["to-object"].examples[1].says
    assert said.startswith("before: score 0.20, 0 % of the map on the object")
    assert "; after: score 0.40, 30 % of the map on the object" in said


# What the file is -----------------------------------------------------------------------------------------------------


def test_the_page_needs_no_other_file_no_network_and_no_script_for_its_answer() -> None:
    whole = audit()
    page = audit_page(whole, gallery_items(whole))
    assert not re.search(r"(src|href)\s*=\s*[\"']?\w|@import|url\(|fetch\(|https?://", page)
    assert "default-src 'none'" in page
    assert "{{" not in page
    static = page[: page.index("<script")].replace("\u00a0", " ")
    assert all(sentence.text in static for sentence in whole.answer)
    for said in ("5f3c5f3c5f3c", "demo", "24 of 48 images", "gradcam at layer4", "masks (measured)", "attnbias audit"):
        assert said in static


def test_names_cannot_become_markup_or_turn_the_text() -> None:
    whole = audit(HOSTILE)
    page = audit_page(whole, gallery_items(whole))
    assert "alert(1)</script>" not in page
    assert page.count("</script>") == 2
    assert "\u202e" not in page
    assert "\x1b" not in page


def test_a_page_of_a_thousand_classes_and_many_large_images_stays_below_three_megabytes() -> None:
    whole = audit(tuple(f"class {number} of a thousand" for number in range(1000)), images=10_000)
    page = audit_page(whole, gallery_items(whole, side=(240, 180)))
    assert len(page.encode()) < 3_000_000
    told = content(page)
    assert len(told["rows"]) == 1000
    assert len(told["pictures"]) > 0.8 * len(shown(whole))  # of noise, which is the most that a JPEG can have to keep


def test_images_that_there_is_no_room_for_are_left_out_the_last_ones_first(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = audit()
    monkeypatch.setattr("attnbias.methods.engine.audit.page.IMAGE_BYTES", 60_000)
    told = content(audit_page(whole, gallery_items(whole)))
    kept = [int(position) for position in told["pictures"]]
    assert 0 < len(kept) < len(shown(whole))
    assert set(kept) == set(shown(whole)[: len(kept)])
    entries = [entry for cell in told["quadrants"] for entry in cell["pictures"]]
    assert {entry["image"] for entry in entries} <= set(kept)


# In a browser ---------------------------------------------------------------------------------------------------------


def opened(browser: Browser, folder: Path, whole: Any = None) -> Browser:
    whole = whole or audit()
    page = folder / "report.html"
    page.write_text(audit_page(whole, gallery_items(whole)), encoding="utf-8")
    browser.open(page)
    return browser


def test_the_sections_stand_in_the_order_of_a_report_without_complaints(browser: Browser, tmp_path: Path) -> None:
    opened(browser, tmp_path)
    assert browser.run("return [...document.querySelectorAll('main > section:not([hidden])')].map(s => s.id)") == [
        *("answer", "trust", "checks", "right-and-looking", "scores", "classes", "causes", "pictures", "subsets"),
        *("against", "try", "method"),
    ]
    levels = browser.run("return [...document.querySelectorAll('h1, h2, h3')].map(h => Number(h.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(deeper - level <= 1 for level, deeper in itertools.pairwise(levels))
    assert browser.run("return [...document.querySelectorAll('th')].every(th => th.scope)")
    assert browser.run("return [...document.images].every(i => i.alt && i.complete && i.naturalWidth > 0)")
    assert (
        browser.run("return performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length")
        == 0
    )
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
    assert browser.complaints() == []


def test_before_and_after_stand_side_by_side_each_with_its_own_map(browser: Browser, tmp_path: Path) -> None:
    opened(browser, tmp_path)
    pairs = browser.run(
        """const node = document.querySelector('#against .example'); node.scrollIntoView(); node.paint();
        const highest = (canvas) => {
          const { data, width } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
          const sums = Array.from({length: data.length / 4}, (_, i) => data[4 * i] + data[4 * i + 1] + data[4 * i + 2]);
          return (sums.indexOf(Math.max(...sums)) % width) / width;
        };
        return [...node.querySelectorAll('.pair > div')].map((view) => [view.querySelector('.of').innerText,
          highest(view.querySelector('.heat')), view.getBoundingClientRect().left]);"""
    )
    (before, after), words = pairs, [words for words, *_ in pairs]
    assert [text.split(":")[0] for text in words] == ["before", "after"]
    assert "not predicted, score 0.30" in words[0]
    assert "true, predicted, score 0.60" in words[1]
    assert before[1] > 0.5 > after[1]  # their spots lie at opposite corners
    assert before[2] < after[2]
    assert browser.complaints() == []


def test_a_map_that_cannot_be_trusted_is_said_before_anything_else(browser: Browser, tmp_path: Path) -> None:
    opened(browser, tmp_path, audit(trust=trust("fails")))
    first = browser.run("return document.querySelector('main > section:not([hidden])').textContent")
    assert first.startswith("The map cannot be trusted here")
    assert "no better than chance" in first
    opened(browser, tmp_path)
    assert browser.run("return document.getElementById('warning').hidden")


def test_a_check_tells_its_condition_value_interval_chance_threshold_and_state(
    browser: Browser, tmp_path: Path
) -> None:
    opened(browser, tmp_path)
    rows = browser.run(
        "return [...document.querySelectorAll('#checks tbody tr')].map(r => [...r.children].map(c => c.innerText))"
    )
    said = [" ".join(" ".join(row).replace("\u00a0", " ").split()) for row in rows]
    assert said[0] == (
        "looks at at most 20 % of the objects are wholly outside the focus lower is better \u2193 "
        "share of objects wholly outside the focus \u2715 fails "
        "41 % 33 to 49 % 22 % the map at the middle 240 objects measured 20 % typed: --fail-if"
    )
    assert ["\u2713 holds" in said[1], "? undecided" in said[2], "\u2013 not run" in said[3]] == [True] * 3
    assert "relies on" in said[2]
    assert "estimated" in said[2]


def test_a_cell_opens_its_pictures_with_their_maps(browser: Browser, tmp_path: Path) -> None:
    opened(browser, tmp_path)
    assert browser.run("return [...document.querySelectorAll('.cell b')].map(b => b.textContent)") == [
        "4",
        "8",
        "4",
        "8",
    ]
    browser.click('[data-cell="false-false"]')
    names = "return [...document.querySelectorAll('#cell-pictures .example')].map(e => e.textContent)"
    assert len(browser.run(names)) == 8
    assert all("\u2715 wrong" in text for text in browser.run(names))
    # An image that is wrong has two maps: that of its true class, and that of the class that is named instead.
    peaks = """
    const example = document.querySelector('#cell-pictures .example'); example.paint();
    return [...example.querySelectorAll('.heat')].map((canvas) => {
      const {data, width} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
      let best = 3;
      for (let at = 3; at < data.length; at += 4) if (data[at] > data[best]) best = at;
      return ((best - 3) / 4 % width) / width;
    });"""
    assert browser.run(peaks) == pytest.approx([1.5 / 7, 5.5 / 7], abs=0.03)
    browser.click('[data-cell="false-false"]')
    assert browser.run(names) == []


def test_classes_are_sorted_by_click_and_by_keyboard_and_found_by_name(browser: Browser, tmp_path: Path) -> None:
    classes = tuple(f"class {number}" for number in range(30))
    opened(browser, tmp_path, audit(classes))
    values = "return [...document.querySelectorAll('#classes tbody tr')].map(r => parseFloat(r.children[2].innerText))"
    sort = "#classes thead th:nth-child(3) button"
    browser.click(sort)
    assert browser.run(values) == sorted(browser.run(values))
    assert browser.run("return document.querySelector('#classes th:nth-child(3)').ariaSort") == "ascending"
    browser.press("\ue007")  # enter, on the heading that has the focus
    assert browser.run(values) == sorted(browser.run(values), reverse=True)
    assert browser.run("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    browser.type("#class-filter", "class 2")
    assert browser.run("return document.querySelectorAll('#classes tbody tr').length") == 11
    few = "return [...document.querySelectorAll('#classes tr.few th')].every(h => h.textContent.includes('too few'))"
    assert browser.run(few)


def test_a_thousand_classes_are_drawn_as_they_are_needed(browser: Browser, tmp_path: Path) -> None:
    opened(browser, tmp_path, audit(tuple(f"class {number}" for number in range(1000)), images=200))
    count = "return document.querySelectorAll('#classes tbody tr').length"
    assert browser.run(count) == 100
    browser.click("#classes .more")
    assert browser.run(count) == 200
    browser.click("#classes th:nth-child(2) button")  # objects, the most first: of all classes, not of those drawn
    assert browser.run(count) == 100
    assert browser.run("return document.querySelector('#classes tbody td').textContent") == "1,018"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read_in_light_and_dark(browser: Browser, tmp_path: Path, scheme: str) -> None:
    with colour_scheme(browser, scheme):
        opened(browser, tmp_path)
        assert low_contrast(browser) == []


def test_hostile_names_and_an_audit_without_objects_are_harmless(browser: Browser, tmp_path: Path) -> None:
    opened(browser, tmp_path, audit(HOSTILE))
    assert browser.run("return document.querySelectorAll('td b, th b').length > 0")
    assert HOSTILE[0] in browser.run("return document.getElementById('classes').textContent")
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
    nothing: dict[str, Any] = {"quadrants": (), "scores": (), "subsets": (), "pictures": (), "against": None}
    opened(browser, tmp_path, audit(HOSTILE[3:4], **nothing, checks=(), suggestions=(), limits=(), answer=()))
    assert browser.run("return [...document.querySelectorAll('main > section:not([hidden])')].map(s => s.id)") == [
        *("answer", "trust", "classes", "causes", "method")
    ]
    assert browser.complaints() == []


@needs_axe
def test_axe_finds_nothing_serious(browser: Browser, tmp_path: Path) -> None:
    opened(browser, tmp_path)
    assert serious_findings(browser) == []
