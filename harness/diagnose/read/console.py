"""Rows from what a training prints: dictionaries amid other output, `loss: x | lr: y` in its spellings, progress bars.

Two small readers look at the same text, one for dictionaries and one for lines of pairs; the richer answer counts.
"""

from __future__ import annotations

import json
import math
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from harness.diagnose.cells import number
from harness.diagnose.names import (
    HELD_OUT,
    NAMES,
    PART,
    column_of,
    is_curve_name,
    is_training,
    plain,
    step_column,
)
from harness.diagnose.read.rows import Row, Rows
from harness.diagnose.read.tables import flat
from harness.system.python_text import literal

NUMBER = r"[-+]?(?:\d+(?:,\d{3})*\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|nan|inf(?:inity)?)(?![\w.]*[A-Za-z_])"
FLAT = re.compile(r"\{[^{}]*\}")
NESTED = re.compile(r"\{(?:[^{}\n]*\{[^{}\n]*\})+[^{}\n]*\}")
"""Dictionaries in one of a single line."""
BARE = re.compile(r"(?<![\w'\".])[-+]?(?:nan|inf|infinity)(?![\w'\"])", re.IGNORECASE)
TENSOR = re.compile(r"(?:np\.float\d+|tensor|array)\(\s*(" + NUMBER + r")[^()]*\)", re.IGNORECASE)
BAR = re.compile(r"(?<!\d)(\d+)/(\d+)\s*\[(?:\d+:)?\d+:\d+<")
"""A progress bar: done, of how many."""


def from_console(text: str) -> Rows | None:
    """Rows of a log; None where it holds none."""
    dictionaries = list(_dictionaries(text))
    if any(_has_value(row) for _, _, row in dictionaries):
        return _broken_after(_with_steps_of_bars(text, dictionaries), text, dictionaries[-1][1])
    rows, notes = _of_one_rank(list(_lines(text)))
    return _one_a_step(_continued(rows), notes)


def _has_value(row: Row) -> bool:
    """Whether a row holds a loss, a gradient norm or an evaluation, and not a learning rate alone."""
    rates = NAMES["learning_rate"]
    return any(
        is_curve_name(key) and plain(key) not in rates and number(value) is not None
        for key, value in row.items()
    )


# --- dictionaries: Hugging Face's Trainer and all that stand on it -------------------------------------------------


def _dictionaries(text: str) -> Iterator[tuple[int, int, Row]]:
    """Begin, end and content of every dictionary in the text that holds a value of a curve."""
    whole = [(found.span(), row) for found in NESTED.finditer(text) if (row := _curve_row(found[0]))]
    ends, alone = [end for (_, end), _ in whole], []
    for found in FLAT.finditer(text):
        place = bisect_left(ends, found.end())
        if place < len(whole) and whole[place][0][0] <= found.start():
            continue  # inside one that is read as a whole
        if row := _curve_row(found[0]):
            alone.append((found.span(), row))
    for (begin, end), row in sorted([*whole, *alone], key=lambda one: one[0]):
        yield begin, end, row


def _curve_row(text: str) -> Row | None:
    """A dictionary that holds a value of a curve; None for any other."""
    if "loss" not in text and "norm" not in text:
        return None
    row = flat(_dictionary(text) or {})
    return row if any(isinstance(key, str) and is_curve_name(key) for key in row) else None


def _dictionary(text: str) -> dict[str, Any] | None:
    """A dictionary as Python or JSON writes it; in both, NaN and infinities may stand bare."""
    text = TENSOR.sub(r"\1", text)
    try:
        content = json.loads(text)
    except ValueError:
        try:
            content = literal(BARE.sub(lambda word: f"'{word[0]}'", text))
        except ValueError:
            return None
    return content if isinstance(content, dict) else None


def _with_steps_of_bars(text: str, found: Sequence[tuple[int, int, Row]]) -> Rows:
    """Dictionaries without a step get it from the progress bar beside them, where all of them have one."""
    form = "dictionaries in a log"
    rows = [row for _, _, row in found]
    logged = [(begin, end) for begin, end, row in found if is_training(row)]
    if any(plain(key) in NAMES["step"] for row in rows for key in row) or len(logged) < 1:
        return Rows(form=form, rows=rows)
    bars = [(bar.start(), int(bar[1]), int(bar[2])) for bar in BAR.finditer(text)]
    for steps in _candidates(logged, bars):
        if steps and all(a < b for a, b in pairwise(steps)):
            of = dict(zip(logged, steps, strict=True))
            rows = [{"step": of[(a, b)], **row} if (a, b) in of else row for a, b, row in found]
            return Rows(form=form, rows=rows, notes=("steps are those of the progress bar",))
    return Rows(form=form, rows=rows)


