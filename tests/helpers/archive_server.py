"""A real HTTP server on loopback that serves bytes from memory, well or badly, as the tests ask."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class ArchiveServer(ThreadingHTTPServer):
    """Serves `files`; the other attributes say how.

    ranges: honour Range. break_after: bytes after which each answer's connection is cut (a list: one value an answer,
    None = whole, the last one stays in force). failures: how many requests are answered with 503 first. redirects: path
    -> where it is now.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.ranges = True
        self.break_after: list[int | None] = [None]
        self.failures = 0
        self.redirects: dict[str, str] = {}
        self.headers: dict[str, str] = {}
        """More headers of every answer."""
        self.tag: str | None = '"1"'
        self.content_length: str | None = None
        """What answers say of their length instead of the truth."""
        self.content_type = "application/octet-stream"
        self.requests: list[tuple[str, str | None]] = []
        """Path and Range header of every request."""
        self.hold = threading.Event()
        self.hold.set()
        """While cleared, answers stop after their first half."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/"


class _Handler(BaseHTTPRequestHandler):
    server: ArchiveServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server, asked = self.server, self.headers.get("Range")
        server.requests.append((self.path, asked))
        if self.path in server.redirects:
            self.send_response(302)
            self.send_header("Location", server.redirects[self.path])
            self.send_header("Content-Length", "0")
            return self.end_headers()
        content = server.files.get(self.path.lstrip("/"))
        if content is None:
            return self.send_error(404)
        if server.failures:
            server.failures -= 1
            return self.send_error(503)
        start = 0
        if asked and server.ranges and self.headers.get("If-Range") in (None, server.tag):
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                return self.end_headers()
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", server.content_length or str(len(content) - start))
        self.send_header("Content-Type", server.content_type)
        if server.tag:
            self.send_header("ETag", server.tag)
        for name, value in server.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return None
        limit = server.break_after.pop(0) if len(server.break_after) > 1 else server.break_after[0]
        body = content[start:] if limit is None else content[start : start + limit]
        self.wfile.write(body[: len(body) // 2])
        server.hold.wait(20)
        self.wfile.write(body[len(body) // 2 :])
        if limit is not None:
            self.close_connection = True
            self.connection.close()

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the tests' output clean."""


@contextmanager
def serving() -> Iterator[ArchiveServer]:
    """Run a server in a thread for the time of the block."""
    with ArchiveServer() as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield server
        finally:
            server.hold.set()
            server.shutdown()
