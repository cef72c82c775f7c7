"""What is said: lines, tables, JSON and bars on standard output, errors and logs on standard error. No torch.

The one place that prints. Texts are data (see `text.visible`): no markup is read in them, and each is one line. What a
command would print is `captured` for notebooks.
"""

from __future__ import annotations

import io
import json
import logging
import os
import stat
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from datetime import timedelta
from typing import Literal, Protocol, Self, TypeVar

from rich import box
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.markup import escape as literal
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.style import StyleType
from rich.table import Table as RichTable
from rich.text import Text

from attnbias.data.progress import ProgressCallback, silent
from attnbias.methods.engine.errors import RunError
from attnbias.methods.engine.text import brief, html_paragraph, html_table, visible

__all__ = [
    "Captured",
    "OptionTable",
    "Table",
    "TrainingBar",
    "captured",
    "counted",
    "literal",
    "prepare_output",
    "progress",
    "say",
    "say_json",
    "styled",
]

T_co = TypeVar("T_co", covariant=True)

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
    """A table of texts: `column`s first, then `row`s, then `show`. The first `names` columns are not broken: what
    stands there is to be typed."""

    def __init__(
        self, *columns: str, title: str | None = None, header: bool = True, ruled: bool = False, names: int = 0
    ) -> None:
        self._title = title
        self._header = header
        self._columns: list[tuple[str, Literal["left", "right"]]] = []
        self._rows: list[list[str]] = []
        self._gap = 1 if ruled else 2
        self._table = RichTable(
            box=box.SIMPLE if ruled else None,
            padding=(0, self._gap, 0, 0),
            pad_edge=ruled,
            show_header=header,
        )
        for number, name in enumerate(columns):
            self.column(name, no_wrap=number < names)

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
        self._fit(console.width)
        console.write(self._table)

    def _fit(self, width: int) -> None:
        """Share out a screen that is too narrow: while there is room for them no word is broken, then long ones are."""
        drawn = self._table.columns
        heads = [head for head, _ in self._columns]
        rows = [heads, *self._rows] if self._header else self._rows
        columns = [[row[place] for row in rows if place < len(row)] for place in range(len(drawn))]
        whole = [max((cell_len(line) for cell in cells for line in cell.splitlines()), default=1) for cells in columns]
        words = [max((cell_len(word) for cell in cells for word in cell.split()), default=1) for cells in columns]
        words = [line if column.no_wrap else word for column, line, word in zip(drawn, whole, words, strict=True)]
        names = [line if column.no_wrap else 1 for column, line in zip(drawn, whole, strict=True)]
        between = self._gap * (len(drawn) if self._table.pad_edge else len(drawn) - 1)
        room = width - between - (len(drawn) + 1 if self._table.box else 0)
        if sum(whole) > room:
            given = _shared(words, whole, room) if sum(words) <= room else _shared(names, words, room)
            for column, each in zip(drawn, given, strict=True):
                column.width = each

    def html(self) -> str:
        """The table for a notebook, below its title."""
        title = html_paragraph(self._title) if self._title else ""
        rows = [[*row, *[""] * (len(self._columns) - len(row))] for row in self._rows]
        return title + html_table(self._columns, rows, header=self._header)


def _shared(least: Sequence[int], wanted: Sequence[int], room: int) -> list[int]:
    """A width for each column, that together have room: the widest give way first, none below its least."""
    for most in range(max(wanted), 0, -1):
        given = [max(low, min(high, most)) for low, high in zip(least, wanted, strict=True)]
        if sum(given) <= room:
            break
    return given


class OptionTable(RichTable):
    """Typer's table of options (long and short names, those of --no-, values, what it does), where a --no- stands below
    its name and nothing is cut off; of commands, which is narrow, as it is."""

    def add_row(self, *cells: RenderableType | None, style: StyleType | None = None, end_section: bool = False) -> None:
        if len(cells) >= 6:
            *marks, long, short, no_long, no_short, values, text = cells
            pairs = [
                [name for name in pair if isinstance(name, Text) and name]
                for pair in ((long, no_long), (short, no_short))
            ]
            cells = (*marks, *(Text("\n").join(pair) for pair in pairs), values, text)
        super().add_row(*cells, style=style, end_section=end_section)
        for column in self.columns:
            column.overflow = "fold"
        for column in self.columns[:-2]:
            column.no_wrap = True


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


# Progress -------------------------------------------------------------------------------------------------------------

PLAIN_EVERY = 30.0
"""Seconds between plain lines of progress, where there is no terminal."""

MOST_IMAGES = 10_000_000
"""What there is more of is bytes: no set has so many images."""


