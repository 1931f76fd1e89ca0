"""Train the curves of the set and write healthy.jsonl and faulty.jsonl: `python -m tests.curves.make` (some minutes).

With `--real` the runs of real DeepSpeed ranks are trained again, too (ten minutes more); else they stay as they are.
"""

from __future__ import annotations

import argparse
import json
import math
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd
import torch

from harness.study import ModelFile, parameter_shapes
from harness.system.places import REPOSITORY
from tests.curves import faulty, fresh, healthy, last, public
from tests.curves.confusion import FILES, FOLDER, PARTS, records
from tests.curves.small import Trainer

SEEDS = 3
STUDIES = ("laptop", "ablation", "families", "one-gpu")
FP16 = {"fp16": {"enabled": True}, "zero_optimization": {"stage": 2, "overlap_comm": False}}
CONTEXTS: tuple[dict[str, Any], ...] = (
    {},
    faulty.known(faulty.HPZ, "0.19.8"),
    faulty.known(faulty.ZERO3, "0.16.9"),
    faulty.known(faulty.ZERO2, "0.19.8"),
    faulty.known(faulty.HPZ, "0.13.5", facts=["loads weights"]),
    faulty.known(faulty.with_zero(faulty.HPZ, offload_param=faulty.CPU), "0.18.9"),
)
"""What the owner of a healthy curve may know, in turn."""


def record(name: str, part: str, rows: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    keys = list(rows[0]) if rows else []
    columns = {key: [_plain(row.get(key)) for row in rows] for key in keys}
    return {"name": name, "part": part, **more, "columns": columns}


def _plain(value: Any) -> Any:
    """JSON has no NaN: as text, which the readers take."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def trained(trainer: Trainer) -> Trainer:
    return trainer if trainer.rows else trainer.run()


HEALTHY = {
    "tuned": healthy.TUNED,
    "second": healthy.HELD_OUT,
    "third": fresh.HEALTHY,
    "held out": last.HEALTHY,
}
FAULTY = {"tuned": faulty.TUNED, "second": faulty.HELD_OUT, "third": fresh.FAULTY, "held out": last.FAULTY}


def healthy_curves(part: str) -> Iterator[dict[str, Any]]:
    for name, recipe in HEALTHY[part].items():
        for seed in range(1, SEEDS + 1):
            one = trained(recipe(seed))
            known = CONTEXTS[(zlib.crc32(name.encode()) + seed) % len(CONTEXTS)]
            if "fp16" in name:
                known = {} if seed == 1 else faulty.known(FP16, "0.19.8")
            yield record(
                f"{name} {seed}", part, one.rows, kind="healthy", known=known, evaluations=one.evaluations
            )


def public_curves() -> Iterator[dict[str, Any]]:
    for name, rows in public.HEALTHY.items():
        yield record(name, "tuned", rows, kind="healthy", known={}, evaluations=[])


def faulty_curves(part: str) -> Iterator[dict[str, Any]]:
    for name, recipe in FAULTY[part].items():
        for seed in range(1, SEEDS + 1):
            one = trained(recipe.make(seed))
            yield record(
                f"{name} {seed}",
                part,
                one.rows[: recipe.keep],
                kind=recipe.kind,
                right=list(recipe.right),
                known=recipe.known,
                evaluations=one.evaluations,
                silence=recipe.silence,
            )


def reference_curves(study: str) -> Iterator[dict[str, Any]]:
    """Runs of the reference results: hpZ as it was (stock, unordered) and as it should be, one of each kind of run."""
    folder = REPOSITORY / "results" / "reference" / study
    runs, steps = pd.read_parquet(folder / "runs.parquet"), pd.read_parquet(folder / "steps.parquet")
    seen: set[tuple[str, ...]] = set()
    for row in runs.itertuples():
        run = json.loads(row.record)["run"]
        mine = steps[steps.run_id == row.run_id].sort_values("step")
        if not len(mine):
            continue
        kind = kind_of(row.variant, mine)
        same = (kind, row.model, *(f"{loss:.3g}" for loss in mine.loss))
        if same in seen:
            continue
        seen.add(same)
        rows = [
            {
                "step": int(one.step),
                "loss": float(f"{one.loss:.6g}"),
                "grad_norm": float(f"{one.grad_norm:.5g}"),
            }
            for one in mine.itertuples()
        ]
        model = ModelFile.model_validate(run["model_spec"])
        known = {
            "config": run["deepspeed"],
            "release": "0.13.4" if kind != "healthy" else "0.19.8",
            "world_size": row.nodes * row.ranks_per_node,
            "ranks_per_node": row.ranks_per_node,
            "numels": [math.prod(shape) for _, shape in parameter_shapes(model)],
            "vocabulary": model.config.vocab_size,
        }
        right = {"missing copy": ["missing copy"], "race, silent": ["race", "missing copy"], "healthy": []}[
            kind
        ]
        part = "second" if study in ("families", "one-gpu") else "tuned"
        yield record(f"{study} {row.run_id}", part, rows, kind=kind, right=right, known=known, evaluations=[])


def kind_of(variant: str, steps: pd.DataFrame) -> str:
    """The kind of a reference run: the old copy breaks, no order is silent or not, all else is sound."""
    if steps.loss.isna().any():
        return "missing copy"
    return (
        "race, silent" if variant in ("unordered", "stock", "new+none+step", "old+none+step") else "healthy"
    )


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument(
        "--part", choices=PARTS, help="train the recipes of this part alone, and keep the others"
    )
    words.add_argument(
        "--real", action="store_true", help="train the runs of real DeepSpeed ranks again, too"
    )
    given = words.parse_args()
    torch.set_num_threads(1)
    made = _written()
    for part in [given.part] if given.part else PARTS:
        made |= _named(healthy_curves(part)) | _named(faulty_curves(part))
    made |= _named(public_curves())
    made |= _named(_real()) if given.real else {}
    for study in () if given.part else STUDIES:
        made |= _named(reference_curves(study))
    for file, wanted in (("healthy.jsonl", True), ("faulty.jsonl", False)):
        lines = [json.dumps(one) for one in made.values() if (one["kind"] == "healthy") is wanted]
        (FOLDER / file).write_text("\n".join(lines) + "\n")
        print(f"{file}: {len(lines)} curves")


def _named(found: Iterable[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(one["kind"], one["name"]): one for one in found}


def _written() -> dict[tuple[str, str], dict[str, Any]]:
    """What was made the last time."""
    return _named(records()) if all((FOLDER / name).exists() for name in FILES) else {}


def _real() -> list[dict[str, Any]]:
    from tests.curves.real import real

    return [_of_real(one, seed) for seed in range(1, SEEDS + 1) for one in real(seed)]


def _of_real(one: dict[str, Any], seed: int) -> dict[str, Any]:
    right = list(one["right"])
    return record(
        f"real: {one['name']} {seed}",
        "tuned" if seed == 1 else "second",
        one["rows"],
        kind=right[0] if right else "healthy",
        right=right,
        known=one["known"],
        evaluations=[],
    )


if __name__ == "__main__":
    main()
