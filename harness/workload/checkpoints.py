"""DeepSpeed checkpoints of a run: each rank writes its own shards, older ones go, and a full disk is told beforehand.

Every rank writes what it holds, one tensor after the other, so that no memory doubles and no rank ever has a whole
model. `latest` is written when all shards are, so what it names is whole. (DeepSpeed itself writes it as soon as rank 0
has written its own.)
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harness.device.torch_private import rendezvous_store
from harness.study import ModelFile, Run
from harness.system.errors import HarnessError
from harness.system.whole_file import write_text_whole
from harness.workload.engine import forget_secondary_partitions
from harness.workload.rank import Rank

BYTES_PER_PARAMETER = (
    14  # over all ranks: weights in half precision; masters and two moments in single precision
)
TAG = "step"


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run in its folder."""

    folder: Path
    run: Run

    def any(self) -> bool:
        return (self.folder / "latest").exists()

    def save(self, engine: Any, step: int, seen: str, place: Rank) -> bool:
        """Write the checkpoint after `step` finished steps, and remove the oldest beyond those that are kept.

        `seen` is the hash of the batches so far. Where rank 0 finds the disk too full, all ranks leave it out, and the
        run goes on: an older checkpoint stays. Whether it was written.
        """
        if not self._agreed_room(step, place):
            return False
        state = {"step": step, "rng": random_state(), "batches": seen}
        tag = f"{TAG}{step}"
        engine.save_checkpoint(str(self.folder), tag=tag, client_state=state, save_latest=False)
        if place.rank == 0:  # every rank has written: save_checkpoint ends with a barrier
            write_text_whole(self.folder / "latest", tag)
            self._remove_old()
        return True

    def load(self, engine: Any) -> tuple[int, str]:
        """Load the newest; the first step still to do, and the hash of batches so far."""
        _, state = engine.load_checkpoint(str(self.folder))
        forget_secondary_partitions(engine)
        restore_random_state(state["rng"])
        return int(state["step"]), str(state["batches"])

    def check_room(self) -> None:
        """Refuse to start a run whose first checkpoint would not fit on the disk. Raises HarnessError."""
        if self.run.training.checkpoint_every and not self.any() and (short := self._short_of_room()):
            raise HarnessError(
                f"training.checkpoint_every: {short}; free some, give another folder with --results, or set it to 0"
            )

    def _short_of_room(self) -> str | None:
        """What a checkpoint needs and the disk has, in words, where that is not enough."""
        needed = BYTES_PER_PARAMETER * ModelFile.model_validate(self.run.model_spec).parameters
        place = next(one for one in (self.folder, *self.folder.parents) if one.exists())
        free = shutil.disk_usage(place).free
        if free >= needed:
            return None
        return f"a checkpoint takes {needed / 1e9:.1f} GB and {place} has {free / 1e9:.1f} GB free"

    def _agreed_room(self, step: int, place: Rank) -> bool:
        """What rank 0 found, known to all: ranks may not differ in whether they write."""
        store, key = rendezvous_store(), f"hpz_room_{step}"
        if place.rank == 0:
            short = self._short_of_room()
            if short:
                print(f"no checkpoint after step {step}: {short}", flush=True)
            store.set(key, "" if short else "yes")
        return bool(store.get(key))

    def _remove_old(self) -> None:
        tags = sorted(self.folder.glob(f"{TAG}*"), key=lambda tag: int(tag.name.removeprefix(TAG)))
        for tag in tags[: -max(self.run.training.keep_checkpoints, 1)]:
            shutil.rmtree(tag, ignore_errors=True)

    def remove_unkept(self) -> None:
        """Of a run that is done: remove the last checkpoint, too, where none is to be kept."""
        if not self.run.training.keep_checkpoints:
            shutil.rmtree(self.folder, ignore_errors=True)


def random_state() -> dict[str, torch.Tensor]:
    """Generators of the host and of the device, which are one and the same where there is no device."""
    from deepspeed.accelerator import get_accelerator

    return {"host": torch.get_rng_state(), "device": get_accelerator().get_rng_state()}


def restore_random_state(state: Mapping[str, torch.Tensor]) -> None:
    from deepspeed.accelerator import get_accelerator

    torch.set_rng_state(state["host"])
    get_accelerator().set_rng_state(state["device"])
