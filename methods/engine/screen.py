"""What is said: lines, tables, JSON and bars on standard output, errors and logs on standard error. No torch.

The one place that prints. Texts are data (see `text.visible`): no markup is read in them, and each is one line. What a
command would print is `captured` for notebooks.
"""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

from rich import box
from rich.console import Console, RenderableType
from rich.markup import escape as literal
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table as RichTable
from rich.text import Text

from attnbias.methods.engine.errors import RunError
from attnbias.methods.engine.text import brief, html_paragraph, html_table, visible

__all__ = [
    "Captured",
    "Progress",
    "Table",
    "TaskID",
    "captured",
    "literal",
    "prepare_output",
    "say",
    "say_json",
    "styled",
    "training_bar",
    "waiting_bar",
]

WIDTH = 132
"""Letters a line of a table has in a file or pipe where COLUMNS does not say: several runs want more than 80."""


class _Console(Console):
    def __init__(self, error: bool = False) -> None:
        super().__init__(stderr=error, markup=False, emoji=False, highlight=False)
        if not self.is_terminal and "COLUMNS" not in os.environ:
            self.width = WIDTH

    def on_broken_pipe(self) -> None:
        """Go on without a word where nobody reads any more (`| head`): a run that trains must not end of it."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())

    def write(self, *content: RenderableType, soft_wrap: bool = False) -> None:
        """Print, or raise RunError where the stream takes no more."""
        try:
            self.print(*content, soft_wrap=soft_wrap)
        except OSError as error:
            raise RunError(f"cannot write to standard output: {error.strerror or error}") from None


def prepare_output() -> None:
    """Make a process ready to say anything: letters that an encoding does not have are escaped, logs go the way of
    errors."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if not any(isinstance(handler, _Log) for handler in logging.root.handlers):
        logging.root.addHandler(_Log())


class _Log(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage(), error=True)


def say(*lines: object, style: str = "", error: bool = False) -> None:
    """Print each text as a line of its own, however long; on standard error, which people read, no longer than that."""
    if not error and (page := _CAPTURED.get()) is not None:
        page.parts += [visible(line) for line in lines]
        return
    console = _Console(error)
    for line in lines:
        console.write(Text(visible(brief(line) if error else line), style), soft_wrap=True)


def say_json(content: object) -> None:
    """Print JSON, and nothing else, on standard output."""
    _Console().write(json.dumps(content, indent=1), soft_wrap=True)


def styled(text: object, style: str) -> Text:
    """A table's cell in a style of rich's, such as "bold yellow"."""
    return Text(visible(text), style)


class Table:
    """A table of texts: `column`s first, then `row`s, then `show`."""

    def __init__(self, *columns: str, title: str | None = None, header: bool = True, ruled: bool = False) -> None:
        self._title = title
        self._header = header
        self._columns: list[tuple[str, Literal["left", "right"]]] = []
        self._rows: list[list[str]] = []
        self._table = RichTable(
            box=box.SIMPLE if ruled else None,
            padding=(0, 1, 0, 0) if ruled else (0, 2, 0, 0),
            pad_edge=ruled,
            show_header=header,
        )
        for name in columns:
            self.column(name)

    def column(self, *lines: object, justify: Literal["left", "right"] = "left", no_wrap: bool = False) -> None:
        """Add a column, each text a line of its head. What does not fit is folded, never cut off."""
        head = Text("\n".join(map(visible, lines)))
        self._columns.append((head.plain, justify))
        self._table.add_column(head, justify=justify, no_wrap=no_wrap, overflow="fold")

    def row(self, *cells: object, style: str | None = None) -> None:
        """Add a row; `styled` cells keep their style."""
        texts = [cell if isinstance(cell, Text) else Text(visible(cell)) for cell in cells]
        self._rows.append([text.plain for text in texts])
        self._table.add_row(*texts, style=style)

    def section(self) -> None:
        """Draw a line before the next row."""
        self._table.add_section()

    def show(self) -> None:
        """Print it on standard output, below its title."""
        if (page := _CAPTURED.get()) is not None:
            page.parts.append(self)
            return
        self.write(_Console())

    def write(self, console: _Console) -> None:
        """Print it on a console, below its title."""
        if self._title is not None:
            console.write(Text(visible(self._title), "italic"), soft_wrap=True)
        console.write(self._table)

    def html(self) -> str:
        """The table for a notebook, below its title."""
        title = html_paragraph(self._title) if self._title else ""
        rows = [[*row, *[""] * (len(self._columns) - len(row))] for row in self._rows]
        return title + html_table(self._columns, rows, header=self._header)


class Captured:
    """What would have been printed on standard output: lines and tables, as text and as HTML for notebooks."""

    def __init__(self) -> None:
        self.parts: list[str | Table] = []

    def text(self) -> str:
        """As it would have been printed into a file."""
        console = _Console()
        console.file = io.StringIO()
        console.width = WIDTH
        for part in self.parts:
            if isinstance(part, Table):
                part.write(console)
            else:
                console.write(Text(part), soft_wrap=True)
        return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())

    def html(self) -> str:
        """Tables, and lines between them."""
        return "".join(part.html() if isinstance(part, Table) else html_paragraph(part) for part in self.parts)


_CAPTURED: ContextVar[Captured | None] = ContextVar("captured", default=None)


@contextmanager
def captured() -> Iterator[Captured]:
    """Keep what is said and shown within the block, in the place of printing it; errors are printed."""
    page = Captured()
    token = _CAPTURED.set(page)
    try:
        yield page
    finally:
        _CAPTURED.reset(token)


def waiting_bar(*, error: bool = False) -> Progress:
    """A bar a task on a terminal, nothing elsewhere; a task's description is data."""
    console = _Console(error)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def training_bar() -> Progress | None:
    """The bar of a run on a terminal, None elsewhere; its task has the fields epoch, epochs, speed and loss."""
    console = _Console()
    if not console.is_terminal:
        return None
    return Progress(
        TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]:.0f} img/s  loss {task.fields[loss]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )
