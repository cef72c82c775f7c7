"""What the page of `attnbias explore` sends, sent by a test; and what it sends back."""

from __future__ import annotations

import base64
import io
import json
import re
from http.client import HTTPConnection, HTTPResponse
from typing import Any
from urllib.parse import urlsplit

from PIL import Image

JSON, BYTES = "application/json", "application/octet-stream"


def answered(url: str, verb: str, path: str, body: bytes | None = None, **headers: str) -> tuple[HTTPResponse, bytes]:
    """Send a request; headers are as given, `_` for `-`, in the place of what a browser would send."""
    to = urlsplit(url)
    sent = {"Host": to.netloc} | {name.replace("_", "-"): value for name, value in headers.items()}
    connection = HTTPConnection(to.hostname or "", to.port, timeout=60)
    connection.request(verb, path, body, sent)
    answer = connection.getresponse()
    return answer, answer.read()


def content(url: str) -> dict[str, Any]:
    """What the page knows when it opens."""
    answer, page = answered(url, "GET", "/")
    assert answer.status == 200
    found = re.search(r'id="page">(.*?)</script>', page.decode(), re.DOTALL)
    assert found
    return json.loads(found[1])


def send(url: str, path: str, body: bytes | dict[str, Any]) -> Any:
    """What the page is sent back, which must not be a refusal: JSON, of /png its bytes."""
    kind, sent = (BYTES, body) if isinstance(body, bytes) else (JSON, json.dumps(body).encode())
    answer, found = answered(url, "POST", path, sent, Content_Type=kind, Origin=url.rstrip("/"))
    assert answer.status == 200, found
    return json.loads(found) if answer.headers["Content-Type"] == JSON else found


def refusal(url: str, path: str, body: bytes | dict[str, Any], **headers: str) -> tuple[int, str]:
    """The status of a refusal, and its one line."""
    kind, sent = (BYTES, body) if isinstance(body, bytes) else (JSON, json.dumps(body).encode())
    answer, found = answered(url, "POST", path, sent, **{"Content_Type": kind, **headers})
    assert answer.status != 200
    (line,) = json.loads(found)["error"].split("\n")
    return answer.status, line


def file_of(image: Image.Image, kind: str = "PNG", **how: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def mask_of(size: tuple[int, int], box: tuple[int, int, int, int]) -> str:
    """A mask that is painted within a box, as the page sends it."""
    mask = Image.new("RGBA", size)
    mask.paste((214, 0, 111, 255), box)
    return base64.b64encode(file_of(mask)).decode()


def levels(answer: dict[str, Any]) -> bytes:
    """The map of an answer, 0..255."""
    return base64.b64decode(answer["map"]["data"])
