"""The learning curves of README.md, out of the demo's report: `make demo && python -m tests.helpers.learning_curves`.

Chromium draws the report's own section; 32 colours are enough for lines.
"""

from __future__ import annotations

import base64
import io
import shutil
import sys
from pathlib import Path

from PIL import Image

from tests.helpers.accessibility import colour_scheme
from tests.helpers.browser import Browser

REPO = Path(__file__).parents[2]
REPORT, PICTURE = REPO / "demo" / "report" / "report.html", REPO / "methods" / "csra" / "learning-curves.png"
COLOURS = 32

PLACE = """
const { left, top, width, height } = document.getElementById('curves').getBoundingClientRect();
return { x: left + scrollX - 12, y: top + scrollY - 6, width: width + 24, height: height + 12, scale: 1 };"""


def draw(browser: Browser, report: Path) -> Image.Image:
    """The section on how the runs learned, light, with some ground around it."""
    with colour_scheme(browser, "light"):
        browser.open(report)
        how = {"clip": browser.run(PLACE), "captureBeyondViewport": True}
        taken = browser.call("POST", "/goog/cdp/execute", {"cmd": "Page.captureScreenshot", "params": how})
    return Image.open(io.BytesIO(base64.b64decode(taken["data"]))).convert("RGB").quantize(COLOURS)


def main() -> None:
    """Draw the picture again."""
    driver, chromium = shutil.which("chromedriver"), shutil.which("chromium") or shutil.which("google-chrome")
    if driver is None or chromium is None:
        sys.exit("chromium and chromedriver are missing")
    if not REPORT.is_file():
        sys.exit(f"{REPORT} is missing; run: make demo")
    browser = Browser(driver, chromium)
    try:
        draw(browser, REPORT).save(PICTURE, optimize=True)
    finally:
        browser.close()


if __name__ == "__main__":
    main()