def _broken_after(rows: Rows, text: str, end: int) -> Rows:
    """With losses that are not finite in lines after the last dictionary: many a trainer dies as it writes that one."""
    columns = dict.fromkeys(key for row in rows.rows for key in row if isinstance(key, str))
    step, (loss, _) = step_column(columns, rows.rows), column_of("loss", columns, "the log")
    if step is None or loss is None or "loss" not in text[end:].lower():
        return rows
    last = max((at for row in rows.rows if (at := number(row.get(step))) is not None), default=math.inf)
    after = [row for _, row in _lines(text[end:]) if row.get("step", 0) > last and _not_finite(row)]
    return replace(rows, rows=[*rows.rows, *({step: row["step"], loss: row["loss"]} for row in after)])


def _candidates(
    logged: Sequence[tuple[int, int]], bars: Sequence[tuple[int, int, int]]
) -> Iterator[list[int]]:
    """Steps by each progress bar, the most frequent first: evaluations and saving have bars of their own."""
    totals = Counter(total for _, _, total in bars)
    for of, _ in totals.most_common():
        places = [(place, done) for place, done, total in bars if total == of]
        yield _after(logged, places)
        yield _before(logged, places)


def _before(logged: Sequence[tuple[int, int]], bars: Sequence[tuple[int, int]]) -> list[int]:
    """What the last bar before each says; empty where one has none."""
    places = [place for place, _ in bars]
    found = [bisect_left(places, begin) - 1 for begin, _ in logged]
    return [bars[index][1] for index in found] if min(found) >= 0 else []


def _after(logged: Sequence[tuple[int, int]], bars: Sequence[tuple[int, int]]) -> list[int]:
    """What the first bar after each says; empty where one has none."""
    places = [place for place, _ in bars]
    found = [bisect_left(places, end) for _, end in logged]
    return [bars[index][1] for index in found] if max(found) < len(bars) else []


# --- lines of pairs ------------------------------------------------------------------------------------------------

VALUE = rf"\s*(?:[:=]|is)?\s*(?:tensor\(|\[)?\s*\$?({NUMBER})"
WORD = r"(?<![\w/])"
QUANTITIES = {
    "loss": re.compile(
        rf"{WORD}((?:[A-Za-z_]{{1,20}}[ _/-]){{0,3}}[A-Za-z]{{0,12}}loss(?:_mean|/train(?:/total)?|_step)?)"
        rf"\"?'?{VALUE}",
        re.IGNORECASE,
    ),
    "grad_norm": re.compile(
        rf"{WORD}(?:(?:train|global|total|actor)[ _/])?(?:grad(?:ient)?s?[ _-]?norm|gnorm|global[ _]norm){VALUE}",
        re.IGNORECASE,
    ),
    "learning_rate": re.compile(rf"{WORD}(?:lr|learning[ _-]?rate){VALUE}", re.IGNORECASE),
    "loss_scale": re.compile(rf"{WORD}loss[ _]?scale{VALUE}", re.IGNORECASE),
    "epoch": re.compile(rf"{WORD}epoch\s*[:=]?\s*\[?\s*(\d+)", re.IGNORECASE),
}
STEPS = (
    re.compile(rf"{WORD}(?:num[_ ]updates|global[_ ]?steps?)\s*[:=]?\s*\[?\s*(\d+)", re.IGNORECASE),
    re.compile(
        rf"{WORD}(?:train(?:ing)?[_ ])?(?:steps?|iter(?:ation)?s?|batch|it)\b\s*[:=#]?\s*[\[(]?\s*(\d+)(?!\.\d)",
        re.IGNORECASE,
    ),
    BAR,
    re.compile(r"^\s*\d+\|(\d+)\|"),  # torchtune: epoch|step|
    re.compile(r"[\[(]\s*(\d+)\s*/\s*\d+"),
    re.compile(r"(?<![\d.])(\d+)\s*/\s*\d+(?![\d.])"),
)
OWN_LINE = re.compile(
    r"\[Rank \d+\] step=\d+, skipped=\d+, lr="
)  # what DeepSpeed prints itself holds no loss
NAN_ITERATIONS = re.compile(
    r"number of nan iterations:\s*([1-9]\d*)", re.IGNORECASE
)  # Megatron leaves the loss out
STAMP = re.compile(r"^\[?\d{4}-\d\d-\d\d[ T][\d:,.]+(?:Z|[+-]\d\d:?\d\d)?\]?")
LOCATION = re.compile(r"\|\s*[A-Z]+\s*\|\s*[\w.<>]+:[\w.<>]+:\d+ - ")  # loguru's module:function:line
RANK = re.compile(r"^\s*(?:\[?(?:rank|default)[ _]?(\d+)\]?:|(\d+): )", re.IGNORECASE)
EPOCH_ALONE = re.compile(r"^\s*Epoch\s+(\d+)(?:\s*/\s*\d+)?\s*:?\s*$", re.IGNORECASE)
VALIDATION = re.compile(r"\bvalidate step:")  # torchtitan's, whose loss is called as that of training
BATCH_ALONE = re.compile(r"^\s*\[batch=(\d+)/\d+\]:\s*$")
FILLER = re.compile(
    r"^(?:the|current|average|avg|mean|running|batch|global|step|with|at|and|epoch|rank|iter|final)[ _]+",
    re.IGNORECASE,
)


