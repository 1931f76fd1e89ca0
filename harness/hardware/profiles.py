"""Hardware profiles: what a GPU, its node, the network and the host can do, read from data files with their sources."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.system.errors import HarnessError, nearest
from harness.system.messages import of_key
from harness.system.yaml_file import read_keys

FOLDER = Path(__file__).parent
Share = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Seconds = Annotated[float, Field(ge=0)]


class _Profile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    """Where the numbers come from."""


class Card(_Profile):
    """What one accelerator can do at most, whatever node it sits in."""

    names: tuple[str, ...] = ()  # as torch.cuda.get_device_name gives it
    half_flops: Positive  # dense matrix FLOP/s, 16-bit
    single_flops: Positive  # dense matrix FLOP/s, 32-bit as PyTorch uses it by default
    memory_bytes: Positive

    def peak_flops(self, dtype: str) -> float:
        """Dense FLOP/s that a training in `bf16` or `fp32` is held against; a card without BF16 has FP16's."""
        return self.half_flops if dtype == "bf16" else self.single_flops


class Gpu(Card):
    """One accelerator in its node. Bandwidths are per direction; `*_efficiency` is the share reached in practice."""

    matmul_efficiency: (
        Share  # of a deep product that fills every multiprocessor; of any, where those are not known
    )
    multiprocessors: int = Field(default=0, ge=0)  # 0: not known
    matmul_ramp: Annotated[float, Field(ge=0)] = 0.0
    """Depth of a product that the beginning and end of each of its tiles cost."""
    attention_efficiency: Share = 0.5  # of the peak, fused attention forth and back
    collective_multiprocessors: int = Field(default=0, ge=0)  # that a collective keeps busy while it runs
    memory_bandwidth: Positive  # bytes/s
    memory_efficiency: Share
    kernel_seconds: Seconds  # of the shortest kernel
    nvlink_bandwidth: Positive  # bytes/s that one GPU sends inside the node
    nvlink_efficiency: Share
    nvlink_latency: Seconds  # of one hop of a short message
    nvlink_step: Seconds = 0.0  # that a hop of a long message takes beside (see harness.clock.collectives)
    pcie_bandwidth: Positive  # bytes/s


class Network(_Profile):
    """What joins the nodes. The bandwidth is that of one node, shared by its ranks, per direction."""

    bits_per_second: Positive
    efficiency: Share
    latency: Seconds  # of one hop of a short message between nodes, seen by NCCL
    step: Seconds = 0.0  # that a hop of a long message takes beside
    algorithm: Literal["ring", "hierarchical", "gloo"] = "ring"
    """How collectives travel. NCCL gathers and scatters along rings; `hierarchical` may go between nodes first and then
    inside each; over `gloo` a reduce-scatter travels as an all-reduce (harness.workload.gloo_bytes)."""

    @property
    def bandwidth(self) -> float:
        """Bytes/s that arrive."""
        return self.bits_per_second / 8 * self.efficiency


class Host(_Profile):
    """What the Python thread spends on each thing that it issues, hooks and autograd included."""

    launch_seconds: Seconds  # one operator with device work
    view_seconds: Seconds  # one without
    event_seconds: Seconds  # an event recorded or waited for
    sync_seconds: Seconds  # to notice that the device is done, and go on
    collective_seconds: Seconds  # one collective


class Cluster(BaseModel):
    """Everything that a cost depends on, with contention between what runs at the same time or without."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gpu: Gpu
    network: Network
    host: Host
    contention: bool = True
    streams: bool = True
    """False for CPUs: the host runs every kernel itself and waits wherever a stream would."""


KINDS: dict[str, type[_Profile]] = {"gpus": Gpu, "networks": Network, "hosts": Host, "cards": Card}


@cache
def profiles(kind: str) -> dict[str, Any]:
    """All shipped profiles of a kind: `gpus`, `networks`, `hosts` or `cards` (GPUs whose node nobody described)."""
    return read_profiles(FOLDER / f"{kind}.yaml", kind)


def read_profiles(file: Path, kind: str) -> dict[str, Any]:
    """The profiles of a file. Raises HarnessError naming file, profile and key."""
    hint = "see harness/hardware for the shipped ones"
    try:
        return {name: KINDS[kind].model_validate(entry) for name, entry in read_keys(file, hint).items()}
    except ValidationError as error:
        first = error.errors()[0]
        raise HarnessError(f"{file}: {of_key('.'.join(map(str, first['loc'])), first)}") from error


class Hardware(BaseModel):
    """Profiles of somebody's own, by name: what `hpz calibrate --output` writes and a study may hold."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gpus: dict[str, Gpu] = {}
    networks: dict[str, Network] = {}
    hosts: dict[str, Host] = {}


NONE = Hardware()


def find(kind: str, name: str, own: Hardware = NONE) -> Any:
    """The profile called `name`, shipped or one's own. Raises HarnessError with the valid names."""
    known = {**profiles(kind), **getattr(own, kind)}
    if name not in known:
        raise HarnessError(f"{name!r} is not among {kind}; {nearest(name, known)}")
    return known[name]


def cards() -> dict[str, Card]:
    """Every card that is known, by profile name: those with a node and those without."""
    return {**profiles("gpus"), **profiles("cards")}


def find_card(name: str) -> Card:
    """The card of a profile name. Raises HarnessError with the valid ones."""
    if name not in (known := cards()):
        raise HarnessError(f"{name!r} is no card that is known; {nearest(name, known)}")
    return known[name]


def card_called(device_name: str | None) -> tuple[str, Card] | None:
    """Profile name and card of what torch calls a GPU, as `NVIDIA H100 80GB HBM3`; None where it is not known."""
    found = ((name, card) for name, card in cards().items() if device_name in card.names)
    return next(found, None)


def cluster(gpu: str, network: str, host: str, *, own: Hardware = NONE, contention: bool = True) -> Cluster:
    """A cluster from profile names. Raises HarnessError."""
    return Cluster(
        gpu=find("gpus", gpu, own),
        network=find("networks", network, own),
        host=find("hosts", host, own),
        contention=contention,
    )
