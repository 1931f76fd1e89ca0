"""What a log says beside its numbers: release, world size, precision and configuration of the run, and its errors."""

from __future__ import annotations

import json
import re
from typing import Any

from harness.diagnose.curve import Told

RELEASE = re.compile(
    r"DeepSpeed info: version=(\S+?),|(?:^|\s)deepspeed\s*(?:==|version:?|wheel compiled w\.\W+)\s*([0-9]\S*)",
    re.MULTILINE | re.IGNORECASE,
)
TORCH = re.compile(
    r"torch version\s*\.+\s*(\S+)|(?:^|\s)torch(?:==|\s*[Vv]ersion:?\s*)([0-9]\S*)", re.MULTILINE
)
WORLD = (
    re.compile(r"\bworld_size\s*\.{2,}\s*(\d+)"),
    re.compile(r"\bworld[ _]size[:=]?\s*(\d+)", re.IGNORECASE),
    re.compile(r"dist_world_size=(\d+)"),
)
DTYPE = {
    "bf16": re.compile(r"bfloat16_enabled\s*\.+\s*True|(?<![\w.])bf16\s*[=:]\s*True"),
    "fp16": re.compile(
        r"float16_enabled\s*\.+\s*True|fp16_enabled\s*\.+\s*True|(?<![\w.])fp16\s*[=:]\s*True"
    ),
}
PRINTED = re.compile(r"\bjson = (?=\{)")
LOGGED = re.compile(r"^\[\d{4}-\d\d-\d\d [^\]]*\] \[[A-Z]+\] \[[^\]]*\] ?", re.MULTILINE)
OVERFLOW = re.compile(
    r"OVERFLOW! Rank \d+ Skipping step|number of skipped iterations:\s*[1-9]", re.IGNORECASE
)
ERROR = re.compile(
    r"^.*?(?:(?:[A-Z]\w*|\b\w+\.)(?:Error|Exception|Timeout)\b[:(]|Watchdog caught collective operation timeout|"
    r"Timed out initializing process group|CUDA out of memory|NCCL (?:error|WARN)|extra fields not permitted|"
    r"Extra inputs are not permitted).*$",
    re.MULTILINE,
)
A_LOG = re.compile(
    r"\[(?:INFO|WARNING|ERROR)\]|\bINFO\b|Traceback \(most recent call last\)|\[deepspeed\]|\|\s*\d+/\d+ \[",
    re.IGNORECASE,
)
ERRORS = 20  # are kept at most


def told_by(text: str) -> Told:
    """What a log says of its run."""
    dtype = next((name for name, pattern in DTYPE.items() if pattern.search(text)), None)
    config = _printed_config(text)
    return Told(
        release=_first(RELEASE.search(text)),
        torch=_first(TORCH.search(text)),
        world_size=next((int(found[1]) for pattern in WORLD if (found := pattern.search(text))), None),
        dtype=dtype,
        config=config,
    )


def errors_in(text: str) -> tuple[str, ...]:
    """Lines that say what went wrong, each once, without the prefix that a launcher puts before them."""
    lines = (
        re.sub(r"^\[?rank\s*\d+\]?:\s*", "", found[0].strip(), flags=re.IGNORECASE)
        for found in ERROR.finditer(text)
    )
    return tuple(dict.fromkeys(lines))[:ERRORS]


def overflows_in(text: str) -> int:
    """Times that a step was skipped for an overflow."""
    return len(OVERFLOW.findall(text))


def is_log(text: str) -> bool:
    """Whether a text without a curve is a training's output all the same."""
    return bool(A_LOG.search(text) or errors_in(text))


def _first(found: re.Match[str] | None) -> str | None:
    return next((group for group in found.groups() if group), None) if found else None


def _printed_config(text: str) -> dict[str, Any] | None:
    """The configuration that DeepSpeed prints when it starts, `json = {…}`; None where it is cut off."""
    found = PRINTED.search(text)
    if found is None:
        return None
    rest = LOGGED.sub("", text[found.end() :])
    try:
        content, _ = json.JSONDecoder().raw_decode(rest)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None
