"""Independent witnesses up to the first CUDA call: what the sanitizer says is noted, grouped, written and shown."""

from __future__ import annotations

import json
import traceback
from collections import defaultdict
from pathlib import Path

import pytest
from torch.cuda._sanitizer import EventHandler

from analysis.page.report import build_report
from analysis.reference.keep import keep
from harness.device.witness import Findings, Profile, Sanitizer, Witness, open_witness
from harness.launch.local import check_machine
from harness.study import load_study
from harness.system.errors import HarnessError
from tests.conftest import StudyFile
from tests.synthetic import write_study
from tests.unit.page.test_gpu_report import STALLED, as_stalled

SIDE = 7


def launch(handler: EventHandler, stream: int, read: set[int], write: set[int], op: str) -> list[object]:
    return list(handler._handle_kernel_launch(stream, read, write, set(), op, defaultdict(lambda: ["x"])))


def copy_then_gather(findings: Findings, ordered: bool) -> None:
    """A write on the compute stream and a read on another one, as torch would tell the sanitizer."""
    handler = EventHandler()
    handler._handle_memory_allocation(1)
    findings.add(launch(handler, 0, set(), {1}, "aten::copy_(Tensor(a!) self, Tensor src)"))
    if ordered:
        handler._handle_event_record(9, 0)
        handler._handle_event_wait(9, SIDE)
    findings.add(launch(handler, SIDE, {1}, set(), "aten::cat(Tensor[] tensors)"))


def test_a_missing_order_is_one_finding_however_often_it_is_seen(tmp_path: Path) -> None:
    findings = Findings()
    for _ in range(3):
        copy_then_gather(findings, ordered=False)
    findings.write(tmp_path, rank=2)
    content = json.loads((tmp_path / "witness-2.json").read_text())
    assert content["kernels"] == 6
    (row,) = content["findings"]
    assert row["count"] == 3
    assert (row["first"]["kind"], row["first"]["op"], row["first"]["stream"]) == (
        "write",
        "aten::copy_",
        "compute",
    )
    assert (row["second"]["kind"], row["second"]["op"], row["second"]["stream"]) == (
        "read",
        "aten::cat",
        "other",
    )
    assert "unit/device/test_witness.py" in row["first"]["site"]
    assert (tmp_path / "witness-2.txt").read_text().count("CSAN detected") == 1


def test_an_event_between_them_leaves_nothing_to_find(tmp_path: Path) -> None:
    findings = Findings()
    copy_then_gather(findings, ordered=True)
    assert findings.kernels == 2 and not findings.rows


def test_a_finding_names_deepspeeds_line_before_anyone_elses() -> None:
    from harness.device.witness import _site

    def frame(file: str, line: int) -> traceback.FrameSummary:
        return traceback.FrameSummary(file, line, "work", lookup_line=False, line="")

    stack = [
        frame("/x/harness/train.py", 1),
        frame("/x/deepspeed/runtime/zero/stage3.py", 2858),
        frame("/x/torch/nn/module.py", 3),
    ]
    assert _site(stack) == "runtime/zero/stage3.py:2858 (work)"
    assert _site([*stack, frame("/x/deepspeed/utils/nvtx.py", 33)]) == "runtime/zero/stage3.py:2858 (work)"
    assert _site([]) == "unknown"


def test_witnesses_are_named_in_the_environment(tmp_path: Path) -> None:
    assert type(open_witness(None, tmp_path, 0, 5)) is type(open_witness("", tmp_path, 0, 5)) is Witness
    assert isinstance(open_witness("sanitizer", tmp_path, 3, 5), Sanitizer)
    assert isinstance(open_witness("profile", tmp_path, 0, 5), Profile)
    assert type(open_witness("profile", tmp_path, 1, 5)) is Witness
    with pytest.raises(HarnessError, match="HPZ_WITNESS: 'ghost' is not a witness"):
        open_witness("ghost", tmp_path, 0, 5)


def test_the_last_step_alone_is_profiled(tmp_path: Path) -> None:
    import torch

    with open_witness("profile", tmp_path, 0, steps=3) as witness:
        for step in range(3):
            with witness.of_step(step):
                torch.ones(2) + step
            assert (tmp_path / "profile-0.json.gz").exists() == (step == 2)


def test_a_wrong_witness_is_refused_before_anything_starts(study_file: StudyFile) -> None:
    study = load_study(study_file())
    with pytest.raises(HarnessError, match="--witness: 'ghost' is not known; use sanitizer or profile"):
        check_machine(study, "ghost")
    with pytest.raises(HarnessError, match=r"--witness sanitizer: .* every run needs device: cuda"):
        check_machine(study, "sanitizer")


@pytest.mark.usefixtures("made_up_patches", "svg_alone")
def test_the_page_shows_what_was_found_by_variant(tmp_path: Path) -> None:
    matrix = {**STALLED["matrix"], "stall_us": 0, "seed": 1}
    study = write_study(tmp_path, as_stalled, **{**STALLED, "matrix": matrix})
    seen = Findings()
    copy_then_gather(seen, ordered=False)
    for run in study.runs:
        findings = seen if run.variant == "unordered" else Findings()
        for rank in range(2):
            findings.write(tmp_path / "runs" / run.run_id, rank)
    kept = keep(tmp_path, tmp_path / "kept")
    assert not (kept / "runs").exists()
    for folder in (tmp_path, kept):  # as it ran, and as it is committed
        page_shows(folder)


def page_shows(folder: Path) -> None:
    page = " ".join(build_report(folder).read_text().split())
    assert "<code>unordered</code>: 1 distinct findings, 2 in all, in 4 ops" in page
    assert "<code>fixed</code>: 0 distinct findings" in page
    assert page.count("2 ×: write by <code>aten::copy_</code>") == 1
