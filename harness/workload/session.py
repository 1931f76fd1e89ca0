"""The training loop of one rank, from its first step or its checkpoint to its final record."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from harness.device import Device, step_traffic
from harness.device.torch_private import rendezvous_store
from harness.device.witness import Witness
from harness.record import Final, RunDirectory, StepRecord, StepWriter
from harness.study import Run
from harness.system.utc import seconds_since, utc_now
from harness.workload.batches import Batches, batch_hash, chained_hash
from harness.workload.engine import forget_secondary_partitions
from harness.workload.score import Score, held_out_score
from harness.workload.wire import WireMeter

HEARTBEAT_SECONDS = 2.0


@dataclass(frozen=True)
class Rank:
    """Where this process stands in the world."""

    rank: int
    world_size: int

    @classmethod
    def from_environment(cls) -> Rank:
        return cls(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))


class Preempted(Exception):
    """The run was asked to stop; its checkpoint is written."""


class StopRequest:
    """SIGUSR1 asks the run to checkpoint and stop; all ranks agree on the step through the rendezvous store."""

    def __init__(self) -> None:
        self.asked = False
        signal.signal(signal.SIGUSR1, self._ask)

    def _ask(self, *_: object) -> None:
        self.asked = True

    def agreed_after(self, step: int, rank: int) -> bool:
        """Whether every rank stops after `step`. Rank 0 decides one step ahead, which no other rank can have passed:

        finishing step s + 1 needs rank 0's collectives, and rank 0 issues them after it has set the key.
        """
        store = rendezvous_store()
        if rank == 0 and self.asked and not store.check(["hpz_stop_after"]):
            store.set("hpz_stop_after", str(step + 1))
        return bool(store.check(["hpz_stop_after"])) and int(store.get("hpz_stop_after")) <= step


@dataclass(frozen=True)
class PendingStep:
    """A step whose loss and gradient norm are still on their way to the host."""

    host: torch.Tensor  # (2,) float32, pinned: loss, grad norm
    event: Any  # None where the device has no streams
    marks: tuple[Any, Any]  # before and after the step, where the device has a clock
    known: Mapping[str, Any]

    def arrived(self) -> bool:
        return self.event is None or bool(self.event.query())

    def record(self) -> StepRecord:
        loss, grad_norm = self.host.tolist()
        before, after = self.marks
        return StepRecord(
            loss=loss,
            grad_norm=grad_norm,
            device_seconds=after(before) if after else None,  # passed: the copy's event came later
            **self.known,
        )


class Session:
    """One rank's training of one run, from its first or its resumed step to its final record."""

    def __init__(
        self,
        run: Run,
        directory: RunDirectory,
        place: Rank,
        device: Device,
        engine: Any,
        batches: Batches,
        stop: StopRequest,
    ) -> None:
        self.run, self.directory, self.place = run, directory, place
        self.device, self.engine, self.batches, self.stop = device, engine, batches, stop
        self.pending: deque[PendingStep] = deque()
        self.first_step, self.seen = self._resume()
        self.writer = StepWriter(directory.steps_file, self.first_step) if place.rank == 0 else None
        self.heartbeat = ""
        self.wire = WireMeter(gloo=device.backend == "gloo")

    def train(self, until: int, witness: Witness) -> None:
        every, last = self.run.training.checkpoint_every, self.run.training.steps
        for step in range(self.first_step, last):
            with witness.of_step(step):
                self.pending.append(self.step(step))
            self.write_arrived()
            done = step + 1
            asked = self.stop.agreed_after(step, self.place.rank) or done == until
            if done < last and (asked or (every and done % every == 0)):
                self.save(done)
            if done < last and asked:
                raise Preempted(f"stopped as asked after step {step}; the checkpoint is written")
        self.device.synchronize()
        self.write_arrived(wait=True)

    def step(self, step: int) -> PendingStep:
        """One optimizer step over all micro-batches."""
        engine, before, skipped = self.engine, self.device.counters(), self.engine.skipped_steps
        micro_batches = [self.batches.at(step, m) for m in range(self.run.training.gradient_accumulation)]
        self.wire.start()
        started, begun = time.perf_counter(), self.device.mark()
        losses = []
        for batch in micro_batches:
            loss = engine(**self.on_device(batch)).loss
            engine.backward(loss)
            engine.step()
            losses.append(loss.detach())
        marks = begun, self.device.mark()
        host, event = self.send_to_host(
            sum(losses[1:], losses[0]) / len(losses), engine.get_global_grad_norm()
        )
        seconds = time.perf_counter() - started
        hashed = batch_hash(micro_batches)
        self.seen = chained_hash(self.seen, hashed)
        counted, shape = self.device.counters() - before, self.run.shape
        traffic = step_traffic(counted, shape)
        known = {
            "step": step,
            "batch_hash": hashed,
            "lr": engine.get_lr()[0],
            "tokens": self.run.tokens_per_step,
            "step_seconds": seconds,
            "secondary_gathers": traffic.secondary_gathers,
            "host_syncs": traffic.host_syncs,
            "host_blocked_seconds": counted.host_blocked_seconds,
            "bytes_intra": traffic.bytes_intra,
            "bytes_inter": traffic.bytes_inter,
            "skipped": engine.skipped_steps > skipped,
            **self.wire.stop(counted.collectives, shape.nodes, shape.ranks_per_node),
        }
        return PendingStep(host, event, marks, known)

    def on_device(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The batch on the device, sent from pinned memory so that the host does not wait."""
        from deepspeed.accelerator import get_accelerator

        pin = get_accelerator().pin_memory
        return {name: pin(t).to(self.device.torch_device, non_blocking=True) for name, t in batch.items()}

    def send_to_host(self, loss: torch.Tensor, grad_norm: Any) -> tuple[torch.Tensor, Any]:
        """Start the copy of both scalars to pinned memory; returns it and the event after the copy."""
        from deepspeed.accelerator import get_accelerator

        accelerator = get_accelerator()
        host = accelerator.pin_memory(torch.zeros(2))
        host[0].copy_(loss, non_blocking=True)
        if torch.is_tensor(grad_norm):
            host[1].copy_(grad_norm, non_blocking=True)
        else:
            host[1] = float("nan") if grad_norm is None else float(grad_norm)
        event = accelerator.Event() if accelerator.Event is not None else None
        if event is not None:
            event.record(accelerator.current_stream())
        return host, event

    def write_arrived(self, wait: bool = False) -> None:
        while self.pending and (wait or self.pending[0].arrived()):
            record = self.pending.popleft().record()
            if self.writer is not None:
                self.writer.write(record)
                self.beat(record.step)

    def beat(self, step: int) -> None:
        if not self.heartbeat or seconds_since(self.heartbeat) > HEARTBEAT_SECONDS:
            self.heartbeat = utc_now()
            self.directory.update_status(heartbeat_utc=self.heartbeat, step=step)

    def save(self, step: int) -> None:
        """Write a DeepSpeed checkpoint after `step` finished steps; what was measured so far is flushed first."""
        self.device.synchronize()
        self.write_arrived(wait=True)
        with self.device.paused():
            state = {"step": step, "rng": random_state(), "batches": self.seen}
            self.engine.save_checkpoint(
                str(self.directory.checkpoints), tag=f"step{step}", client_state=state
            )

    def _resume(self) -> tuple[int, str]:
        """Load the newest checkpoint, if there is one; the first step still to do, and the hash of batches so far."""
        if not (self.directory.checkpoints / "latest").exists():
            return 0, ""
        self.device.synchronize()
        with self.device.paused():
            _, state = self.engine.load_checkpoint(str(self.directory.checkpoints))
            forget_secondary_partitions(self.engine)
            restore_random_state(state["rng"])
        self.device.synchronize()  # DeepSpeed lets the next all-gather overtake the copy of the loaded weights
        return int(state["step"]), str(state["batches"])

    def evaluate(self) -> Score | None:
        """This rank's answers to the held-out questions where the run trained on questions; None otherwise."""
        if self.run.data.source != "mmlu":
            return None
        return held_out_score(
            self.engine,
            self.run.data,
            self.run.training,
            device=self.device.torch_device,
            rank=self.place.rank,
            world_size=self.place.world_size,
        )

    def finish(self, score: Score | None) -> None:
        """Hash every rank's shards and batches and write the final record, which alone makes the run done."""
        gathered: list[Any] = [None] * self.place.world_size
        torch.distributed.all_gather_object(gathered, (shards_sha256(self.engine.module), self.seen, score))
        digests, seen, scores = zip(*gathered, strict=True)
        if self.writer is not None:
            self.writer.close()
            final = Final(
                steps=self.run.training.steps,
                skipped_steps=self.engine.skipped_steps,
                shards_sha256=hashlib.sha256("".join(digests).encode()).hexdigest(),
                batches_sha256=hashlib.sha256("".join(seen).encode()).hexdigest(),
                accuracy=sum(scores, Score(0, 0)).accuracy if score else None,
            )
            self.directory.update_status(
                final=final.model_dump(), step=final.steps - 1, heartbeat_utc=utc_now()
            )


def random_state() -> dict[str, torch.Tensor]:
    """Generators of the host and of the device, which are one and the same where there is no device."""
    from deepspeed.accelerator import get_accelerator

    return {"host": torch.get_rng_state(), "device": get_accelerator().get_rng_state()}


def restore_random_state(state: Mapping[str, torch.Tensor]) -> None:
    from deepspeed.accelerator import get_accelerator

    torch.set_rng_state(state["host"])
    get_accelerator().set_rng_state(state["device"])


def shards_sha256(module: torch.nn.Module) -> str:
    """Hash of this rank's primary shards, in parameter order."""
    digest = hashlib.sha256()
    for name, parameter in sorted(module.named_parameters()):
        shard = parameter.ds_tensor.detach().cpu().contiguous()  # type: ignore[attr-defined]
        digest.update(name.encode())
        digest.update(shard.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
