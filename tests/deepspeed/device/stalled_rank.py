"""One rank that trains on plain CPU as if every memory were a GPU's, under stalls that are counted and not slept.

`python -m tests.deepspeed.device.stalled_rank RUN_DIRECTORY`, with RANK and its kin in the environment; rank 0 prints
how many stalls each function of DeepSpeed caused, as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.device.device import Device
from harness.device.gloo import GlooBackend
from harness.device.stall import StallCopies
from harness.workload.train import run_rank


def main() -> None:
    seen: Counter[str] = Counter()

    def count(cycles: int) -> None:
        frames = [
            frame.name for frame in traceback.extract_stack() if "/deepspeed/runtime/" in frame.filename
        ]
        seen[frames[-1] if frames else "elsewhere"] += 1

    @contextmanager
    def activate(device: Device) -> Iterator[None]:
        with StallCopies(10, hold=count, on_compute=lambda: True, on_device=lambda value: True):
            yield

    def wrap(device: Device, inner: Any) -> GlooBackend:
        return GlooBackend(inner)

    Device.activate, Device._wrap = activate, wrap  # type: ignore[method-assign]
    run_rank(Path(sys.argv[1]))
    if os.environ["RANK"] == "0":
        print(json.dumps(seen), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
