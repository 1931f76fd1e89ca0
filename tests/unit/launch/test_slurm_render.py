"""Batch scripts are compared whole. After a meant change: UPDATE_GOLDEN=1 pytest tests/unit/launch -k render"""

from __future__ import annotations

import difflib
import os
import subprocess
from pathlib import Path

import pytest

from harness.launch.slurm.arrays import Submission, Task, pair_groups
from harness.launch.slurm.profile import Profile, load_profile
from harness.launch.slurm.script import quote_option, render
from harness.launch.slurm.submit import plan_submissions
from harness.study import Study, load_study
from harness.system.errors import HarnessError
from harness.system.places import REPOSITORY
from tests.planted import PLANTED, WORDS
from tests.synthetic import STUDY

GOLDEN = REPOSITORY / "tests" / "golden"
PROFILES = sorted((REPOSITORY / "slurm" / "clusters").glob("*.yaml"))


def submission(device: str = "cpu", tasks: int = 3, ranks: int = 2, **changes: str) -> Submission:
    group = [Task(f"group-{i}", (f"run-{i}",), 2, ranks, device, **changes) for i in range(tasks)]
    return Submission(
        "made-up",
        Path("/results/made-up/slurm/0001"),
        tuple(group),
        "/venv/bin/python",
        Path("/hpz"),
        Path("/cache/hpz-lab"),
        ("/cache/hpz-lab", "/hpz", "/results/made-up"),
    )


@pytest.mark.parametrize("file", PROFILES, ids=lambda file: file.stem)
def test_each_shipped_profile_renders_as_recorded(file: Path) -> None:
    profile = load_profile(file)
    text = render(
        submission("cuda" if profile.gpus_per_node else "cpu", ranks=profile.gpus_per_node or 2), profile
    )
    compare(f"{file.stem}.sbatch", text)


def compare(name: str, text: str) -> None:
    golden = GOLDEN / name
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(text)
    difference = difflib.unified_diff(
        golden.read_text().splitlines(), text.splitlines(), "recorded", "rendered"
    )
    assert text == golden.read_text(), "\n".join(difference)


@pytest.mark.parametrize("file", PROFILES, ids=lambda file: file.stem)
def test_bash_accepts_each_script(file: Path) -> None:
    profile = load_profile(file)
    text = render(
        submission("cuda" if profile.gpus_per_node else "cpu", ranks=profile.gpus_per_node or 2), profile
    )
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0


def test_topology_order_and_mail_render_as_recorded() -> None:
    """Options of a site's own pass through: segments of a topology, switches, alternatives of mixed nodes."""
    profile = Profile(
        name="mixed",
        partition="gpu",
        gpus_per_node=8,
        options=[
            "--segment=2",
            "--switches=1@02:00:00",
            "--constraint=[h100*1&h200*1]",
            "--prefer=nvlink",
        ],
        after=[1234, "afterany:99_3", "after:77+15"],
        mail="me@site.example",
        mail_on=["END", "FAIL", "TIME_LIMIT_80"],
    )
    compare("mixed.sbatch", render(submission("cuda", ranks=8), profile))


@pytest.mark.parametrize("golden", ["generic-8gpu", "mixed"])
def test_every_sbatch_line_is_explained(golden: str) -> None:
    for line, before in _directives((GOLDEN / f"{golden}.sbatch").read_text()):
        assert before.startswith(("# ", "#SBATCH")), line


def _directives(text: str) -> list[tuple[str, str]]:
    lines = text.splitlines()
    return [(line, lines[i - 1]) for i, line in enumerate(lines) if line.startswith("#SBATCH")]


@pytest.mark.parametrize(
    "text", ["a b", "it's", '"x"', "$(touch x)", "`touch x`", "a#b", "a;b", "plain-1.2_3"]
)
def test_an_option_reads_back_as_it_was_meant(text: str) -> None:
    # sbatch reads quotes as a shell does (tests/slurm proves it on the real one).
    done = subprocess.run(
        ["sh", "-c", f"printf %s {quote_option(text)}"], capture_output=True, text=True, check=True
    )
    assert done.stdout == text


@pytest.mark.parametrize("text", ["a\nb", "a\\b", "a\x00b"])
def test_what_no_sbatch_line_can_hold_is_refused(text: str) -> None:
    with pytest.raises(HarnessError, match="backslash or a line break"):
        quote_option(text)


def test_a_name_cannot_leave_its_comment() -> None:
    text = render(submission(), Profile(name="x\n#SBATCH --account=other\nrm -rf"))
    assert "\n#SBATCH --account" not in text and "\nrm" not in text


def test_more_gpus_than_the_profile_has_are_refused() -> None:
    with pytest.raises(HarnessError, match="gpus_per_node=8"):
        render(submission("cuda", ranks=16), Profile(name="small", gpus_per_node=8))


