"""What a job asks its scheduler for, and its starter of processes: nodes, ranks and GPUs of SLURM, PBS, LSF and MPI."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from harness.configuration.found import per_node, whole

LINES = re.compile(r"^\s*#(SBATCH|PBS|BSUB)\s+(.+)$", re.MULTILINE)
FORMS = {"SBATCH": "sbatch file", "PBS": "PBS file", "BSUB": "LSF file"}
LONG = {"-N": "nodes", "-n": "ntasks", "-G": "gpus"}
SELECT = re.compile(r"-l\s*(?:select=|nodes=)(\d+)((?::[\w.]+=[\w.-]+)*)(?![\w:+])")
"""PBS: so many chunks (Torque: nodes), and what each holds."""
BSUB = re.compile(r"-(nnodes)\s+(\d+)|-gpu\s+\"?[^\"\n]*\b(num)=(\d+)")
PROGRAMS = (
    r"(?:\S*/)?(?:python[\d.]*|torchrun|deepspeed|accelerate|bash|sh|singularity|apptainer)|\S+\.(?:py|sh)"
)
STARTED = re.compile(
    rf"^(?![ \t]*#)[^\n]*?(?<![\w.-])(srun|mpirun|mpiexec(?:\.\w+)?|horovodrun)(\s[^\n]*?)\s(?:--|{PROGRAMS})\s",
    re.MULTILINE,
)
"""What starts the processes of a training, and its options; not what asks a node for its address."""
ON_ONE = re.compile(r"\s(?:-w|--nodelist)\b")
"""A node at a time, in a loop over them."""
TOTAL = re.compile(r"(?<!\S)--?(?:np|n|ntasks)[ =]?(\d+)")
PER_NODE = re.compile(r"(?<!\S)--?(?:npernode|ppn|ntasks-per-node|map-by ppr:)[ =]?(\d+)")
NODES = re.compile(r"(?<!\S)(?:-N|--nodes)[ =]?(\d+)")
COUNTED = re.compile(r"\$\(([^()\n]*\bwc -l[^()\n]*)\)|`([^`\n]*\bwc -l[^`\n]*)`")
"""A number of lines: `$(wc -l < $PBS_NODEFILE)`."""


@dataclass(frozen=True)
class Job:
    """What a job asks for; None where it does not say."""

    form: str = "shell script"
    nodes: int | None = None
    tasks: int | None = None
    tasks_per_node: int | None = None
    gpus_per_node: int | None = None

    @property
    def variables(self) -> dict[str, str]:
        """Those that the scheduler sets, as far as they are known."""
        tasks = self.nodes * self.tasks_per_node if self.nodes and self.tasks_per_node else None
        known = {
            "SLURM_NNODES": self.nodes,
            "SLURM_JOB_NUM_NODES": self.nodes,
            "PBS_NUM_NODES": self.nodes,
            "SLURM_NTASKS_PER_NODE": self.tasks_per_node,
            "SLURM_GPUS_ON_NODE": self.gpus_per_node,
            "SLURM_NTASKS": tasks,
        }
        return {name: str(number) for name, number in known.items() if number}


def job_of(text: str) -> Job:
    """The job of a script, by the lines that its scheduler reads."""
    lines = LINES.findall(text)
    if not lines:
        return Job()
    kind, asked = lines[0][0], [line for _, line in lines]
    found = {"SBATCH": _of_slurm, "PBS": _of_pbs, "BSUB": _of_lsf}[kind](asked)
    return Job(FORMS[kind], **found)


def _of_slurm(lines: list[str]) -> dict[str, int | None]:
    asked: dict[str, str] = {}
    for line in lines:
        words = line.split("#")[0].replace("=", " ").split()
        for name, value in pairwise(words):
            if name.startswith("-"):
                asked[LONG.get(name, name.lstrip("-").replace("-", "_"))] = value
    nodes = whole(asked.get("nodes", "").partition("-")[0])
    return {
        "nodes": nodes,
        "tasks": whole(asked.get("ntasks")),
        "tasks_per_node": whole(asked.get("ntasks_per_node", "").partition("(")[0]),
        "gpus_per_node": _gpus(asked) or per_node(whole(asked.get("gpus", "").rpartition(":")[2]), nodes),
    }


def _gpus(asked: Mapping[str, str]) -> int | None:
    """GPUs on a node that a job asks SLURM for: --gres=gpu:a100:8, --gpus-per-node=8."""
    for name in ("gpus_per_node", "gres", "gpus_per_task"):
        if name in asked and (name != "gres" or asked[name].startswith("gpu")):
            return whole(asked[name].split(",")[0].rpartition(":")[2])
    return None


def _of_pbs(lines: list[str]) -> dict[str, int | None]:
    asked = next((found for line in lines if (found := SELECT.search(line))), None)
    if asked is None:
        return {}
    holds = dict(word.split("=", 1) for word in asked[2].split(":") if word)
    chunks, gpus = int(asked[1]), whole(holds.get("ngpus") or holds.get("gpus"))
    if gpus == 1 and chunks > 1 and not any("place=scatter" in line for line in lines):
        return {"tasks": chunks}  # several chunks of one GPU may share a node
    return {"nodes": chunks, "gpus_per_node": gpus, "tasks_per_node": whole(holds.get("mpiprocs"))}


def _of_lsf(lines: list[str]) -> dict[str, int | None]:
    asked = [found for line in lines for found in BSUB.findall(line)]
    named = {first or second: int(nodes or gpus) for first, nodes, second, gpus in asked}
    return {"nodes": named.get("nnodes"), "gpus_per_node": named.get("num")}


def started_in(text: str, job: Job) -> Job:
    """The job with what the options of srun or mpirun say that start its processes."""
    found = [one for one in STARTED.findall(f"{text}\n") if not ON_ONE.search(one[1])]
    if not found:
        return job
    starter, options = found[-1]

    def number(pattern: re.Pattern[str]) -> int | None:
        said = pattern.search(options)
        return int(said[1]) if said else None

    nodes, here = number(NODES), number(PER_NODE)
    if starter != "srun":
        nodes, here = None, here or nodes  # OpenMPI's -N is of one node
    total = number(TOTAL)
    spread = total // here if total and here and total % here == 0 else None
    return Job(
        job.form,
        nodes or spread or job.nodes,
        total or job.tasks,
        here or job.tasks_per_node,
        job.gpus_per_node,
    )


def counted(text: str, job: Job) -> str:
    """The text with the numbers of lines that a job's files and GPUs have: nodes of a list of hosts, GPUs of one."""

    def put(match: re.Match[str]) -> str:
        command = match[1] or match[2]
        number = None
        if "nvidia-smi" in command:
            number = job.gpus_per_node
        elif "PBS_NODEFILE" in command and not ("uniq" in command or "sort -u" in command):
            number = job.nodes and job.nodes * (job.tasks_per_node or 1)  # a line for each process of MPI
        elif re.search(r"NODEFILE|NODELIST|DJOB_HOSTFILE", command):
            number = job.nodes
        return match[0] if number is None else str(number)

    return COUNTED.sub(put, text)
