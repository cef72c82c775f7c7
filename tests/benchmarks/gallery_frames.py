"""How smooth a gallery of 2,000 images is, in headless Chromium without a GPU.

`python -m tests.benchmarks.gallery_frames` scrolls the page by 100, then by 300 pixels a frame. A frame's work is that
of the page's own thread: layout, scripts and paint. A screen shows 60 frames a second (16.7 ms).
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from attnbias.methods.engine.display.gallery import GalleryItem, GalleryPage, GalleryRun, View, thumbnail
from tests.helpers.browser import Browser

IMAGES, FRAMES, STEPS = 2000, 100, (100, 300)
CLASSES = tuple(f"class {number}" for number in range(20))

SCROLL = """
const done = arguments[0], times = [];
let last = performance.now();
const frame = (now) => {
  times.push(now - last);
  last = now;
  if (times.length > %d) return done(times.slice(1));
  scrollBy(0, %d);
  requestAnimationFrame(frame);
};
requestAnimationFrame(frame);"""


def page() -> GalleryPage:
    """Photograph-like noise of 360 x 270 pixels, two runs, maps of 14 x 14 of three classes each."""
    rng = np.random.default_rng(0)
    images = [
        thumbnail(Image.fromarray(rng.integers(0, 255, (18, 24, 3), np.uint8)).resize((640, 480))) for _ in range(50)
    ]
    items = []
    for number in range(IMAGES):
        labels = [int(label) for label in rng.choice(len(CLASSES), 3, replace=False)]
        views = tuple(
            View(
                dict(zip(labels, rng.random(3).tolist(), strict=True)),
                (labels[0],),
                {label: rng.random((14, 14), dtype=np.float32) for label in labels},
            )
            for _ in range(2)
        )
        items.append(GalleryItem(f"image {number:04d}.jpg", images[number % 50], views, (labels[1],)))
    runs = tuple(GalleryRun(name, "CSRA", f"runs/{name}", "score", "minmax", "as they are") for name in ("one", "two"))
    return GalleryPage("Frames", "drawn", "today", CLASSES, runs, tuple(items), threshold=0.5)


def devtools(browser: Browser, command: str, **how: str) -> Any:
    return browser.call("POST", "/goog/cdp/execute", {"cmd": command, "params": how})


def spent(browser: Browser) -> dict[str, float]:
    """Seconds of processor time that the page's thread has used, by kind of work."""
    metrics = {each["name"]: each["value"] for each in devtools(browser, "Performance.getMetrics")["metrics"]}
    return {name: metrics[name] for name in ("TaskDuration", "ScriptDuration", "LayoutDuration")}


def main() -> None:
    """Print the time until the page can be used, and the frames' times."""
    driver, chromium = shutil.which("chromedriver"), shutil.which("chromium") or shutil.which("google-chrome")
    if driver is None or chromium is None:
        sys.exit("chromium and chromedriver are missing")
    browser = Browser(driver, chromium)
    try:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "gallery.html"
            file.write_text(page().html(), encoding="utf-8")
            browser.open(file)
            opened = browser.run("return performance.getEntriesByType('navigation')[0].domComplete")
            devtools(browser, "Performance.enable", timeDomain="threadTicks")
            print(f"{IMAGES} images, {file.stat().st_size / 1e6:.0f} MB: open after {opened / 1000:.1f} s")
            for step in STEPS:
                say_frames(browser, step)
    finally:
        browser.close()


def say_frames(browser: Browser, step: int) -> None:
    """Scroll by so many pixels a frame, and print the frames' times and the work in them."""
    before = spent(browser)
    times = browser.call("POST", "/execute/async", {"script": SCROLL % (FRAMES, step), "args": []})
    work = {name: 1000 * (value - before[name]) / len(times) for name, value in spent(browser).items()}
    last = statistics.quantiles(times, n=20)[-1]
    print(
        f"{step} pixels a frame: median {statistics.median(times):.1f} ms, 95 % within {last:.1f} ms, longest "
        f"{max(times):.0f} ms; work {work['TaskDuration']:.1f} ms, of which scripts {work['ScriptDuration']:.1f} and "
        f"layout {work['LayoutDuration']:.1f}"
    )


if __name__ == "__main__":
    main()