@pytest.mark.parametrize("time", ["00:05:00", "5", "0-00:05:00"])
@pytest.mark.parametrize("lead", [211, 600])
def test_a_signal_that_may_come_before_the_start_is_refused_with_both_values(time: str, lead: int) -> None:
    said = (
        rf"signal_lead_seconds: {lead} s .* time='{time}', 300 s in all: .* or time to {lead + 90} s or more"
    )
    with pytest.raises(HarnessError, match=said):
        render(submission(), Profile(name="short", time=time, signal_lead_seconds=lead))
    assert "USR1@210" in render(submission(), Profile(name="short", time=time, signal_lead_seconds=210))


def test_more_nodes_than_the_profile_has_are_refused() -> None:
    with pytest.raises(HarnessError, match="max_nodes=1"):
        render(submission(), Profile(name="small", max_nodes=1))


def test_links_are_limited_only_where_the_profile_allows_it() -> None:
    with pytest.raises(HarnessError, match=r"matrix\.link: 50mbit"):
        render(submission(link="50mbit"), Profile(name="plain"))


STUDIES = {file.stem: load_study(file) for file in sorted((REPOSITORY / "experiments").glob("*.yaml"))}
FOR_CLUSTERS = [name for name, study in STUDIES.items() if not study.virtual_nodes]


@pytest.mark.parametrize("name", FOR_CLUSTERS)
def test_each_shipped_study_renders(name: str, tmp_path: Path) -> None:
    profile = Profile(name="wide", gpus_per_node=64, shapes_links=True, network_interface="eth0")
    planned = plan_submissions(STUDIES[name], tmp_path, profile, None)
    assert planned and all(render(submission, profile) for submission in planned)


@pytest.mark.usefixtures("made_up_patches")
def test_a_group_holds_all_variants_of_one_model_shape_and_seed() -> None:
    study = Study.model_validate(STUDY)
    groups = pair_groups(study.runs)
    assert [len({run for run in group.runs if "s1_" in run}) for group in groups] == [
        len(groups[0].runs),
        0,
        0,
    ]
    for run, baseline in study.pairs:
        (group,) = (group for group in groups if run.run_id in group.runs)
        assert baseline.run_id in group.runs


@pytest.mark.usefixtures("made_up_patches")
def test_arrays_are_cut_at_the_clusters_maximum(tmp_path: Path) -> None:
    study = Study.model_validate(STUDY)
    planned = plan_submissions(study, tmp_path, Profile(name="x", max_array_size=2), None)
    assert [len(submission.tasks) for submission in planned] == [2, 1]
    assert [submission.folder.name for submission in planned] == ["0001", "0002"]
    assert "--array=0-1\n" in render(planned[0], Profile(name="x"))


def test_an_unknown_key_of_a_profile_is_refused_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("partiton: gpu\n")
    with pytest.raises(HarnessError, match=r"mine\.yaml: partiton is not a key; did you mean 'partition'"):
        load_profile(tmp_path / "mine.yaml")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("time: 4h", "time: write HH:MM:SS"),
        ("environment: {'A B': x}", "'A B' is no name of an environment variable"),
        ("options: [rm -rf]", "is no option"),
        ('account: "a\\nb"', "one line of printable text"),
        ("blocks: 0", "blocks: "),
        ("after: afterwards:12", "'afterwards:12' names no job; write 1234, 1234_5 or afterany:1234"),
        ("mail_on: [end]", "'end' is no type of mail"),
        ("[1, 2]", "holds no keys"),
        ("a: [", "not YAML"),
    ],
)
def test_bad_values_of_a_profile_are_named(line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(line)
    with pytest.raises(HarnessError, match=message):
        load_profile(tmp_path / "mine.yaml")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            f"environment: {{HF_TOKEN: {PLANTED['HF_TOKEN']}}}",
            r"environment\.HF_TOKEN holds a secret.*setup line",
        ),
        (
            f"environment: {{https_proxy: '{PLANTED['https_proxy']}'}}",
            r"environment\.https_proxy holds a secret",
        ),
        (f"setup: [export WANDB_API_KEY={PLANTED['WANDB_API_KEY']}]", r"line 1 holds what .*batch script"),
        (f"srun_options: ['--export=ALL,GITHUB_TOKEN={PLANTED['GITHUB_TOKEN']}']", r"line 1 holds what"),
        (
            f"srun_options: [GITHUB_TOKEN={PLANTED['GITHUB_TOKEN']}]",
            r"'GITHUB_TOKEN=\[hidden\]' is no option",
        ),
    ],
)
def test_a_secret_in_a_profile_is_refused_unread(line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(line)
    with pytest.raises(HarnessError, match=message) as refusal:
        load_profile(tmp_path / "mine.yaml")
    assert not any(word in str(refusal.value) for word in WORDS)


def test_a_profile_may_read_a_secret_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text('setup: ["export HF_TOKEN=$(cat ~/.hf-token)"]')
    assert load_profile(tmp_path / "mine.yaml").setup


def test_a_missing_profile_is_named(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="--cluster takes a profile"):
        load_profile(tmp_path / "none.yaml")
