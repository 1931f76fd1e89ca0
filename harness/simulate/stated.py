"""What a published measurement states of its setting, as candidates: one where it says so, all that could be where not.

Rows have the columns of `published.csv`. Text is read as people write it; what cannot be read is an unknown like any
other, and what cannot be simulated is refused with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.simulate.transformer import Transformer
from harness.system.errors import HarnessError

UNKNOWN = re.compile(r"not stated|unknown|n/a|^\s*$", re.IGNORECASE)
Row = Mapping[str, str]


@dataclass(frozen=True)
class Stated:
    """The values that one part of a setting may have; `assumed` says what was not stated, where something was not."""

    values: tuple[Any, ...]
    assumed: str = ""


class CannotSimulate(HarnessError):
    """The reason why a row cannot be simulated."""


def count(text: str) -> int | None:
    """The number that a text begins with: `8 (whether per GPU not stated)` is 8, `2K` 2048."""
    match = re.match(r"\s*([\d_,.]+)(?:\s*(k|K)\b|(?![A-Za-z\d]))", text)
    if not match or not re.search(r"\d", match[1]):
        return None
    value = float(match[1].replace(",", "").replace("_", "").rstrip("."))
    return int(value * 1024 if match[2] else value)


def parameters(row: Row) -> float | None:
    match = re.match(r"\s*([\d.]+(?:e\d+)?)", row["params"])
    return float(match[1]) if match else None


# ---- the machine

CARDS = (  # words of a card, profiles that it may be
    (r"a800", ("a800-sxm-80gb",)),
    (r"a100.*40 ?g", ("a100-sxm-40gb",)),
    (r"a100.*80 ?g", ("a100-sxm-80gb",)),
    (r"a100", ("a100-sxm-40gb", "a100-sxm-80gb")),
    (r"v100", ("v100-sxm-32gb",)),
    (r"h200", ("h200-sxm-141gb",)),
    (r"h100", ("h100-sxm-80gb",)),
    (r"b200", ("b200-sxm-180gb",)),
)
USUAL_NETWORKS = {"v100": (100, 200, 400, 800), "a100": (400, 800, 1600), "a800": (400, 800, 1600)}
EFFICIENCIES = {"efa": (0.59, 0.84), "ethernet": (0.35, 0.9)}  # nccl-tests of p4d and p4de; of TCP sockets
FAST_EFFICIENCIES = (0.4, 0.92)
SLOW_EFFICIENCIES = (0.92,)
NEWER_NETWORKS = (400, 1600, 3200)  # Gbit/s a node


def gpu_of(row: Row) -> Stated:
    """Profiles of harness/hardware/gpus.yaml. Raises CannotSimulate."""
    text = row["gpu_type"].lower()
    for words, names in CARDS:
        if re.search(words, text):
            if re.search(r"pcie", text):
                raise CannotSimulate(f"{row['gpu_type']}: no profile of a node with PCIe cards")
            return Stated(names, "memory of the card" if len(names) > 1 else "")
    raise CannotSimulate(f"card {row['gpu_type']!r}: no profile")


def nodes_of(row: Row) -> Stated:
    """(nodes, ranks a node). Raises CannotSimulate."""
    gpus = count(row["gpus"])
    if gpus is None:
        raise CannotSimulate("the number of GPUs is not stated")
    if pairs := re.findall(r"(\d+)x(\d+)", row["nodes"]):
        return Stated(tuple((int(n), int(r)) for n, r in pairs), "GPUs a node")
    nodes, each = count(row["nodes"]), count(row["gpus_per_node"])
    if nodes is None and each is None:
        return Stated(((max(1, gpus // 8), min(8, gpus)),), "8 GPUs a node")
    nodes = nodes or max(1, gpus // (each or 8))
    if gpus % nodes:
        raise CannotSimulate(f"{gpus} GPUs do not lie evenly on {nodes} nodes")
    return Stated(((nodes, gpus // nodes),))


def network_of(row: Row) -> Stated:
    """(Gbit/s of a node, kind of link, share of it that arrives) of what joins the nodes.

    Kind is `infiniband`, `efa` or `ethernet`. From 200 Gbit/s on nccl-tests reach between 40 and 92 % of the line, by
    cards, ports and configuration; a row that does not say more may have been anywhere there.
    """
    text = row["inter_link_gbps"]
    nodes = count(row["nodes"])
    if nodes == 1:
        return Stated(((400, "infiniband", 1.0),))
    kind = (
        "efa"
        if "efa" in text.lower()
        else "ethernet"
        if re.search("tcp|ethernet", text, re.I)
        else "infiniband"
    )
    if measured := re.search(r"([\d.]+) measured", text):
        return Stated(((float(measured[1]), kind, 1.0),), "the network as the source measured it")
    rate = count(text)
    if rate is not None and not UNKNOWN.match(text):
        shares = EFFICIENCIES.get(kind, FAST_EFFICIENCIES if rate >= 200 else SLOW_EFFICIENCIES)
        return Stated(
            tuple((rate, kind, share) for share in shares), "" if len(shares) == 1 else "share of the line"
        )
    card = next((name for name in USUAL_NETWORKS if name in row["gpu_type"].lower()), "")
    rates = USUAL_NETWORKS.get(card, NEWER_NETWORKS)
    return Stated(tuple((rate, kind, 0.85) for rate in rates), "network between nodes")


# ---- the training


def batch_of(row: Row) -> Stated:
    """(micro-batch, sequence length, accumulation). Raises CannotSimulate."""
    text, length = row["micro_batch"], count(row["seq_len"])
    if tokens := re.match(r"\s*([\d.]+) ?K tokens", text):
        each = int(float(tokens[1]) * 1024)
        lengths = (length,) if length else tuple(n for n in (512, 1024, 2048) if n <= each)
        batches = tuple((each // n, n, 1) for n in lengths)
        return Stated(batches, "" if length else "sequence length")
    micro = count(text)
    if micro is None:
        raise CannotSimulate("the micro-batch is not stated")
    assumed = ""
    if length is None:
        found = [int(n) for n in re.findall(r"\d{3,}", row["seq_len"])]
        if not found:
            raise CannotSimulate("the sequence length is not stated")
        length, assumed = found[0], "sequence length"
    accumulation, said = _accumulation(row, micro)
    return Stated(((micro, length, accumulation),), ", ".join(filter(None, (assumed, said))))


def _accumulation(row: Row, micro: int) -> tuple[int, str]:
    text, gpus = row["grad_acc"], count(row["gpus"]) or 1
    if match := re.search(r"global batch (\d+)(?:.*?: (\d+))?", text):
        return int(match[2]) if match[2] else max(1, int(match[1]) // (micro * gpus)), ""
    value = count(text)
    return (value, "") if value else (1, "accumulation of 1")


def checkpointing_of(row: Row) -> Stated:
    text = row["act_ckpt"].strip().lower()
    if re.match(r"full|yes|every", text):
        return Stated(("full",))
    if re.match(r"no\b|none|off", text):
        return Stated(("none",))
    if re.search(r"2nd|second|half|other", text):
        return Stated(("half",))
    if "full" in text:
        return Stated(("full",), "activation checkpointing")
    return Stated(("none", "full"), "activation checkpointing")


def attention_of(row: Row) -> Stated:
    """(`eager` or `flash`, version of FlashAttention)."""
    text, year = row["attention"].lower(), _year(row)
    if UNKNOWN.match(text):
        text = ""
    version = 3 if re.search(r"attention ?3|fa3", text) else 1 if year and year < 2023 else 2
    if re.search(r"unfused|eager|megatron|preln", text):
        return Stated((("eager", version),))
    if re.search(r"flash|fused|sdpa|xformers", text):
        if "torch 1.13" in row["framework"]:
            version = 1
        return Stated((("flash", version),))
    return Stated((("eager", version), ("flash", version)), "attention")


def _year(row: Row) -> int | None:
    match = re.search(r"\b(20[12]\d)\b", row["framework"])
    return int(match[1]) if match else None


def stack_of(row: Row) -> Stated:
    """Keywords of `blocks.Step` that the sharding and the precision give. Raises CannotSimulate."""
    text, precision = row["sharding"].lower(), row["precision"].lower()
    for words, why in (
        (r"offload(?<!no offload)", "an optimizer or parameters in host memory"),
        (r"\btp\b|tensor.?parallel|\bpp\b|pipeline", "tensor or pipeline parallelism"),
        (r"deepcompile", "DeepCompile"),
    ):
        if re.search(words, text):
            raise CannotSimulate(f"{why} is not simulated")
    if "fp8" in precision:
        raise CannotSimulate("FP8 is not simulated")
    masters = "amp" in precision and "pure" not in precision
    base: dict[str, Any] = {}
    if masters:
        base |= {"gather_itemsize": 4.0, "reduce_itemsize": 4.0, "single_precision_masters": True}
    elif "fp32 reduce" in precision:
        base |= {"reduce_itemsize": 4.0}
    if "fsdp2" in text:
        base |= {"copies_of_gathers": 1}
    if re.search(r"fsdp|full.?shard|zero-?3|zero\+\+|\bhpz\b|mics|hsdp|hybrid", text):
        return Stated((base | _sharded(text, row),))
    if re.search(r"zero-?2", text):
        return Stated((base | {"parameters_sharded": False},))
    if re.search(r"zero-?1|ddp|data.?parallel|distributed optimizer", text):
        return Stated(
            (base | {"parameters_sharded": False, "gradients_sharded": False, "reduce_once": True},)
        )
    raise CannotSimulate(f"sharding {row['sharding']!r} is not known")


DEEPSPEED = {"pieces_of_block": 4, "update_bytes": 126.0, "views_of_tensor": 12.0, "views_of_rank": 0.63}
"""What traces of DeepSpeed 0.19.8 show (Llama-2 7B and 13B on 16 to 64 ranks): gathers of a block, bytes that its
optimizer step moves for a parameter, and operators of the host."""
LIVE_PARAMETERS = 1e9  # DeepSpeed's default of stage3_max_live_parameters


def _sharded(text: str, row: Row) -> dict[str, Any]:
    _, per_node = nodes_of(row).values[0]
    found: dict[str, Any] = dict(DEEPSPEED) if "fsdp" not in text else {}
    if re.search(r"hsdp|hybrid|mics", text):
        found["shard_ranks"] = per_node
    if "hpz" in text or "zero++" in text:
        size = re.search(r"hpz ?(\d+)", text)
        found["secondary_ranks"] = int(size[1]) if size else per_node
    whole = "zero++" in text and not re.search(r"hpz|qwz|qgz", text)
    if "qwz" in text or whole:
        found |= {"gather_itemsize": 1.0, "quantised_gathers": True}
    if "qgz" in text or whole:
        found["quantised_reduction"] = True
    return found


def overlap_of(row: Row, model: Transformer) -> Stated:
    """Blocks that are gathered ahead of their turn. DeepSpeed's limits of live and prefetched parameters decide it."""
    if re.search(r"zero-?3|zero\+\+|\bhpz\b", row["sharding"].lower()):
        if 2 * model.of_block > LIVE_PARAMETERS:
            return Stated((0,))
        return Stated((0, 1), "DeepSpeed's limits of prefetching")
    return Stated((1,))


def recomputation_of(row: Row) -> Stated:
    """Whether TFLOP/s are counted with the recomputation of checkpointing, as Megatron-DeepSpeed does."""
    if "tflops" not in row["metric"].lower() or "model" in row["metric"].lower():
        return Stated((False,))
    if "without recomputation" in row["notes"].lower():
        return Stated((False,))
    if re.search(r"megatron|with recomputation", (row["framework"] + row["notes"]).lower()):
        return Stated((True,))
    return Stated((False, True), "whether FLOPs count recomputation")


def kernels_of(row: Row) -> Stated:
    """Whether element-wise kernels are joined."""
    text = (row["framework"] + " " + row["attention"]).lower()
    if "compile" in text and "not stated" in text:
        return Stated((False, True), "torch.compile")
    if re.search(r"megatron|internevo|nemo", text):
        return Stated((False, True), "which kernels its stack joins")
    return Stated((bool(re.search(r"liger|compiled", text)),))
