"""The training loop of one rank, from its first step or its checkpoint to its final record."""

from __future__ import annotations

import hashlib
import math
import signal
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

import torch

from harness.device import Device, step_traffic
from harness.device.torch_private import rendezvous_store
from harness.device.witness import Witness
from harness.record import Final, RunDirectory, StepWriter
from harness.study import Run
from harness.system.utc import seconds_since, utc_now
from harness.workload.batches import Batches, batch_hash, chained_hash
from harness.workload.checkpoints import Checkpoints
from harness.workload.laps import laps_of
from harness.workload.pending import PendingStep, Sent, send_to_host
from harness.workload.rank import Rank
from harness.workload.rank_times import RankTimes
from harness.workload.score import Score, held_out_score
from harness.workload.wire import WireMeter

HEARTBEAT_SECONDS = 2.0


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
        validation: Batches | None = None,
    ) -> None:
        self.run, self.directory, self.place = run, directory, place
        self.device, self.engine, self.batches, self.stop = device, engine, batches, stop
        self.validation = validation
        self.validation_loss: float | None = None
        self.memory: tuple[int, int] | None = None  # most bytes so far, allocated and reserved
        self.checkpoints = Checkpoints(directory.checkpoints, run)
        self.checkpoints.check_room()
        self.pending: deque[PendingStep] = deque()
        self.first_step, self.seen = self._resume()
        self.writer = StepWriter(directory.steps_file, self.first_step) if place.rank == 0 else None
        self.heartbeat = ""
        self.wire = WireMeter(gloo=device.backend == "gloo")
        self.times = self._rank_times()

    def train(self, until: int, witness: Witness) -> None:
        every, last = self.run.training.checkpoint_every, self.run.training.steps
        for step in range(self.first_step, last):
            with witness.of_step(step):
                pending = self.step(step)
            done = step + 1
            if self.validation is not None and (done % self.run.training.validate_every == 0 or done == last):
                pending.validation = self.validate(self.validation)
            self.pending.append(pending)
            self.write_arrived()
            asked = self.stop.agreed_after(step, self.place.rank) or done == until
            saved = done < last and (asked or bool(every and done % every == 0)) and self.save(done)
            if done < last and asked:
                if self.times is not None:
                    self.times.write()
                where = "the checkpoint is written" if saved else "without a checkpoint, for want of room"
                raise Preempted(f"stopped as asked after step {step}; {where}")
        self.device.synchronize()
        self.write_arrived(wait=True)

    def step(self, step: int) -> PendingStep:
        """One optimizer step over all micro-batches."""
        engine, before, skipped = self.engine, self.device.counters(), self.engine.skipped_steps
        micro_batches = [self.batches.at(step, m) for m in range(self.run.training.gradient_accumulation)]
        self.wire.start()
        self.device.stream_waits()
        self.device.peak_memory()  # both are asked from here on
        laps = laps_of(self.device)
        started, begun = time.perf_counter(), self.device.mark()
        losses = []
        for batch in micro_batches:
            inputs = self.on_device(batch)
            laps.start()
            loss = engine(**inputs).loss
            laps.end("forward")
            engine.backward(loss)
            laps.end("backward")
            engine.step()
            laps.end("optimizer")
            losses.append(loss.detach())
        marks, waits = (begun, self.device.mark()), self.device.stream_waits()
        sent = send_to_host(sum(losses[1:], losses[0]) / len(losses), engine.get_global_grad_norm())
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
            **self.peak_memory(),
            **self.wire.stop(counted.collectives, shape.nodes, shape.ranks_per_node),
        }
        return PendingStep(sent, marks, laps, waits, known)

    def peak_memory(self) -> dict[str, int]:
        """What the step needed at most, and the most of all steps for the final record; empty where nobody counts."""
        most = self.device.peak_memory()
        if most is None:
            return {}
        before = self.memory or (0, 0)
        self.memory = max(before[0], most[0]), max(before[1], most[1])
        return dict(zip(("memory_allocated", "memory_reserved"), most, strict=True))

    def validate(self, held_out: Batches) -> Sent:
        """The mean loss over the held-out batches of all ranks, on its way to the host; nobody waits for it."""
        from deepspeed import comm

        batches = self.run.training.validation_batches
        total = torch.zeros(1, device=self.device.torch_device)
        self.engine.eval()
        with torch.no_grad():
            for batch in (held_out.at(0, number) for number in range(batches)):
                total += self.engine(**self.on_device(batch)).loss.float()
        self.engine.train()
        comm.all_reduce(total)
        return send_to_host(total[0] / (batches * self.place.world_size))

    def on_device(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The batch on the device, sent from pinned memory so that the host does not wait."""
        from deepspeed.accelerator import get_accelerator

        pin = get_accelerator().pin_memory
        return {name: pin(t).to(self.device.torch_device, non_blocking=True) for name, t in batch.items()}

    def write_arrived(self, wait: bool = False) -> None:
        while self.pending and (wait or self.pending[0].arrived()):
            record = self.pending.popleft().record()
            if record.validation_loss is not None:
                self.validation_loss = record.validation_loss
            if self.times is not None:
                self.times.add(record)
            if self.writer is not None:
                self.writer.write(record)
                self.beat(record.step)

    def beat(self, step: int) -> None:
        if not self.heartbeat or seconds_since(self.heartbeat) > HEARTBEAT_SECONDS:
            self.heartbeat = utc_now()
            self.directory.update_status(heartbeat_utc=self.heartbeat, step=step, gpu=self.device.card)

    def _rank_times(self) -> RankTimes | None:
        """None where ranks have no time of their own: on the virtual device, on a GPU that they share, and alone."""
        if self.device.kind == "virtual" or self.run.virtual_nodes or self.place.world_size == 1:
            return None
        return RankTimes(self.directory.ranks_file, self.place, rendezvous_store(), self.run.training.steps)

    def save(self, step: int) -> bool:
        """Write a checkpoint after `step` finished steps, if there is room; what was measured is flushed first."""
        self.device.synchronize()
        self.write_arrived(wait=True)
        with self.device.paused():
            return self.checkpoints.save(self.engine, step, self.seen, self.place)

    def _resume(self) -> tuple[int, str]:
        """Load the newest checkpoint, if there is one; the first step still to do, and the hash of batches so far."""
        if not self.checkpoints.any():
            return 0, ""
        self.device.synchronize()
        with self.device.paused():
            found = self.checkpoints.load(self.engine)
        self.device.synchronize()  # DeepSpeed lets the next all-gather overtake the copy of the loaded weights
        return found

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
        own = (shards_sha256(self.engine.module), self.seen, score, self.memory)
        torch.distributed.all_gather_object(gathered, own)
        digests, seen, scores, memory = zip(*gathered, strict=True)
        allocated, reserved = zip(*memory, strict=True) if self.memory else (None, None)
        if self.writer is not None:
            if self.times is not None:
                self.times.write()  # the last window, of which all have spoken by now
            self.writer.close()
            final = Final(
                steps=self.run.training.steps,
                skipped_steps=self.engine.skipped_steps,
                shards_sha256=hashlib.sha256("".join(digests).encode()).hexdigest(),
                batches_sha256=hashlib.sha256("".join(seen).encode()).hexdigest(),
                accuracy=sum(scores, Score(0, 0)).accuracy if score else None,
                validation_loss=finite_or_none(self.validation_loss),
                memory_allocated=allocated,
                memory_reserved=reserved,
            )
            self.directory.update_status(
                final=final.model_dump(), step=final.steps - 1, heartbeat_utc=utc_now()
            )
            self.checkpoints.remove_unkept()


def shards_sha256(module: torch.nn.Module) -> str:
    """Hash of this rank's primary shards, in parameter order."""
    digest = hashlib.sha256()
    for name, parameter in sorted(module.named_parameters()):
        shard = parameter.ds_tensor.detach().cpu().contiguous()  # type: ignore[attr-defined]
        digest.update(name.encode())
        digest.update(shard.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def finite_or_none(value: float | None) -> float | None:
    """The final record is strict JSON; a loss that diverged stands in its step's line."""
    return value if value is not None and math.isfinite(value) else None
