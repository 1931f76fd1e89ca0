"""DeepSpeed's own tests under the pytest plugin, unmodified: run, and the table of docs/reference/pytest.md made.

`python -m tests.upstream FOLDER COMMIT` wants the `tests` folder of a checkout of DeepSpeed (`git archive COMMIT
tests`), and says in the page which commit that was. Takes up to ten minutes on two cores.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "pytest.md"
MARK = "<!-- table -->"
ZERO, OVERLAP = "unit/v1/zero/test_zero.py", "unit/v1/zero/test_zero_coalesce_grad_reduction.py"
ZEROPP = "unit/runtime/zero/test_zeropp.py"
TESTS = (
    "unit/v1/zero/test_overlap_comm_record_stream.py",
    f"{ZERO}::TestZeroUnbalancedGradients",
    f"{ZERO}::TestPartitionNcclAlignment",
    f"{ZERO}::TestZero3ParamPartitioningLargeParam",
    f"{ZERO}::TestZero3InitForParentWeightInitialization",
    f"{ZERO}::TestParamPartitioningSkipInit",
    f"{ZERO}::TestZero3DictFwd",
    f"{ZERO}::TestZeroFrozenWeights",
    f"{ZERO}::TestZero3ClientModuleID",
    f"{OVERLAP}::TestCoalesceCombinations",
    f"{ZEROPP}::test_zero_hpz_partition_size_config",
    f"{ZEROPP}::test_zero_hpz_small_param_secondary_shard_without_overlap",
    f"{ZEROPP}::test_zero_hpz_secondary_shard_padding_is_zeroed",
    f"{ZEROPP}::TestZeroPPConfigSweep::test[2-9-1024]",
    f"{ZEROPP}::TestZeroPPConfigSweep::test_gradient_accumulation[2-9-1024]",
)


def run(folder: Path) -> list[ElementTree.Element]:
    """Each test's case, as pytest's XML has it."""
    with tempfile.TemporaryDirectory() as scratch:
        results = Path(scratch) / "results.xml"
        options = ["-q", "--hpz-streams", "--hpz-streams-timeout=300", f"--junitxml={results}", "-m", ""]
        quiet = ["-p", "no:randomly", "-p", "no:cacheprovider"]
        subprocess.run([sys.executable, "-m", "pytest", *options, *quiet, *TESTS], cwd=folder, check=False)
        return [*ElementTree.parse(results).getroot().iter("testcase")]


def became(case: ElementTree.Element) -> str:
    """`passes`, or why not, in the words of pytest's summary."""
    for child in case:
        if child.tag in ("failure", "error"):
            return child.get("message", "").splitlines()[0].replace("|", "/")[:150]
        if child.tag == "skipped":
            return f"skipped: {child.get('message', '')[:100]}"
    return "passes"


def table(cases: list[ElementTree.Element]) -> list[str]:
    """A line for each class or file and outcome, with its tests."""
    rows: defaultdict[tuple[str, str], list[ElementTree.Element]] = defaultdict(list)
    for case in cases:
        where = case.get("classname", "").removeprefix("unit.")
        rows[where, became(case)].append(case)
    lines = ["| tests | | result | s |", "|---|---|---|---|"]
    for (where, result), those in rows.items():
        names = ", ".join(f"`{case.get('name', '').removeprefix('test_')}`" for case in those[:4])
        more = f" and {len(those) - 4} more" if len(those) > 4 else ""
        seconds = sum(float(case.get("time", "0")) for case in those)
        lines.append(f"| `{where}` | {names}{more} | {result} | {seconds:.0f} |")
    return lines


def main() -> None:
    folder, commit = Path(sys.argv[1]), sys.argv[2]
    started = time.monotonic()
    cases = run(folder)
    minutes = (time.monotonic() - started) / 60
    passing = sum(became(case) == "passes" for case in cases)
    lines = [
        f"{len(cases)} tests of DeepSpeed at `{commit}`, as they are, on DeepSpeed {version('deepspeed')} and torch "
        f"{version('torch')}, without a GPU, in {minutes:.0f} minutes on two busy cores: {passing} pass in the order "
        "of issue, under side-first and under main-first, without an unordered access; what became of each:",
        "",
        *table(cases),
    ]
    before = PAGE.read_text().partition(MARK)[0]
    PAGE.write_text(f"{before}{MARK}\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
