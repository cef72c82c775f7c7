"""metrics.jsonl of a run: one JSON object a line, appended while it trains and read again by resume and `compare`.

A kill or a power cut can tear the last line; it is left out, by every reader alike. A broken line with others after it
is damage, and is named. No torch.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, model_validator

from attnbias.data.atomic import replacing
from attnbias.data.reading import in_words, parse_json, read_bytes, reading
from attnbias.methods.engine.text import write_csv
from attnbias.methods.engine.types import LogLine
from attnbias.weights.errors import WeightsError

NAME, TABLE = "metrics.jsonl", "metrics.csv"
BLANK = b"\0 \t\r"
"""What a power cut, or an editor, leaves behind the last line."""
LARGEST = 1 << 30
"""Bytes; some four million lines."""


class _Line(BaseModel):
    """What every line holds, beside its figures."""

    model_config = ConfigDict(strict=True, extra="allow")

    step: int
    epoch: int
    split: str
    weights: str | None = None

    @model_validator(mode="after")
    def _check_weights(self) -> _Line:
        if self.split != "train" and self.weights is None:
            raise ValueError("an evaluation says which weights it is of")
        return self


class MetricsLog:
    """The log in a run's folder."""

    def __init__(self, run: Path) -> None:
        self.path = run / NAME

    def records(self) -> list[LogLine]:
        """Every line, parsed; a torn last one is left out.

        Raises:
            FileNotFoundError: there is no log. WeightsError: a line with others after it is broken.
        """
        return [parse_json(line) for line in self._whole_lines()]

    def append(self, line: LogLine) -> None:
        """Write one line; an OSError passes."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def write_table(self) -> None:
        """Write all lines beside the log as metrics.csv: a column for each figure, lists of learning rates as several;
        figures of each class are in the log alone. An OSError passes."""
        rows = [_flat(line) for line in self.records()]
        columns = list(dict.fromkeys(name for row in rows for name in row))
        write_csv(self.path.with_name(TABLE), [columns, *([row.get(name, "") for name in columns] for row in rows)])

    def flush(self) -> None:
        """Wait until the log is on the disk, as the checkpoint that counts its lines will be; an OSError passes."""
        if self.path.exists():
            with self.path.open("a") as file:
                os.fsync(file.fileno())

    def rewind(self, lines: int) -> int:
        """Keep the first lines only, for a run that is resumed from there and writes the others again.

        Returns the lines that are left: fewer where the run is resumed into another folder, or a torn one was cut off.

        Raises:
            WeightsError: as `records`; the log is untouched.
        """
        try:
            kept = self._whole_lines(lines)
        except FileNotFoundError:
            return 0
        with replacing(self.path) as file:
            file.writelines(f"{line}\n" for line in kept)
        return len(kept)

    def _whole_lines(self, most: int | None = None) -> list[str]:
        """The first lines, each checked."""
        with reading(self.path, "move it away", WeightsError):
            content = read_bytes(self.path, LARGEST)
        lines = content.split(b"\n")
        while lines and not lines[-1].strip(BLANK):  # what follows the end of the last line
            lines.pop()
        whole: list[str] = []
        for number, line in enumerate(lines[:most], start=1):
            try:
                text = line.decode("utf-8")
                _Line.model_validate(parse_json(text))
            except ValueError as error:
                if number == len(lines):
                    break
                raise WeightsError(
                    f"{self.path}, line {number} is damaged ({in_words(error)}); delete that line to go on without it"
                ) from None
            whole.append(text)
        return whole


def _flat(line: LogLine) -> dict[str, object]:
    """The plain figures of a line, by column."""
    rates = {f"lr{number or ''}": rate for number, rate in enumerate(line.get("lr", []))}
    return {name: value for name, value in line.items() if isinstance(value, int | float | str)} | rates
