"""What a run did to memory where the analysis does not look, counted in that very run.

The analysis sees what goes through torch's dispatcher, and what Python does to streams, events and threads. It does not
see what native code does with a tensor that it was given, or with an address that Python asked for.
"""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path

TAKES_TENSORS = (
    b"libc10",
    b"libtorch",
    b"libcuda",
)  # needed by a library that works on tensors or on a GPU itself


def libraries() -> set[str]:
    """The native libraries that this process has loaded so far."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {line.split(maxsplit=5)[5] for line in lines if ".so" in line and line.count(" ") > 4}


def native_libraries(before: Set[str]) -> tuple[str, ...]:
    """Names of those loaded since that work on tensors, torch's own left out."""
    new = (Path(file) for file in sorted(libraries() - before) if "/torch/lib/" not in file)
    return tuple(file.name.split(".")[0] for file in new if file.is_file() and _takes_tensors(file))


def _takes_tensors(file: Path) -> bool:
    content = file.read_bytes()
    return any(name in content for name in TAKES_TENSORS)
