"""The container that ranks run in: pyxis (enroot) or apptainer with what they must see mounted, or words before python.

The task and its srun stay outside. Inside, ranks see the results folder, which holds the code that they run, and the
cache, in which they make their patched DeepSpeed of the one that the image has.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from harness.study import Frozen, Run
from harness.system.errors import HarnessError
from harness.system.places import cache_folder
from harness.system.whole_file import write_json

VARIABLE = "HPZ_CONTAINED"  # set for ranks in a container
UNKNOWN = "unknown"
ASK_SECONDS = 60.0
MOUNT = re.compile(r"/[^:,\n]*(:/[^:,\n]*(:[\w+,]+)?)?")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
# What the image's own values must not replace (pyxis lets an image win).
OURS = (*("PYTHONPATH", "PYTHONSAFEPATH", "HPZ_CACHE", "MASTER_ADDR", "MASTER_PORT"), VARIABLE)


class Image(Frozen):
    """An image and how it is entered."""

    image: str = Field(
        min_length=1
    )  # a .sqsh or .sif file, or what the runtime fetches: nvcr.io#nvidia/pytorch:…
    mounts: tuple[
        str, ...
    ] = ()  # beside results, code, cache and data: /HOST, /HOST:/INSIDE or /HOST:/INSIDE:ro
    workdir: str | None = None  # default: the results folder
    options: tuple[str, ...] = ()  # further ones of the runtime, as --container-remap-root or --no-home
    python: str = "python3"  # in the image

    @field_validator("image", "python")
    @classmethod
    def _one_line(cls, value: str) -> str:
        if not value.isprintable() or value.startswith("-"):
            raise ValueError("must be one line of printable text, and no option")
        return value

    @field_validator("image")
    @classmethod
    def _a_file_is_found_from_everywhere(cls, value: str) -> str:
        if (
            value.endswith((".sif", ".sqsh", ".squashfs"))
            and "://" not in value
            and not value.startswith("/")
        ):
            raise ValueError("a file is named by its absolute path, which the nodes see, too")
        return value

    @field_validator("mounts")
    @classmethod
    def _mounts_are_mounts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for mount in value:
            if not MOUNT.fullmatch(mount):
                raise ValueError(f"{mount!r} is no mount; write /HOST, /HOST:/INSIDE or /HOST:/INSIDE:ro")
        return value

    @field_validator("workdir")
    @classmethod
    def _workdir_is_absolute(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith("/"):
            raise ValueError("must be an absolute path in the container")
        return value

    @field_validator("options")
    @classmethod
    def _options_are_options(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for option in value:
            if not option.startswith("-") or not option.isprintable():
                raise ValueError(f"{option!r} is no option; write one --name=value an item")
        return value


class Container(Frozen):
    """One of the three ways; a bare list in a profile is `words`."""

    pyxis: Image | None = None  # enroot images, by srun's --container-image
    apptainer: Image | None = None  # a .sif file or what apptainer pulls
    words: tuple[str, ...] = ()  # of another runtime, put before python as they are: [podman, run, …, image]

    @model_validator(mode="before")
    @classmethod
    def _a_list_is_words(cls, given: Any) -> Any:
        return {"words": given} if isinstance(given, list | tuple) else given

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if sum(map(bool, (self.pyxis, self.apptainer, self.words))) != 1:
            raise ValueError(
                "give one of pyxis: {image: …}, apptainer: {image: …}, or a list of words before python"
            )
        return self

    @property
    def runtime(self) -> str:
        return "pyxis" if self.pyxis else "apptainer" if self.apptainer else self.words[0]

    def srun_options(self, seen: Sequence[str], workdir: str, variables: Iterable[str]) -> list[str]:
        """What srun is told; `seen` are paths that are the same inside, `variables` what the image must not change."""
        if not self.pyxis:
            return []
        mounts = [mount if ":" in mount else f"{mount}:{mount}" for mount in (*seen, *self.pyxis.mounts)]
        return [
            f"--container-image={self.pyxis.image}",
            f"--container-mounts={','.join(mounts)}",
            f"--container-workdir={self.pyxis.workdir or workdir}",
            f"--container-env={','.join(dict.fromkeys((*OURS, *variables)))}",
            *self.pyxis.options,
        ]

    def before_python(self, seen: Sequence[str], workdir: str, gpus: bool) -> list[str]:
        """The words before python."""
        if not self.apptainer:
            return list(self.words)
        image = self.apptainer
        binds = [word for mount in (*seen, *image.mounts) for word in ("--bind", mount)]
        return [
            *("apptainer", "exec", *(["--nv"] if gpus else []), *binds),
            *("--pwd", image.workdir or workdir),
            *("--env", "PYTHONNOUSERSITE=1"),  # packages in the user's home are not the image's
            *image.options,
            image.image,
        ]

    def python(self, outside: str) -> str:
        """Python inside; `outside` is the one without a container."""
        image = self.pyxis or self.apptainer
        return image.python if image else outside

    def missing(self) -> str | None:
        """What to say where the image is a file that is not here; the nodes may still see it."""
        image = self.pyxis or self.apptainer
        if image is None or not image.image.startswith("/") or Path(image.image).exists():
            return None
        return f"container.{self.runtime}.image: {image.image} is not here; every task fails where nodes do not see it"

    def record(self) -> dict[str, str]:
        """What is written down of it: runtime, image, and the image's digest as far as it can be known here."""
        image = self.pyxis or self.apptainer
        if image is None:
            return {"runtime": self.runtime, "words": " ".join(self.words), "digest": UNKNOWN}
        return {
            "runtime": self.runtime,
            "image": image.image,
            "digest": digest(image.image, bool(self.pyxis)),
        }