@contextmanager
def progress(*, shown: bool = True) -> Iterator[ProgressCallback]:
    """Give what is to be called with how far something is; those who wait see it on standard error.

    On a terminal a bar with the count, the rate and the time left, gone when all is done; elsewhere a plain line every
    30 s; nothing where standard error is a file. Within another one, or a training run, its bar goes on.
    """
    if not shown or (_on_a_terminal() is None):
        yield silent
        return
    outer = _TOLD.get()
    bar = outer if outer is not None else _Bar() if _on_a_terminal() else _PlainLines()
    token = _TOLD.set(bar)
    tasks: set[str] = set()

    def tell(what: str, done: int, total: int) -> None:
        tasks.add(what)
        bar.tell(what, done, total)

    try:
        with bar if outer is None else nullcontext():
            yield tell
    finally:
        _TOLD.reset(token)
        for what in tasks:
            bar.forget(what)


class Sized(Protocol[T_co]):
    """A list, or a loader, that knows its length."""

    def __iter__(self) -> Iterator[T_co]: ...

    def __len__(self) -> int: ...


@contextmanager
def counted(items: Sized[T_co], what: str, *, of: int | None = None, shown: bool = True) -> Iterator[Iterator[T_co]]:
    """Give the items one after the other, telling how far they are; each stands for as many of `of` things."""
    number, total = len(items), len(items) if of is None else of

    def told() -> Iterator[T_co]:
        for position, item in enumerate(items):
            tell(what, position * total // number, total)
            yield item

    with progress(shown=shown) as tell:
        yield told()


def _on_a_terminal() -> bool | None:
    """Whether standard error is a terminal; None where it is a file."""
    if sys.stderr.isatty():
        return True
    try:
        return None if stat.S_ISREG(os.fstat(sys.stderr.fileno()).st_mode) else False
    except (OSError, ValueError, AttributeError):
        return False


class _PlainLines:
    """A line every 30 s of whatever is told."""

    def __init__(self) -> None:
        self.last = time.monotonic()
        self.begun: dict[str, tuple[float, int]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def tell(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        since, first = self.begun.setdefault(what, (now, done))
        if now - self.last < PLAIN_EVERY:
            return
        self.last = now
        rate = (done - first) / max(now - since, 1e-9)
        left = f", {timedelta(seconds=round((total - done) / rate))} left" if rate > 0 else ""
        say(f"{what}: {_amount(done)} of {_amount(total)}, {_amount(rate)}/s{left}", error=True)

    def forget(self, what: str) -> None:
        self.begun.pop(what, None)


class _Bar:
    """A bar of each thing that is told, on a terminal; a description is data."""

    def __init__(self, console: _Console | None = None, *, transient: bool = True) -> None:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[count]}", markup=False),
            TextColumn("{task.fields[rate]}", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self.drawn = Progress(*columns, console=console or _Console(error=True), transient=transient)
        self.tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self.drawn.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.drawn.stop()

    def tell(self, what: str, done: int, total: int, rate: str | None = None) -> None:
        if what not in self.tasks:
            self.tasks[what] = self.drawn.add_task(visible(what), total=total, count="", rate="")
        task = self.tasks[what]
        speed = next((each.speed for each in self.drawn.tasks if each.id == task), None)
        told = rate if rate is not None else f"{_amount(speed)}/s" if speed else ""
        self.drawn.update(
            task, completed=done, total=total, count=f"{_amount(done)}/{_amount(total)}", rate=visible(told)
        )

    def rename(self, old: str, new: str) -> None:
        """Go on with a task under another description."""
        if old in self.tasks:
            self.tasks[new] = self.tasks.pop(old)
            self.drawn.update(self.tasks[new], description=visible(new))

    def forget(self, what: str) -> None:
        if what in self.tasks:
            self.drawn.remove_task(self.tasks.pop(what))


_TOLD: ContextVar[_Bar | _PlainLines | None] = ContextVar("told", default=None)


def _amount(number: float) -> str:
    return f"{number / 1e6:,.0f} MB" if number > MOST_IMAGES else f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


class TrainingBar:
    """The bar of a run on a terminal, with those of its evaluations below it; nothing elsewhere."""

    def __init__(self) -> None:
        self.bar = _Bar(_Console(), transient=False) if _Console().is_terminal else None
        self.what = ""

    def __enter__(self) -> Self:
        if self.bar:
            self.bar.__enter__()
            self.token = _TOLD.set(self.bar)
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar:
            _TOLD.reset(self.token)
            self.bar.__exit__()

    @property
    def shown(self) -> bool:
        """Whether there is a terminal that shows it."""
        return self.bar is not None

    def tell(self, what: str, done: int, total: int, rate: str) -> None:
        """Show how far the run is: `what` may change as it goes on."""
        if self.bar:
            if what != self.what:
                self.bar.rename(self.what, what)
                self.what = what
            self.bar.tell(what, done, total, rate)
