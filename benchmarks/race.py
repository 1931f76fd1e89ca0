"""What the race analysis costs: processor seconds a step on the virtual device, with it and without it.

`python -m benchmarks.race [--repeats 3] [--json]` trains a toy model on four ranks. Start-up cancels: each number is
the difference of a long and a short run, over all ranks. Processor time and not wall time, so that other work on the
machine does not count. The goal is a ratio of at most 1.5.
"""

from __future__ import annotations

import argparse
import json
import statistics

from harness.race.job import Job, Program
from harness.race.launch import Ranks
from harness.study import Run, load_study
from harness.system.places import REPOSITORY

SHORT, LONG = 4, 16  # optimizer steps
GOAL = 1.5


def toy_run(variant: str) -> Run:
    """A run of the laptop study's aligned Llama on 2 × 2 ranks."""
    study = load_study(REPOSITORY / "experiments" / "laptop.yaml")
    return next(
        r for r in study.runs if r.model == "llama2-toy" and r.variant == variant and r.policy == "eager"
    )


def seconds_a_step(run: Run, ranks: Ranks, analyse: bool) -> float:
    """Processor seconds of all ranks for one optimizer step."""
    spent = []
    for steps in (SHORT, LONG):
        outcome = ranks.run(Job(Program.of_run(run, steps), policy="busy", analyse=analyse))
        if outcome.processor_seconds is None:
            raise SystemExit(f"the run failed: {outcome.problem}")
        spent.append(outcome.processor_seconds)
    return (spent[1] - spent[0]) / (LONG - SHORT)


def measure(variant: str, repeats: int) -> dict[str, float | str | int]:
    """Medians over `repeats` alternating measurements."""
    run = toy_run(variant)
    plain, analysed = [], []
    with Ranks(Program.of_run(run).overlay, transformers=True) as ranks:
        ranks.run(Job(Program.of_run(run, 1)))  # warms the overlay's byte code
        for _ in range(repeats):
            plain.append(seconds_a_step(run, ranks, analyse=False))
            analysed.append(seconds_a_step(run, ranks, analyse=True))
    ratio = statistics.median(a / b for a, b in zip(analysed, plain, strict=True))
    return {
        "variant": variant,
        "device_ms": round(1e3 * statistics.median(plain), 1),
        "analysis_ms": round(1e3 * statistics.median(analysed), 1),
        "ratio": round(ratio, 2),
        "repeats": repeats,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--variants", default="fixed,unordered")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = [measure(variant, options.repeats) for variant in options.variants.split(",")]
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    print("variant     device      with analysis   ratio   (processor ms a step, all ranks)")
    for row in rows:
        print(f"{row['variant']:<10} {row['device_ms']:>8} {row['analysis_ms']:>15} {row['ratio']:>9}")
    worst = max(float(row["ratio"]) for row in rows)
    print(f"goal: at most {GOAL}×; reached: {worst}× ({'met' if worst <= GOAL else 'MISSED'})")


if __name__ == "__main__":
    main()
