"""The `hpz` command: all verbs in one application, and what went wrong as one sentence and an exit code."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from harness import __version__
from harness.cli.archive import archive
from harness.cli.cluster import app as cluster_app
from harness.cli.compare import compare
from harness.cli.dashboard import dashboard
from harness.cli.data import app as data_app
from harness.cli.diagnose import audit, doctor, triage
from harness.cli.explain import explain
from harness.cli.logs import logs
from harness.cli.mirror import wandb
from harness.cli.model import app as model_app
from harness.cli.patch import app as patch_app
from harness.cli.race import race
from harness.cli.simulate import calibrate, simulate
from harness.cli.site import brought, there
from harness.cli.slurm import cancel, status, submit
from harness.cli.study import collect, plan, report, run
from harness.cli.watch import watch
from harness.system.errors import HarnessError, RunFailed

app = typer.Typer(
    name="hpz",
    help="Reproduce, explain and end the ZeRO++ hpZ race. Start with: hpz plan experiments/laptop.yaml",
    no_args_is_help=True,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


INTERRUPTED = 128 + signal.SIGINT
ONLY_PRINT = ("audit", "doctor", "explain", "triage")
"""Verbs of which nothing is lost where nobody reads on (`| head -1`): neither work nor a verdict's exit code."""


VERBS: tuple[Callable[..., None], ...] = (
    *(plan, run, brought(collect), brought(report), brought(archive), brought(wandb), brought(dashboard)),
    *(submit, there(status), there(watch), there(logs), there(cancel, jobs=True)),
    *(race, simulate, calibrate, doctor, audit, triage, compare, explain),
)
KEPT = "; finished runs are kept, the same command goes on from here"


@app.callback()
def _application(
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False,
) -> None:
    if version:
        print(f"hpz {__version__}")
        raise typer.Exit


for verb in VERBS:
    app.command()(verb)
app.add_typer(model_app, name="model")
app.add_typer(patch_app, name="patch")
app.add_typer(data_app, name="data")
app.add_typer(cluster_app, name="cluster")


def main() -> None:
    """Entry point: turns what went wrong into one sentence and the documented exit code (1 or 2)."""
    verbose = "-v" in sys.argv[1:]
    arguments = [word for word in sys.argv[1:] if word != "-v"]
    try:
        app(arguments, standalone_mode=True)
    except (HarnessError, RunFailed) as error:
        if verbose:
            raise
        print(f"hpz: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, HarnessError) else 1)
    except SystemExit as ended:
        if _nobody_reads(ended) and arguments[0] in ONLY_PRINT:
            sys.exit(0)
        if ended.code == INTERRUPTED:  # typer's answer to Ctrl-C, which says nothing
            print(f"hpz: interrupted{KEPT if arguments[:1] == ['run'] else ''}", file=sys.stderr)
        raise


def _nobody_reads(ended: SystemExit) -> bool:
    """Whether the reader of what is printed has left; what is left to print is then thrown away."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return isinstance(ended.__context__, BrokenPipeError)
