"""Text from outside on its way out: a name of a class, file or key is data, never control code, markup or formula.

Whatever is written for people goes through here: lines and tables by `screen.py`, CSV files, Markdown, pages and plots.
"""

from __future__ import annotations

import csv
import html
import io
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from attnbias.data.atomic import replacing
from attnbias.data.reading import Unfit, read_text

LARGEST_TABLE = 2 << 30
"""Bytes of the largest CSV file that is read again."""

INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode categories that are shown as escapes: controls, directions and other formats, surrogates, line ends."""

JOINERS = "\u200c\u200d"
"""Formats that Persian, Indian scripts and emoji are written with."""

FORMULA = re.compile(r"'*[=+\-@\t\n\uff1d\uff0b\uff0d\uff20]")
"""How a cell begins that a spreadsheet would compute (OWASP, "CSV injection"), or that was quoted for that reason."""

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?(inf|nan)", re.ASCII | re.IGNORECASE)


LONGEST_NAME, LONGEST_LINE = 260, 2000
"""Letters that are shown of a name, as long as a file system's can be with marks around it, and of a whole line."""

LONG_NAME = re.compile(rf"[^\s/]{{{LONGEST_NAME + 1},}}")


def brief(text: object) -> str:
    """A line about an error, short enough to be read, whatever names a person or a file put into it.

    The beginning and the end stay: the end says what mends it. The path of any file stays whole.
    """
    words = LONG_NAME.sub(lambda name: _shortened(name[0], 80), str(text))
    return words if len(words) <= LONGEST_LINE else _shortened(words, LONGEST_LINE - 50)


def _shortened(words: str, letters: int) -> str:
    return f"{words[: letters // 2]}...({len(words):,} letters)...{words[-letters // 2 :]}"


def visible(text: object) -> str:
    r"""Return the text in one line that any terminal and file takes: `\n`, `\x1b`, `\u202e`, `\xff` as written here.

    A byte of a file name that is not an UTF-8 is shown as the byte.
    """
    words = str(text)
    return words if words.isprintable() else "".join(map(_visible_letter, words))


def _visible_letter(letter: str) -> str:
    if letter in JOINERS or unicodedata.category(letter) not in INVISIBLE:
        return letter
    byte = ord(letter) - 0xDC00  # os.fsdecode's surrogates
    return f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else letter.encode("unicode_escape").decode()


# CSV ------------------------------------------------------------------------------------------------------------------


def figure(value: float | None) -> str:
    """A figure of a table that programs read: eight significant digits, more than float32 tells apart."""
    return "" if value is None else f"{value:.8g}"


def write_csv(path: Path, rows: Iterable[Iterable[object]]) -> None:
    """Write rows as CSV in UTF-8; a text that a spreadsheet would compute begins with an apostrophe.

    Give numbers, or as texts that Python reads as numbers: they stay what they are.
    """
    with replacing(path) as file:
        csv.writer(file, lineterminator="\n").writerows(map(_csv_cell, row) for row in rows)


def read_csv(path: Path) -> Iterator[list[str]]:
    """The rows that `write_csv` wrote, as texts.

    Raises:
        OSError: the file is missing or not readable. Unfit: it is not such a table.
    """
    try:
        for row in csv.reader(io.StringIO(read_text(path, LARGEST_TABLE), newline="")):
            yield [cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell for cell in row]
    except csv.Error as error:
        raise Unfit(f"no valid CSV: {error}") from None


def csv_text(text: str) -> str:
    """The text as `read_csv` gives it back: what UTF-8 or a CSV reader does not take is spelled out."""
    return re.sub("[\0\r\ud800-\udfff]", lambda found: _visible_letter(found[0]), text)


def _csv_cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = csv_text(value)
    return "'" + text if FORMULA.match(text) and not NUMBER.fullmatch(text) else text


# Pages ----------------------------------------------------------------------------------------------------------------


def markdown_cell(text: object) -> str:
    """The text as a cell of a Markdown table."""
    return re.sub(r"([\\`*_{}\[\]<>|~$&#!])", r"\\\1", visible(text))


def html_text(text: object) -> str:
    """The text between HTML tags or in a quoted attribute."""
    return html.escape(visible(text))


def html_paragraph(text: object) -> str:
    """A line of text for a notebook."""
    return f"<p>{html_text(text)}</p>"


def html_table(
    columns: Sequence[tuple[str, str]], rows: Iterable[Iterable[object]], *, header: bool = True, pictures: bool = False
) -> str:
    """A table for a notebook.

    Args:
        columns: of each, its name, which may have several lines, and how it is aligned: "left" or "right".
        header: whether the names are shown.
        pictures: the first cell of each row is the address of a picture.
    """

    def line(tag: str, cells: Iterable[str]) -> str:
        pairs = zip(cells, columns, strict=True)
        return "".join(f'<{tag} style="text-align:{how}">{content}</{tag}>' for content, (_, how) in pairs)

    head = line("th", ("<br>".join(map(html_text, name.split("\n"))) for name, _ in columns))
    lines = [head] if header else []
    for row in rows:
        texts = list(map(html_text, row))
        lines.append(line("td", [f'<img src="{texts[0]}">', *texts[1:]] if pictures else texts))
    return "<table>" + "".join(f"<tr>{each}</tr>" for each in lines) + "</table>"


def html_frame(page: str) -> str:
    """A whole page, inside of a notebook."""
    return f'<iframe srcdoc="{html.escape(page)}" width="100%" height="640" frameborder="0"></iframe>'


def html_picture(address: str, text: object) -> str:
    """A picture for a notebook, below a line of text."""
    return f'<p>{html_text(text)}<br><img src="{html_text(address)}"></p>'


def json_in_script(content: object) -> str:
    """JSON inside a script element, where only "</" and "<!--" can end or derail the text."""
    return json.dumps(all_visible(content), separators=(",", ":")).replace("<", "\\u003c")


def all_visible(content: object) -> object:
    """Values for JSON in which every text is `visible`."""
    if isinstance(content, str):
        return visible(content)
    if isinstance(content, Mapping):
        return {visible(key): all_visible(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [all_visible(value) for value in content]
    return content


def fill_template(template: str, parts: Mapping[str, str]) -> str:
    """Put the parts in the places of {{name}}, in one pass: what a part holds is never taken for a place."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)
