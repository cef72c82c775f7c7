"""Whether everyone can use a page: contrast, names of what can be operated, and axe-core's rules.

`make axe` brings axe-core; its tests are skipped where it is missing, and say so.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.browser import Browser

AXE = Path(__file__).parents[2] / "node_modules" / "axe-core" / "axe.min.js"

needs_axe = pytest.mark.skipif(not AXE.is_file(), reason="axe-core is missing; run: make axe")

CONTRAST = """
const part = (value) => (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
const luminance = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
const colour = (text) => text.match(/[\\d.]+/g).map(Number);
const ground = (node) => {
  for (let one = node; one; one = one.parentElement) {
    const found = colour(getComputedStyle(one).backgroundColor);
    if (found.length === 3) return found;
  }
  return [255, 255, 255];
};
const low = [];
let seen = 0;
for (const node of document.querySelectorAll('body *:not(script):not(noscript)')) {
  const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
  if (!own || node.closest('.stage, .hidden-text, .enlarge') || !node.checkVisibility()) continue;
  seen += 1;
  const both = [colour(getComputedStyle(node).color), ground(node)];
  const [one, other] = both.map(luminance).sort((a, b) => b - a);
  const ratio = (one + 0.05) / (other + 0.05);
  if (ratio < 4.5) low.push([node.className, node.textContent.slice(0, 30), ratio]);
}
return [seen, low];"""

NAMELESS = """
const named = (node) => node.ariaLabel || node.textContent.trim() || node.title || node.alt
  || [...(node.labels ?? [])].some((label) => label.textContent.trim());
return [...document.querySelectorAll('button, input, select, a, img, summary, [role]:not([aria-hidden]), dialog')]
  .filter((node) => node.checkVisibility() && !named(node)).map((node) => node.outerHTML.slice(0, 80));"""


@contextmanager
def colour_scheme(browser: Browser, scheme: str) -> Iterator[None]:
    """What a person's system prefers: light or dark."""

    def prefer(features: list[dict[str, str]]) -> None:
        call = {"cmd": "Emulation.setEmulatedMedia", "params": {"features": features}}
        browser.call("POST", "/goog/cdp/execute", call)

    prefer([{"name": "prefers-color-scheme", "value": scheme}])
    try:
        yield
    finally:
        prefer([])


def low_contrast(browser: Browser) -> list[Any]:
    """Texts whose contrast to what lies below them is less than 4.5 (WCAG 2.1, 1.4.3)."""
    seen, low = browser.run(CONTRAST)
    assert seen > 20
    return low


def nameless(browser: Browser) -> list[str]:
    """What can be operated or seen and has no name (WCAG 2.1, 4.1.2 and 1.1.1)."""
    return browser.run(NAMELESS)


def serious_findings(browser: Browser) -> list[str]:
    """What axe-core finds to be serious or critical, in light and dark, also of what is folded."""
    return [found for scheme in ("light", "dark") for found in _findings(browser, scheme)]


def _findings(browser: Browser, scheme: str) -> list[str]:
    with colour_scheme(browser, scheme):
        browser.run("for (const folded of document.querySelectorAll('details')) folded.open = true")
        browser.run(AXE.read_text() + "; window.axe = axe;")
        found = browser.run("return axe.run().then((result) => result.violations)")
    grave = [each for each in found if each["impact"] in ("serious", "critical")]
    return [f"{scheme}: {each['id']}: {each['nodes'][0]['html'][:120]}" for each in grave]
