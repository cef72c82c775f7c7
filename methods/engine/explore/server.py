"""A page that a machine serves to its own browser: what is let in, and what becomes of errors. It knows no models.

Any site that a person has open may send requests to a port of the same machine. So a request is answered only where it
names this server (a site may let its own name lead here: DNS rebinding), comes from the page itself (its origin), says
how long it is, and is no longer than what it is for. No path is read from a request, and nothing is logged.
"""

from __future__ import annotations

import ipaddress
import json
import socket
import sys
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import NamedTuple
from urllib.parse import urlsplit

from attnbias.data.reading import Json
from attnbias.methods.engine.describe import describe
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.screen import say
from attnbias.methods.engine.text import all_visible

JSON, BYTES, HTML = "application/json", "application/octet-stream", "text/html; charset=utf-8"

SILENCE = 30.0
"""Seconds that a browser may keep a connection without a word: they open some in advance."""

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Route(NamedTuple):
    """What answers one address."""

    reads: str
    """The type of what is sent to it."""
    largest: int
    """Bytes of the most that may be."""
    answer: Callable[[bytes], Json | bytes]


class PageServer(ThreadingTCPServer):
    """Serves one page, and what its script asks for, a thread for each request.

    Raises:
        UsageError: nothing can be served at this address and port.
    """

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False

    def __init__(self, host: str, port: int, page: str, routes: Mapping[str, Route]) -> None:
        self.page, self.routes = page.encode(), routes
        self.host = host.lower()
        try:
            self.address_family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            super().__init__((str(address[0]), port), _Handler)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or error
            free = "; leave --port out for a free one" if port else ""
            raise UsageError(f"--host {host} --port {port}: nothing can be served there ({reason}){free}") from None
        self.is_local = ipaddress.ip_address(str(self.server_address[0])).is_loopback
        """Whether only this machine can reach it."""

    @property
    def url(self) -> str:
        """Where the page is."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.server_address[1]}/"

    def is_named(self, host: str) -> bool:
        """Whether a request's Host is this server: an address, which no other site can have as its name, localhost, or
        the name that was typed. The port is any, as behind a tunnel."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
            if name in ("localhost", self.host):
                return True
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or not self.is_local

    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that went away is not an error; what else failed is said."""
        error = sys.exception()
        if error is not None and not isinstance(error, OSError):
            say(describe(error)[1], error=True)


class _Refused(Exception):
    """A request that is not answered: with which status, and why."""

    def __init__(self, status: HTTPStatus, words: str) -> None:
        super().__init__(words)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    timeout = SILENCE
    server_version, sys_version = "attnbias", ""

    def do_GET(self) -> None:
        self._answer(self._page, HTML)

    def do_POST(self) -> None:
        self._answer(self._routed, BYTES)

    def _page(self) -> bytes:
        if self.path != "/":
            raise _Refused(HTTPStatus.NOT_FOUND, "there is only one page, /")
        return self.server.page

    def _routed(self) -> Json | bytes:
        route = self.server.routes.get(self.path)
        if route is None:
            raise _Refused(HTTPStatus.NOT_FOUND, "nothing answers at this address")
        if self.headers.get("Origin", f"http://{self.headers['Host']}") != f"http://{self.headers['Host']}":
            raise _Refused(HTTPStatus.FORBIDDEN, "requests of other sites are refused")
        if self.headers.get_content_type() != route.reads:
            raise _Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"expected {route.reads}")
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdecimal()):
            raise _Refused(HTTPStatus.LENGTH_REQUIRED, "a request says how long it is")
        if len(length) > 12 or int(length) > route.largest:
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"expected at most {route.largest >> 20} MB")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise _Refused(HTTPStatus.BAD_REQUEST, "the request ended in its middle")
        return route.answer(body)

    def _answer(self, find: Callable[[], Json | bytes], kind: str) -> None:
        """Send what is found, bytes as of a kind; or one line about why there is nothing."""
        try:
            names = self.headers.get_all("Host", [])
            if len(names) != 1 or not self.server.is_named(names[0]):
                raise _Refused(HTTPStatus.FORBIDDEN, f"this server is {self.server.url}, and is asked by no other name")
            found: Json | bytes = find()
            status = HTTPStatus.OK
        except _Refused as refused:
            found, status = {"error": str(refused)}, refused.status
        except (ConnectionError, TimeoutError):  # nobody is there to be answered
            raise
        except Exception as error:
            found, status = _failed(error)
        if isinstance(found, bytes):
            content = found
        else:
            content, kind = json.dumps(all_visible(found)).encode(), JSON
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *values: object) -> None:
        """Nothing is logged."""


def _failed(error: Exception) -> tuple[Json, HTTPStatus]:
    """One line for the page about what a person can mend; a fault of the program is said on the screen as well."""
    code, words = describe(error)
    if code == 1:
        say(*words.split("\n"), error=True)
    line = words.split("\n")[-1].removeprefix("error: ")
    return {"error": line}, HTTPStatus.INTERNAL_SERVER_ERROR if code == 1 else HTTPStatus.BAD_REQUEST
