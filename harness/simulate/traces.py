"""Traces by content: taken once for each run that differs in what a trace depends on, then read from the cache."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from harness.simulate.trace import Trace, load
from harness.study import Run
from harness.system.child import last_words, python_path, run_to_end
from harness.system.errors import HarnessError, RunFailed
from harness.system.places import REPOSITORY, cache_folder
from harness.variants import Variant, overlay_path

HARNESS = REPOSITORY / "harness"
MAKERS = (  # what decides a trace's content
    *(HARNESS / "simulate" / f"{name}.py" for name in ("meta", "record", "recorder", "trace")),
    *sorted((HARNESS / "device").glob("*.py")),
    HARNESS / "study" / "models.py",
    HARNESS / "workload" / "models.py",
)
IRRELEVANT = {"learning_rate", "betas", "eps", "weight_decay", "warmup_steps", "steps", "task", "checkpoint"}
Progress = Callable[[str], None]


def trace_key(run: Run) -> str:
    """Hash of all that a trace depends on: model, patches, shape, training, DeepSpeed's configuration, the makers."""
    content = {
        "model": run.model_spec,
        "release": run.release,
        "variant": run.variant,
        "patches": run.patches,
        "shape": run.shape.model_dump(),
        "training": run.training.model_dump(mode="json", exclude=IRRELEVANT | {"checkpoint_every"}),
        "deepspeed": run.deepspeed,
        "made_by": _makers(),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:20]


@cache
def _makers() -> str:
    digest = hashlib.sha256()
    for file in MAKERS:
        digest.update(file.read_bytes())
    for package in ("torch", "transformers"):
        try:
            digest.update(version(package).encode())
        except PackageNotFoundError as error:
            raise HarnessError(
                f"simulate: {package} is not installed, and traces are taken with it; "
                "install this package with its [train] extra"
            ) from error
    return digest.hexdigest()


def trace_file(run: Run) -> Path:
    """Where the run's trace lies, or will."""
    return cache_folder() / "traces" / f"{trace_key(run)}.npz"


def traces(runs: Iterable[Run], *, lanes: int = 1, progress: Progress = lambda text: None) -> dict[str, Path]:
    """Run id → trace file, taking those that are not in the cache; `lanes` processes side by side.

    Raises RunFailed with the end of the log where a trace cannot be taken.
    """
    files = {run.run_id: (run, trace_file(run)) for run in runs}
    missing = {file: run for run, file in files.values() if not _is_whole(file)}
    with (
        tempfile.TemporaryDirectory(prefix="hpz-trace-") as folder,
        ThreadPoolExecutor(max_workers=lanes) as pool,
    ):
        batches = _batches(missing, Path(folder), lanes)
        list(pool.map(lambda batch: _take(batch, progress), batches))
    return {run_id: file for run_id, (_, file) in files.items()}


def trace_of(run: Run) -> Trace:
    """The run's trace, from the cache or taken now. Raises RunFailed."""
    return load(traces([run])[run.run_id])


def trace_virtual(run: Run) -> Trace:
    """One step of the run on the virtual device, all ranks of it forked here and real values moved; never cached.

    Raises RunFailed.
    """
    overlay = overlay_path(Variant.parse(run.variant), run.release)
    with tempfile.TemporaryDirectory(prefix="hpz-trace-") as folder:
        run_file, file = Path(folder) / "run.json", Path(folder) / "trace.npz"
        run_file.write_text(run.model_dump_json())
        command = [sys.executable, "-m", "harness.simulate.virtual", str(run_file), str(file)]
        failure = f"no step could be recorded on the virtual device with {overlay.name}"
        run_to_end(command, _environment(overlay), failure)
        return load(file)


def _environment(overlay: Path) -> dict[str, str]:
    return {
        "PYTHONPATH": python_path(overlay),
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def _is_whole(file: Path) -> bool:
    if not file.exists():
        return False
    try:
        load(file)
    except (OSError, ValueError, KeyError):
        file.unlink()
        return False
    return True


def _batches(missing: Mapping[Path, Run], folder: Path, lanes: int) -> list[tuple[Path, Path, Path]]:
    """(overlay, jobs file, log) for each lane and overlay: imports are paid once a batch."""
    overlays = {
        (run.variant, run.release): overlay_path(Variant.parse(run.variant), run.release)
        for run in missing.values()
    }
    jobs: dict[tuple[Path, int], list[tuple[str, str]]] = {}
    for number, (file, run) in enumerate(missing.items()):
        run_file = folder / f"{file.stem}.json"
        run_file.write_text(run.model_dump_json())
        key = (overlays[run.variant, run.release], number % lanes)
        jobs.setdefault(key, []).append((str(run_file), str(file)))
    batches = []
    for number, ((overlay, _), entries) in enumerate(jobs.items()):
        jobs_file = folder / f"jobs-{number}.json"
        jobs_file.write_text(json.dumps(entries))
        batches.append((overlay, jobs_file, folder / f"log-{number}.txt"))
    return batches


def _take(batch: tuple[Path, Path, Path], progress: Progress) -> None:
    overlay, jobs, log = batch
    command = [sys.executable, "-m", "harness.simulate.record", str(jobs)]
    failed = []
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            command,
            env={**os.environ, **_environment(overlay)},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=REPOSITORY,
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            state, _, file = line.strip().partition(" ")
            if state in ("done", "failed"):
                progress(Path(file).stem)
                failed += [file] if state == "failed" else []
    if process.returncode != 0 or failed:
        last = last_words(log.read_text(errors="replace"))
        raise RunFailed(f"a trace could not be taken with {overlay.name}: {last}")
