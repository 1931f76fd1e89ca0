"""What a node's GPUs say of themselves: `nvidia-smi -q -x`, and the driver's Xid words in the kernel's log.

The XML is asked for, and not a table of named fields, because a driver refuses the whole table for one field that it
does not know; tags that changed their names (drivers 450 to 580) are looked for under each of them.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

SMI_SECONDS = 30.0  # a card that is about to fail lets nvidia-smi hang
# Of NVIDIA's catalogue of Xid errors those that say that the card, and not a program, is at fault: double-bit ECC,
# halted PMU, failed row remapping, NVLink, off the bus, uncontained ECC, GSP time-outs, unrecovered ECC, failed start.
HARDWARE_XIDS = frozenset({48, 62, 64, 74, 79, 95, 119, 120, 140, 143})
XID = re.compile(
    r"\[\s*(?P<second>\d+)\.\d+\].*NVRM: Xid \((?P<where>[^)]*)\): (?P<code>\d+)(?:, (?P<words>.*))?"
)
ROOT = "<nvidia_smi_log"
LOST = ("GPU is lost", "GPU requires reset", "Unknown Error", "ERR!")
SLOWED = ("hw_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown")
UNCORRECTED = (
    "sram_uncorrectable",
    "sram_uncorrectable_parity",
    "sram_uncorrectable_secded",
    "dram_uncorrectable",
    "double_bit/total",  # before Ampere
)


@dataclass(frozen=True)
class Gpu:
    """One card; None where its driver does not say. `troubles` are sentences, none on a card that is well."""

    name: str | None
    memory_mib: int | None
    memory_free_mib: int | None
    max_sm_mhz: int | None
    power_limit_watts: float | None
    troubles: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cards:
    """The answer of nvidia-smi; `problem` is what it complains of, or None."""

    gpus: tuple[Gpu, ...] = ()
    problem: str | None = None


def ask_cards() -> Cards | None:
    """What nvidia-smi says here; None on a node without it."""
    if shutil.which("nvidia-smi") is None:
        return None
    try:
        done = subprocess.run(
            ["nvidia-smi", "-q", "-x"], capture_output=True, text=True, timeout=SMI_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return Cards(problem=f"nvidia-smi did not answer within {SMI_SECONDS:g} s")
    return parse_cards(done.stderr + done.stdout)


def parse_cards(said: str) -> Cards:
    """Cards in the order of nvidia-smi's indices; what it says beside the XML, or in its place, is the problem."""
    start, end = said.find(ROOT), said.rfind(f"</{ROOT[1:]}>")
    log, beside = (said[start:end], said[:start] + said[end:]) if 0 <= start < end else ("", said)
    lines = [line.strip() for line in beside.splitlines()]
    told = next((line for line in lines if line and not line.startswith("<")), None)
    problem = f"nvidia-smi: {told}" if told else None
    if not log:
        return Cards(problem=problem or "nvidia-smi said nothing")
    try:
        found = ElementTree.fromstring(f"{log}</{ROOT[1:]}>").findall("gpu")
    except ElementTree.ParseError as error:
        return Cards(problem=problem or f"nvidia-smi wrote no XML: {error}")
    return Cards(tuple(_card(gpu) for gpu in found), problem)


def _card(gpu: ElementTree.Element) -> Gpu:
    return Gpu(
        name=_text(gpu, "product_name"),
        memory_mib=_whole(gpu, "fb_memory_usage/total"),
        memory_free_mib=_whole(gpu, "fb_memory_usage/free"),
        max_sm_mhz=_whole(gpu, "max_clocks/sm_clock"),
        power_limit_watts=_number(
            gpu,
            "gpu_power_readings/current_power_limit",
            "gpu_power_readings/power_limit",
            "power_readings/power_limit",
        ),
        troubles=tuple(_troubles(gpu)),
    )


def _troubles(gpu: ElementTree.Element) -> list[str]:
    found = [word for word in LOST if any(word in (part.text or "") for part in gpu.iter())]
    if errors := sum(_whole(gpu, f"ecc_errors/volatile/{name}") or 0 for name in UNCORRECTED):
        found.append(f"{errors} uncorrected ECC errors since its driver was loaded")
    for trouble, *paths in (
        ("SRAM errors past their threshold", "ecc_errors/aggregate/sram_threshold_exceeded"),
        ("row remapping failed", "remapped_rows/remapped_row_failure"),
        ("a row is to be remapped: needs a reset", "remapped_rows/remapped_row_pending"),
        (
            "a page is to be retired: needs a reset",
            "retired_pages/pending_retirement",
            "retired_pages/pending_blacklist",
        ),
        ("needs a reset", "gpu_reset_status/reset_required"),
    ):
        if "Yes" in (_text(gpu, path) for path in paths):
            found.append(trouble)
    if action := _text(gpu, "gpu_recovery_action"):
        found.append(f"its driver asks for: {action}")
    for reason in SLOWED:
        paths = [f"{group}_reasons/{group}_reason_{reason}" for group in ("clocks_event", "clocks_throttle")]
        if "Active" in (_text(gpu, path) for path in paths):
            found.append(f"its clocks are held down ({reason})")
    return found


def _text(gpu: ElementTree.Element, path: str) -> str | None:
    """None where the tag is missing or says that the card has no such thing."""
    text = (gpu.findtext(path) or "").strip()
    return None if text in ("", "N/A", "[N/A]", "None", "Not Supported") else text


def _number(gpu: ElementTree.Element, *paths: str) -> float | None:
    """The first of these that holds a number, without its unit."""
    for path in paths:
        if match := re.match(r"\d+(?:\.\d+)?", _text(gpu, path) or ""):
            return float(match[0])
    return None


def _whole(gpu: ElementTree.Element, path: str) -> int | None:
    number = _number(gpu, path)
    return None if number is None else int(number)


def ask_kernel(hours: float = 24.0) -> list[str]:
    """Xid errors of the last hours that are the hardware's; none where the kernel's log may not be read."""
    if shutil.which("dmesg") is None:
        return []
    done = subprocess.run(["dmesg"], capture_output=True, text=True, errors="replace", check=False)
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    return hardware_xids(done.stdout, since=uptime - 3600 * hours)


def hardware_xids(log: str, since: float = 0.0) -> list[str]:
    """One sentence a card and code, from lines of the kernel's log of `since` seconds after the start or later."""
    found: dict[tuple[str, str], str] = {}
    for match in XID.finditer(log):
        if int(match["code"]) in HARDWARE_XIDS and int(match["second"]) >= since:
            words = f" ({match['words'].strip()})" if match["words"] else ""
            found[match["where"], match["code"]] = f"Xid {match['code']} of {match['where']}{words}"
    return list(found.values())
