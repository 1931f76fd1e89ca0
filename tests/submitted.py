"""Studies that were sent to a SLURM which does not exist, for tests of what is said and done about them afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.launch.slurm.arrays import Submitted, submissions, write_submission
from harness.launch.slurm.profile import Profile
from harness.launch.slurm.script import render
from harness.launch.slurm.submit import plan_submissions
from harness.record import RunDirectory
from harness.study import Study, save_study
from harness.system.whole_file import write_json

LONG_BEFORE = "2026-01-01T00:00:00.000Z"  # any look at the queue is younger than the submission
PROFILE = Profile(name="made-up", network_baseline=False, health=None, wandb="off")


def submitted(
    study: Study, results: Path, profile: Profile = PROFILE, job_ids: Sequence[str] = ("7",)
) -> list[Submitted]:
    """What `hpz submit` leaves behind, with these job ids."""
    save_study(study, results)
    for run in study.runs:
        RunDirectory(results / "runs" / run.run_id).create(run)
    planned = plan_submissions(study, results, profile, None)
    for array, job_id in zip(planned, job_ids, strict=True):
        write_submission(array, render(array, profile), profile)
        state = {"schema_version": 1, "cluster": "slurm", "utc": LONG_BEFORE, "mark": array.mark}
        write_json(array.folder / "submission.json", state | {"job_id": job_id})
    return submissions(results / "slurm")[-len(planned) :]


def command(folder: Path, name: str, script: str) -> None:
    """A command of SLURM's, in a folder to be put on PATH, that does what the shell lines say."""
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


class Slurm:
    """squeue, sbatch and scancel that answer from files: `queue` holds squeue's lines, `said` what was asked."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.queue, self.said = folder, folder / "queue", folder / "said"
        folder.mkdir()
        self.queue.touch()
        self.said.touch()
        (folder / "ids").write_text("40\n")
        note = f'echo "$(basename $0) $*" >> {self.said}'
        command(folder, "squeue", f"cat {self.queue}")
        command(folder, "scancel", note)
        self.config("MaxArraySize = 1001", "AccountingStorageEnforce = none")
        command(
            folder, "sbatch", f"{note}; id=$(($(tail -1 {folder}/ids) + 1)); echo $id | tee -a {folder}/ids"
        )

    def config(self, *lines: str) -> None:
        """What `scontrol show config` prints; other words to scontrol are noted."""
        noted = f'[ "$1" = show ] || {{ echo "scontrol $*" >> {self.said}; exit; }}\n'
        command(self.folder, "scontrol", noted + "cat << end\n" + "\n".join(lines) + "\nend")

    def asked(self) -> list[str]:
        return self.said.read_text().splitlines()


def line(
    task: str, state: str, mark: str = "hpz", reason: str = "None", nodes: str = "", start: str = "N/A"
) -> str:
    """squeue's line of an array task, as `41_0`, under account "lab", QOS "normal" and partition "main"."""
    job, index = task.split("_")
    return "|".join([job, index, state, "0:00", nodes, mark, start, "lab", "normal", "main", reason]) + "\n"
