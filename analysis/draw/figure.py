"""A figure as svg, png and pdf, beside the table it was drawn from; it names its runs and evidence level.

A figure is drawn from its table alone. A run that it needs and that is missing raises; no gap is left unseen.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib

from harness.system.errors import HarnessError

matplotlib.use("Agg")

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure as Canvas

from analysis.draw.style import GRID, INK, MUTED, RC
from harness.system.whole_file import write_text_whole, write_whole

CAPTION_RUNS = 24

STAMP_INCHES = 0.17


@dataclass(frozen=True, eq=False)
class Figure:
    """A figure that can be drawn from `table` at any time."""

    name: str  # of its files
    title: str
    table: pd.DataFrame
    run_ids: tuple[str, ...]
    evidence: tuple[str, ...]
    draw: Callable[[pd.DataFrame], Canvas]

    @property
    def stamp(self) -> str:
        """What stands on the drawing itself: evidence level and number of runs; the table names them."""
        runs = f" · {len(self.run_ids)} run{'s' if len(self.run_ids) > 1 else ''}" if self.run_ids else ""
        return f"evidence: {', '.join(self.evidence)}{runs} · {self.name}.csv"

    @property
    def caption(self) -> str:
        """Evidence level and runs, by the hash that ends each run id."""
        if not self.run_ids:
            return f"Evidence: {', '.join(self.evidence)}."
        short = ", ".join(run_id.rsplit("_", 1)[-1] for run_id in self.run_ids[:CAPTION_RUNS])
        if len(self.run_ids) > CAPTION_RUNS:
            short += f" and {len(self.run_ids) - CAPTION_RUNS} more in the table"
        return f"Evidence: {', '.join(self.evidence)}. Runs: {short}."

    def svg(self) -> str:
        """The drawing as svg; the same table gives the same bytes."""
        with self._drawn() as save:
            return save("svg").decode()

    def write(self, folder: Path, formats: Sequence[str] = ("svg", "png", "pdf")) -> list[Path]:
        """Write the drawing and its table to `folder`; returns the files."""
        folder.mkdir(parents=True, exist_ok=True)
        files = [folder / f"{self.name}.csv"]
        write_text_whole(files[0], self.table.to_csv(index=False))
        with self._drawn() as save:
            for kind in formats:
                files.append(folder / f"{self.name}.{kind}")
                write_whole(files[-1], partial(Path.write_bytes, data=save(kind)))
        return files

    def _drawn(self) -> _Drawn:
        return _Drawn(self)


class _Drawn:
    """Context in which a figure is drawn once and saved in several formats."""

    def __init__(self, figure: Figure) -> None:
        self.figure = figure

    def __enter__(self) -> Callable[[str], bytes]:
        self._style = matplotlib.rc_context(RC)  # type: ignore[arg-type]  # its stubs list the keys one by one
        self._style.__enter__()
        self._canvas = self.figure.draw(self.figure.table)
        self._stamp()
        return self._save

    def _stamp(self) -> None:
        """One small line above the drawing: what a picture that is passed around must still say."""
        canvas = self._canvas
        canvas.set_figheight(canvas.get_figheight() + STAMP_INCHES)
        share = STAMP_INCHES / canvas.get_figheight()
        canvas.set_layout_engine("constrained", rect=(0, 0, 1, 1 - share))
        canvas.text(0.005, 1, self.figure.stamp, va="top", fontsize=6.5, color=MUTED)

    def _save(self, kind: str) -> bytes:
        stream = io.BytesIO()
        # Dates would make the same figure differ from one build to the next.
        stamp = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
        about = {"Title": self.figure.title} if kind in ("svg", "pdf", "png") else {}
        if kind == "svg":
            about |= {"Description": self.figure.caption + " Full ids: " + " ".join(self.figure.run_ids)}
        self._canvas.savefig(stream, format=kind, metadata={**about, **stamp}, dpi=160, bbox_inches="tight")
        return stream.getvalue()

    def __exit__(self, *_: object) -> None:
        plt.close(self._canvas)
        self._style.__exit__(None, None, None)


def inline(svg: str, label: str) -> str:
    """An svg for use inside a page: its own colours for ink and grid, an accessible name, and no prolog."""
    body = svg[svg.index("<svg") :]
    for colour, name in ((INK, "ink"), (MUTED, "muted"), (GRID, "grid")):
        body = body.replace(colour, f"var(--{name})")
    body = body.replace("'DejaVu Sans'", "system-ui")
    body = body.replace(
        "fill: #ffffff", "fill: none", 1
    )  # the sheet behind everything: the page is the sheet
    attributes = f'role="img" aria-label="{_attribute(label)}" '
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    # One page holds several figures, so ids must differ between them.
    prefix = f"f{sum(label.encode()) * 31 + len(label):x}-"
    body = re.sub(r'\bid="', f'id="{prefix}', body)
    body = re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}", body)
    return body.replace("<svg ", f"<svg {attributes}", 1)


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")


def file_name(text: str) -> str:
    """A figure's name from what a study calls things, which may be anything."""
    return re.sub(r"[^\w.+-]+", "-", text)


def distinct(names: Iterable[str]) -> list[str]:
    """The names, the second and later of each with its number."""
    seen: dict[str, int] = {}
    result = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return result


def figure_of(
    name: str, title: str, rows: list[dict[str, Any]], draw: Callable[[pd.DataFrame], Canvas]
) -> Figure:
    """A figure of rows that name their run in `run_id`, or several in the list `run_ids`."""
    if not rows:
        raise HarnessError(f"figure {name} needs at least one finished pair that counts; run the study again")
    ids = dict.fromkeys(one for row in rows for one in row.get("run_ids") or [row["run_id"]])
    table = pd.DataFrame(rows)
    if "run_ids" in table:
        table["run_ids"] = [" ".join(dict.fromkeys(found)) for found in table["run_ids"]]
    return Figure(name, title, table, tuple(ids), tuple(sorted(set(table["evidence"]))), draw)
