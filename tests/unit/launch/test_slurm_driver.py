"""What an array task does, with a made-up srun in place of SLURM's."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from harness.launch.memory import out_of_memory
from harness.launch.slurm import examine, mirroring
from harness.launch.slurm.profile import Profile, load_profile
from harness.launch.slurm.srun import Allocation
from harness.launch.slurm.task import Driver
from harness.record import Final, RunDirectory
from harness.study import Study, load_study
from harness.system.errors import HarnessError
from tests.conftest import StudyFile
from tests.submitted import PROFILE, command, submitted
from tests.wandb_store import steps_stored

SHAPING = PROFILE.model_copy(update={"shapes_links": True, "network_interface": "eth0"})


@pytest.fixture
def study(study_file: StudyFile) -> Study:
    return load_study(study_file(matrix={"model": "llama2-toy", "variant": "zero3", "shape": "2x2"}))


def driver(study: Study, results: Path, srun: str, profile: Profile = PROFILE) -> Driver:
    """The task of the study's only group; `srun` is a shell line that is run in place of the ranks."""
    (sent,) = submitted(study, results, profile)
    allocation = Allocation("7_0", 0, "n[0-1]")
    return Driver(sent.folder, sent.tasks[0], profile, ["sh", "-c", srun, "srun"], allocation)


def run_directory(study: Study, results: Path) -> RunDirectory:
    return RunDirectory(results / "runs" / study.runs[0].run_id)


def test_a_run_whose_job_died_after_the_final_record_is_done_at_the_next_attempt(
    study: Study, tmp_path: Path
) -> None:
    task = driver(study, tmp_path, "echo started >&2; exit 1")
    final = Final(steps=4, skipped_steps=0, shards_sha256="0" * 64)
    directory = run_directory(study, tmp_path)
    directory.update_status(state="running", attempts=1, final=final.model_dump())
    assert task.run() == 0
    assert (directory.status().state, directory.status().attempts) == ("done", 1)


def test_ranks_that_end_well_without_a_final_record_fail_the_run(study: Study, tmp_path: Path) -> None:
    assert driver(study, tmp_path, "exit 0").run() == 1
    status = run_directory(study, tmp_path).status()
    assert status.state == "failed" and "none wrote the final record" in (status.reason or "")


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder at the head of PATH, for commands of SLURM's."""
    folder = tmp_path / "commands"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


@pytest.fixture
def linked(study_file: StudyFile) -> Study:
    matrix = {"model": "llama2-toy", "variant": "zero3", "shape": "2x2", "link": "50mbit"}
    return load_study(study_file(matrix=matrix))


def test_a_link_that_cannot_be_set_is_the_reason_that_the_runs_tell(
    linked: Study, tmp_path: Path, commands: Path
) -> None:
    command(commands, "srun", "echo 'tc: Operation not permitted' >&2; exit 1")
    with pytest.raises(HarnessError, match=r"matrix\.link: 50mbit cannot be set on the nodes: tc: Operation"):
        driver(linked, tmp_path, "exit 0", SHAPING).run()
    status = run_directory(linked, tmp_path).status()
    assert status.state == "failed" and "Operation not permitted" in (status.reason or "")


def test_links_get_their_own_rate_back_after_a_study(linked: Study, tmp_path: Path, commands: Path) -> None:
    command(commands, "srun", f"echo $* >> {commands}/said")
    driver(linked, tmp_path, "exit 0", SHAPING).run()
    before, after = (commands / "said").read_text().splitlines()
    assert "tbf rate 50000000bit" in before and after.endswith("root pfifo_fast")


def test_a_network_baseline_that_hangs_leaves_no_ranks_behind(
    study: Study, tmp_path: Path, commands: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examine, "BASELINE_SECONDS", 0.2)
    command(commands, "squeue", f"test -e {commands}/killed || echo 7.0")
    command(commands, "scancel", f"echo $* >> {commands}/killed")
    profile = PROFILE.model_copy(update={"network_baseline": True})
    task = driver(study, tmp_path, "exec sleep 60", profile)
    assert task.go_elsewhere([]) is False and task.network is None
    assert (commands / "killed").read_text() == "--signal=KILL 7.0\n"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", True),
        ("RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory", True),
        ("numpy._core._exceptions._ArrayMemoryError: Unable to allocate 7 TiB", True),
        ("ValueError: something else", False),
    ],
)
def test_out_of_memory_is_read_from_the_last_words_of_a_rank(
    words: str, expected: bool, study: Study, tmp_path: Path
) -> None:
    directory = RunDirectory(tmp_path)
    directory.create(study.runs[0])
    (directory.logs / "rank-1.txt").write_text(words + "\n")
    assert out_of_memory(directory, world_size=2) is expected


TRAINS = f"""exec {sys.executable} -c '
import sys
from dataclasses import replace
from harness.record import Final, RunDirectory, StepWriter
from tests.unit.record.test_record import STEP
directory = RunDirectory(sys.argv[-2])
writer = StepWriter(directory.steps_file)
for step in range(4): writer.write(replace(STEP, step=step))
final = Final(steps=4, skipped_steps=0, shards_sha256="0" * 64)
directory.update_status(final=final.model_dump())
' "$@" """


def test_runs_are_mirrored_to_wandb_when_their_task_ends(study: Study, tmp_path: Path) -> None:
    task = driver(study, tmp_path, TRAINS, PROFILE.model_copy(update={"wandb": "offline"}))
    assert task.run() == 0 and task.run() == 0
    directory = run_directory(study, tmp_path)
    assert steps_stored(directory.path) == [0, 1, 2, 3]
    assert len(list(directory.path.glob("wandb/offline-run-*"))) == 1


def test_the_allocations_that_made_steps_are_recorded(study: Study, tmp_path: Path) -> None:
    task = driver(study, tmp_path, TRAINS)
    task.allocation = Allocation("7_0", 2, "n[0-1]")
    task.run()
    assert run_directory(study, tmp_path).status().allocations == ("7_0/2",)


def test_a_mirror_that_fails_or_hangs_harms_no_run(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mirroring, "LIVE_SECONDS", 0.2)
    monkeypatch.setattr(mirroring, "MIRROR_SECONDS", 0.2)
    task = driver(study, tmp_path, TRAINS, PROFILE.model_copy(update={"wandb": "offline"}))
    assert task.run() == 0
    assert "not all mirrored to wandb; hpz wandb does it later" in capfd.readouterr().err
    assert run_directory(study, tmp_path).status().state == "done"


@pytest.mark.parametrize(("said", "expected"), [("off", "off"), ("online", "online"), ("offline", "offline")])
def test_wandb_is_a_key_of_the_profile(said: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(f"wandb: {said}\n")
    assert load_profile(tmp_path / "mine.yaml").wandb == expected


def test_links_that_cannot_be_set_because_slurm_ends_the_job_fail_no_run(
    linked: Study, tmp_path: Path, commands: Path
) -> None:
    command(commands, "srun", "echo 'srun: error: Job is being cancelled' >&2; exit 1")
    task = driver(linked, tmp_path, "exit 0", SHAPING)
    task.stop.ending = True
    assert task.run() == 1
    assert run_directory(linked, tmp_path).status().state == "pending"
