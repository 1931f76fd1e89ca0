"""How many ranks a command starts, and how many of them on a node: as its launcher says, else as its job does."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from harness.configuration.batch import Job
from harness.configuration.found import per_node, whole
from harness.system.errors import HarnessError

NODES = ("actor_num_nodes", "nnodes", "num_nodes", "num_machines", "NNODES")
PER_NODE = ("actor_num_gpus_per_node", "nproc_per_node", "num_gpus", "NPROC_PER_NODE", "GPUS_PER_NODE")
TOTAL = ("num_processes", "world_size")
SLOTS = re.compile(r"^\s*(?!#)\S+\s+slots=(\d+)", re.MULTILINE)
"""A line of a hostfile of DeepSpeed's launcher."""
MADE = re.compile(r"\bslots=(\d+)")
"""How a script writes such lines."""


def ranks_of(
    plain: str,
    arguments: Mapping[str, Any],
    variables: Mapping[str, str],
    job: Job,
    read: Callable[[str], str],
) -> tuple[int | None, int | None]:
    """World size and ranks on a node, as far as they stand there. `read` gives the text of a hostfile."""

    def first(names: tuple[str, ...], *places: Mapping[str, Any]) -> int | None:
        return next(
            (number for place in places for name in names if (number := whole(place.get(name)))), None
        )

    if isinstance(chosen := arguments.get("include"), str) and (of_hosts := _included(chosen)):
        return of_hosts
    nodes = first(NODES, arguments, variables) or (1 if "standalone" in arguments else job.nodes)
    here, total = first(PER_NODE, arguments, variables), first(TOTAL, arguments)
    if arguments.get("nproc_per_node") in ("gpu", "auto"):
        here = job.gpus_per_node
    hosts = _hostfile(plain, arguments, read)
    nodes, here = nodes or hosts[0], here or hosts[1]
    whole_node = (
        total == (job.gpus_per_node or whole(arguments.get("gpus"))) and "num_machines" not in arguments
    )
    if total and nodes and nodes > 1 and whole_node:
        return None, total  # the launcher does not say whether those are the ranks of one node or of all
    if total and (nodes or not here):
        return total, per_node(total, nodes) or here
    if here is None and (visible := variables.get("CUDA_VISIBLE_DEVICES")):
        here = len([one for one in visible.split(",") if one.strip().isdigit()]) or None
    if here:
        # Nodes that are named but not known here are not one: `--nnodes $WORLD_SIZE`.
        named = any(name in place for place in (arguments, variables) for name in NODES)
        several = named or job != Job() or "hostfile" in arguments
        return (nodes * here, here) if nodes else (None if several else here, here)
    tasks = job.tasks_per_node or first(("ntasks_per_node",), arguments)
    gpus = job.gpus_per_node or first(("gpus_per_node",), arguments)
    here = tasks if tasks and tasks > 1 else gpus or tasks  # one task a node starts a rank a GPU
    if here and nodes:
        return nodes * here, here
    return job.tasks, here or per_node(job.tasks, nodes)


def _included(chosen: str) -> tuple[int | None, int | None] | None:
    """Ranks by --include of DeepSpeed's launcher: `worker-0@worker-1:0,2`; None where a host is named without GPUs."""
    counts = [len(host.partition(":")[2].split(",")) for host in chosen.split("@") if ":" in host]
    if len(counts) != len(chosen.split("@")):
        return None
    return sum(counts), counts[0] if len(set(counts)) == 1 else None


def _hostfile(
    plain: str, arguments: Mapping[str, Any], read: Callable[[str], str]
) -> tuple[int | None, int | None]:
    """Nodes and ranks on each by the hostfile that is named, or that the script writes; None where it is not here."""
    name = arguments.get("hostfile")
    if not isinstance(name, str):
        return None, None
    made = set(MADE.findall(plain))
    if made:
        return None, int(made.pop()) if len(made) == 1 else None
    try:
        slots = SLOTS.findall(read(name))
    except HarnessError:
        return None, None
    return (len(slots) or None), (int(slots[0]) if len(set(slots)) == 1 else None)
