"""Whether a run fits its card, said before anything is sent: what is the limit, and what would fit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from harness.budget.memory import WORDS, Memory, estimate_memory
from harness.hardware import find_card
from harness.study import Run, Shape
from harness.study.deepspeed_json import deepspeed_config
from harness.system.errors import HarnessError


def check_fits(runs: Iterable[Run], gpu: str | None, ranks_a_card: int = 1) -> None:
    """Refuse the first GPU run that is estimated larger than the card of profile `gpu`. Raises HarnessError.

    With `gpu` None nothing is known, and nothing refused; so with runs on other devices.
    """
    for run, memory in misfits(runs, gpu, ranks_a_card):
        raise HarnessError(f"matrix: {memory_sentence(run, memory, str(gpu), ranks_a_card)}")


def misfits(runs: Iterable[Run], gpu: str | None, ranks_a_card: int = 1) -> Iterator[tuple[Run, Memory]]:
    """The GPU runs that do not fit, one of each model, shape and training, with their estimate."""
    if gpu is None:
        return
    limit = find_card(gpu).memory_bytes
    seen: set[str] = set()
    for run in runs:
        key = f"{run.model} {run.shape} {run.training} {run.deepspeed}"
        if run.device != "cuda" or key in seen:
            continue
        seen.add(key)
        memory = estimate_memory(run)
        if memory.peak * ranks_a_card > limit:
            yield run, memory


def memory_sentence(run: Run, memory: Memory, gpu: str, ranks_a_card: int = 1) -> str:
    """What does not fit, which parts are the limit, and which single changes would be enough."""
    limit = find_card(gpu).memory_bytes / ranks_a_card
    parts = ", ".join(f"{WORDS[name]} {_gb(value)}" for name, value in list(memory.parts().items())[:3])
    enough: dict[str, str] = {}
    for kind, words, other in changes(run):
        if estimate_memory(other).peak <= limit:
            enough.setdefault(kind, words)
    way = f"it would fit with {', or '.join(enough.values())}" if enough else _several(run, limit)
    shared = f" for each of the {ranks_a_card} ranks that share it" if ranks_a_card > 1 else ""
    return (
        f"{run.model} in {run.shape} ({run.variant}) needs about {_gb(memory.peak)} a rank, and {gpu} has "
        f"{_gb(limit)}{shared}; the largest parts are {parts}; {way}"
    )


def changes(run: Run) -> Iterator[tuple[str, str, Run]]:
    """Changes that make a run smaller, one at a time: kind, words of a study file, and the run; the mildest first."""
    training, shape = run.training, run.shape
    if not training.activation_checkpointing:
        yield (
            "checkpoint",
            "training.activation_checkpointing: true",
            _with(run, activation_checkpointing=True),
        )
    if training.attention == "eager":
        yield "attention", "training.attention: sdpa", _with(run, attention="sdpa")
    size = training.micro_batch
    while (size := size // 2) >= 1:
        yield "micro_batch", f"training.micro_batch: {size}", _with(run, micro_batch=size)
    for hpz in range(shape.hpz + 1, shape.ranks_per_node + 1):
        if shape.hpz > 1 and shape.ranks_per_node % hpz == 0:
            yield "hpz", f"hpz: {hpz}", _in(run, shape.model_copy(update={"hpz": hpz}))
    if training.optimizer != "cpu-adam":
        yield "optimizer", "training.optimizer: cpu-adam", _with(run, optimizer="cpu-adam")
    for factor in (2, 4, 8):
        wide = shape.model_copy(update={"nodes": shape.nodes * factor})
        yield "nodes", f"{wide.nodes} nodes", _in(run, wide)


def _in(run: Run, shape: Shape) -> Run:
    return run.model_copy(update={"shape": shape})


def _with(run: Run, **changed: object) -> Run:
    training = run.training.model_copy(update=changed)
    # The optimizer alone decides what DeepSpeed offloads; sizes stay as the study has them.
    config = deepspeed_config(training, run.shape, run.deepspeed)
    return run.model_copy(update={"training": training, "deepspeed": config})


def _several(run: Run, limit: float) -> str:
    """What changes together are enough, the most telling one first; or that none are."""
    told: dict[str, str] = {}
    while estimate_memory(run).peak > limit:
        kind, words, smaller = min(changes(run), key=lambda change: estimate_memory(change[2]).peak)
        if kind in told and kind != "micro_batch":
            least = _gb(estimate_memory(run).peak)
            return f"no change of its settings is enough ({least} at the least); use a larger card"
        told[kind], run = words, smaller
    return f"no single change is enough; these together are: {', '.join(told.values())}"


def _gb(value: float) -> str:
    return f"{value / 1e9:.1f} GB"
