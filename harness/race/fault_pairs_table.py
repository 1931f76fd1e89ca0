"""The pairs of a corpus as a table for a terminal, misses first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table

from harness.race.fault_pairs import Pair, Pairs

COLUMNS = ("fault", "kind", "has", "ended", "seconds", "schedule", "what it shows")


def print_pairs(pairs: Pairs, console: Console) -> None:
    """One line a fault; what is wrong, the faults that cannot be met here, and the numbers in one sentence below."""
    table = Table(
        title=f"{pairs.asked} of {len(pairs.pairs)} pairs run in these {pairs.seconds:.0f} s (evidence: "
        f"{pairs.evidence})"
    )
    for column in COLUMNS:
        table.add_column(column, overflow="fold")
    for pair in pairs.pairs:
        table.add_row(*cells(pair))
    console.print(table)
    for line in (*remarks(pairs), pairs.summary):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def cells(pair: Pair) -> tuple[str, ...]:
    has = pair.has
    swaps = {None: "", 1: "1 swap"}.get(has.decisions, f"{has.decisions} swaps")
    return (
        pair.name,
        pair.kind,
        f"{has.release}: {has.verdict}",
        f"{pair.ended.release}: {pair.ended.verdict}",
        f"{has.seconds:.1f}" if has.seconds is not None else "",
        swaps if has.decisions is not None or has.changed is None else "poisoned memory",
        has.changed or "",
    )


def remarks(pairs: Pairs) -> Iterator[str]:
    """Why a pair is not good, and what is not here."""
    for pair in pairs.pairs:
        if pair.has.why:
            yield f"{pair.name}, {pair.has.release}, missed: {pair.has.why}"
        for report in pair.ended.reports:
            yield f"{pair.name}, {pair.ended.release}, wrong: {report}"
    for fault in pairs.not_here:
        yield f"not here: {fault.name}: {fault.why}"


def markdown(pairs: Pairs) -> str:
    """The table of docs/reference/corpus.md with the sentence below it."""
    lines = [
        "| fault | kind | found in | silent in | to a failing schedule | what it shows |",
        "|---|---|---|---|---|---|",
    ]
    for pair in pairs.pairs:
        name, kind, has, ended, seconds, schedule, changed = cells(pair)
        how = ", ".join(part for part in (f"{seconds} s" if seconds else "", schedule) if part)
        lines.append(f"| {linked(name, pair.links)} | {kind} | {has} | {ended} | {how} | {changed} |")
    return "\n".join([*lines, "", f"{pairs.summary}."])


def linked(name: str, links: Sequence[str]) -> str:
    """The fault's name with what was published of it."""
    words = [
        f"[{'#' * link.rpartition('/')[2].isdigit()}{link.rpartition('/')[2]}]({link})" for link in links
    ]
    return " ".join([name, *words])
