"""The space-time picture of a race: streams as lanes, ops as bars, orderings as arrows, the missing one in red."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from html import escape

from harness.race.job import Flip
from harness.race.report import HOST_STREAM, Race, Trace

LANE, BAR, STEP, LEFT, TOP = 56, 26, 30, 190, 72  # pixels
COLOURS = {"op": "#c9d3dd", "first": "#e8b04a", "second": "#6aa5d8", "order": "#5c6b7a", "missing": "#cc2a2a"}


def picture(
    race: Race, window: Sequence[Trace], pair: Flip, executed: Mapping[int, int] | None = None
) -> str:
    """The svg of the excerpt `window` around one case (`pair`, op indices in the order of issue) of a race.

    `executed`: op index → place in the order in which a schedule ran the ops; without it bars stand in order of issue.
    """
    marks = _in_order(window, executed)
    lanes = {name: TOP + LANE * at for at, name in enumerate(_lanes(window))}
    column = {id(mark): at for at, mark in enumerate(marks)}
    role = partial(_role, pair, race.second.stream == HOST_STREAM)
    width, height = LEFT + STEP * (len(marks) + 2), TOP + LANE * len(lanes) + 44
    parts = [
        *_frame(_title(race, pair), lanes, width, executed is not None),
        *_orderings(marks, lanes, column),
        *(_bar(mark, lanes, column, race, role(mark)) for mark in marks if mark.what == "op"),
        *_missing({role(mark): mark for mark in marks if mark.what == "op"}, lanes, column),
    ]
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="system-ui, sans-serif" font-size="11" role="img">\n{_DEFS}\n{body}\n</svg>\n'
    )


_DEFS = "<defs>" + "".join(
    f'<marker id="{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    f'<path d="M0 0L8 4L0 8z" fill="{COLOURS[name]}"/></marker>'
    for name in ("order", "missing")
)
_DEFS += "</defs>"


def _in_order(window: Sequence[Trace], executed: Mapping[int, int] | None) -> list[Trace]:
    if executed is None:
        return list(window)
    ops = [mark for mark in window if mark.what == "op"]
    return sorted(ops, key=lambda mark: executed.get(mark.index, len(executed)))


def _lanes(window: Sequence[Trace]) -> list[str]:
    """The host first, then the streams in the order of their first op."""
    names = dict.fromkeys(mark.stream for mark in window)
    return sorted(names, key=lambda name: name != HOST_STREAM)


def _title(race: Race, pair: Flip) -> str:
    """What the memory of this case is called."""
    cases = (case for cases in race.cases.values() for case in cases)
    return next(
        (case.name for case in cases if (case.first, case.second) == (pair.hold, pair.until)), "memory"
    )


def _frame(title: str, lanes: Mapping[str, int], width: int, ran: bool) -> Iterator[str]:
    how = "in the order in which the schedule ran them" if ran else "in the order of issue"
    yield f"<title>{escape(title)}: two ops without order</title>"
    yield f'<rect width="{width}" height="100%" fill="#ffffff"/>'
    yield f'<text x="12" y="22" font-size="14" fill="#1b242c">{escape(title)}</text>'
    yield f'<text x="12" y="40" fill="#5c6b7a">ops {how}; the missing order in red</text>'
    for name, y in lanes.items():
        yield f'<text x="12" y="{y + 17}" fill="#1b242c">{escape(name)}</text>'
        yield f'<line x1="{LEFT - 8}" x2="{width - 8}" y1="{y + 13}" y2="{y + 13}" stroke="#e6eaee"/>'


def _role(pair: Flip, host: bool, mark: Trace) -> str:
    """`first`, `second` or `op`; an access of the host's has the index of the op that comes after it."""
    if mark.index == pair.hold and mark.stream != HOST_STREAM:
        return "first"
    return "second" if mark.index == pair.until and (mark.stream == HOST_STREAM) == host else "op"


def _bar(mark: Trace, lanes: Mapping[str, int], column: Mapping[int, int], race: Race, role: str) -> str:
    x, y = LEFT + STEP * column[id(mark)], lanes[mark.stream]
    label = f"{mark.name}\n{mark.place}"
    width = STEP - 6
    bar = (
        f'<g><title>{escape(label)}</title><rect x="{x}" y="{y}" width="{width}" height="{BAR}" rx="3" '
        f'fill="{COLOURS[role]}" stroke="#ffffff"/>'
    )
    if role == "op":
        return bar + "</g>"
    access = race.first if role == "first" else race.second
    text = f"{access.access} {_plain(mark.name)}"
    at = y - 5 if role == "first" else y + BAR + 12
    return f'{bar}<text x="{x + width / 2}" y="{at}" text-anchor="middle" fill="#1b242c">{escape(text)}</text></g>'


def _plain(name: str) -> str:
    return name.rpartition("::")[2].rpartition(".")[2] if "::" in name or "." in name else name


def _orderings(marks: Sequence[Trace], lanes: Mapping[str, int], column: Mapping[int, int]) -> Iterator[str]:
    """An arrow from each record to the waits for it, and a line where the host waits."""
    records: dict[int, Trace] = {}
    for mark in marks:
        x = LEFT + STEP * column[id(mark)] + STEP / 2
        if mark.what == "record" and mark.event is not None:
            records[mark.event] = mark
        elif mark.what == "wait" and mark.event in records:
            start = records[mark.event]
            x0 = LEFT + STEP * column[id(start)] + STEP / 2
            yield _arrow(
                x0, lanes[start.stream] + 13, x, lanes[mark.stream] + 13, "order", "an event orders these"
            )
        elif mark.what == "host-wait":
            y = lanes[mark.stream]
            yield f'<line x1="{x}" x2="{x}" y1="{y}" y2="{y + BAR}" stroke="{COLOURS["order"]}" stroke-width="3">'
            yield f"<title>{escape(f'the host waits: {mark.name}')}</title></line>"


def _missing(ends: Mapping[str, Trace], lanes: Mapping[str, int], column: Mapping[int, int]) -> Iterator[str]:
    if "first" not in ends or "second" not in ends:
        return
    (x0, y0), (x1, y1) = (
        (LEFT + STEP * column[id(ends[role])] + (STEP - 6) / 2, lanes[ends[role].stream])
        for role in ("first", "second")
    )
    down = y1 > y0
    y0, y1 = (y0 + BAR, y1) if down else (y0, y1 + BAR)
    yield _arrow(x0, y0, x1, y1, "missing", "nothing orders these")


def _arrow(x0: float, y0: float, x1: float, y1: float, kind: str, title: str) -> str:
    dash = ' stroke-dasharray="6 4" stroke-width="2.2"' if kind == "missing" else ' stroke-width="1.2"'
    return (
        f'<path d="M{x0:.0f} {y0:.0f}L{x1:.0f} {y1:.0f}" fill="none" stroke="{COLOURS[kind]}"{dash} '
        f'marker-end="url(#{kind})"><title>{escape(title)}</title></path>'
    )
