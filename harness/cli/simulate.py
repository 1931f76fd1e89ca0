"""`hpz simulate` and `hpz calibrate`: short functions over the package, for harness.cli.main to register."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pandas as pd
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from harness.cli.against import show_against
from harness.cli.console import wide_console
from harness.cli.options import JsonOption, ResultsOption
from harness.study import Study, load_study, save_study
from harness.system.errors import HarnessError
from harness.system.whole_file import write_text_whole

if TYPE_CHECKING:
    from harness.simulate.records import Simulated

SHOWN: dict[str, dict[str, str]] = {
    # Column of a table → heading. Seconds are those of one step.
    "sync_cost": {
        "model": "model",
        "micro_batch": "batch",
        "sequence_length": "tokens",
        "gpus": "GPUs",
        "host": "host",
        "network": "network",
        "variant": "variant",
        "step_seconds": "step s",
        "speedup_over_zero3": "× ZeRO-3",
        "bytes_bound": "bytes allow ×",
        "cost_of_order": "order costs",
        "blocked_at_copy_seconds": "blocked s",
        "lost_overlap_seconds": "overlap lost s",
    },
    "windows": {
        "model": "model",
        "release": "DeepSpeed",
        "nodes": "nodes",
        "micro_batch": "batch",
        "gradient_accumulation": "accum.",
        "activation_checkpointing": "ckpt",
        "prefetch_bucket": "prefetch",
        "network": "network",
        "margin_min_us": "least margin µs",
        "overtaken": "overtaken",
        "parameters_gathered": "of",
        "verdict": "race",
    },
    "scaling": {
        "model": "model",
        "network": "network",
        "variant": "variant",
        "gpus": "GPUs",
        "step_seconds": "step s",
        "node_nic_bytes": "node sends bytes",
        "efficiency": "efficiency",
        "limited_by": "limited by",
    },
    "hpz_sizes": {
        "model": "model",
        "network": "network",
        "variant": "variant",
        "hpz": "hpZ",
        "step_seconds": "step s",
        "speedup_over_zero3": "× ZeRO-3",
        "peak_bytes": "peak bytes",
    },
}


MeasuredOption = Annotated[
    Path | None,
    typer.Option(
        metavar="RESULTS",
        help="Results over links of known rate to validate against; default results/slow-link, where it exists.",
    ),
]
AgainstOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.csv",
        help="Simulate published measurements instead and print the errors; see harness/simulate/published.csv.",
    ),
]


def simulate(
    study_file: Annotated[
        Path | None, typer.Argument(metavar="[STUDY]", help="A study file, or the results folder of one.")
    ] = None,
    results: ResultsOption = None,
    trace: Annotated[
        Path | None, typer.Option(help="Also write the first cell's step here, for ui.perfetto.dev.")
    ] = None,
    trace_cell: Annotated[
        str, typer.Option(help="Which cell to write: words of its run id or network, as `event 12.5gbps`.")
    ] = "",
    virtual_step: Annotated[
        bool,
        typer.Option(
            "--virtual-step", help="Take the step of --trace from the virtual device, real values and all."
        ),
    ] = False,
    measured: MeasuredOption = None,
    validation: Annotated[
        bool, typer.Option(help="Simulate what was measured, too, and write the errors beside the tables.")
    ] = True,
    against: AgainstOption = None,
    as_json: JsonOption = False,
) -> None:
    """Step times at real sizes in simulated time. Example: hpz simulate experiments/paper.yaml --trace step.json"""
    if against is not None:
        with _progress(quiet=as_json) as progress:
            show_against(against, results or Path("results") / f"against-{against.stem}", as_json, progress)
        return
    if study_file is None:
        raise HarnessError("hpz simulate: name a study, or measurements to simulate with --against FILE.csv")
    from harness.simulate.sweep import simulate_study
    from harness.simulate.tables import write

    study = load_study(study_file)
    place = results or (study_file if study_file.is_dir() else Path("results") / study.name)
    folder = place / "simulated"
    if trace is not None:
        _export(study_file, trace, trace_cell, virtual_step)
    with _progress(quiet=as_json) as progress:
        simulated = simulate_study(study, progress)
        save_study(study, place)
        files = write(simulated, folder)
        if validation:
            _validate(folder, measured, progress)
    _keep_a_step(study, simulated, folder)
    if as_json:
        print(files["json"].read_text(), end="")
        return
    console = wide_console(160)
    for name in SHOWN:
        if name in files:
            console.print(_table(name, files[name]))
    console.print(f"All numbers are simulated-time. Tables: {folder}/*.csv", highlight=False)
    console.print(f"Figures, and how far to trust them: hpz report {place}", highlight=False, soft_wrap=True)


def _validate(folder: Path, measured: Path | None, progress: Callable[[str, int, int], None]) -> None:
    from analysis.collect.collect import collect
    from harness.simulate.validate import validate, write_validation

    done = itertools.count(1)

    def count(_: str) -> None:
        progress("traces taken for validation", next(done), 0)  # how many there will be is not known

    write_validation(validate(collect, measured, lanes=2, progress=count), folder)


def _keep_a_step(study: Study, simulated: Simulated, folder: Path) -> None:
    """One step for Perfetto beside the tables: the first window in which a gather overtakes its copy, else any cell."""
    from harness.simulate.engine import simulate as run_timeline
    from harness.simulate.export import write_chrome_trace
    from harness.simulate.plan import cells
    from harness.simulate.traces import trace_of

    table = simulated.cells.sort_values("overtaken", ascending=False, kind="stable", key=lambda n: n > 0)
    run_id, network = table[["run_id", "network"]].iloc[0]
    cell = next(c for c in cells(study) if (c.run.run_id, c.network) == (run_id, network))
    write_chrome_trace(
        run_timeline(trace_of(cell.run), cell.cluster), folder / "step.json.gz", title=f"{run_id} {network}"
    )


def _export(study_file: Path, file: Path, words: str, virtual: bool) -> None:
    from harness.simulate.engine import simulate as run_timeline
    from harness.simulate.export import write_chrome_trace
    from harness.simulate.plan import cells
    from harness.simulate.traces import trace_of, trace_virtual

    for cell in cells(load_study(study_file)):
        name = f"{cell.run.run_id} {cell.network} {cell.gpu}"
        if all(word in name for word in words.split()):
            step = trace_virtual(cell.run) if virtual else trace_of(cell.run)
            write_chrome_trace(run_timeline(step, cell.cluster), file, title=name)
            return
    raise HarnessError(f"--trace-cell: no cell of {study_file} has all of {words!r} in its run id or network")


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A bar on a terminal, plain lines elsewhere."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield (
            lambda what, done, of: (
                None if quiet else console.print(f"{what}: {done}" + (f" of {of}" if of else ""))
            )
        )
        return
    with Progress(console=console) as bar:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, of: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=of or None)
            bar.update(tasks[what], completed=done)

        yield show


def _table(name: str, file: Path) -> Table:
    content = pd.read_csv(file)
    columns = {column: heading for column, heading in SHOWN[name].items() if column in content}
    table = Table(title=f"{name.replace('_', ' ')} (simulated-time)", box=None)
    for column, heading in columns.items():
        numeric = pd.api.types.is_numeric_dtype(content[column])
        table.add_column(heading, justify="right" if numeric else "left", no_wrap=True)
    for _, row in content.iterrows():
        table.add_row(*(_text(column, row[column]) for column in columns))
    return table


def _text(column: str, value: Any) -> str:
    if isinstance(value, float) and value != value:
        return "–"
    if column in ("cost_of_order", "efficiency"):
        return f"{100 * value + 0.0:.1f} %".replace("-0.0 %", "0.0 %")
    if column == "lost_overlap_seconds" and abs(value) < 5e-4:
        return "0"
    if column == "margin_min_us":
        return f"{value:,.0f}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def calibrate(
    output: Annotated[
        Path | None,
        typer.Option(help="Write the profiles here, for a study to name under simulate.hardware (YAML)."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure this machine, fit the cost model to it and print its errors. Example: hpz calibrate"""
    from harness.simulate.calibrate import calibrate_machine, hardware_yaml

    found = calibrate_machine()
    if output is not None:
        write_text_whole(output, hardware_yaml(found))
    if as_json:
        print(json.dumps(found.record(), indent=1))
        return
    console = wide_console()
    for table in found.describe():
        console.print(table)
