"""A fault's page, and all of them as docs/reference/faults.md: `hpz doctor --explain FAULT` (or `all`)."""

from __future__ import annotations

from harness.diagnose.facts import FACTS
from harness.diagnose.faults import FILES, Fault, in_words, table

TITLES = {
    "hpz": "hpZ",
    "zeropp": "Quantised weights and gradients, and MiCS",
    "zero3": "ZeRO-3",
    "zero12": "ZeRO-1, ZeRO-2, and what goes with any stage",
    "training": "The training itself",
    "environment": "Launch, builds and logs",
}
INTRODUCTION = """\
# Known faults

Generated from `harness/diagnose/known/*.toml` by `hpz doctor --explain all`; a test holds the two equal. `hpz doctor`
says which of them a release and a configuration are exposed to, `hpz triage` which of them a curve looks like.

How sure an entry is: *reproduced here* (on real DeepSpeed ranks or by a real training), *fixed upstream*, *read in the
source* of the releases, *reported*, *found here* (and nowhere else), *guess*. Windows of releases are held against the
sources of all releases by a test, where a line of them shows the fault."""


def page(fault: Fault) -> str:
    """One fault, in Markdown."""
    lines = [
        f"### {fault.id}",
        "",
        f"{fault.plain[0].upper()}{fault.plain[1:]}. First: {fault.first}.",
        "",
        f"- What one sees: {fault.sees}",
        f"- Why: {fault.why}.",
    ]
    if fault.windows:
        lines.append(f"- Releases: {_windows(fault)}.")
    if fault.torch:
        lines.append(f"- Torch: {fault.torch} and later.")
    if fault.when:
        lines.append(f"- Settings: {_settings(fault)}.")
    lines += [f"- How sure: {fault.sure}."]
    if not fault.examined:
        lines.append("- Not examined by this project: doctor says so, and answers neither yes nor no.")
    lines += [f"- Fix: {fault.fix}.", f"- Way out today: {fault.way_out.format(events='event')}."]
    if fault.prove:
        lines.append(f"- To show it: {fault.prove}.")
    if fault.shows:
        signs = sorted(fault.shows.items(), key=lambda item: -item[1])
        lines.append(f"- Signs in a curve: {', '.join(f'{sign} ({points:+d})' for sign, points in signs)}.")
    if fault.errors:
        lines.append(f"- Error messages: {', '.join(f'`{pattern}`' for pattern in fault.errors)}.")
    return "\n".join([*lines, f"- Source: {fault.source}."])


def _windows(fault: Fault) -> str:
    words = " and ".join(in_words(*window) for window in fault.windows)
    return words + "".join(f"; not {in_words(first, last)}: {why}" for first, last, why in fault.gaps)


def _settings(fault: Fault) -> str:
    parts = []
    for name, wanted in fault.when.items():
        assert name in FACTS
        values = wanted if isinstance(wanted, list) else [wanted]
        shown = " or ".join(str(value).lower() if isinstance(value, bool) else str(value) for value in values)
        parts.append(f"{name.replace('_', ' ')} {shown}")
    return ", ".join(parts) + ("; sizes or more of the settings decide" if fault.judge else "")


def all_pages() -> str:
    """docs/reference/faults.md."""
    parts = [INTRODUCTION]
    for name in FILES:
        found = [fault for fault in table() if fault.table == name]
        parts += [f"## {TITLES[name]}", *(page(fault) for fault in found)]
    return "\n\n".join(parts) + "\n"
