"""A real browser for tests of pages: headless Chromium by the W3C WebDriver protocol, on local files and servers."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

DRAWN = "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 0)))"


class Browser:
    """A few calls of the W3C WebDriver protocol."""

    def __init__(self, driver: str, chromium: str) -> None:
        self.process = subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, text=True)
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        assert self.process.stdout
        started = r"started successfully on port (\d+)"
        port = next(found[1] for line in self.process.stdout if (found := re.search(started, line)))
        self.url = f"http://127.0.0.1:{port}/session"
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000"]
        options = {
            "timeouts": {"implicit": 10_000},  # ms in which what is drawn lazily may come before it is clicked
            "goog:chromeOptions": {"binary": chromium, "args": arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        try:
            self.url += "/" + self.call("POST", "", {"capabilities": {"alwaysMatch": options}})["sessionId"]
        except BaseException:
            self.close()
            raise

    def call(self, verb: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"}, method=verb)
        with self.opener.open(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def open(self, page: Path) -> None:
        self.visit(page.resolve().as_uri())

    def visit(self, url: str) -> None:
        """Open a page, and wait for its first frames: what is drawn when it comes into the window is there then."""
        self.call("POST", "/url", {"url": url})
        self.call("POST", "/execute/async", {"script": DRAWN, "args": []})

    def show(self, css: str) -> None:
        """Scroll to an element, and wait until it is drawn."""
        self.run(f"document.querySelector({css!r}).scrollIntoView()")
        self.call("POST", "/execute/async", {"script": DRAWN, "args": []})

    def run(self, script: str) -> Any:
        return self.call("POST", "/execute/sync", {"script": script, "args": []})

    def click(self, css: str) -> None:
        self.call("POST", f"/element/{self._find(css)}/click", {})

    def type(self, css: str, keys: str) -> None:
        self.call("POST", f"/element/{self._find(css)}/value", {"text": keys})

    def press(self, keys: str) -> None:
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self.call("POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})

    def complaints(self) -> list[str]:
        lines = self.call("POST", "/se/log", {"type": "browser"})
        return [line["message"] for line in lines if line["level"] == "SEVERE"]

    def close(self) -> None:
        with contextlib.suppress(OSError):  # ends the browser, which outlives its driver otherwise
            self.call("DELETE", "")
        self.process.terminate()
        self.process.wait()
        assert self.process.stdout
        self.process.stdout.close()

    def _find(self, css: str) -> str:
        return next(iter(self.call("POST", "/element", {"using": "css selector", "value": css}).values()))
