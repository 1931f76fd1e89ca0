"""Rows from files that are tables: JSON and JSONL of many shapes, CSV and its kin, tables pasted from a page."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from harness.diagnose.cells import is_empty, number
from harness.diagnose.names import NAMES, is_curve_name, is_loss_name, plain
from harness.diagnose.read.rows import Row, Rows

DELIMITERS = (",", "\t", ";")
RULE = re.compile(r"[\s|:+=-]+")  # between a table's head and its rows
NO_HEAD = re.compile(r"[{}\[\]:=]")  # a line of a log rather than a head with names
DECIMAL_COMMA = re.compile(r"\s*([-+]?\d+(?:\.\d{3})*),(\d+(?:[eE][-+]?\d+)?)\s*")
WRAPPERS = (
    "data",
    "extra",
    "fields",
    "log",
    "logs",
    "message",
    "metrics",
    "payload",
    "record",
    "scalars",
    "values",
)
"""Objects that hold a line's values and say nothing of them."""
KNOWN_NAMES = {name for names in NAMES.values() for name in names}
MEASURE = re.compile(
    r"epoch|time|date|sec|hour|mem|gb|gib|speed|tokens?|throughput|flops|samples|acc|score|lr|rate|perplexity|ppl",
    re.IGNORECASE,
)
"""What a column of a pasted table is called that is no run."""
NO_VALUE = ("no log", "-", "n/a", "")  # as notebooks and pages write it
NUMBER = r"[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|nan|inf(?:inity)?)"


def from_json(text: str) -> Rows | None:
    """One JSON value: a list of steps, HF Trainer's state, columns, or plain numbers; else None."""
    try:
        content = json.loads(text)
    except ValueError:
        return None
    if isinstance(content, dict) and isinstance(content.get("log_history"), list):
        return Rows(form="Hugging Face trainer state", rows=_objects(content["log_history"]) or [])
    if isinstance(content, list) and content and all(_is_number(one) for one in content):
        return Rows(form="list of numbers", rows=[{"loss": one} for one in content])
    rows = _rows_in(content)
    return None if rows is None else Rows(form="JSON", rows=rows)


def _rows_in(content: Any) -> list[Row] | None:
    """Rows at any depth of a JSON value: a list of objects, or an object of columns."""
    if isinstance(content, list):
        return _objects(content)
    if not isinstance(content, dict):
        return None
    if any(is_curve_name(key) for key in content):
        columns = {key: _cells(value) for key, value in content.items() if isinstance(value, list | dict)}
        if not any(is_curve_name(key) for key in columns):
            return [content]
        length = max(len(cells) for cells in columns.values())
        return [{key: cells[i] for key, cells in columns.items() if i < len(cells)} for i in range(length)]
    inner = [rows for value in content.values() if (rows := _rows_in(value))]
    return max(inner, key=len, default=None)


def _cells(value: Any) -> list[Any]:
    """A column as a list; pandas writes an object of index → value."""
    return list(value.values()) if isinstance(value, dict) else value


def _objects(content: list[Any]) -> list[Row] | None:
    return (
        [flat(row) for row in content] if content and all(isinstance(row, dict) for row in content) else None
    )


def flat(row: Row) -> Row:
    """An object without objects in it: `{"metrics": {"loss": 2}, "train": {"lr": 1}}` → `loss`, `train/lr`."""
    if not any(isinstance(value, dict) for value in row.values()):
        return row
    found: dict[str, Any] = {key: value for key, value in row.items() if not isinstance(value, dict)}
    for outer, value in row.items():
        if isinstance(value, dict):
            prefix = "" if str(outer).lower() in WRAPPERS else f"{outer}/"
            found = {f"{prefix}{key}": inner for key, inner in flat(value).items()} | found
    return found


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def from_jsonl(text: str) -> Rows | None:
    """One JSON object a line; a last line that was cut off is left out and said. None where it is something else."""
    lines = [(place, line) for place, line in enumerate(text.splitlines(), 1) if line.strip()]
    rows: list[Row] = []
    for place, line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            if place == lines[-1][0] and rows and line.lstrip().startswith("{"):
                return Rows(form="JSONL", rows=rows, notes=(f"line {place} is cut off and was left out",))
            return None
        if not isinstance(row, dict):
            return None
        rows.append(flat(row))
    return (
        Rows(form="JSONL", rows=rows, unread=_unread(rows, [place for place, _ in lines])) if rows else None
    )


def from_csv(text: str) -> Rows | None:
    """A table with a head whose cells a comma, a tab or a semicolon parts. None where it is something else."""
    text = _uncommented(text)
    head = text.lstrip("\n").partition("\n")[0]
    delimiter = max(DELIMITERS, key=head.count)
    if delimiter not in head:
        return None
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True)
    try:
        numbered = [(reader.line_num, row) for row in reader if row]
    except csv.Error:
        return None
    lines, table = [line for line, _ in numbered], [row for _, row in numbered]
    names = [name.strip() for name in table[0]]
    if not any(_known(name) for name in names) or any(NO_HEAD.search(name) for name in names):
        return None
    if sum(len(cells) >= len(names) for cells in table[1:]) < len(table[1:]) / 2:
        return None  # a sentence with a comma
    if delimiter != ",":  # where a comma parts no cells it may stand in a number
        table = [[_with_point(cell) for cell in cells] for cells in table]
    rows = [_tensorboard(dict(zip(names, cells, strict=False))) for cells in table[1:]]
    cut = len(table) > 2 and len(table[-1]) < len(names)
    notes = (f"line {lines[-1]} is cut off and was left out",) if cut else ()
    return Rows(form="CSV", rows=rows[:-1] if cut else rows, notes=notes, unread=_unread(rows, lines[1:]))


