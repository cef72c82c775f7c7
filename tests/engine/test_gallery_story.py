"""The gallery tells what was found: what it opens on, its first sentence, its bars, orders, search, zoom and print."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attnbias.methods.engine.display.gallery import (
    GalleryItem,
    GalleryPage,
    GalleryRun,
    ShareBox,
    View,
    headline,
    opening_class,
)
from attnbias.methods.engine.display.writer import words_beside
from tests.helpers.accessibility import colour_scheme, low_contrast, nameless, needs_axe, serious_findings
from tests.helpers.browser import Browser

CLASSES = ("cat", "dog", "bird")


def spot(row: int, column: int) -> np.ndarray:
    heat = np.zeros((8, 8), dtype=np.float32)
    heat[row, column] = 1
    return heat


MAPS = {0: spot(1, 1), 1: spot(6, 6), 2: spot(1, 6)}
BOXES = (ShareBox(0, 0.1, 0.1, 0.3, 0.3), ShareBox(1, 0.0, 0.0, 0.3, 0.3))


def view(scores: tuple[float, ...], strength: float = 1.0) -> View:
    """A view that names what it scores at least 0.5; its maps had this maximum."""
    predicted = tuple(label for label, score in enumerate(scores) if score >= 0.5)
    return View(dict(enumerate(scores)), predicted, MAPS, ranges=dict.fromkeys(MAPS, (0.0, strength)))


def item(name: str, true: tuple[int, ...], *views: View, suggested: Mapping[int, str] | None = None) -> GalleryItem:
    return GalleryItem(name, Image.new("RGB", (120, 90), "teal"), views, true, (), BOXES, suggested or {})


def run(name: str, metric: float | None = None) -> GalleryRun:
    accuracy = None if metric is None else ("mAP", metric)
    return GalleryRun(name, "CSRA", f"runs/{name}", "score: of the class", "minmax", "as they are", accuracy=accuracy)


def a_page() -> GalleryPage:
    """Four images: on `both` the two runs are right, on the others the second run is wrong in one way or another."""
    came = {2: "96% of the training images with tree had it"}
    items = (
        item("both.jpg", (0,), view((0.9, 0.1, 0.2)), view((0.8, 0.1, 0.2))),
        item("added.jpg", (0,), view((0.9, 0.1, 0.2)), view((0.7, 0.6, 0.95), 0.25), suggested=came),
        item("missed.jpg", (0, 1), view((0.9, 0.8, 0.2)), view((0.6, 0.3, 0.1))),
        item("last.jpg", (1,), view((0.1, 0.55, 0.2)), view((0.1, 0.5, 0.2))),
    )
    runs = (run("ours", 84.0), run("plain", 41.4))
    return GalleryPage("Where they look", "demo, split counter", "2026-11-29", CLASSES, runs, items, threshold=0.5)


def opened(browser: Browser, folder: Path, page: GalleryPage | None = None) -> Browser:
    file = folder / "gallery.html"
    file.write_text((page or a_page()).html(), encoding="utf-8")
    browser.open(file)
    return browser


# In words -------------------------------------------------------------------------------------------------------------


def test_one_sentence_says_who_is_how_right_and_what_suggests_the_labels_that_are_added() -> None:
    assert headline(a_page()) == (
        "On these 4 images, ours reaches mAP 84 and adds 0 labels that are not there; plain reaches mAP 41 and adds 2 "
        "labels that are not there, 1 of them suggested by what else is in the image."
    )


def test_of_one_label_an_image_the_sentence_counts_images() -> None:
    items = (
        item("a", (0,), view((0.9, 0.1, 0.0))),
        item("b", (1,), view((0.6, 0.3, 0.1)), suggested={0: "sky"}),
    )
    page = GalleryPage("t", "s", "d", CLASSES, (run("r"),), items)
    assert headline(page) == (
        "On these 2 images, r is right on 1 and wrong on 1, 1 of them suggested by what else is in the image."
    )


@pytest.mark.parametrize(
    ("true", "scores", "opens"),
    [
        ((1,), [(0.1, 0.9, 0.2)], 1),  # right: its true class
        ((0,), [(0.9, 0.6, 0.7)], 2),  # of two that are added the one of the higher score
        ((0,), [(0.9, 0.6, 0.1), (0.9, 0.1, 0.8)], 2),  # whichever run adds it
        ((0, 1), [(0.9, 0.3, 0.1)], 1),  # missed
        ((0, 1), [(0.1, 0.3, 0.1)], 0),  # the one that is missed most
        ((0,), [(0.1, 0.2, 0.6)], 2),  # added before missed: its map tells what was seen instead
    ],
)
def test_an_image_opens_on_its_worst_class(true: tuple[int, ...], scores: list[tuple[float, ...]], opens: int) -> None:
    found = item("x", true, *map(view, scores))
    # The maps are drawn with the true classes first, as `predict_samples` orders them.
    ordered = {label: MAPS[label] for label in (*true, *MAPS)}
    views = tuple(View(each.scores, each.predicted, ordered) for each in found.views)
    assert opening_class(GalleryItem("x", found.image, views, true)) == opens


def test_a_sheet_marks_true_and_added_classes_and_explains_an_empty_map() -> None:
    empty = replace(view((0.1, 0.6, 0.2)), maps={**MAPS, 1: np.zeros((8, 8), np.float32)})
    image = item("x", (0,), view((0.9, 0.1, 0.2)), empty)
    columns = ("ours", "plain")
    assert words_beside(image, columns, 0) == ["a true class", "ours: 0.90, found", "plain: 0.10, missed"]
    nowhere = "the map is 0 everywhere: no place speaks for the class"
    assert words_beside(image, columns, 1) == [
        "not a true class",
        "ours: 0.10, refused",
        f"plain: 0.60, added, {nowhere}",
    ]
    own = replace(image, true=None, views=image.views[:1])
    assert words_beside(own, columns[:1], 0) == ["0.90"]


# In a browser ---------------------------------------------------------------------------------------------------------

NAMES = "return [...document.querySelectorAll('.card')].filter(c => !c.hidden).map(c => c.dataset.name)"


def test_the_class_that_is_open_and_the_verdict_stand_on_each_card(browser: Browser, tmp_path: Path) -> None:
    opened(browser, tmp_path)
    cards = browser.run(
        """return Object.fromEntries([...document.querySelectorAll('.card')].map(card => [card.dataset.name, [
        card.querySelector('.chips input:checked').parentElement.innerText,
        ...[...card.querySelectorAll('.verdict span')].map(s => s.textContent)]]))"""
    )
    assert cards["both.jpg"] == ["cat", "\u2713 right", "\u2713 right"]
    assert cards["added.jpg"] == ["bird", "\u2713 right", "\u2715 2 added"]
    assert cards["missed.jpg"] == ["dog", "\u2713 all 2 labels", "\u2715 1 missed"]
    words = browser.run("return document.querySelector('[data-name=\"added.jpg\"] .suggested').textContent")
    assert words == "bird: 96% of the training images with tree had it"
    assert browser.complaints() == []


def test_bars_tell_four_outcomes_apart_and_lie_beside_their_figures(browser: Browser, tmp_path: Path) -> None:
    opened(browser, tmp_path)
    rows = browser.run(
        """const card = document.querySelector('[data-name="added.jpg"]');
        return [...card.querySelectorAll('.scores li')].map(row => {
          const bar = row.querySelector('.bar').getBoundingClientRect();
          const mark = row.querySelector('.bar b').getBoundingClientRect();
          const figure = document.createRange(); figure.selectNodeContents(row.lastChild);
          return [row.innerText.split(/\\s+/).join(' '), figure.getBoundingClientRect().left >= bar.right,
            Math.round(100 * (mark.left - bar.left) / bar.width),
            getComputedStyle(row.querySelector('.bar i')).background];
        })"""
    )
    assert [row[0] for row in rows] == [
        *("cat found 0.90", "bird refused 0.20", "dog refused 0.10"),
        *("bird added 0.95", "cat found 0.70", "dog added 0.60"),
    ]
    assert all(beside for _, beside, *_ in rows)
    assert {place for *_, place, _ in rows} <= {49, 50, 51}
    assert len({rows[0][3], rows[1][3], rows[3][3]}) == 3


def test_images_are_sorted_and_found(browser: Browser, tmp_path: Path) -> None:
    opened(browser, tmp_path)
    orders = {
        "score": ["missed.jpg", "last.jpg", "added.jpg", "both.jpg"],
        "difference": ["added.jpg", "missed.jpg", "both.jpg", "last.jpg"],
        "given": ["both.jpg", "added.jpg", "missed.jpg", "last.jpg"],
    }
    for value, names in orders.items():
        browser.click(f"#sort option[value={value}]")
        assert browser.run(NAMES) == names
    browser.type("#search", "A")
    assert browser.run(NAMES) == ["added.jpg", "last.jpg"]
    assert browser.run("return document.getElementById('count').textContent") == "2 of 4 images"


def test_maps_off_their_object_come_first(browser: Browser, tmp_path: Path) -> None:
    """The map of class 0 lies in its box, that of class 1 does not."""
    on, off = (
        GalleryItem(name, Image.new("RGB", (80, 80)), (View({n: 0.9}, (n,), {n: MAPS[n]}),), (n,), (), (BOXES[n],))
        for n, name in enumerate(("on", "off"))
    )
    opened(browser, tmp_path, GalleryPage("t", "s", "d", CLASSES, (run("r"),), (on, off), threshold=0.5))
    assert browser.run(NAMES) == ["on", "off"]
    browser.click("#sort option[value=off]")
    assert browser.run(NAMES) == ["off", "on"]


ALPHA = """
const canvas = document.querySelector('[data-name="added.jpg"]').querySelectorAll('.heat')[%d];
const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
return Math.max(...data.filter((_, place) => place %% 4 === 3));"""


def test_a_shared_scale_shows_how_strong_a_map_is(browser: Browser, tmp_path: Path) -> None:
    opened(browser, tmp_path)
    assert [browser.run(ALPHA % n) > 240 for n in (0, 1)] == [True, True]
    browser.click("#scale option[value=shared]")  # the second run's maps reach a quarter of the first one's
    strong, weak = (browser.run(ALPHA % n) for n in (0, 1))
    assert strong > 240
    assert 55 <= weak <= 66


def test_an_image_is_enlarged_by_click_and_by_key_and_shows_itself_without_the_map(
    browser: Browser, tmp_path: Path
) -> None:
    opened(browser, tmp_path)
    words = "return document.querySelector('#zoom p').textContent"
    shown = "return document.getElementById('zoom').open"
    browser.click('[data-name="added.jpg"] figure:nth-of-type(2) .stage')
    assert browser.run(words) == (
        "plain: bird \u00b7 added \u00b7 score 0.95 \u00b7 96% of the training images with tree had it \u00b7 added.jpg"
    )
    wide = "return document.querySelector('%s').getBoundingClientRect().width"
    assert browser.run(wide % "#zoom .stage") > 2 * browser.run(wide % ".card .stage")
    heat = "return getComputedStyle(document.querySelector('#zoom .heat')).display"
    assert browser.run(heat) == "block"
    browser.press("m")
    assert browser.run(heat) == "none"
    browser.press("mj")
    assert "missed.jpg" in browser.run(words)
    browser.press("\ue014")  # the next class
    assert browser.run(words).startswith("plain: bird")
    browser.press("\ue00c")  # escape
    assert not browser.run(shown)
    assert browser.run("return document.activeElement.dataset.name") == "missed.jpg"
    browser.press("kz")
    assert browser.run(words).startswith("ours: bird")
    browser.press("\ue00c")
    assert browser.complaints() == []


def test_two_thousand_images_open_at_once_and_only_those_near_the_window_are_drawn(
    browser: Browser, tmp_path: Path
) -> None:
    first = a_page()
    items = tuple(
        item(f"image {n:04d}.jpg", (n % 3,), view((0.9, 0.1, 0.6)), view((0.8, 0.2, 0.1))) for n in range(2000)
    )
    opened(browser, tmp_path, GalleryPage("t", "s", "d", CLASSES, first.runs, items, threshold=0.5))
    drawn = "return document.querySelectorAll('.card canvas').length / 4"
    assert browser.run("return document.querySelectorAll('.card').length") == 2000
    assert 0 < browser.run(drawn) < 100
    seen = []
    for place in (0.25, 0.5, 0.99):
        browser.run(f"scrollTo(0, {place} * document.body.scrollHeight)")
        visible = """const wait = requestAnimationFrame;
        return new Promise((done) => wait(() => wait(() => setTimeout(() => {
          const below = (card) => card.getBoundingClientRect().bottom > innerHeight / 2;
          const card = [...document.querySelectorAll('.card')].find(below);
          done([card.dataset.name, card.querySelectorAll('canvas').length]);
        }))))"""
        seen.append(browser.run(visible))
    assert all(count == 4 for _, count in seen)
    assert len({name for name, _ in seen}) == 3
    assert browser.run(drawn) < 100
    browser.type("#search", "image 1999")
    assert browser.run(NAMES) == ["image 1999.jpg"]


def many(count: int) -> GalleryPage:
    """Tall images of noise, of which few are near the window."""
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 255, (160, 40, 3), dtype=np.uint8)) for _ in range(count)]
    items = tuple(GalleryItem(f"{n}.jpg", image, (view((0.9, 0.1, 0.2)),), (0,)) for n, image in enumerate(images))
    return GalleryPage("t", "s", "d", CLASSES, (run("r"),), items, threshold=0.5)


def test_all_images_are_drawn_before_they_are_printed(browser: Browser, tmp_path: Path) -> None:
    opened(browser, tmp_path, many(40))
    drawn = "return document.querySelectorAll('.card canvas').length / 2"
    assert browser.run(drawn) < 40
    browser.run("dispatchEvent(new Event('beforeprint'))")
    assert browser.run(drawn) == 40
    browser.run("dispatchEvent(new Event('afterprint'))")
    assert browser.run(drawn) < 40


@pytest.mark.slow
def test_all_images_and_maps_are_printed(browser: Browser, tmp_path: Path) -> None:
    """Also those that the window has never come near."""
    opened(browser, tmp_path, many(16))
    assert browser.run("return document.querySelectorAll('.card canvas').length") < 2 * 16
    printed = browser.call("POST", "/goog/cdp/execute", {"cmd": "Page.printToPDF", "params": {"printBackground": True}})
    pictures = re.findall(rb"/Subtype\s*/Image", base64.b64decode(printed["data"]))
    assert len(pictures) >= 2 * 16  # the image and its map


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everyone_can_read_and_operate_the_page(browser: Browser, tmp_path: Path, scheme: str) -> None:
    with colour_scheme(browser, scheme):
        opened(browser, tmp_path)
        assert low_contrast(browser) == []
        assert nameless(browser) == []


@needs_axe
def test_axe_finds_nothing_serious(browser: Browser, tmp_path: Path) -> None:
    opened(browser, tmp_path)
    assert serious_findings(browser) == []
    browser.click('[data-name="added.jpg"] figure:nth-of-type(2) .stage')
    assert serious_findings(browser) == []


def test_a_phone_shows_the_whole_width(browser: Browser, tmp_path: Path) -> None:
    size = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.call("POST", "/goog/cdp/execute", {"cmd": "Emulation.setDeviceMetricsOverride", "params": size})
    try:
        opened(browser, tmp_path)
        assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
        assert browser.run("return document.getElementById('headline').getBoundingClientRect().bottom < innerHeight")
    finally:
        browser.call("POST", "/goog/cdp/execute", {"cmd": "Emulation.clearDeviceMetricsOverride", "params": {}})
