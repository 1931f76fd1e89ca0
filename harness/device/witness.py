"""Independent witnesses of a run on a GPU: torch's stream sanitizer, and a profile of one step.

A rank is watched where HPZ_WITNESS says so in its environment (`hpz run --witness`); what was seen lies in the run
directory as witness-N.json (sanitizer; with the first report of each kind in full in witness-N.txt) or as
profile-0.json.gz (profile; a Chrome trace, for Perfetto). A watched run is slower: its times are no result.

The sanitizer (torch.cuda._sanitizer) follows kernels, events and waits as torch issues them and shares nothing with
this project's own analysis. It sees a tensor by the address at which it starts, a collective as a read by the stream
that issues it, and not what gloo copies inside.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import torch

from harness.device.torch_private import sanitizer
from harness.system.errors import HarnessError

VARIABLE = "HPZ_WITNESS"


class Witness:
    """Nobody watches."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Write what was seen."""

    @contextmanager
    def of_step(self, step: int) -> Iterator[None]:
        """Around each optimizer step."""
        yield


def open_witness(kind: str | None, folder: Path, rank: int, steps: int) -> Witness:
    """The witness of a rank whose run has so many steps; of a profile, rank 0's alone. Raises HarnessError."""
    if not kind:
        return Witness()
    if kind == "sanitizer":
        return Sanitizer(folder, rank)
    if kind == "profile":
        return Profile(folder, steps - 1) if rank == 0 else Witness()
    raise HarnessError(f"{VARIABLE}: {kind!r} is not a witness; use sanitizer or profile")


class Profile(Witness):
    """torch's profiler around the last step; the device is waited for at its end, so that all its kernels are there."""

    def __init__(self, folder: Path, step: int) -> None:
        self.folder, self.step = folder, step

    @contextmanager
    def of_step(self, step: int) -> Iterator[None]:
        if step != self.step:
            yield
            return
        from torch.profiler import ProfilerActivity, profile

        cuda = torch.cuda.is_available()
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
        with profile(activities=activities) as seen:
            yield
            if cuda:
                torch.cuda.synchronize()
        seen.export_chrome_trace(str(self.folder / "profile-0.json.gz"))


class Sanitizer(Witness):
    """torch's stream sanitizer; what it would raise at the first finding is noted, and the run goes on."""

    def __init__(self, folder: Path, rank: int) -> None:
        self.folder, self.rank = folder, rank
        self.findings = Findings()
        self._mode = sanitizer()
        handler = self._mode.event_handler
        judge = handler._handle_kernel_launch

        def note(*args: Any, **kwargs: Any) -> list[Any]:
            self.findings.add(judge(*args, **kwargs))
            return []

        handler._handle_kernel_launch = note

    def __enter__(self) -> Self:
        self._mode.__enter__()
        return self

    def __exit__(self, *raised: object) -> None:
        self._mode.__exit__(*raised)
        self.findings.write(self.folder, self.rank)


class Findings:
    """Distinct findings of the sanitizer: two ops at two source lines, how often, and the first report of each."""

    def __init__(self) -> None:
        self.kernels = 0
        self.rows: dict[tuple[str, ...], dict[str, Any]] = {}
        self.reports: list[str] = []

    def add(self, errors: list[Any]) -> None:
        """The findings at one kernel launch (torch.cuda._sanitizer.UnsynchronizedAccessError), often none."""
        self.kernels += 1
        for error in errors:
            first, second = _described(error.previous_access), _described(error.current_access)
            key = (*first.values(), *second.values())
            if key not in self.rows:
                self.rows[key] = {"first": first, "second": second, "count": 0}
                self.reports.append(str(error))
            self.rows[key]["count"] += 1

    def write(self, folder: Path, rank: int) -> None:
        found = sorted(self.rows.values(), key=lambda row: -row["count"])
        content = {"schema": 1, "rank": rank, "kernels": self.kernels, "findings": found}
        (folder / f"witness-{rank}.json").write_text(json.dumps(content, indent=1) + "\n")
        (folder / f"witness-{rank}.txt").write_text("\n".join(self.reports))


def _described(access: Any) -> dict[str, str]:
    """One access in words: what it does, by which op, on which stream, and where DeepSpeed asked for it."""
    kind = "write" if access.type.name == "WRITE" else "read"
    return {
        "kind": kind,
        "op": str(access.operator).split("(")[0],
        "stream": "compute" if access.stream == 0 else "other",
        "site": _site(access.stack_trace),
    }


def _site(stack: Any) -> str:
    """The innermost frame in DeepSpeed but for its wrappers, else outside of torch: file, line and function."""
    frames = [frame for frame in stack if "/torch/" not in frame.filename and frame.filename != __file__]
    inside = [f for f in frames if "/deepspeed/" in f.filename and not f.filename.endswith("/utils/nvtx.py")]
    if not frames:
        return "unknown"
    frame = (inside or frames)[-1]
    return f"{'/'.join(frame.filename.split('/')[-3:])}:{frame.lineno} ({frame.name})"
