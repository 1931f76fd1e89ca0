"""GPU studies on this machine: refused in one sentence where they cannot run; variants in turn where they can."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.launch import gpu
from harness.launch.gpu import Gpus, check_gpus, visible_gpus
from harness.launch.launcher import default_lanes, in_order
from harness.launch.slurm.arrays import pair_groups
from harness.record import RunDirectory
from harness.study import Study, load_study
from harness.system.errors import HarnessError
from harness.system.places import REPOSITORY
from harness.workload import train
from tests.conftest import StudyFile
from tests.unit.cli.test_cli import hpz

ONE = Gpus("2.13.0+cu130", "13.0", 1)


@pytest.fixture(scope="module")
def shipped() -> Study:
    return load_study(REPOSITORY / "experiments" / "one-gpu.yaml")


def refusal(study: Study, seen: Gpus) -> str:
    with pytest.raises(HarnessError) as refused:
        check_gpus(study.runs, lambda: seen)
    return str(refused.value)


def test_a_machine_with_a_gpu_may_run_it(shipped: Study) -> None:
    check_gpus(shipped.runs, lambda: ONE)


def test_a_card_that_is_too_small_for_all_its_ranks_is_refused(study_file: StudyFile) -> None:
    large = {"model": "llama2-7b", "variant": "fixed", "shape": "2x2-hpz2"}
    study = load_study(study_file(device="cuda", virtual_nodes=True, matrix=large))
    words = refusal(study, Gpus("2.13.0+cu130", "13.0", 1, "NVIDIA A10"))
    assert "a10-24gb has 6.0 GB for each of the 4 ranks that share it" in words
    assert "use a larger card" in words or "it would fit with" in words or "these together are" in words


def test_a_torch_without_cuda_and_a_machine_without_gpu_are_told_apart(shipped: Study) -> None:
    assert "torch 2.13.0+cpu was built without CUDA" in refusal(shipped, Gpus("2.13.0+cpu", None, 0))
    assert "torch 2.13.0+cu130 sees no GPU here" in refusal(shipped, Gpus("2.13.0+cu130", "13.0", 0))


def test_nodes_that_are_not_said_to_be_virtual_belong_on_a_cluster(study_file: StudyFile) -> None:
    study = load_study(study_file(device="cuda"))
    assert "2x2 on device cuda means 2 machines" in refusal(study, ONE)
    assert "set virtual_nodes: true" in refusal(study, ONE)


def test_virtual_nodes_are_not_sent_to_a_cluster(shipped: Study) -> None:
    with pytest.raises(HarnessError, match="virtual_nodes: true says that all ranks are on one machine"):
        pair_groups(shipped.runs)


def test_a_study_without_gpu_runs_asks_for_none(study_file: StudyFile) -> None:
    def unasked() -> Gpus:
        raise AssertionError("nobody needs a GPU")

    check_gpus(load_study(study_file()).runs, unasked)


def test_without_a_gpu_hpz_run_says_so_and_writes_nothing(tmp_path: Path) -> None:
    if _gpu_here():
        pytest.skip("this machine has a GPU")
    done = hpz("run", str(REPOSITORY / "experiments" / "one-gpu.yaml"), cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("hpz: device cuda: ") and done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def _gpu_here() -> bool:
    import torch

    return torch.cuda.is_available()


def test_the_shipped_study_plans_as_one_gpu_natural_rate_first(shipped: Study) -> None:
    assert {run.evidence for run in shipped.runs} == {"one-gpu"}
    stalls = [run.stall_us for run in shipped.runs]
    assert not any(stalls[:7]) and any(stalls)
    assert all(baseline.stall_us == 0 for _, baseline in shipped.pairs)
    assert all(baseline.training.throughput_timer for _, baseline in shipped.pairs)


def test_the_shipped_study_asks_every_question_once_before_it_repeats_any(shipped: Study) -> None:
    seeds = [run.seed for run in shipped.runs]
    assert seeds[: seeds.index(2)] == [1] * seeds.count(1)
    once = [run.model_dump(exclude={"seed"}) for run in shipped.runs if run.seed == 1]
    assert all(run.model_dump(exclude={"seed"}) in once for run in shipped.runs)


def test_the_second_access_is_asked_for_under_and_without_what_covers_it(shipped: Study) -> None:
    zero3 = [run for run in shipped.runs if run.variant == "zero3" and run.stall_us]
    settings = {(run.training.gradient_accumulation, run.training.throughput_timer) for run in zero3}
    assert settings == {(1, True), (1, False), (2, True), (2, False)}


def test_a_torch_that_cannot_be_asked_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "PROBE", "raise ImportError('libcudart is missing')")
    visible_gpus.cache_clear()
    with pytest.raises(
        HarnessError, match=r"torch cannot be asked for GPUs \(ImportError: libcudart is missing\)"
    ):
        visible_gpus()


def test_ranks_that_share_gpus_are_no_multi_node_evidence(
    study_file: StudyFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a cluster would do that gives the ranks of a node fewer GPUs than ranks."""
    run = load_study(study_file(device="cuda")).runs[0]
    RunDirectory(tmp_path).create(run)
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "4", "LOCAL_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(train, "import_everything", lambda device: None)
    monkeypatch.setattr(train, "open_device", lambda *_, **__: SimpleNamespace(backend="gloo"))
    with pytest.raises(
        HarnessError, match="its ranks share GPUs here, which is no multi-node evidence; give each"
    ):
        train.run_rank(tmp_path)


def test_on_a_gpu_runs_go_one_at_a_time_variants_in_turn(shipped: Study) -> None:
    assert in_order(shipped.runs) == list(shipped.runs)
    assert default_lanes(shipped.runs) == 1
    first = [run.variant for run in shipped.runs[:6]]
    assert first == ["zero3", "stock", "unordered", "fixed", "event", "event+step"]
