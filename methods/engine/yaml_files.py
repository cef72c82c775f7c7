"""YAML as recipes need it: one mapping of names to plain values or lists of them, by the rules of YAML 1.2.

Everything else that YAML can do (aliases, tags, merged and nested mappings, several documents) is refused: none of it
belongs in a recipe, and some of it makes a few bytes grow without end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from attnbias.data.reading import Json, Unfit, is_text, read_text, shown

LARGEST = 256 << 10
"""Bytes; the longest recipe of ours has some thousand."""

_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


def read_yaml(path: Path) -> Json:
    """Read a mapping of names to plain values or lists of them.

    Raises:
        OSError: the file is missing or not readable. Unfit: it is something else; the message names the line.
    """
    try:
        return _document(yaml.parse(read_text(path, LARGEST), Loader=yaml.SafeLoader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f" in line {mark.line + 1}" if mark else ""
        raise Unfit(f"not valid YAML{place}; expected lines such as `lr: 0.01`") from None
    except yaml.YAMLError:  # a character that no YAML file may hold
        raise Unfit("not valid YAML: it holds control characters") from None


def plain_value(text: str) -> str | float | bool | None:
    """What a text without quotes means: the core schema of YAML 1.2.

    (PyYAML follows YAML 1.1, where 1e-3 is a text, `no` is false and 1:30 is ninety.)
    """
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        try:
            return int(text)
        except ValueError:
            raise Unfit(f"{shown(text)} has too many digits") from None
    if _FLOAT.fullmatch(text):
        return float(text.replace(".inf", "inf").replace(".nan", "nan") if text[-1] in "fFnN" else text)
    return text


def _document(events: Iterator[yaml.Event]) -> Json:
    """The one mapping of a file; an empty file is refused."""
    next(events)  # the stream's start
    if not isinstance(next(events), yaml.DocumentStartEvent) or not isinstance(next(events), yaml.MappingStartEvent):
        raise Unfit("expected a mapping of field names to values, such as `lr: 0.01`")
    content: Json = {}
    while not isinstance(event := next(events), yaml.MappingEndEvent):
        name = str(_scalar(event, quoted=True))
        if name in content:
            raise _unfit(event, f"{shown(name)} stands there twice")
        content[name] = _value(next(events), events)
    next(events)  # the document's end
    if not isinstance(next(events), yaml.StreamEndEvent):
        raise Unfit("expected one document, without `---` between its lines")
    return content


def _value(event: yaml.Event, events: Iterator[yaml.Event]) -> object:
    if not isinstance(event, yaml.SequenceStartEvent):
        return _scalar(event)
    values: list[object] = []
    while not isinstance(event := next(events), yaml.SequenceEndEvent):
        values.append(_scalar(event))
    return values


def _scalar(event: yaml.Event, quoted: bool = False) -> object:
    """A text, number, true, false or null; `quoted` takes it as a text in any case."""
    if not isinstance(event, yaml.ScalarEvent) or event.tag is not None or event.anchor is not None:
        raise _unfit(event, "expected a plain value or a list of plain values, without &, * and !")
    if not is_text(event.value):
        raise _unfit(event, "a text holds a NUL or half a character")
    return plain_value(event.value) if event.implicit[0] and not quoted else event.value


def _unfit(event: yaml.Event, message: str) -> Unfit:
    return Unfit(f"line {event.start_mark.line + 1}: {message}" if event.start_mark else message)