def ranks_see(results: Path, repository: Path, runs: Iterable[Run]) -> tuple[str, ...]:
    """Paths that ranks read or write, none inside another: results, code, cache, and the runs' data and weights.

    Raises HarnessError for a path that no mount can name.
    """
    named = {str(results), str(repository), str(cache_folder())}
    for run in runs:
        of_data = (run.data.prepared,) if run.data.packed else (run.data.path, run.data.tokenizer)
        given = {path for path in (*of_data, run.training.checkpoint) if path and Path(path).is_absolute()}
        named |= {path for path in given if Path(path).exists()}
    kept: list[str] = []
    for path in sorted(named):
        if not any(Path(path).is_relative_to(above) for above in kept):
            kept.append(path)
    if odd := next((path for path in kept if set(path) & set(":,\n")), None):
        raise HarnessError(
            f"{odd}: a container cannot mount a path with a colon, a comma or a line break; use another"
        )
    return tuple(kept)


def digest(image: str, enroot: bool) -> str:
    """sha256:… of an image: of a file's content, of a reference that says it, or as enroot tells; else `unknown`."""
    if (file := Path(image)).is_file():
        return f"sha256:{_sha256_once(file)}"
    if said := DIGEST.search(image):
        return said[0]
    if not enroot or "://" in image or shutil.which("enroot") is None:
        return UNKNOWN
    try:
        asked = ["enroot", "digest", f"docker://{image}"]
        done = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=ASK_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return UNKNOWN
    told = re.search(r"(?:sha256:)?([0-9a-f]{64})", done.stdout)
    return f"sha256:{told[1]}" if done.returncode == 0 and told else UNKNOWN


def _sha256_once(file: Path) -> str:
    """A file's hash, kept in the cache for as long as its size and time of change stay: images are gigabytes."""
    stat, kept = file.stat(), cache_folder() / "images.json"
    stamp = [stat.st_size, stat.st_mtime_ns]
    try:
        known: dict[str, Any] = json.loads(kept.read_text())
    except (OSError, ValueError):
        known = {}
    if (entry := known.get(str(file))) and entry["stamp"] == stamp:
        return str(entry["sha256"])
    with file.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_json(kept, {**known, str(file): {"stamp": stamp, "sha256": sha256}})
    return sha256