def _lines(text: str) -> Iterator[tuple[int | None, dict[str, Any]]]:
    """The rank that a line names, where it does, and what it says; an epoch or a batch may stand in a line above."""
    above: dict[str, int] = {}
    for line in text.splitlines():
        if head := EPOCH_ALONE.match(line):
            above = {"epoch": int(head[1])}
        elif head := BATCH_ALONE.match(line):
            above = {"step": int(head[1])}
        elif row := _pairs(line):
            rank = RANK.match(line)
            named = rank is not None and (rank[1] is not None or "step" in row)
            yield (int(rank[1] or rank[2]) if rank and named else None), {**above, **row}


def _of_one_rank(
    lines: Sequence[tuple[int | None, dict[str, Any]]],
) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """The rows of the first rank, where several write them; a loss that is not finite counts from any of them."""
    of_rank = Counter(rank for rank, row in lines if rank is not None and "loss" in row)
    main = min(of_rank, default=None)
    if main is None or not 1 < len(of_rank) <= of_rank[main]:
        return [row for _, row in lines], ()
    broken = {row["step"]: row["loss"] for _, row in lines if "step" in row and _not_finite(row)}
    kept = [
        row | ({"loss": broken[row["step"]]} if "loss" in row and row.get("step") in broken else {})
        for rank, row in lines
        if rank in (None, main)
    ]
    note = f"lines of {len(of_rank)} ranks; those of rank {main} count, and a loss of any that is not finite"
    return kept, (note,)


def _not_finite(row: Row) -> bool:
    value = number(row.get("loss"))
    return value is not None and not math.isfinite(value)


def _pairs(line: str) -> dict[str, Any] | None:
    """What one line says; None where it says no loss, no gradient norm and no step of DeepSpeed's own."""
    line = LOCATION.sub("", STAMP.sub("", line))
    row: dict[str, Any] = {}
    losses = list(QUANTITIES["loss"].finditer(line))
    if " - ETA: " in line:  # Keras's bar, drawn again in the same line: the last counts
        losses.reverse()
    for found in losses:
        name = _loss_name(found[1])
        if name == "loss" and VALIDATION.search(line):
            name = "eval_loss"
        if name is not None:
            row.setdefault(name, found[2].replace(",", ""))
    for name in ("grad_norm", "learning_rate", "loss_scale"):
        if value := QUANTITIES[name].search(line):
            row[name] = value[1].replace(",", "")
    if NAN_ITERATIONS.search(line) and not _has_value(row):
        row["loss"] = "nan"
    if not row or not (_has_value(row) or OWN_LINE.search(line)):
        return None
    if epoch := QUANTITIES["epoch"].search(line):
        row["epoch"] = int(epoch[1])
    step = next((match for form in STEPS if (match := form.search(line))), None)
    return row if step is None else {"step": int(step[1]), **row}


def _loss_name(words: str) -> str | None:
    """The name of a loss as `harness.diagnose.names` knows it; None for a part of a loss, such as a router's."""
    name = words.strip().lower().removesuffix("/train/total")  # Composer's
    while FILLER.match(name):
        name = FILLER.sub("", name)
    if PART.search(name):
        return None
    words_of = re.split(r"[ _/-]+", name)
    if HELD_OUT.match(name) or words_of[0] in (
        "val",
        "eval",
        "valid",
        "validation",
        "test",
        "evaluation",
        "dev",
    ):
        return "eval_loss"
    return name if name in NAMES["loss"] else "loss" if len(words_of) <= 2 else None


def _continued(rows: Sequence[Row]) -> list[Row]:
    """Steps that begin anew in every epoch, counted on."""
    done, last_step, last_epoch = 0, 0, None
    found: list[Row] = []
    for row in rows:
        step, epoch = row.get("step"), row.get("epoch")
        if step is not None and epoch is not None and last_epoch is not None:
            if epoch > last_epoch and step <= last_step:
                done += last_step + (step == 0)  # counted from 0 or from 1
            elif epoch < last_epoch:
                done = 0
        found.append(row if step is None else {**row, "step": step + done})
        last_step, last_epoch = (
            step if step is not None else last_step,
            epoch if epoch is not None else last_epoch,
        )
    return found


def _one_a_step(rows: Sequence[Row], notes: tuple[str, ...] = ()) -> Rows | None:
    """Lines of one step together: each rank writes one, or loss and learning rate stand in lines of their own."""
    merged: list[dict[str, Any]] = []
    several = False
    for row in rows:
        before = merged[-1] if merged else {}
        if "step" in row and row["step"] == before.get("step"):
            several = several or ("loss" in row and "loss" in before)
            merged[-1] = {**row, **before} | ({"loss": row["loss"]} if _not_finite(row) else {})
        else:
            merged.append(dict(row))
    if several:
        notes += (
            "several lines of one step (of several ranks?); the first counts, and a loss that is not finite",
        )
    return Rows(form="lines of a log", rows=merged, notes=notes) if merged else None