def _uncommented(text: str) -> str:
    """A table with blanks for the comments before its head; the last may be the head, as numpy writes it."""
    lines = text.split("\n")
    comments = next(
        (place for place, line in enumerate(lines) if line.strip() and not line.startswith("#")), 0
    )
    blank = [""] * comments
    if comments and re.match(r"\s*[-+.\d]", lines[comments]):
        blank[-1] = lines[comments - 1].lstrip("# ")
    return "\n".join([*blank, *lines[comments:]])


def _with_point(cell: str) -> str:
    """`1.234,5` as 1234.5; any other cell as it is."""
    found = DECIMAL_COMMA.fullmatch(cell)
    return f"{found[1].replace('.', '')}.{found[2]}" if found else cell


def _unread(rows: Sequence[Row], lines: Sequence[int]) -> str:
    """The first value of a loss that has values and no number among them, and the line where it stands."""
    for name in dict.fromkeys(name for row in rows for name in row if is_loss_name(name)):
        filled = [
            (line, row[name]) for line, row in zip(lines, rows, strict=True) if not is_empty(row.get(name))
        ]
        if filled and all(number(value) is None for _, value in filled):
            line, value = filled[0]
            return f"line {line} has {str(value)[:40]!r} for {name!r}, which is no number"
    return ""


def _tensorboard(row: dict[str, str]) -> dict[str, str]:
    """TensorBoard's own CSV calls every quantity Value; without another name it is the loss."""
    if "Value" in row and "Wall time" in row:
        row["loss"] = row.pop("Value")
    return row


def _known(name: str) -> bool:
    return plain(name) in NAMES["step"] or is_curve_name(name) or name in ("Wall time", "Value")


def from_pasted_table(text: str) -> Rows | None:
    """Tables as notebooks show them and pages render them: a head with a step and a loss, then lines of as many cells.

    Where no column is named as a quantity, as where each is a run, it is the one that the text above speaks of.
    """
    lines = text.splitlines()
    rows: list[Row] = []
    notes: dict[str, None] = {}
    end = 0
    for place, line in enumerate(lines):
        names = _split(line)
        if place < end or len(names) < 2 or not any(plain(name) in NAMES["step"] for name in names):
            continue
        spoken_of = "" if _has_loss(names) or "|" not in line else _spoken_of(lines[:place])
        if spoken_of:
            names = [f"{name} - {spoken_of}" if _may_be_a_run(name) else name for name in names]
        if not _has_loss(names):
            continue
        found = list(_table_rows(lines[place + 1 :], names))
        end = place + len(found)
        rows += found
        if found and spoken_of:
            what = spoken_of.replace("_", " ")
            notes[f"no column says what it holds; taken for the {what}, which the text above speaks of"] = (
                None
            )
    return Rows(form="pasted table", rows=rows, notes=tuple(notes)) if rows else None


def _spoken_of(above: Sequence[str]) -> str:
    """The quantity that lines name last; empty where they name none."""
    said = re.findall(r"grad(?:ient)?[ _-]?norm|loss", "\n".join(above), re.IGNORECASE)
    return "" if not said else "loss" if said[-1].lower() == "loss" else "grad_norm"


def _may_be_a_run(name: str) -> bool:
    """Whether a column may be called by a run: its name is of no quantity."""
    return plain(name) not in KNOWN_NAMES and not MEASURE.search(name)


def _has_loss(names: Sequence[str]) -> bool:
    return any(is_curve_name(name) and not re.search(r"\d", plain(name)) for name in names)


def _table_rows(lines: Sequence[str], names: Sequence[str]) -> Iterator[Row]:
    for line in lines:
        if not line.strip() or RULE.fullmatch(line):
            continue
        cells = _split(line)
        if len(cells) != len(names) or not re.fullmatch(NUMBER, cells[0], re.IGNORECASE):
            return
        yield {name: cell for name, cell in zip(names, cells, strict=True) if cell.lower() not in NO_VALUE}


def _split(line: str) -> list[str]:
    if "|" in line:
        return [cell.strip(" *`") for cell in line.strip().strip("|").split("|")]
    return [cell.strip() for cell in re.split(r"\t+|\s{2,}", line.strip())]


def from_numbers(text: str) -> Rows | None:
    """Numbers and nothing else, such as losses copied from a notebook, one a line or many."""
    words = [word for word in re.split(r"[\s,;]+", text.strip().strip("[]()")) if word]
    if not words or not all(re.fullmatch(NUMBER, word, re.IGNORECASE) for word in words):
        return None
    return Rows(form="list of numbers", rows=[{"loss": word} for word in words])
