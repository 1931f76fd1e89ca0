"""Traces of real DeepSpeed on a device without memory: what they hold, and how variants differ."""

from __future__ import annotations

import json
from collections import Counter
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from analysis.judge.audit import formula_bytes
from analysis.page.report import build_report
from harness.cli.simulate import simulate as simulate_command
from harness.simulate import fit
from harness.simulate import traces as cache
from harness.simulate.calibrate import calibrate_machine
from harness.simulate.costs import total_bytes
from harness.simulate.engine import simulate
from harness.simulate.trace import Kind, Trace, load
from harness.simulate.traces import trace_file, trace_of, trace_virtual, traces
from harness.simulate.validate import Measured, validate_measured
from harness.study import ModelFile, Run, Study, load_study
from harness.study.models import parameter_count
from harness.system.errors import HarnessError, RunFailed
from harness.system.places import REPOSITORY
from tests.conftest import StudyFile
from tests.simulated_help import A100, CONTENDED, longest_path

pytestmark = pytest.mark.slow
COPY = "_partition_param_sec"
VARIANTS = ("zero3", "unordered", "fixed", "event")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A Llama of toy size on 64 ranks; its own cache, so that traces are really taken."""
    text = (REPOSITORY / "experiments/laptop.yaml").read_text()
    folder = tmp_path_factory.mktemp("study")
    (folder / "models").symlink_to(REPOSITORY / "experiments/models")
    (folder / "data").symlink_to(REPOSITORY / "experiments/data")
    matrix = f"\nmatrix: {{model: llama2-toy, variant: {list(VARIANTS)}, shape: 8x8-hpz8}}\n"
    file = folder / "wide.yaml"
    file.write_text(text[: text.index("baseline:")].replace("device: virtual", "device: cuda") + matrix)
    return load_study(file)


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def taken(study: Study, own_cache: Path) -> dict[str, Trace]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HPZ_CACHE", str(own_cache))
        files = traces(study.runs, lanes=2)
        return {run.variant: load(files[run.run_id]) for run in study.runs}


def run_of(study: Study, variant: str) -> Run:
    return next(run for run in study.runs if run.variant == variant)


def waits(trace: Trace) -> Counter[str]:
    """Function that makes the host wait → times."""
    sites = [trace.sites[row.site] for row in trace.rows() if row.site >= 0]
    return Counter(site.split()[1] for site in sites)


def work(trace: Trace) -> Counter[tuple[str, int, int]]:
    """(name, bytes written, payload) of everything that runs on the device."""
    return Counter(
        (trace.names[row.name], row.written, row.payload)
        for row in trace.rows()
        if row.kind <= Kind.COLLECTIVE
    )


def test_variants_do_the_same_work_on_the_device(taken: dict[str, Trace]) -> None:
    assert work(taken["unordered"]) == work(taken["fixed"]) == work(taken["event"])


def test_the_fix_makes_the_host_wait_once_for_each_copy_and_the_event_never(taken: dict[str, Trace]) -> None:
    parameters = 21  # of the toy model
    assert waits(taken["fixed"])[COPY] == parameters
    assert waits(taken["unordered"])[COPY] == waits(taken["event"])[COPY] == 0
    assert waits(taken["event"]) == waits(taken["unordered"])


def test_secondary_shards_are_gathered_inside_the_node(taken: dict[str, Trace]) -> None:
    def gathers(trace: Trace) -> Counter[int]:
        calls = (
            row
            for row in trace.rows()
            if row.kind == Kind.COLLECTIVE and trace.names[row.name] == "all_gather"
        )
        return Counter(len(trace.groups[row.group]) for row in calls)

    assert gathers(taken["zero3"])[8] == 0
    assert gathers(taken["fixed"])[8] > 10
    assert len(taken["unordered"].secondaries) > 10


def test_bytes_between_nodes_agree_with_the_formula(study: Study, taken: dict[str, Trace]) -> None:
    for variant in ("zero3", "fixed"):
        sent, _ = total_bytes(taken[variant], A100)
        # Beside the parameters a step sends a few scalars and DeepSpeed's own bookkeeping.
        assert sent == pytest.approx(formula_bytes(run_of(study, variant)).inter, rel=0.1)


def test_arithmetic_is_six_operations_a_parameter_and_token(study: Study, taken: dict[str, Trace]) -> None:
    run, trace = run_of(study, "zero3"), taken["zero3"]
    spec = ModelFile.model_validate(run.model_spec)
    embedding = spec.config.vocab_size * spec.config.hidden_size  # looked up, not multiplied
    tokens = trace.tokens / run.shape.world_size
    dense = 6 * (parameter_count(spec) - embedding) * tokens
    attention = trace.columns["flops"].sum() / dense
    assert 1.0 < attention < 1.25


def test_the_timeline_of_a_real_trace_is_its_longest_path(taken: dict[str, Trace]) -> None:
    timeline, times = simulate(taken["fixed"], A100, repeat=1), longest_path(taken["fixed"], A100)
    for row, end in enumerate(timeline.end):
        if ("end", row) in times:
            assert end == pytest.approx(times["end", row], abs=1e-9)
    assert timeline.host_end[-1] == pytest.approx(times["host", len(taken["fixed"]) - 1], abs=1e-9)


def test_no_order_means_no_margin_and_the_event_gives_one(taken: dict[str, Trace]) -> None:
    assert min(simulate(taken["event"], CONTENDED).margins().values()) >= 0.0
    assert min(simulate(taken["fixed"], CONTENDED).margins().values()) >= 0.0


def test_memory_comes_back_at_the_end_of_a_step(taken: dict[str, Trace]) -> None:
    for trace in taken.values():
        balance = sum(
            row.payload if row.kind == Kind.ALLOC else -row.payload
            for row in trace.rows()
            if row.kind in (Kind.ALLOC, Kind.FREE)
        )
        assert abs(balance) <= 0.01 * trace.about["live_bytes"]


def test_a_trace_is_taken_once(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPZ_CACHE", str(tmp_path))
    run = run_of(study, "event")
    first = trace_of(run)
    monkeypatch.setattr(cache.subprocess, "Popen", None)
    assert list(trace_of(run).rows()) == list(first.rows())
    assert trace_file(run).is_relative_to(tmp_path)


def test_a_device_without_memory_sees_what_the_virtual_device_sees(study_file: StudyFile) -> None:
    """The same run, once with real values on four ranks, once with none on one rank."""
    (run,) = load_study(study_file(matrix={"model": "llama2-toy", "variant": "zero3", "shape": "2x2"})).runs
    real, empty = trace_virtual(run), trace_of(run)
    for kind in (Kind.COLLECTIVE, Kind.RECORD, Kind.WAIT, Kind.KEEP):
        assert real.count(kind) == empty.count(kind)

    def collectives(trace: Trace) -> Counter[tuple[str, int, int]]:
        return Counter(
            (trace.names[row.name], row.payload, len(trace.groups[row.group]))
            for row in trace.rows()
            if row.kind == Kind.COLLECTIVE
        )

    assert collectives(real) == collectives(empty)


def test_the_command_writes_tables_and_a_step_for_perfetto(
    study_file: StudyFile, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HPZ_CACHE", str(own_cache))
    block = {"model": "llama2-toy", "variant": ["zero3", "unordered", "fixed"], "shape": "8x8-hpz8"}
    file = study_file(
        device="cuda", simulate={"networks": ["ethernet-25gbps"], "lanes": 1, "sync_cost": [block]}
    )
    app = typer.Typer()
    app.command()(simulate_command)
    step = tmp_path / "step.json"
    words = [str(file), "--results", str(tmp_path / "results"), "--no-validation"]
    done = CliRunner().invoke(app, [*words, "--trace", str(step), "--trace-cell", "fixed 25gbps"])
    assert done.exit_code == 0, done.output
    assert "sync cost (simulated-time)" in done.output
    assert json.loads(step.read_text())["traceEvents"]
    content = json.loads((tmp_path / "results/simulated/simulated.json").read_text())
    assert [row["variant"] for row in content["sync_cost"]] == ["zero3", "unordered", "fixed"]
    assert f"hpz report {tmp_path / 'results'}" in done.output.replace("\n", "")
    page = build_report(tmp_path / "results").read_text()
    assert "Nothing here was held against a measurement" in page
    assert 'download="step.json.gz"' in page


def test_an_unknown_trace_cell_is_refused(study_file: StudyFile, tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=r"--trace-cell: no cell of .* has all of 'nowhere'"):
        simulate_command(study_file(), tmp_path, tmp_path / "x.json", "nowhere", as_json=True)


def broken_overlay(folder: Path, package: str) -> Path:
    """An overlay in which a package cannot be imported."""
    (folder / "overlay" / package).mkdir(parents=True)
    (folder / "overlay" / package / "__init__.py").write_text("raise ImportError('broken on purpose')\n")
    return folder / "overlay"


def test_a_trace_that_cannot_be_taken_says_why(
    study_file: StudyFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = broken_overlay(tmp_path, "deepspeed")
    monkeypatch.setenv("HPZ_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "overlay_path", lambda variant, release: broken)
    (run,) = load_study(study_file()).runs[:1]
    with pytest.raises(RunFailed, match=r"a trace could not be taken with overlay: .*broken on purpose"):
        trace_of(run)
    with pytest.raises(
        RunFailed, match=r"no step could be recorded on the virtual device with overlay: .*broken"
    ):
        trace_virtual(run)


def test_a_calibration_that_cannot_be_measured_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = broken_overlay(tmp_path, "torch")
    monkeypatch.setattr(fit, "overlay_path", lambda variant: broken)
    with pytest.raises(RunFailed, match=r"hpz calibrate: measuring kernels failed: .*broken on purpose"):
        calibrate_machine()


def test_traces_need_the_packages_that_take_them(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr(cache, "version", absent)
    cache._makers.cache_clear()
    with pytest.raises(HarnessError, match=r"simulate: torch is not installed, .*\[train\] extra"):
        trace_file(study.runs[0])


@pytest.mark.timeout(900)  # a busy machine is slow, and no reason to fail
def test_this_machine_is_calibrated(monkeypatch: pytest.MonkeyPatch) -> None:
    """How well is for the machine to say: a few per cent, and nobody knows on a busy one. Three models are enough."""
    few = [fit._tiny_runs()[place] for place in (0, 2, 4)]
    monkeypatch.setattr(fit, "_tiny_runs", lambda: few)
    found = calibrate_machine()
    assert {one.held_out for one in found.steps} == {True, False}
    fitted = [one.error for one in found.steps if not one.held_out]
    assert min(fitted) <= 1e-6 and max(fitted) >= -1e-6  # the fit lies between what it was fitted to
    assert found.hardware().hosts["this-machine"].launch_seconds > 0


def test_measured_runs_are_held_against_simulated_ones(study_file: StudyFile) -> None:
    shape = {"model": "llama2-toy", "variant": "fixed", "shape": "2x2-hpz2"}
    study = load_study(study_file(matrix={**shape, "link": ["10mbit", "50mbit"]}))
    calibrated = json.loads((REPOSITORY / "results/reference/slow-link/calibration.json").read_text())
    table = validate_measured([Measured(run.run_id, run, 1.0) for run in study.runs], calibrated)
    assert list(table["error"]) == list(table["simulated_seconds"] - 1)
    by = table.set_index(["link", "variant"])
    assert by.loc[("10mbit", "zero3"), "simulated_seconds"] > by.loc[("50mbit", "zero3"), "simulated_seconds"]
    assert (
        by.loc[("10mbit", "fixed"), "simulated_speedup"]
        > by.loc[("10mbit", "fixed"), "measured_speedup"]
        == 1
    )
    assert (by["speedup_error"] == by["simulated_speedup"] - 1).all()


def test_a_step_for_perfetto_may_come_from_the_virtual_device(study_file: StudyFile, tmp_path: Path) -> None:
    block = {"model": "llama2-toy", "variant": "fixed", "shape": "2x2-hpz2"}
    file, step = study_file(simulate={"sync_cost": [block]}), tmp_path / "step.json"
    simulate_command(file, tmp_path / "results", step, virtual_step=True, validation=False, as_json=True)
    content = json.loads(step.read_text())
    assert content["otherData"]["variant"] == "fixed"
    assert any(event.get("cat") == "collective" for event in content["traceEvents"])
