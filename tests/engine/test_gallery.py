"""The gallery page: self-contained, safe with any name, and alive in a real browser opened from the file system."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from attnbias.methods.engine.display.gallery import (
    THUMBNAIL,
    GalleryItem,
    GalleryPage,
    GalleryRun,
    ShareBox,
    View,
    thumbnail,
)
from tests.helpers.browser import Browser

CLASSES = ("cat", "dog", "<b>bird</b></script><script>alert(1)</script>")


def spot(row: int, column: int) -> np.ndarray:
    heat = np.zeros((8, 8), dtype=np.float32)
    heat[row, column] = 1
    return heat


def a_page() -> GalleryPage:
    """Three images, two runs: the first is right everywhere, the second only on the first image."""
    images = [Image.new("RGB", (120, 90), colour) for colour in ("teal", "tan", "gray")]
    truths = [(0,), (0, 1), (2,)]
    second = [(0,), (0,), (2, 1)]
    maps = {0: spot(1, 1), 1: spot(6, 6), 2: spot(1, 6)}
    items = []
    for position, (image, true, predicted) in enumerate(zip(images, truths, second, strict=True)):
        views = tuple(
            View({label: 0.9 if label in told else 0.2 for label in maps}, told, maps, frame)
            for told, frame in ((true, (0, 0, 1, 1)), (predicted, (0.125, 0, 0.75, 1)))
        )
        boxes = (ShareBox(0, 0.1, 0.1, 0.3, 0.3), ShareBox(1, 0.6, 0.6, 0.3, 0.3))
        items.append(GalleryItem(f"image {position}.jpg", image, views, true, (), boxes))
    runs = (
        GalleryRun(
            "csra",
            "CSRA (ICCV 2021)",
            "runs/csra",
            "attention: softmax over locations",
            "minmax",
            "as they are",
            {"lam": 0.5},
        ),
        GalleryRun(
            "plain",
            "CSRA (ICCV 2021)",
            "runs/plain",
            "attention: softmax over locations",
            "minmax",
            "as they are",
            {"lam": 0},
        ),
    )
    return GalleryPage("Where CSRA looks", "demo, split val", "2026-11-21", CLASSES, runs, tuple(items), opacity=0.5)


def test_the_page_needs_no_other_file_and_no_network() -> None:
    page = a_page().html()
    assert not re.search(r"(src|href)\s*=|@import|url\(|fetch\(|https?://", page)
    assert "default-src 'none'" in page
    assert "{{" not in page


def test_names_cannot_become_markup() -> None:
    page = a_page().html()
    assert "alert(1)</script>" not in page
    assert page.count("</script>") == 2


def test_what_must_be_known_is_written_into_the_page() -> None:
    content = page_content(a_page().html())
    run = content["runs"][0]
    assert (run["checkpoint"], run["recipe"]) == ("runs/csra", {"lam": "0.5"})
    assert all(run[name] for name in ("method", "map", "normalisation", "images"))
    assert (content["source"], content["date"]) == ("demo, split val", "2026-11-21")


def test_a_page_of_many_large_images_stays_small() -> None:
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 255, (60, 80, 3), dtype=np.uint8)).resize((2000, 1500))
    assert max(thumbnail(photo).size) == THUMBNAIL
    page = a_page()
    view = View({0: 0.5}, (0,), dict.fromkeys(range(3), rng.random((14, 14), dtype=np.float32)))
    items = (GalleryItem("photo", thumbnail(photo), (view, view), (0,)),) * 50
    assert len(GalleryPage("t", "s", "d", CLASSES, page.runs, items).html()) < 50 * 60_000


def page_content(page: str) -> dict[str, Any]:
    found = re.search(r'id="page">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found.group(1))


# In a browser ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Browser:
    page = tmp_path / "gallery.html"
    page.write_text(a_page().html(), encoding="utf-8")
    browser.open(page)
    return browser


SHOWN = "return [...document.querySelectorAll('.card')].filter(c => !c.hidden).map(c => c.dataset.name)"

PEAK = """
const canvas = document.querySelectorAll('.card')[0].querySelectorAll('.heat')[%d];
const {data, width, height} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
let best = 3;
for (let place = 3; place < data.length; place += 4) if (data[place] > data[best]) best = place;
const pixel = (best - 3) / 4;
return [Math.floor(pixel / width) / height, pixel %% width / width, data[best]];
"""


def peak(browser: Browser, run: int = 0) -> tuple[float, float]:
    row, column, alpha = browser.run(PEAK % run)
    assert alpha > 200
    return row, column


def test_the_page_shows_every_image_and_every_run_without_complaints(opened: Browser) -> None:
    assert opened.run(SHOWN) == ["image 0.jpg", "image 1.jpg", "image 2.jpg"]
    assert opened.run("return document.querySelectorAll('.card figure').length") == 6
    assert opened.run("return [...document.querySelectorAll('.run h2')].map(h => h.textContent)") == [
        "csra4 of 4 true labels found, 0 added \u00b7 3 of 3 images wholly right",
        "plain3 of 4 true labels found, 1 added \u00b7 1 of 3 images wholly right",
    ]
    assert "demo, split val" in opened.run("return document.getElementById('about').textContent")
    different = "return [...document.querySelectorAll('.run > dl dd:last-child')].map(dd => dd.textContent)"
    assert opened.run(different) == ["lam 0.5", "lam 0"]
    assert opened.run("return [...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert opened.run("return document.querySelector('#class').textContent").endswith(CLASSES[2])
    outside = "return performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length"
    assert opened.run(outside) == 0
    assert opened.complaints() == []


def test_a_class_chip_moves_the_attention_in_every_run(opened: Browser) -> None:
    assert peak(opened) == pytest.approx((1.5 / 8, 1.5 / 8), abs=0.02)
    opened.click(".card .chips label:nth-of-type(2)")
    for run in (0, 1):
        assert peak(opened, run) == pytest.approx((6.5 / 8, 6.5 / 8), abs=0.02)


def test_the_map_lies_on_the_part_of_the_image_that_the_run_saw(opened: Browser) -> None:
    place = """
    const frame = document.querySelectorAll('.frame')[%d].getBoundingClientRect();
    const image = document.querySelectorAll('.stage img')[%d].getBoundingClientRect();
    return [(frame.left - image.left) / image.width, frame.width / image.width, frame.height / image.height];"""
    assert opened.run(place % (0, 0)) == pytest.approx([0, 1, 1], abs=0.01)
    assert opened.run(place % (1, 1)) == pytest.approx([0.125, 0.75, 1], abs=0.01)


def test_filters_leave_the_images_they_name(opened: Browser) -> None:
    opened.click("button[value=wrong]")
    assert opened.run(SHOWN) == ["image 1.jpg", "image 2.jpg"]
    assert opened.run("return document.getElementById('count').textContent") == "2 of 3 images"
    opened.click("button[value=right]")
    assert opened.run(SHOWN) == ["image 0.jpg"]
    opened.click("button[value=differ]")
    assert opened.run(SHOWN) == ["image 1.jpg", "image 2.jpg"]
    opened.click("#class option[value='0']")  # on this class the two runs agree everywhere
    assert opened.run(SHOWN) == []
    assert not opened.run("return document.getElementById('empty').hidden")
    opened.click("button[value=all]")
    assert opened.run(SHOWN) == ["image 0.jpg", "image 1.jpg"]


def test_the_slider_changes_the_opacity_of_all_maps(opened: Browser) -> None:
    opacity = "return [...document.querySelectorAll('.heat')].map(h => Number(getComputedStyle(h).opacity))"
    assert opened.run(opacity) == [0.5] * 6
    opened.type("#opacity", "\ue014\ue014")  # two arrows to the right
    assert opened.run(opacity) == pytest.approx([0.6] * 6)
    assert opened.run("return document.getElementById('opacity-value').value") == "60 %"


def test_boxes_and_contour_come_and_go(opened: Browser) -> None:
    boxes = """return [...document.querySelector('.stage').querySelectorAll('.box')]
        .filter(box => !box.hidden).map(box => box.textContent)"""
    assert opened.run(boxes) == ["cat"]
    opened.click(".card .chips label:nth-of-type(2)")
    assert opened.run(boxes) == ["dog"]
    opened.click("#boxes option[value=all]")
    assert opened.run(boxes) == ["cat", "dog"]
    opened.click("#boxes option[value=off]")
    assert opened.run(boxes) == []
    contour = "return getComputedStyle(document.querySelector('.edge')).display"
    assert opened.run(contour) == "none"
    opened.click("#contour")
    assert opened.run(contour) == "block"


def test_the_keyboard_is_enough(opened: Browser) -> None:
    focused = "return document.activeElement.dataset.name"
    opened.press("jj")
    assert opened.run(focused) == "image 1.jpg"
    opened.press("k")
    assert opened.run(focused) == "image 0.jpg"
    opened.press("\ue014")  # arrow to the right: the next class
    assert peak(opened) == pytest.approx((6.5 / 8, 6.5 / 8), abs=0.02)
    opened.press("[c")
    assert opened.run("return document.getElementById('opacity').value") == "45"
    assert opened.run("return document.getElementById('contour').checked")


def test_images_without_labels_have_no_verdict_and_no_such_filter(browser: Browser, tmp_path: Path) -> None:
    view = View({1: 0.8}, (1,), {1: spot(2, 2)})
    item = GalleryItem("mine.jpg", Image.new("RGB", (80, 120), "navy"), (view,))
    page = tmp_path / "gallery.html"
    page.write_text(GalleryPage("t", "mine.jpg", "d", CLASSES, a_page().runs[:1], (item,)).html())
    browser.open(page)
    assert browser.run("return [...document.querySelectorAll('#filters button')].map(b => b.value)") == ["all"]
    assert browser.run("return document.querySelector('.verdict span').textContent") == ""
    assert browser.run("return document.getElementById('headline').textContent") == ""
    assert browser.complaints() == []
