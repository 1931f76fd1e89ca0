"""Nodes that are not as they should be: who is blamed, what is said of it, and who is left out."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from harness.launch.slurm.bandwidth import turns_of_pairs
from harness.launch.slurm.checks import Check, excluded_nodes, leaving_out, node_notes, to_leave_out
from harness.launch.slurm.health import Asked, Finding, Health, judge, judge_inside, judge_together
from harness.launch.slurm.links import blame
from harness.launch.slurm.node import Facts, memory_free
from harness.launch.slurm.nvidia_smi import Cards, Gpu
from harness.launch.slurm.profile import Profile, load_profile
from harness.system.errors import HarnessError
from harness.system.places import REPOSITORY
from harness.system.utc import utc_now

H100 = Gpu("NVIDIA H100 80GB HBM3", 81559, 81008, 1980, 700.0)
NOW = 1_800_000_000.0


def node(name: str, *gpus: Gpu, **changes: object) -> Facts:
    facts = Facts(name, NOW, 500.0, 100.0, 900.0, Cards(gpus) if gpus else None)
    return replace(facts, **changes)  # type: ignore[arg-type]


def found(
    *facts: Facts, health: Health | None = None, gpus: int = 0, more: tuple[str, ...] = ()
) -> list[str]:
    asked = Asked({one.node: one for one in facts}, NOW - 1, NOW + 1)
    nodes = [*asked.facts, *more]
    return [finding.sentence for finding in judge(asked, nodes, health or Health(), gpus)]


def test_nodes_that_are_well_are_not_spoken_of() -> None:
    assert found(node("n0", H100, H100), node("n1", H100, H100), gpus=2) == []


def test_a_node_that_is_silent_is_named() -> None:
    assert found(node("n0"), more=("n1",)) == ["n1: did not answer"]


def test_where_none_answers_no_node_is_named() -> None:
    assert found(more=("n0", "n1")) == ["no node answered"]


def test_missing_gpus_are_counted_where_gpus_are_used() -> None:
    assert found(node("n0", H100), gpus=2) == ["n0: has 1 GPUs of 2"]
    assert found(node("n0", H100), gpus=0) == []


def test_what_a_card_lacks_is_said_with_its_index() -> None:
    busy = replace(H100, memory_free_mib=40000)
    ill = replace(H100, troubles=("row remapping failed",))
    assert found(node("n0", H100, busy, ill), gpus=3) == [
        "n0: GPU 1: 40000 of 81559 MiB are free",
        "n0: GPU 2: row remapping failed",
    ]


def test_cards_of_another_kind_than_the_profile_names_are_refused() -> None:
    assert found(node("n0", H100), gpus=1, health=Health(gpu="h100")) == []
    said = found(node("n0", H100), gpus=1, health=Health(gpu="A100"))
    assert said == ["n0: GPU 0: is a NVIDIA H100 80GB HBM3, not a A100"]


def test_the_node_whose_cards_differ_from_most_is_named() -> None:
    capped = replace(H100, power_limit_watts=500.0)
    said = found(node("n0", H100), node("n1", capped), node("n2", H100), gpus=1)
    assert said == ["n1: its GPUs may draw, in W, 500, those of most nodes 700"]


def test_of_two_nodes_that_differ_neither_is_named() -> None:
    capped = replace(H100, power_limit_watts=500.0)
    asked = Asked({"n0": node("n0", H100), "n1": node("n1", capped)}, NOW, NOW)
    findings = judge(asked, ["n0", "n1"], Health(), 1)
    assert len(findings) == 2 and all(finding.node is None for finding in findings)


def test_xids_count_against_a_node() -> None:
    assert found(node("n0", H100, xids=("Xid 79 of PCI:0000:3b:00",)), gpus=1) == [
        "n0: Xid 79 of PCI:0000:3b:00 within a day"
    ]


def test_full_disks_and_memory_are_told() -> None:
    said = found(node("n0", tmp_free_gb=0.1, memory_free_gb=3.0), health=Health(memory_free_gb=64))
    assert said == [
        "n0: 3 GB of memory are free of 64",
        "n0: 0.1 GB are free for temporary files of 1",
    ]


def test_a_full_disk_for_results_is_no_nodes_fault() -> None:
    assert found(node("n0", results_free_gb=0.2)) == ["0.2 GB are free for results of 1"]


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (NOW + 60, ["n0: its clock is at least 59.0 s ahead"]),
        (NOW - 60, ["n0: its clock is at least 59.0 s behind"]),
        (NOW + 1, []),  # it may have answered last of all
        (NOW - 5, []),  # 4 s at least, 5 are allowed
    ],
)
def test_a_clock_is_off_where_it_was_read_outside_of_the_time_in_which_it_was_asked(
    told: float, expected: list[str]
) -> None:
    assert found(node("n0", time=told)) == expected


def test_bandwidth_inside_is_judged_where_the_profile_expects_some() -> None:
    rates = {"n0": 2800.0, "n1": 900.0}
    assert judge_inside(rates, Health()) == []
    (slow,) = judge_inside(rates, Health(inside_node_gbit_s=3000))
    assert slow.sentence == "n1: gathers at 900 Gbit/s inside, 3000 expected"


def test_an_all_gather_that_is_slower_than_its_nodes_blames_none() -> None:
    rows = [
        {"scope": "inside node", "bus_gbit_s": 1.0},
        {"scope": "between nodes", "bus_gbit_s": 10.0},
        {"scope": "between nodes", "bus_gbit_s": 25.0},
    ]
    assert judge_together(rows, 8, Health(), None) == []
    assert judge_together(rows, 8, Health(), 200.0) == []
    (slow,) = judge_together(rows, 8, Health(), 400.0)
    assert slow.node is None and slow.says.startswith("in an all-gather each node sends at 200 Gbit/s, 400")


def test_free_memory_is_read_from_meminfo() -> None:
    text = "MemTotal:       8000000 kB\nMemFree:  1 kB\nMemAvailable:    4000000 kB\n"
    assert memory_free(text) == pytest.approx(4.096)


# ---- slow links


def rates(slow: set[tuple[str, str]], nodes: str = "abc") -> dict[tuple[str, str], float]:
    """Every node with every other: 0.1 where slow, else 1."""
    return {(a, b): 0.1 if (a, b) in slow else 1.0 for a in nodes for b in nodes if a != b}


def test_three_nodes_tell_who_sends_slowly() -> None:
    blamed = blame(rates({("a", "b"), ("a", "c")}), 0.5)
    assert dict(blamed.guilty) == {"a": (("a", "b"), ("a", "c"))} and not blamed.unsure


def test_three_nodes_tell_who_receives_slowly() -> None:
    assert list(blame(rates({("a", "b"), ("c", "b")}), 0.5).guilty) == ["b"]


def test_three_nodes_tell_two_that_are_slow() -> None:
    slow = {("a", "b"), ("a", "c"), ("b", "a"), ("b", "c")}
    assert sorted(blame(rates(slow), 0.5).guilty) == ["a", "b"]


@pytest.mark.parametrize("slow", [{("a", "b")}, {("a", "b"), ("b", "a")}])
def test_two_nodes_cannot_tell(slow: set[tuple[str, str]]) -> None:
    blamed = blame(rates(slow, "ab"), 0.5)
    assert not blamed.guilty and list(blamed.unsure) == ["a", "b"]


def test_a_link_between_two_that_do_well_with_others_is_neithers_fault() -> None:
    blamed = blame(rates({("a", "b")}), 0.5)
    assert not blamed.guilty and not blamed.unsure and blamed.between == (("a", "b"),)


def test_a_third_node_convicts_the_one_that_was_kept() -> None:
    # a seemed to send slowly to b, and was left out; c sends slowly to b, too.
    seen = rates({("a", "b")}, "ab") | rates({("c", "b")}, "bc")
    assert list(blame(seen, 0.5).guilty) == ["b"]


@pytest.mark.parametrize(("nodes", "partners"), [(2, 1), (3, 2), (4, 3), (5, 2), (8, 3), (64, 3)])
def test_nodes_meet_in_turns_in_which_none_is_at_work_twice(nodes: int, partners: int) -> None:
    turns = turns_of_pairs(nodes)
    for turn in turns:
        busy = [one for pair in turn for one in pair]
        assert len(busy) == len(set(busy))
    met = {frozenset(pair) for turn in turns for pair in turn}
    assert min(sum(one in pair for pair in met) for one in range(nodes)) >= partners


# ---- who is left out


def check(
    nodes: str, *findings: Finding, slow: set[tuple[str, str]] | None = None, **changes: object
) -> Check:
    measured = tuple((a, b, rate) for (a, b), rate in rates(slow, nodes).items()) if slow is not None else ()
    return replace(Check("7_0/0", "g", tuple(nodes), findings, measured), **changes)  # type: ignore[arg-type]


BROKEN = Finding("gpus", "has 7 GPUs of 8", "a")


def test_a_node_that_was_mended_is_no_longer_left_out() -> None:
    assert to_leave_out([check("ab", BROKEN)], Health(), None) == ["a"]
    assert to_leave_out([check("ab", BROKEN), check("ab")], Health(), None) == []


def test_one_of_two_suspects_is_left_out_until_a_third_node_tells() -> None:
    first = check("ab", slow={("a", "b")})
    assert to_leave_out([first], Health(), 1.0) == ["a"]
    assert to_leave_out([first, check("bc", slow=set())], Health(), 1.0) == ["a"]
    assert to_leave_out([first, check("bc", slow={("c", "b")})], Health(), 1.0) == ["b"]


def write(folder: Path, *checks: Check) -> None:
    (folder / "0001").mkdir(parents=True, exist_ok=True)
    with (folder / "0001" / "health.jsonl").open("a") as stream:
        stream.writelines(one.line() for one in checks)


def test_a_new_submission_leaves_out_what_the_study_does(tmp_path: Path) -> None:
    write(tmp_path, check("ab", BROKEN, excluded=("a",)))
    profile = Profile(name="x", options=("--exclude=z", "--mail-type=END"), health=Health(exclude_at_most=1))
    assert leaving_out(profile, tmp_path).options == ("--mail-type=END", "--exclude=z,a")
    assert leaving_out(profile, tmp_path, "another cluster") == profile
    assert leaving_out(profile.model_copy(update={"health": Health()}), tmp_path).options == profile.options


def test_what_was_left_out_long_ago_is_tried_again(tmp_path: Path) -> None:
    write(tmp_path, check("ab", BROKEN, excluded=("a",), utc="2026-01-01T00:00:00.000Z"))
    profile = Profile(name="x", health=Health(exclude_at_most=1))
    assert leaving_out(profile, tmp_path) == profile


def test_what_is_wrong_with_nodes_is_told_until_they_are_seen_to_be_well(tmp_path: Path) -> None:
    write(
        tmp_path, check("ab", BROKEN, excluded=("a",), utc=(now := utc_now())), check("bc", excluded=("a",))
    )
    (note,) = node_notes(tmp_path)
    assert note.sentence == f"a is left out: has 7 GPUs of 8; job 7_0/0, {now}"
    write(tmp_path, check("ab"))
    assert node_notes(tmp_path) == []


def test_a_bad_node_that_stays_is_told_with_the_reason(tmp_path: Path) -> None:
    write(tmp_path, check("ab", BROKEN, why_not="exclude_at_most is 0", utc=(now := utc_now())))
    (note,) = node_notes(tmp_path)
    assert note.sentence == f"a: has 7 GPUs of 8 (not left out: exclude_at_most is 0); job 7_0/0, {now}"


def test_one_that_is_left_out_on_suspicion_is_told(tmp_path: Path) -> None:
    write(tmp_path, check("ab", Finding("links", "a sends to b …"), slow={("a", "b")}, excluded=("a",)))
    said = [note.sentence for note in node_notes(tmp_path)]
    assert said[1].startswith("a is left out: one of two that a slow link accuses")


def test_half_a_line_of_a_killed_task_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path, check("ab", excluded=("a",)))
    with (tmp_path / "0001" / "health.jsonl").open("a") as stream:
        stream.write(check("ab").line()[:40])
    assert len(node_notes(tmp_path)) == 1
    assert excluded_nodes([check("ab", excluded=("a",))]) == ("a",)


def test_the_health_that_the_readme_shows_is_one() -> None:
    text = (REPOSITORY / "slurm" / "README.md").read_text()
    (shown,) = re.findall(r"```yaml\n(health:.*?)```", text, re.S)
    assert Profile.model_validate({"name": "x", **yaml.safe_load(shown)}).health == Health(
        exclude_at_most=2, between_nodes_gbit_s=400, inside_node_gbit_s=2000, gpu="H100"
    )


def test_health_can_be_turned_off_and_its_keys_are_checked(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("health: false\n")
    assert load_profile(file).health is None
    file.write_text("health: {exclude_at_mots: 2}\n")
    with pytest.raises(
        HarnessError, match=r"health\.exclude_at_mots is not a key; did you mean 'exclude_at_most'"
    ):
        load_profile(file)
    file.write_text("health: {tolerance: 2}\n")
    with pytest.raises(HarnessError, match=r"mine\.yaml: health\.tolerance: .* less than 1"):
        load_profile(file)
