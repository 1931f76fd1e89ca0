"""The command in a job's description, as Kubernetes, SkyPilot, AzureML, Compose or an editor's launch.json hold it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from harness.configuration.found import whole

WORDS = ("setup", "program", "module", "entrypoint", "command", "cmd", "run", "script", "args")
"""Keys of a command's parts, in their order."""
VARIABLES = ("env", "envs", "environment", "environment_variables")
SIZES = {
    # What a description says of ranks → the variable that a launcher has it from.
    "num_nodes": "SKYPILOT_NUM_NODES",
    "instance_count": "NNODES",
    "process_count_per_instance": "NPROC_PER_NODE",
    "nprocPerNode": "NPROC_PER_NODE",
    "slotsPerWorker": "NPROC_PER_NODE",
    "nvidia.com/gpu": "GPUS_PER_NODE",
}
LAUNCHER = "Launcher"
"""The pod of an MPIJob that trains nothing itself."""
LAUNCHED = re.compile(
    r"(?:^|\s)(?:deepspeed|torchrun|accelerate launch|srun|python3?|swift|llamafactory-cli)\s"
)
"""A text that starts something."""


def command_of(keys: Mapping[str, Any]) -> str | None:
    """The longest command that a description holds, after the variables that it sets; None where it holds none."""
    found = [text for text in _commands(keys) if LAUNCHED.search(text) or "--deepspeed" in text]
    if not found:
        return None
    variables = "".join(f"{name}={value}\n" for name, value in dict(_variables(keys)).items())
    return variables + max(found, key=len)


def _mappings(value: Any) -> Iterator[Mapping[str, Any]]:
    """Mappings at any depth."""
    if isinstance(value, Mapping):
        yield value
    for inner in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        yield from _mappings(inner)


def _commands(keys: Mapping[str, Any]) -> Iterator[str]:
    for one in _mappings(keys):
        yield "\n".join(line for key in WORDS if (line := _line(one.get(key))))


def _line(value: Any) -> str:
    """A command as it stands there, or the words of one."""
    if isinstance(value, list):
        return " ".join(str(word) for word in value if isinstance(word, str | int))
    return value if isinstance(value, str) else ""


def _variables(keys: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Variables as a mapping, as a list of names and values (Kubernetes) or of assignments (Compose)."""
    for one in _mappings(keys):
        yield from ((variable, str(one[key])) for key, variable in SIZES.items() if key in one)
        for specs in (one[key] for key in one if str(key).endswith("ReplicaSpecs")):
            if isinstance(specs, Mapping):  # Kubeflow: a pod is a node
                pods = [spec.get("replicas", 1) for role, spec in specs.items() if role != LAUNCHER]
                yield "NNODES", str(sum(whole(number) or 0 for number in pods))
        # SkyPilot's `A100:8`, `{A100: 8}`, or several that would do: known where all have as many.
        gpus = set(re.findall(r":\s*(\d+)\b", str(one.get("accelerators", ""))))
        if len(gpus) == 1:
            yield "SKYPILOT_NUM_GPUS_PER_NODE", gpus.pop()
        for set_here in (one.get(name) for name in VARIABLES):
            if isinstance(set_here, Mapping):
                yield from ((str(name), str(value)) for name, value in set_here.items())
            for entry in set_here if isinstance(set_here, list) else ():
                if isinstance(entry, str) and "=" in entry:
                    name, _, value = entry.partition("=")
                    yield name, value
                elif isinstance(entry, Mapping) and "name" in entry and "value" in entry:
                    yield str(entry["name"]), str(entry["value"])
